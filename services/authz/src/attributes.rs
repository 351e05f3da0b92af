//! What is asked: the attributes of a request that rules look at.

use crate::Actor;

/// One request, as authorization sees it.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    /// Who asks.
    pub actor: &'a Actor,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, ...; lower-case HTTP methods for
    /// paths that are no resource.
    pub verb: &'a str,
    /// What for.
    pub target: Target<'a>,
}

/// A resource, or a path that is none.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// `deployments.apps`, one or all.
    Resource {
        /// `""` for the core group.
        group: &'a str,
        /// `deployments`.
        resource: &'a str,
        /// `scale`, or empty.
        subresource: &'a str,
        /// Empty: all namespaces, or a cluster-scoped resource.
        namespace: &'a str,
        /// Empty for a collection.
        name: &'a str,
        /// `fieldSelector` of a list or watch, as (field, value) pairs that must be equal.
        selected: &'a [(String, String)],
    },
    /// `/healthz`, `/apis`.
    Path(&'a str),
}

impl Attributes<'_> {
    /// Why a request without a matching rule is refused: `User "x" cannot list resource "pods" in API group "" in the
    /// namespace "default"`. Clients match on this text.
    pub fn denial(&self) -> String {
        let (user, verb) = (&self.actor.username, self.verb);
        match self.target {
            Target::Path(path) => format!("User {user:?} cannot {verb} path {path:?}"),
            Target::Resource { group, resource, subresource, namespace, .. } => {
                let resource = joined(resource, subresource);
                let scope = if namespace.is_empty() {
                    "at the cluster scope".to_owned()
                } else {
                    format!("in the namespace {namespace:?}")
                };
                format!("User {user:?} cannot {verb} resource {resource:?} in API group {group:?} {scope}")
            }
        }
    }
}

/// `pods/log`, or `pods` without a subresource.
pub(crate) fn joined(resource: &str, subresource: &str) -> String {
    if subresource.is_empty() { resource.to_owned() } else { format!("{resource}/{subresource}") }
}

/// Whether a request may go on, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may.
    Allow {
        /// Which rule or identity allows it; for audit and access reviews.
        reason: String,
    },
    /// Nothing allows it.
    NoOpinion {
        /// What went wrong while looking, if anything did.
        reason: String,
    },
}

impl Decision {
    /// Whether the request may go on.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow { .. })
    }

    /// Why.
    pub fn reason(&self) -> &str {
        match self {
            Self::Allow { reason } | Self::NoOpinion { reason } => reason,
        }
    }
}
