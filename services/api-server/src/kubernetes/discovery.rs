//! Paths that are no objects: discovery, version, health, OpenAPI.

use galley_kube::openapi::CustomKind;
use galley_kube::resource::{self, Catalog};
use galley_kube::{Resource, Status};
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, HOST, HeaderValue, IF_NONE_MATCH, VARY};
use http::{HeaderMap, Request, Response, StatusCode};
use serde_json::{Value, json};

use super::Call;
use super::respond::{self, Style, header};
use crate::body::Body;

/// The version that clients see. Clients compare `major.minor` and ignore what follows the plus.
const GIT_VERSION: &str = "v1.36.0+galley";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Answers a path, or 404.
pub fn answer(call: &Call, request: &Request<Body>, style: Style) -> Result<Response<Body>, Status> {
    let path = request.uri().path();
    let path = if path.len() > 1 { path.trim_end_matches('/') } else { path };
    let headers = request.headers();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let catalog = call.api.catalog();
    let found = |value: Option<Value>| value.ok_or_else(respond::not_found).map(|v| style.value(StatusCode::OK, &v));
    match segments.as_slice() {
        [""] => found(Some(json!({"paths": ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v2",
            "/openapi/v3", "/readyz", "/version"]}))),
        ["api" | "apis"] if wants_aggregated(headers) => {
            let mut response = style.value(StatusCode::OK, &resource::aggregated(&catalog, segments == ["api"]));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(AGGREGATED));
            response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
            Ok(response)
        }
        ["api"] => found(Some(resource::api_versions(header(headers, &HOST)))),
        ["apis"] => found(Some(resource::api_group_list(&catalog))),
        ["api", version] => found(resource::api_resource_list(&catalog, "", version)),
        ["apis", group] => found(resource::api_group(&catalog, group)),
        ["apis", group, version] => found(resource::api_resource_list(&catalog, group, version)),
        ["version"] => found(Some(version())),
        ["healthz" | "livez" | "readyz", ..] => Ok(health(call, &segments, request)),
        ["openapi", "v2"] => {
            let custom = call.api.custom_resources();
            let accept = header(headers, &ACCEPT);
            if accept.contains(GNOSTIC_V2_ASKED) || accept.contains(GNOSTIC_V2) {
                let mut response = document(headers, call.openapi.v2_protobuf(&kinds(&custom)));
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(GNOSTIC_V2));
                return Ok(response);
            }
            Ok(document(headers, call.openapi.v2(&kinds(&custom))))
        }
        ["openapi", "v3"] => {
            let custom = call.api.custom_resources();
            Ok(document(headers, call.openapi.v3_index(&kinds(&custom))))
        }
        ["openapi", "v3", "api" | "apis", rest @ ..] if !rest.is_empty() => {
            let custom = call.api.custom_resources();
            let found = call.openapi.v3(&rest.join("/"), &kinds(&custom));
            found.map(|bytes| document(headers, bytes)).ok_or_else(respond::not_found)
        }
        _ => Err(respond::not_found()),
    }
}

/// The form of OpenAPI v2 that kubectl asks for. Its `@` is no character of a media type, so the answer names it another way.
const GNOSTIC_V2_ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
const GNOSTIC_V2: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

fn wants_aggregated(headers: &HeaderMap) -> bool {
    let accept = header(headers, &ACCEPT);
    // The first that the server has: clients name the aggregated form before the plain one.
    let first = accept.split(',').map(str::trim).find(|range| {
        range.starts_with("application/json") && (!range.contains("g=apidiscovery.k8s.io") || range.contains("v=v2"))
    });
    first.is_some_and(|range| range.contains("as=APIGroupDiscoveryList") && !range.contains("v2beta1"))
}

fn version() -> Value {
    json!({
        "major": "1", "minor": "36", "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "2026-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }),
        "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
    })
}

fn health(call: &Call, segments: &[&str], request: &Request<Body>) -> Response<Body> {
    let verbose = request.uri().query().is_some_and(|query| query.contains("verbose"));
    let ready = call.api.store().is_current();
    let (code, text) = if !ready {
        (StatusCode::INTERNAL_SERVER_ERROR, format!("[-]store failed\n{} check failed\n", segments[0]))
    } else if verbose {
        (StatusCode::OK, format!("[+]ping ok\n[+]store ok\n{} check passed\n", segments[0]))
    } else {
        (StatusCode::OK, "ok".to_owned())
    };
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// This cluster's custom resources with their schemas.
fn kinds(custom: &Catalog) -> Vec<CustomKind<'_>> {
    custom.iter().map(|resource| CustomKind { resource, schema: schema(resource) }).collect()
}

fn schema(resource: &Resource) -> Option<&Value> {
    resource.custom.as_ref()?.source().pointer("/schema/openAPIV3Schema")
}

/// A document that clients keep: 304 when they have it already.
fn document(headers: &HeaderMap, bytes: bytes::Bytes) -> Response<Body> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    let tag = format!("\"{:016X}\"", hasher.finish());
    let known = header(headers, &IF_NONE_MATCH) == tag;
    let mut response = Response::new(if known { Body::empty() } else { Body::from(bytes) });
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}
