//! Finds out what a request is for, who makes it, and hands it on.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures::FutureExt;
use futures::future::BoxFuture;
use galley_authz::Actor;
use galley_kube::openapi::OpenApiDocs;
use galley_kube::{Reason, Status};
use galley_store::{Cluster, Pass, Store, StoreError};
use galley_types::{Clock, ShardId};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use jiff::SignedDuration;
use rustls::ServerConfig;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use uuid::Uuid;

use crate::authentication::{self, ClusterTokens, ServiceTokens};
use crate::body::{Body, json_response, status_response};
use crate::clusters::{Clusters, ClustersError, Freshness};
use crate::flow::{FlowConfig, FlowControl};
use crate::kubernetes::{self, Call};
use crate::management::{self, ClusterLife, LifeError, NodeCaller};
use crate::peers::{self, Asked, Errand, Parcel, Peers, Refusal, Sent, Unasked};
use crate::pki::{Authority, PkiError, key_create};
use crate::proxy::{NodeProxy, TunnelProxy};
use crate::served::ServedCluster;
use crate::tls::{self, Peer, TlsError};
use crate::tunnel::{self, TunnelHub};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What Kubernetes calls the same; clients log it.
const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// How long a replica may take to find out whether a shard has just become its own. Who passed the request on waits.
const ARRIVAL: Duration = Duration::from_secs(2);

/// What a gateway needs to be told.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Clusters are `<label>.<domain>`.
    pub domain: String,
    /// `https://host:port` at which clients and nodes reach this installation.
    pub advertise: String,
    /// DNS names and addresses in the management certificate.
    pub names: Vec<String>,
    /// For how long a node's certificate is valid; agents renew theirs when two thirds of it are over.
    pub node_certificate_duration: SignedDuration,
    /// How tenants share this process.
    pub flow: FlowConfig,
}

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The management certificate cannot be made.
    #[error("the management certificate cannot be made")]
    Pki(#[from] PkiError),
    /// The management TLS configuration cannot be made.
    #[error("the management TLS configuration cannot be made")]
    Tls(#[from] TlsError),
}

/// One process' front door.
pub struct Gateway {
    clusters: Arc<Clusters>,
    hub: Arc<TunnelHub>,
    proxy: Arc<dyn NodeProxy>,
    services: ServiceTokens,
    management: Router,
    management_tls: Arc<ServerConfig>,
    openapi: Arc<dyn OpenApiDocs>,
    suffix: String,
    clock: Arc<dyn Clock>,
    flow: Arc<FlowControl>,
    shutdown: CancellationToken,
    store: Store,
    peers: Arc<Peers>,
    life: Arc<Life>,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("clusters", &self.clusters).finish_non_exhaustive()
    }
}

/// What the management API does to clusters, at whichever replica owns them.
struct Life {
    store: Store,
    clusters: Arc<Clusters>,
    hub: Arc<TunnelHub>,
    peers: Arc<Peers>,
}

impl Life {
    async fn bootstrap_here(&self, served: &ServedCluster) -> Result<(), LifeError> {
        let api = self.clusters.api(served).await.map_err(|error| match error {
            ClustersError::Store(error) => LifeError::Store(error),
            ClustersError::Served { source, .. } => LifeError::Bootstrap(source.to_string()),
        })?;
        api.bootstrap().await.map_err(|status| LifeError::Bootstrap(status.message))
    }

    fn forget(&self, cluster: &Cluster) {
        self.store.cluster_forget(cluster.id);
        self.hub.close_cluster(cluster.id);
        self.clusters.forget(cluster.id);
    }
}

impl ClusterLife for Life {
    fn bootstrap<'a>(&'a self, cluster: &'a Cluster) -> BoxFuture<'a, Result<(), LifeError>> {
        Box::pin(async move {
            match self.peers.call(cluster.shard, cluster.id, Errand::Bootstrap).await {
                Ok(Asked::Here(_pass)) => {
                    let served = self.clusters.serve(cluster.clone()).await.map_err(|error| match error {
                        ClustersError::Store(error) => LifeError::Store(error),
                        ClustersError::Served { source, .. } => LifeError::Bootstrap(source.to_string()),
                    })?;
                    self.bootstrap_here(&served).await
                }
                Ok(Asked::There(answer)) if answer.status().is_success() => Ok(()),
                Ok(Asked::There(answer)) => Err(LifeError::Owner(format!("it answered {}", answer.status()))),
                Ok(Asked::Gone) => Err(LifeError::Store(StoreError::ClusterNotFound(cluster.id))),
                Err(error) => Err(LifeError::Owner(error.to_string())),
            }
        })
    }

    fn removed<'a>(&'a self, cluster: &'a Cluster) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.forget(cluster);
            match self.peers.call(cluster.shard, cluster.id, Errand::Removed).await {
                Ok(Asked::Here(_) | Asked::Gone) => {}
                Ok(Asked::There(answer)) if answer.status().is_success() => {}
                // The owner finds out by itself when it next removes rows of deleted clusters.
                Ok(Asked::There(answer)) => {
                    tracing::warn!(cluster = %cluster.id, status = %answer.status(), "the owner was not told of a deletion");
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(cluster = %cluster.id, error, "the owner was not told of a deletion");
                }
            }
        })
    }
}

/// Whose host name a connection asked for.
#[derive(Debug, Clone)]
pub(crate) enum Host {
    /// The installation's.
    Management,
    /// A cluster's.
    Cluster(Arc<ServedCluster>),
    /// A name below the domain that is no cluster's (any more).
    Unknown,
    /// Another replica, which passes on what its clients ask.
    Replica,
}

/// What is known of a connection before its first request.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub host: Host,
    pub peer: Peer,
}

impl Gateway {
    /// `authority` is the installation's CA; `shutdown` ends watches.
    pub fn new(
        config: GatewayConfig,
        store: Store,
        clusters: Arc<Clusters>,
        authority: Arc<Authority>,
        openapi: Arc<dyn OpenApiDocs>,
        clock: Arc<dyn Clock>,
        shutdown: CancellationToken,
    ) -> Result<Self, GatewayError> {
        let key = key_create()?;
        let mut names = config.names;
        names.push(config.domain.clone());
        names.push(format!("*.{}", config.domain));
        let certificate = authority.server_certificate(&key, &names, clock.now())?;
        let management_tls = tls::management(vec![certificate, authority.certificate().clone()], &key)?;
        let hub = Arc::<TunnelHub>::default();
        let peers = Arc::new(Peers::new(store.clone(), &authority, clock.now())?);
        let life = Arc::new(Life {
            store: store.clone(),
            clusters: Arc::clone(&clusters),
            hub: Arc::clone(&hub),
            peers: Arc::clone(&peers),
        });
        let management = management::router(management::State {
            store: Arc::new(store.clone()),
            clock: Arc::clone(&clock),
            ca: authority,
            domain: config.domain.clone(),
            advertise: config.advertise,
            node_certificate_duration: config.node_certificate_duration,
            clusters: Arc::clone(&life) as _,
        });
        Ok(Self {
            clusters,
            proxy: Arc::new(TunnelProxy::new(Arc::clone(&hub))),
            hub,
            services: ServiceTokens::new(store.clone(), Arc::clone(&clock)),
            management,
            management_tls,
            openapi,
            suffix: format!(".{}", config.domain.to_ascii_lowercase()),
            clock,
            flow: FlowControl::new(config.flow),
            shutdown,
            store,
            peers,
            life,
        })
    }

    pub(crate) fn peers(&self) -> &Peers {
        &self.peers
    }

    /// What goes on beside requests: tunnels end when their clusters move away, and heirs of shards are told.
    pub(crate) async fn background(self: Arc<Self>) {
        let mut moves = self.store.moves();
        let follow = async {
            while moves.changed().await.is_ok() {
                self.close_gone_tunnels();
            }
        };
        tokio::join!(follow, self.peers.tell_heirs());
    }

    /// Ends the tunnels to clusters that are no longer here.
    pub(crate) fn close_gone_tunnels(&self) {
        self.hub.close_gone(|shard| self.store.holds(shard));
    }

    pub(crate) fn hub(&self) -> &Arc<TunnelHub> {
        &self.hub
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// How tenants share this process, and what came of it.
    pub fn flow(&self) -> &Arc<FlowControl> {
        &self.flow
    }

    pub(crate) fn management_tls(&self) -> &Arc<ServerConfig> {
        &self.management_tls
    }

    /// Ends all tunnels, for a shutdown.
    pub(crate) fn close_tunnels(&self) {
        self.hub.close_all();
    }

    /// Whose name a client asked for. `None`: the cluster cannot be served now, and the connection should end.
    pub(crate) async fn host(&self, name: Option<&str>) -> Option<Host> {
        let Some(name) = name.map(str::to_ascii_lowercase) else { return Some(Host::Management) };
        let Some(label) = name.strip_suffix(&self.suffix) else { return Some(Host::Management) };
        match self.clusters.by_label(label).await {
            Ok(Some(cluster)) => Some(Host::Cluster(cluster)),
            Ok(None) => Some(Host::Unknown),
            Err(error) => {
                tracing::warn!(host = name, error = &error as &dyn std::error::Error, "a cluster cannot be served");
                None
            }
        }
    }

    /// Answers one request.
    pub(crate) async fn handle(self: Arc<Self>, connection: Connection, mut request: Request<Body>) -> Response<Body> {
        let id = request_id(&request);
        // Other replicas that the request is passed on to log the same.
        request.headers_mut().insert(REQUEST_ID, id.clone());
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let started = self.clock.now();
        let mut response = match AssertUnwindSafe(self.route(connection, request)).catch_unwind().await {
            Ok(response) => response,
            Err(_) => {
                tracing::error!(%method, path, request = ?id, "the handler of a request panicked");
                status_response(&Status::internal("the server made a mistake"))
            }
        };
        let (status, took) = (response.status(), self.clock.now().duration_since(started));
        if status.is_server_error() {
            tracing::warn!(%method, path, request = ?id, status = status.as_u16(), ?took, "request failed");
        } else {
            tracing::debug!(%method, path, request = ?id, status = status.as_u16(), ?took, "request");
        }
        response.headers_mut().insert(AUDIT_ID, id.clone());
        response.headers_mut().insert(REQUEST_ID, id);
        response
    }

    async fn route(self: &Arc<Self>, connection: Connection, mut request: Request<Body>) -> Response<Body> {
        match connection.host {
            Host::Cluster(cluster) => self.cluster(&cluster, &connection.peer, request).await,
            Host::Unknown => status_response(&unknown_cluster()),
            Host::Replica => self.replica(request).await,
            Host::Management => {
                let Some((id, rest)) = cluster_prefix(request.uri()) else {
                    return self.management(request).await;
                };
                match self.clusters.by_id_text(&id).await {
                    Ok(Some(cluster)) => {
                        *request.uri_mut() = rest;
                        self.cluster(&cluster, &Peer::Unknown, request).await
                    }
                    Ok(None) => status_response(&unknown_cluster()),
                    Err(error) => failed(&error),
                }
            }
        }
    }

    async fn management(&self, request: Request<Body>) -> Response<Body> {
        match self.management.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    /// Answers a request to a cluster, or has its owner answer it.
    async fn cluster(
        self: &Arc<Self>,
        cluster: &Arc<ServedCluster>,
        peer: &Peer,
        request: Request<Body>,
    ) -> Response<Body> {
        let Cluster { id, shard, .. } = cluster.info;
        if let Some(pass) = self.enter(shard, kubernetes::freshness(request.method(), request.uri())) {
            return self.cluster_here(cluster, peer, request, pass).await;
        }
        let parcel = Parcel::new(request);
        match self.peers.pass_on(shard, id, peer, &parcel).await {
            Ok(Asked::There(answer)) => parcel.answer(answer, &self.shutdown),
            Ok(Asked::Here(pass)) => match parcel.open() {
                Some(request) => self.cluster_here(cluster, peer, request, pass).await,
                None => status_response(&moving()),
            },
            Ok(Asked::Gone) => {
                self.clusters.forget(id);
                status_response(&unknown_cluster())
            }
            Err(error @ Unasked::Unknown(_)) => {
                tracing::warn!(cluster = %id, error = &error as &dyn std::error::Error, "a request has no known outcome");
                status_response(&Status::new(504, Reason::Timeout, "the server that owns this cluster did not answer"))
            }
            Err(error @ (Unasked::NoOwner(_) | Unasked::Spent | Unasked::Malformed(_))) => {
                tracing::warn!(cluster = %id, error = &error as &dyn std::error::Error, "a request was not passed on");
                status_response(&moving())
            }
        }
    }

    fn enter(&self, shard: ShardId, freshness: Freshness) -> Option<Pass> {
        match freshness {
            Freshness::Newest => self.store.enter(shard),
            Freshness::Any => self.store.enter_stale(shard),
        }
    }

    /// What another replica asks for, for a client of its or for itself.
    async fn replica(self: &Arc<Self>, request: Request<Body>) -> Response<Body> {
        match peers::read(request) {
            Some(Sent::Request { cluster, client, request, upgrades }) => {
                let freshness = kubernetes::freshness(request.method(), request.uri());
                let (cluster, pass) = match self.entered(&cluster, freshness).await {
                    Ok(entered) => entered,
                    Err(answer) => return answer,
                };
                peers::sealed(self.cluster_here(&cluster, &client, request, pass).await, upgrades)
            }
            Some(Sent::Errand { errand: Errand::Look, .. }) => match self.store.look().await {
                Ok(()) => peers::called(StatusCode::OK, String::new()),
                Err(error) => peers::called(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
            },
            Some(Sent::Errand { errand: Errand::Bootstrap, cluster: Some(cluster) }) => {
                let (cluster, _pass) = match self.entered(&cluster, Freshness::Newest).await {
                    Ok(entered) => entered,
                    Err(answer) => return answer,
                };
                match self.life.bootstrap_here(&cluster).await {
                    Ok(()) => peers::called(StatusCode::OK, String::new()),
                    Err(error) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "a new cluster is not filled");
                        peers::called(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
                    }
                }
            }
            Some(Sent::Errand { errand: Errand::Removed, cluster: Some(cluster) }) => {
                let known = self.clusters.known_text(&cluster).map(|served| served.info.clone());
                let found = match known {
                    Some(info) => Ok(Some(info)),
                    None => self.store.cluster_by_id(&cluster).await,
                };
                match found {
                    Ok(info) => {
                        info.iter().for_each(|info| self.life.forget(info));
                        peers::called(StatusCode::OK, String::new())
                    }
                    Err(error) => peers::called(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
                }
            }
            None | Some(Sent::Errand { cluster: None, .. }) => {
                tracing::warn!("another replica asked for something that is not understood here");
                peers::called(StatusCode::BAD_REQUEST, "not understood".to_owned())
            }
        }
    }

    /// Lets in what another replica passes on. It is not passed on again: two that take each other for the owner would do so
    /// for ever.
    async fn entered(&self, cluster: &str, freshness: Freshness) -> Result<(Arc<ServedCluster>, Pass), Response<Body>> {
        let cluster = match self.clusters.by_id_text(cluster).await {
            Ok(Some(cluster)) => cluster,
            Ok(None) => return Err(peers::refused(Refusal::Gone)),
            Err(error) => return Err(failed(&error)),
        };
        let shard = cluster.info.shard;
        if let Some(pass) = self.enter(shard, freshness) {
            return Ok((cluster, pass));
        }
        // It may just have been handed over to this replica.
        match tokio::time::timeout(ARRIVAL, self.store.arrive(shard)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "whose a shard is cannot be read")
            }
            Err(_) => tracing::warn!(shard = shard.0, "whose a shard is cannot be read in time"),
        }
        match self.enter(shard, freshness) {
            Some(pass) => Ok((cluster, pass)),
            None => Err(peers::refused(Refusal::NotOwner)),
        }
    }

    /// `_pass` keeps the cluster here until the answer's head is there.
    async fn cluster_here(
        self: &Arc<Self>,
        cluster: &Arc<ServedCluster>,
        peer: &Peer,
        mut request: Request<Body>,
        _pass: Pass,
    ) -> Response<Body> {
        let api = match self.clusters.api_as(cluster, kubernetes::freshness(request.method(), request.uri())).await {
            Ok(api) => api,
            Err(error) => return failed(&error),
        };
        let tokens = ClusterTokens {
            key: Arc::clone(&cluster.tokens),
            store: Arc::clone(api.store()),
            clock: Arc::clone(&self.clock),
        };
        let actor: Arc<Actor> =
            match authentication::authenticate(peer, request.headers(), &tokens, &self.services).await {
                Ok(actor) => actor,
                Err(status) => return status_response(&status),
            };
        match (request.method(), request.uri().path()) {
            (&Method::POST | &Method::GET, "/galley/v1/tunnel") => {
                return tunnel::accept(self, cluster, &actor, request);
            }
            (_, "/v1/renew") => {
                request.extensions_mut().insert(NodeCaller { cluster: cluster.info.clone(), actor: (*actor).clone() });
                return self.management(request).await;
            }
            (&Method::GET, "/openid/v1/jwks") => return json_response(StatusCode::OK, &cluster.tokens.jwks()),
            (&Method::GET, "/.well-known/openid-configuration") => {
                return json_response(StatusCode::OK, &cluster.tokens.discovery());
            }
            _ => {}
        }
        let call = Call {
            api,
            actor: (*actor).clone(),
            proxy: Arc::clone(&self.proxy),
            tokens,
            openapi: Arc::clone(&self.openapi),
            flow: self.flow.of(cluster.info.tenant, cluster.info.id, &actor, request.uri().path()),
            shutdown: self.shutdown.clone(),
        };
        kubernetes::handle(call, request).await
    }
}

fn failed(error: &ClustersError) -> Response<Body> {
    tracing::warn!(error = error as &dyn std::error::Error, "a cluster cannot be served");
    status_response(&error.status())
}

/// Nothing was done, and soon can be.
fn moving() -> Status {
    let text = "the cluster moves to another server, please try again";
    let mut status = Status::new(503, Reason::ServiceUnavailable, text);
    status.retry_after_seconds = 1;
    status
}

fn unknown_cluster() -> Status {
    Status::new(404, Reason::NotFound, "there is no cluster of this name")
}

/// `/clusters/ID/rest` as the id and the rest.
fn cluster_prefix(uri: &Uri) -> Option<(String, Uri)> {
    let whole = uri.path_and_query()?.as_str();
    let below = whole.strip_prefix("/clusters/")?;
    let end = below.find(['/', '?']).unwrap_or(below.len());
    let (id, rest) = below.split_at(end);
    let rest = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    let rest: PathAndQuery = rest.parse().ok()?;
    Some((id.to_owned(), Uri::from(rest)))
}

/// The client's, if it is sane, else a new one.
fn request_id(request: &Request<Body>) -> HeaderValue {
    let given = request.headers().get(REQUEST_ID).or_else(|| request.headers().get(AUDIT_ID));
    match given {
        Some(id) if id.len() <= 128 && id.to_str().is_ok() => id.clone(),
        _ => HeaderValue::from_str(&Uuid::new_v4().to_string()).unwrap_or_else(|_| HeaderValue::from_static("-")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_prefix_names_a_cluster() {
        let split = |text: &str| cluster_prefix(&text.parse().unwrap()).map(|(id, rest)| (id, rest.to_string()));
        assert_eq!(split("/clusters/abc/api/v1?x=y"), Some(("abc".into(), "/api/v1?x=y".into())));
        assert_eq!(split("/clusters/abc"), Some(("abc".into(), "/".into())));
        assert_eq!(split("/clusters/abc?x=y"), Some(("abc".into(), "/?x=y".into())));
        assert_eq!(split("/v1/clusters/abc"), None);
    }
}
