//! What a path and method ask for, in the words of authorization: verb, group, version, resource, namespace, name.

use http::Method;

/// A request for a resource.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResourcePath {
    /// `""` for the core group.
    pub group: String,
    /// `v1`.
    pub version: String,
    /// Empty: all namespaces, or a cluster-scoped resource.
    pub namespace: String,
    /// `deployments`.
    pub resource: String,
    /// Empty for a collection.
    pub name: String,
    /// `scale`, or empty.
    pub subresource: String,
    /// What follows the subresource: for `proxy`, from the slash on.
    pub rest: String,
    /// The deprecated `/watch/` prefix.
    pub watch_prefix: bool,
}

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Path {
    /// Objects.
    Resource(ResourcePath),
    /// Anything else: discovery, health, version, OpenAPI.
    Other,
}

/// Reads a path. Segments are percent-decoded.
pub fn parse(path: &str) -> Path {
    let mut segments = path.split('/').skip(1);
    let (group, version) = match segments.next() {
        Some("api") => ("", segments.next()),
        Some("apis") => match (segments.next(), segments.next()) {
            (Some(group), version) if !group.is_empty() => (group, version),
            _ => return Path::Other,
        },
        _ => return Path::Other,
    };
    let Some(version) = version.filter(|version| !version.is_empty()) else { return Path::Other };
    let mut rest: Vec<&str> = segments.collect();
    let mut found = ResourcePath { group: decoded(group), version: decoded(version), ..ResourcePath::default() };
    if rest.first() == Some(&"watch") {
        found.watch_prefix = true;
        rest.remove(0);
    }
    // `namespaces/NAME/status` is about the namespace, `namespaces/NAME/pods` about what is in it.
    let in_namespace = rest.first() == Some(&"namespaces")
        && rest.len() > 2
        && !(matches!(rest[2], "status" | "finalize") && rest.len() == 3)
        && !rest[2].is_empty();
    if in_namespace {
        found.namespace = decoded(rest[1]);
        rest.drain(..2);
    }
    let mut parts = rest.iter();
    found.resource = parts.next().map(|part| decoded(part)).unwrap_or_default();
    if found.resource.is_empty() {
        return Path::Other;
    }
    found.name = parts.next().map(|part| decoded(part)).unwrap_or_default();
    found.subresource = parts.next().map(|part| decoded(part)).unwrap_or_default();
    let tail: Vec<&str> = parts.copied().collect();
    if !tail.is_empty() {
        // Kept as it was sent: what it means is the business of whoever it is passed on to.
        found.rest = format!("/{}", tail.join("/"));
    }
    Path::Resource(found)
}

/// The verb of a request, as RBAC names it.
pub fn verb(method: &Method, path: &ResourcePath, watch: bool) -> &'static str {
    let collection = path.name.is_empty();
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if collection => "deletecollection",
        Method::DELETE => "delete",
        _ if path.watch_prefix || (collection && watch) => "watch",
        _ if collection => "list",
        _ => "get",
    }
}

fn decoded(segment: &str) -> String {
    if !segment.contains('%') {
        return segment.to_owned();
    }
    let bytes = segment.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = segment.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_resources() {
        // group/version namespace resource name subresource rest
        for (path, told) in [
            ("/api/v1/pods", "/v1||pods|||"),
            ("/api/v1/namespaces/default/pods/a", "/v1|default|pods|a||"),
            ("/api/v1/namespaces/default/pods/a/log", "/v1|default|pods|a|log|"),
            ("/apis/apps/v1/namespaces/x/deployments/d/scale", "apps/v1|x|deployments|d|scale|"),
            ("/api/v1/namespaces", "/v1||namespaces|||"),
            ("/api/v1/namespaces/x", "/v1||namespaces|x||"),
            ("/api/v1/namespaces/x/status", "/v1||namespaces|x|status|"),
            ("/api/v1/namespaces/x/finalize", "/v1||namespaces|x|finalize|"),
            ("/api/v1/nodes/n/proxy/stats/summary", "/v1||nodes|n|proxy|/stats/summary"),
            ("/api/v1/namespaces/x/services/http:s:80/proxy/", "/v1|x|services|http:s:80|proxy|/"),
            (
                "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
                "rbac.authorization.k8s.io/v1||clusterroles|system:node||",
            ),
        ] {
            let Path::Resource(p) = parse(path) else { panic!("{path} is no resource") };
            let shown = [p.namespace, p.resource, p.name, p.subresource, p.rest].join("|");
            assert_eq!(format!("{}/{}|{shown}", p.group, p.version), told, "{path}");
        }
        for path in
            ["/", "/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/apis/apps/v1/", "/healthz", "/version"]
        {
            assert_eq!(parse(path), Path::Other, "{path}");
        }
    }

    #[test]
    fn methods_are_verbs() {
        let collection = ResourcePath { resource: "pods".into(), ..ResourcePath::default() };
        let one = ResourcePath { name: "a".into(), ..collection.clone() };
        for (method, path, watch, told) in [
            (Method::GET, &collection, false, "list"),
            (Method::GET, &collection, true, "watch"),
            (Method::GET, &one, false, "get"),
            (Method::HEAD, &one, false, "get"),
            (Method::POST, &collection, false, "create"),
            (Method::PUT, &one, false, "update"),
            (Method::DELETE, &one, false, "delete"),
            (Method::DELETE, &collection, false, "deletecollection"),
        ] {
            assert_eq!(verb(&method, path, watch), told);
        }
    }
}
