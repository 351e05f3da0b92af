//! Which crate may import what: the table of ARCHITECTURE.md as a check over `cargo metadata`.
//!
//! A crate must not reach a forbidden one through any chain of normal dependencies, so that a pure crate stays pure whatever
//! its dependencies do.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Crates of the workspace, and what they must not reach. A name that ends in `*` is a prefix.
const FORBIDDEN: &[(&[&str], &[&str])] = &[
    (
        &[
            "galley-types",
            "galley-kube",
            "galley-authz",
            "galley-fair",
            "galley-scheduler",
            "galley-controllers-plan",
            "galley-cloud-plan",
            "galley-node-plan",
            "galley-history",
        ],
        &["tokio", "sqlx", "axum", "hyper", "kube", "reqwest", "aws-*", "galley-store"],
    ),
    (
        &["galley-store"],
        &[
            "axum",
            "aws-*",
            "galley-controllers-drive",
            "galley-controllers-plan",
            "galley-scheduler",
            "galley-api-server",
        ],
    ),
    (&["galley-pipeline"], &["axum", "hyper", "aws-*", "galley-controllers-drive", "galley-scheduler"]),
    (&["galley-api-server"], &["aws-*", "galley-controllers-drive", "galley-controllers-plan", "galley-scheduler"]),
    (&["galley-controllers-drive"], &["axum", "aws-*", "galley-api-server"]),
    (
        &["galley-cloud", "galley-cloud-controller", "galley-cloud-local", "galley-cloud-aws", "galley-cloud-groups"],
        &["sqlx", "axum", "galley-store"],
    ),
    (
        &[
            "galley-node-agent",
            "galley-node-cri",
            "galley-node-net",
            "galley-node-volumes",
            "galley-tunnel",
            "galley-streams",
        ],
        &["sqlx", "aws-*", "galley-store", "galley-pipeline"],
    ),
];

/// The only crates that may name these directly.
///
/// The node-agent reaches axum through tonic, whose server half the CRI bindings switch on; it must not serve with it.
const ONLY: &[(&str, &[&str])] = &[
    ("sqlx", &["galley-store"]),
    ("axum", &["galley-api-server"]),
    ("k8s-cri", &["galley-node-cri"]),
    ("aws-sdk-ec2", &["galley-cloud-aws"]),
];

/// Fails with every forbidden import.
pub fn check() -> Result<()> {
    let output = crate::cargo()?
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"])
        .stderr(Stdio::inherit())
        .output()
        .context("cargo metadata")?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("read cargo metadata")?;
    let graph = Graph::read(&metadata);
    let mut errors = Vec::new();
    for (crates, forbidden) in FORBIDDEN {
        for name in *crates {
            if !graph.dependencies.contains_key(*name) {
                errors.push(format!("{name} is named in the layering rules but is not in the workspace"));
            }
            for (reached, path) in graph.reachable(name) {
                if forbidden.iter().any(|rule| matches(rule, &reached)) {
                    errors.push(format!("{name} must not reach {reached}: {}", path.join(" -> ")));
                }
            }
        }
    }
    for (dependency, owners) in ONLY {
        for name in &graph.members {
            if graph.dependencies[name].contains(*dependency) && !owners.contains(&name.as_str()) {
                errors.push(format!("{name} must not import {dependency}: only {} may", owners.join(", ")));
            }
        }
    }
    if errors.is_empty() {
        println!("layers: {} crates keep to their imports", graph.members.len());
        return Ok(());
    }
    bail!("forbidden imports:\n  {}", errors.join("\n  "))
}

fn matches(rule: &str, name: &str) -> bool {
    match rule.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == rule,
    }
}

/// Normal dependencies by crate name. Two versions of one crate are one node, which can only make the check stricter.
struct Graph {
    dependencies: BTreeMap<String, BTreeSet<String>>,
    members: Vec<String>,
}

impl Graph {
    fn read(metadata: &Value) -> Self {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let names: BTreeMap<String, String> =
            list(&metadata["packages"]).iter().map(|p| (text(&p["id"]), text(&p["name"]))).collect();
        let mut dependencies: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in list(&metadata["resolve"]["nodes"]) {
            let Some(name) = names.get(&text(&node["id"])) else { continue };
            let entry = dependencies.entry(name.clone()).or_default();
            for dependency in list(&node["deps"]) {
                let normal = list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null());
                if let Some(target) = names.get(&text(&dependency["pkg"])).filter(|_| normal) {
                    entry.insert(target.clone());
                }
            }
        }
        let members =
            list(&metadata["workspace_members"]).iter().filter_map(|id| names.get(&text(id)).cloned()).collect();
        Self { dependencies, members }
    }

    /// Every crate that `start` reaches, with one way to it.
    fn reachable(&self, start: &str) -> BTreeMap<String, Vec<String>> {
        let mut found = BTreeMap::new();
        let mut todo = vec![vec![start.to_owned()]];
        while let Some(path) = todo.pop() {
            let Some(last) = path.last() else { continue };
            for next in self.dependencies.get(last).into_iter().flatten() {
                if !found.contains_key(next) {
                    let mut longer = path.clone();
                    longer.push(next.clone());
                    found.insert(next.clone(), longer.clone());
                    todo.push(longer);
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_crate_reaches_what_its_dependencies_reach_but_not_build_dependencies() {
        let node = |id: &str, deps: &[(&str, Value)]| {
            let deps: Vec<Value> =
                deps.iter().map(|(pkg, kind)| json!({"pkg": pkg, "dep_kinds": [{"kind": kind}]})).collect();
            json!({"id": id, "deps": deps})
        };
        let metadata = json!({
            "packages": (["a", "b", "c", "d"].map(|n| json!({"id": n, "name": n}))),
            "workspace_members": ["a"],
            "resolve": {"nodes": [
                node("a", &[("b", Value::Null), ("d", json!("build"))]),
                node("b", &[("c", Value::Null)]),
                node("c", &[]),
                node("d", &[]),
            ]},
        });
        let reached = Graph::read(&metadata).reachable("a");
        assert_eq!(reached.keys().collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(reached["c"], ["a", "b", "c"]);
    }

    #[test]
    fn a_star_is_a_prefix() {
        assert!(matches("aws-*", "aws-sdk-ec2") && matches("axum", "axum"));
        assert!(!matches("axum", "axum-core") && !matches("aws-*", "awsome"));
    }
}
