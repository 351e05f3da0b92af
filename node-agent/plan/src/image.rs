//! Image names, pull policies, and which registry credentials belong to an image.

use k8s_openapi::api::core::v1::{Container, Secret};
use serde::Deserialize;
use std::collections::BTreeMap;

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// The container's policy; absent means Always for `latest` or no tag, IfNotPresent else (the API server defaults the same).
pub fn pull_policy(container: &Container) -> PullPolicy {
    match container.image_pull_policy.as_deref() {
        Some("Always") => PullPolicy::Always,
        Some("Never") => PullPolicy::Never,
        Some("IfNotPresent") => PullPolicy::IfNotPresent,
        _ => {
            let image = normalize(container.image.as_deref().unwrap_or_default());
            if image.ends_with(":latest") { PullPolicy::Always } else { PullPolicy::IfNotPresent }
        }
    }
}

/// Whether a text can name an image: lower-case path parts, an optional tag or digest. What is not gets `InvalidImageName`.
pub fn is_valid(image: &str) -> bool {
    let (name, digest) = image.split_once('@').map_or((image, None), |(n, d)| (n, Some(d)));
    if digest.is_some_and(|d| {
        d.split_once(':').is_none_or(|(a, h)| a.is_empty() || h.len() < 32 || !h.bytes().all(|b| b.is_ascii_hexdigit()))
    }) {
        return false;
    }
    let (host, path) = split_host(name);
    let (path, tag) = match path.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (path, None),
    };
    let tag_ok = |t: &str| {
        (1..=128).contains(&t.len())
            && t.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
            && !t.starts_with(['.', '-'])
    };
    let part_ok = |p: &str| {
        !p.is_empty()
            && p.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'-'))
            && p.starts_with(|c: char| c.is_ascii_alphanumeric())
            && p.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    tag.is_none_or(tag_ok)
        && path.split('/').all(part_ok)
        && host.is_none_or(|h| {
            h.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']'))
        })
}

/// The part before the first slash is a host if it looks like one.
fn split_host(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (Some(host), path),
        _ => (None, name),
    }
}

/// `nginx` -> `docker.io/library/nginx:latest`.
pub fn normalize(image: &str) -> String {
    let (host, path) = split_host(image);
    let host = host.unwrap_or("docker.io");
    let path = if host == "docker.io" && !path.contains('/') { format!("library/{path}") } else { path.to_owned() };
    let last = path.rsplit('/').next().unwrap_or_default();
    let tag = if last.contains(':') || last.contains('@') { "" } else { ":latest" };
    format!("{host}/{path}{tag}")
}

/// A registry login.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credential {
    pub username: String,
    pub password: String,
    /// base64 of `username:password`, as written in the file.
    pub auth: String,
    pub identity_token: String,
    pub registry_token: String,
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, AuthEntry>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "lowercase")]
struct AuthEntry {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

/// The logins of pull secrets that fit an image, best match first; to be tried in turn. Secrets that are no docker
/// configuration are passed over.
pub fn credentials(image: &str, secrets: &[Secret]) -> Vec<Credential> {
    let image = normalize(image);
    let mut found: Vec<(usize, Credential)> = Vec::new();
    for secret in secrets {
        for (registry, entry) in logins(secret) {
            if let Some(weight) = fits(&image, &registry) {
                let credential = Credential {
                    username: entry.username,
                    password: entry.password,
                    auth: entry.auth,
                    identity_token: entry.identitytoken,
                    registry_token: entry.registrytoken,
                };
                found.push((weight, credential));
            }
        }
    }
    found.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
    found.into_iter().map(|(_, credential)| credential).collect()
}

fn logins(secret: &Secret) -> BTreeMap<String, AuthEntry> {
    let data = |key: &str| secret.data.as_ref().and_then(|d| d.get(key));
    if let Some(json) = data(".dockerconfigjson") {
        return serde_json::from_slice::<DockerConfig>(&json.0).map(|c| c.auths).unwrap_or_default();
    }
    if let Some(json) = data(".dockercfg") {
        return serde_json::from_slice(&json.0).unwrap_or_default();
    }
    BTreeMap::new()
}

/// How well a registry entry fits: the length of its path, or nothing. `*` stands for one part of a host name.
fn fits(image: &str, registry: &str) -> Option<usize> {
    let registry = registry.trim_start_matches("https://").trim_start_matches("http://");
    let (host, path) = registry.split_once('/').unwrap_or((registry, ""));
    let path = path.trim_start_matches("v1/").trim_start_matches("v2/").trim_end_matches('/');
    let path = if matches!(path, "v1" | "v2") { "" } else { path };
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    };
    let (image_host, image_path) = image.split_once('/')?;
    let (wanted, have): (Vec<&str>, Vec<&str>) = (host.split('.').collect(), image_host.split('.').collect());
    let host_fits = wanted.len() == have.len() && wanted.iter().zip(&have).all(|(w, h)| part_fits(w, h));
    let path_fits = path.is_empty()
        || image_path == path
        || image_path.starts_with(&format!("{path}/"))
        || image_path.starts_with(&format!("{path}:"));
    (host_fits && path_fits).then_some(path.len() + 1)
}

fn part_fits(pattern: &str, part: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == part,
        Some((head, tail)) => part.len() >= head.len() + tail.len() && part.starts_with(head) && part.ends_with(tail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    #[test]
    fn names_are_completed() {
        for (short, long) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("me/app:1", "docker.io/me/app:1"),
            ("reg.io:5000/a/b", "reg.io:5000/a/b:latest"),
            ("reg.io/a@sha256:00", "reg.io/a@sha256:00"),
            ("localhost/x", "localhost/x:latest"),
        ] {
            assert_eq!(normalize(short), long);
        }
    }

    #[test]
    fn invalid_names_are_seen() {
        for good in ["nginx", "a/b/c:1.2-3", "reg.io:5000/a"] {
            assert!(is_valid(good), "{good}");
        }
        for bad in ["", "NGINX", "a b", "x:", "-a", "nginx:@", "a//b"] {
            assert!(!is_valid(bad), "{bad}");
        }
    }

    #[test]
    fn the_login_with_the_longest_path_comes_first() {
        let json = br#"{"auths":{"*.reg.io":{"username":"wide"},"https://eu.reg.io/team":{"username":"team"},"other.io":{"username":"no"}}}"#;
        let secret = Secret {
            data: Some([(".dockerconfigjson".into(), ByteString(json.to_vec()))].into()),
            ..Default::default()
        };
        let users: Vec<String> =
            credentials("eu.reg.io/team/app:1", &[secret]).into_iter().map(|c| c.username).collect();
        assert_eq!(users, ["team", "wide"]);
    }
}
