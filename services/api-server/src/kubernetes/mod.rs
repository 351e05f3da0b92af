//! The Kubernetes API of one cluster over HTTP.
//!
//! ```text
//!  request ── its tenant's turn ── path, verb ── impersonation ── authorization ──┬── get, list, watch    from the store's memory
//!                                                                               ├── create ... delete   through the pipeline
//!                                                                               ├── reviews             answered at once
//!                                                                               ├── log, exec, proxy    handed to the node's tunnel
//!                                                                               └── discovery, health, OpenAPI
//! ```

mod authorization;
mod discovery;
mod freshness;
mod list;
mod negotiate;
mod path;
mod query;
mod respond;
mod reviews;
#[cfg(test)]
mod tests;
mod view;
mod watch;
mod write;

use std::sync::Arc;

use galley_authz::Actor;
use galley_kube::openapi::OpenApiDocs;
use galley_kube::{Resource, Status};
use galley_pipeline::ClusterApi;
use http::{Method, Request, Response, StatusCode};
use tokio_util::sync::CancellationToken;

pub use self::freshness::freshness;
use self::negotiate::View;
use self::path::{Path, ResourcePath};
use self::query::Query;
use self::respond::Style;
use self::write::WriteRequest;
use crate::authentication::ClusterTokens;
use crate::body::{Body, status_response};
use crate::flow::Flow;
use crate::proxy::{Connect, NodeProxy};

/// What a request is answered with the help of.
#[derive(Clone)]
pub struct Call {
    /// The cluster.
    pub api: ClusterApi,
    /// The authenticated caller.
    pub actor: Actor,
    /// For log, exec, attach, portforward and proxy, after authorization.
    pub proxy: Arc<dyn NodeProxy>,
    /// For TokenReviews.
    pub tokens: ClusterTokens,
    /// For `/openapi`.
    pub openapi: Arc<dyn OpenApiDocs>,
    /// Its tenant's turns and budgets.
    pub flow: Arc<Flow>,
    /// Watches end when it is cancelled.
    pub shutdown: CancellationToken,
}

/// Answers a request. Its path has no cluster prefix any more.
pub async fn handle(call: Call, request: Request<Body>) -> Response<Body> {
    let flow = Arc::clone(&call.flow);
    match flow.serve(answer(call, request)).await.flatten() {
        Ok(response) => response,
        Err(status) => {
            if status.code >= 500 && status.code != 504 {
                tracing::warn!(code = status.code, message = status.message, "a request failed");
            }
            status_response(&status)
        }
    }
}

async fn answer(mut call: Call, request: Request<Body>) -> Result<Response<Body>, Status> {
    let query = Query::of(request.uri());
    let style = Style::of(&query, request.headers());
    if let Some(actor) = authorization::impersonated(&call.api, &call.actor, request.headers())? {
        call.actor = actor;
    }
    let path = match path::parse(request.uri().path()) {
        Path::Resource(path) => path,
        Path::Other => {
            let verb = request.method().as_str().to_lowercase();
            authorization::path(&call.api, &call.actor, &verb, request.uri().path())?;
            if !matches!(*request.method(), Method::GET | Method::HEAD) {
                return Err(respond::not_allowed());
            }
            return discovery::answer(&call, &request, style);
        }
    };
    let verb = path::verb(request.method(), &path, query.watches());
    authorization::resource(&call.api, &call.actor, verb, &path, &query)?;
    let resource = call.api.find_resource(&path.group, &path.version, &path.resource).ok_or_else(respond::not_found)?;
    if !resource.namespaced && !path.namespace.is_empty() {
        return Err(respond::not_found());
    }
    if resource.namespaced && path.namespace.is_empty() && (!path.name.is_empty() || verb == "create") {
        return Err(if path.name.is_empty() { respond::not_allowed() } else { respond::not_found() });
    }
    if let Some(to) = connection(&path) {
        authorize_upgrade(&call, &path, &query, &request)?;
        return Ok(call.proxy.connect(call.api, to, request).await);
    }
    check_verb(&resource, &path, verb)?;
    if reviews::is_review(&resource) {
        return reviews::answer(&call, &resource, &path.namespace, request, style).await;
    }
    let form = negotiate::view(request.headers(), &query)?;
    let writes = WriteRequest { call: &call, resource: &resource, path: &path, query: &query, form, style };
    match verb {
        "get" => get(&call, &resource, &path, &query, form, style),
        "list" => list::answer(&call, &resource, &path.namespace, &path.name, &query, form, style).await,
        "watch" => watch::answer(&call, &resource, &path.namespace, &path.name, &query, form).await,
        "create" => writes.create(request).await,
        "update" => writes.update(request).await,
        "patch" => writes.patch(request).await,
        "delete" => writes.delete(request).await,
        _ => writes.delete_collection(request).await,
    }
}

/// Subresources that end on a node.
fn connection(path: &ResourcePath) -> Option<Connect> {
    if !path.group.is_empty() || path.name.is_empty() {
        return None;
    }
    let (namespace, name, rest) = (path.namespace.clone(), path.name.clone(), path.rest.clone());
    Some(match (path.resource.as_str(), path.subresource.as_str()) {
        ("pods", "log") => Connect::Log { namespace, name },
        ("pods", "exec") => Connect::Exec { namespace, name },
        ("pods", "attach") => Connect::Attach { namespace, name },
        ("pods", "portforward") => Connect::PortForward { namespace, name },
        ("pods", "proxy") => Connect::Pod { namespace, name, path: rest },
        ("services", "proxy") => Connect::Service { namespace, name, path: rest },
        ("nodes", "proxy") => Connect::Node { name, path: rest },
        _ => return None,
    })
}

/// WebSockets can only be asked for with GET; whoever may merely `get` must not run commands for it, so `create` is asked
/// for too.
fn authorize_upgrade(call: &Call, path: &ResourcePath, query: &Query, request: &Request<Body>) -> Result<(), Status> {
    let runs = matches!(path.subresource.as_str(), "exec" | "attach" | "portforward");
    if runs && request.method() == Method::GET {
        return authorization::resource(&call.api, &call.actor, "create", path, query);
    }
    Ok(())
}

/// 405 or 404 for what this resource does not offer.
fn check_verb(resource: &Resource, path: &ResourcePath, verb: &str) -> Result<(), Status> {
    if path.subresource.is_empty() {
        let misplaced = match verb {
            "create" => !path.name.is_empty(),
            "update" | "patch" => path.name.is_empty(),
            _ => false,
        };
        return if resource.allows(verb) && !misplaced { Ok(()) } else { Err(respond::not_allowed()) };
    }
    let subresource = resource.subresource(&path.subresource).ok_or_else(respond::not_found)?;
    if subresource.verbs.iter().any(|served| served == verb) { Ok(()) } else { Err(respond::not_allowed()) }
}

fn get(
    call: &Call,
    resource: &Resource,
    path: &ResourcePath,
    query: &Query,
    form: View,
    style: Style,
) -> Result<Response<Body>, Status> {
    let (asked, newest) = (list::parse_version(query.text("resourceVersion"))?, call.api.store().revision());
    if asked > newest {
        return Err(list::too_large(asked, newest));
    }
    let object = call.api.get(resource, &path.namespace, &path.name)?;
    let body = if path.subresource == "scale" {
        view::encode(&call.api.scale(resource, &object)?)?
    } else {
        view::one(&call.api, resource, &object, form)?
    };
    Ok(style.bytes(StatusCode::OK, body))
}
