//! Nodes' tunnels: which node is connected, and what its streams are for.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use galley_authz::Actor;
use galley_kube::{Reason, Status};
use galley_tunnel::{Header, Inbound, Incoming, Opener, Session};
use galley_types::{ClusterId, ShardId};
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::RwLock;

use crate::body::{Body, status_response};
use crate::gateway::Gateway;
use crate::identity;
use crate::listener;
use crate::served::ServedCluster;

/// What a tunnel's upgrade is called.
pub(crate) const PROTOCOL: &str = "galley-tunnel";

#[derive(Debug)]
struct Entry {
    number: u64,
    shard: ShardId,
    opener: Opener,
}

/// The connected nodes of all clusters.
#[derive(Debug, Default)]
pub struct TunnelHub {
    nodes: RwLock<HashMap<ClusterId, HashMap<String, Entry>>>,
    next: AtomicU64,
}

impl TunnelHub {
    /// The way to a node, if it is connected.
    pub(crate) fn opener(&self, cluster: ClusterId, node: &str) -> Option<Opener> {
        let nodes = self.nodes.read();
        let entry = nodes.get(&cluster)?.get(node)?;
        (!entry.opener.is_ended()).then(|| entry.opener.clone())
    }

    /// Ends all tunnels of a cluster that is gone.
    pub(crate) fn close_cluster(&self, cluster: ClusterId) {
        for (_, entry) in self.nodes.write().remove(&cluster).into_iter().flatten() {
            entry.opener.close();
        }
    }

    /// Ends the tunnels to clusters whose shards are gone: agents connect again, to the next owner.
    pub(crate) fn close_gone(&self, is_here: impl Fn(ShardId) -> bool) {
        self.nodes.write().retain(|_, nodes| {
            nodes.retain(|_, entry| {
                let keep = is_here(entry.shard);
                if !keep {
                    entry.opener.close();
                }
                keep
            });
            !nodes.is_empty()
        });
    }

    /// Ends all tunnels: agents connect again, to another replica or after the restart.
    pub(crate) fn close_all(&self) {
        for (_, entry) in self.nodes.write().drain().flat_map(|(_, nodes)| nodes) {
            entry.opener.close();
        }
    }

    /// A node that connects again replaces its older tunnel, which may be dead without knowing it.
    fn insert(&self, cluster: ClusterId, shard: ShardId, node: &str, opener: Opener) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let entry = Entry { number, shard, opener };
        let older = self.nodes.write().entry(cluster).or_default().insert(node.to_owned(), entry);
        if let Some(older) = older {
            older.opener.close();
        }
        number
    }

    fn remove(&self, cluster: ClusterId, node: &str, number: u64) {
        let mut nodes = self.nodes.write();
        if let Some(of_cluster) = nodes.get_mut(&cluster) {
            if of_cluster.get(node).is_some_and(|entry| entry.number == number) {
                of_cluster.remove(node);
            }
            if of_cluster.is_empty() {
                nodes.remove(&cluster);
            }
        }
    }
}

/// Answers a node's request for a tunnel, and serves the tunnel in a task of its own.
pub(crate) fn accept(
    gateway: &Arc<Gateway>,
    cluster: &Arc<ServedCluster>,
    actor: &Arc<Actor>,
    mut request: Request<Body>,
) -> Response<Body> {
    let Some(node) = identity::node_name(actor).map(str::to_owned) else {
        let why = format!("{:?} is not a node: a tunnel needs a node's certificate", actor.username);
        return status_response(&Status::new(403, Reason::Forbidden, why));
    };
    let wanted = request.headers().get(UPGRADE).and_then(|value| value.to_str().ok());
    if !wanted.is_some_and(|wanted| wanted.eq_ignore_ascii_case(PROTOCOL)) {
        return status_response(&Status::bad_request(format!("upgrade to {PROTOCOL} is required")));
    }
    let upgraded = hyper::upgrade::on(&mut request);
    let (gateway, cluster, actor) = (Arc::clone(gateway), Arc::clone(cluster), Arc::clone(actor));
    tokio::spawn(async move {
        match upgraded.await {
            Ok(io) => {
                let (opener, incoming) = Session::server(TokioIo::new(io));
                run(gateway, cluster, actor, &node, opener, incoming).await;
            }
            Err(error) => tracing::debug!(%error, node, "a tunnel was not opened"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
    response
}

async fn run(
    gateway: Arc<Gateway>,
    cluster: Arc<ServedCluster>,
    actor: Arc<Actor>,
    node: &str,
    opener: Opener,
    mut incoming: Incoming,
) {
    let id = cluster.info.id;
    let hub = Arc::clone(gateway.hub());
    let number = hub.insert(id, cluster.info.shard, node, opener);
    // Moved while the tunnel was made: nobody else closes it.
    gateway.close_gone_tunnels();
    tracing::info!(cluster = %id, node, "node connected");
    while let Some(Inbound { header, stream }) = incoming.next().await {
        let (gateway, cluster, actor) = (Arc::clone(&gateway), Arc::clone(&cluster), Arc::clone(&actor));
        match header.parse::<Header>() {
            Ok(Header::Api) => {
                tokio::spawn(listener::trusted(gateway, cluster, actor, stream));
            }
            Ok(Header::Kubernetes) => {
                tokio::spawn(listener::cluster_tls(gateway, cluster, stream));
            }
            Ok(other) => tracing::debug!(node, header = %other, "a node may not open such a stream"),
            Err(error) => tracing::debug!(node, %error, "a node opened an unknown stream"),
        }
    }
    hub.remove(id, node, number);
    let why = incoming.ended().await;
    tracing::info!(cluster = %id, node, %why, "node disconnected");
}
