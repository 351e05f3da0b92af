//! Which requests may be answered from a state that is not the newest.
//!
//! Kubernetes API concepts, 'Resource versions': a get or list with a resourceVersion takes any state that is not older than
//! that one, a watch from one begins exactly there, and a committed revision stays what it is. Such requests are served from
//! memory while the database cannot be reached; without them a node whose connection breaks meanwhile could not even read
//! what it should run. Everything else fails closed.

use http::{Method, Uri};

use super::path::{self, Path};
use super::query::Query;
use crate::clusters::Freshness;

/// What a request of this method and path (without the cluster's prefix) asks for.
pub fn freshness(method: &Method, uri: &Uri) -> Freshness {
    if matches!(uri.path(), "/galley/v1/tunnel") {
        // A node's certificate is enough.
        return Freshness::Any;
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Freshness::Newest;
    }
    match path::parse(uri.path()) {
        // Discovery. Health looks at the lease itself.
        Path::Other => Freshness::Any,
        Path::Resource(path) => {
            let query = Query::of(uri);
            let names_version = !query.text("resourceVersion").is_empty();
            if names_version && path.subresource.is_empty() { Freshness::Any } else { Freshness::Newest }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reads_that_name_a_version_may_be_stale() {
        let of = |method: Method, uri: &str| freshness(&method, &uri.parse().unwrap());
        for uri in [
            "/api/v1/pods?resourceVersion=0",
            "/api/v1/namespaces/a/pods/b?resourceVersion=0",
            "/api/v1/pods?watch=true&resourceVersion=17",
            "/apis/apps/v1/deployments?resourceVersion=17&resourceVersionMatch=NotOlderThan",
            "/apis",
            "/version",
            "/galley/v1/tunnel",
        ] {
            assert_eq!(of(Method::GET, uri), Freshness::Any, "{uri}");
        }
        for uri in [
            "/api/v1/pods",
            "/api/v1/pods?resourceVersion=",
            "/api/v1/pods?watch=true",
            "/api/v1/pods?limit=5&continue=abc",
            "/api/v1/namespaces/a/pods/b",
            "/api/v1/namespaces/a/pods/b/log?resourceVersion=0",
        ] {
            assert_eq!(of(Method::GET, uri), Freshness::Newest, "{uri}");
        }
        assert_eq!(of(Method::DELETE, "/api/v1/namespaces/a/pods/b?resourceVersion=0"), Freshness::Newest);
        assert_eq!(of(Method::POST, "/api/v1/namespaces/a/pods"), Freshness::Newest);
    }
}
