//! Requests that end on a node: logs, exec, attach, port-forward, and the proxies to pods, services and nodes.
//!
//! The request travels through the node's tunnel. Upgrades are passed through: what is answered with 101 becomes a pair of
//! byte streams, joined until one ends. Nothing of their protocol is known here.

mod answer;
mod forward;
mod target;

use std::sync::Arc;

use futures::future::BoxFuture;
use galley_pipeline::ClusterApi;
use http::{Request, Response};

use crate::body::{Body, status_response};
use crate::tunnel::TunnelHub;

/// What a request wants to be connected to. Authorization has been done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connect {
    /// `pods/log`
    Log {
        /// The pod's.
        namespace: String,
        /// The pod's.
        name: String,
    },
    /// `pods/exec`
    Exec {
        /// The pod's.
        namespace: String,
        /// The pod's.
        name: String,
    },
    /// `pods/attach`
    Attach {
        /// The pod's.
        namespace: String,
        /// The pod's.
        name: String,
    },
    /// `pods/portforward`
    PortForward {
        /// The pod's.
        namespace: String,
        /// The pod's.
        name: String,
    },
    /// `pods/proxy`
    Pod {
        /// The pod's.
        namespace: String,
        /// `[SCHEME:]NAME[:PORT]`
        name: String,
        /// What follows `proxy`: empty or from the slash on.
        path: String,
    },
    /// `services/proxy`
    Service {
        /// The service's.
        namespace: String,
        /// `[SCHEME:]NAME[:PORT]`, the port by number or name.
        name: String,
        /// What follows `proxy`: empty or from the slash on.
        path: String,
    },
    /// `nodes/proxy`: the node's kubelet API.
    Node {
        /// The node's.
        name: String,
        /// What follows `proxy`: empty or from the slash on.
        path: String,
    },
}

/// Connects requests to nodes.
pub trait NodeProxy: Send + Sync + std::fmt::Debug {
    /// Answers `request`. Failures are answers too, in the words that kubectl users know.
    fn connect(&self, api: ClusterApi, to: Connect, request: Request<Body>) -> BoxFuture<'static, Response<Body>>;
}

/// Through the nodes' tunnels.
#[derive(Debug)]
pub(crate) struct TunnelProxy {
    hub: Arc<TunnelHub>,
}

impl TunnelProxy {
    pub(crate) fn new(hub: Arc<TunnelHub>) -> Self {
        Self { hub }
    }
}

impl NodeProxy for TunnelProxy {
    fn connect(&self, api: ClusterApi, to: Connect, request: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        let hub = Arc::clone(&self.hub);
        Box::pin(async move {
            let target = match target::resolve(api.store(), &to, &request) {
                Ok(target::Resolved::Target(target)) => target,
                Ok(target::Resolved::Nothing) => return answer::no_content(),
                Ok(target::Resolved::Redirect(location)) => return answer::redirect(&location),
                Err(status) => return status_response(&status),
            };
            let reports_errors = matches!(to, Connect::Log { .. });
            match forward::send(&hub, api.store().id(), target, request).await {
                Ok(response) if reports_errors => answer::with_status_errors(response).await,
                Ok(response) => response,
                Err(error) => answer::dialing_failed(&error),
            }
        })
    }
}
