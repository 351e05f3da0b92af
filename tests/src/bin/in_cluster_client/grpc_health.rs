//! `grpc.health.v1.Health/Check`, as programs with gRPC's own libraries serve it: the whole server ("") and the service `well`
//! are well, the service `sick` is not, and nobody knows another.

use std::convert::Infallible;
use std::future::{Ready, ready};

use anyhow::Result;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tonic::server::{Grpc, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

const SERVING: i32 = 1;
const NOT_SERVING: i32 = 2;

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

struct Check;

impl UnaryService<HealthCheckRequest> for Check {
    type Response = HealthCheckResponse;
    type Future = Ready<Result<Response<HealthCheckResponse>, Status>>;

    fn call(&mut self, request: Request<HealthCheckRequest>) -> Self::Future {
        let service = request.into_inner().service;
        ready(match &*service {
            "" | "well" => Ok(Response::new(HealthCheckResponse { status: SERVING })),
            "sick" => Ok(Response::new(HealthCheckResponse { status: NOT_SERVING })),
            other => Err(Status::not_found(format!("unknown service {other}"))),
        })
    }
}

async fn answer(request: http::Request<Incoming>) -> Result<http::Response<tonic::body::Body>, Infallible> {
    if request.uri().path() != "/grpc.health.v1.Health/Check" {
        return Ok(Status::unimplemented("").into_http());
    }
    let codec = ProstCodec::<HealthCheckResponse, HealthCheckRequest>::default();
    Ok(Grpc::new(codec).unary(Check, request).await)
}

/// Serves until the process ends.
pub async fn serve(port: u16) -> Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let connection = http2::Builder::new(TokioExecutor::new());
            // A client that breaks off is no concern of the server's.
            let _ = connection.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
        });
    }
}
