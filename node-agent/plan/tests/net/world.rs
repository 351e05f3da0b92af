//! Fixtures, and a stand-in for the kernel's nftables that refuses what the kernel refuses.

use std::collections::BTreeMap;
use std::sync::Arc;

use galley_node_plan::net::frontends::{Frontend, FrontendOptions, frontends};
use galley_node_plan::net::nftables::{CollectionKind, Ruleset, Scripts};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

/// A Service in namespace `default` with a TCP port 80 named `http`; `patch` is merged over it.
pub fn service(name: &str, patch: Value) -> Arc<Service> {
    let mut service = json!({
        "metadata": { "namespace": "default", "name": name },
        "spec": { "type": "ClusterIP", "clusterIP": "10.96.1.1", "ports": [{ "name": "http", "port": 80, "protocol": "TCP" }] },
    });
    merge(&mut service, patch);
    Arc::new(serde_json::from_value(service).unwrap())
}

/// An endpoint; conditions as given.
pub fn endpoint(ip: &str, node: &str, conditions: Value) -> Value {
    json!({ "addresses": [ip], "nodeName": node, "conditions": conditions })
}

/// A slice of a Service's endpoints, all on port 8080 under the name `http`.
pub fn slice(service: &str, endpoints: &[Value]) -> Arc<EndpointSlice> {
    let slice = json!({
        "metadata": {
            "namespace": "default", "name": format!("{service}-1"), "labels": { "kubernetes.io/service-name": service },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        "endpoints": endpoints,
    });
    Arc::new(serde_json::from_value(slice).unwrap())
}

pub fn merge(into: &mut Value, patch: Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch,
    }
}

/// The frontends as node `a` sees them.
pub fn seen_by_a(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> Vec<Frontend> {
    let own_addresses = ["10.96.0.1".parse().unwrap(), "10.96.0.10".parse().unwrap()].into();
    frontends(services, slices, &FrontendOptions { node_name: "a".into(), own_addresses, external_ips: false })
}

/// The kernel's side: what is there, by name.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Kernel {
    table: bool,
    collections: BTreeMap<String, (String, BTreeMap<String, String>)>,
    chains: BTreeMap<String, Vec<String>>,
}

impl Kernel {
    /// Runs both transactions.
    pub fn apply(&mut self, scripts: &Scripts) {
        for script in [&scripts.change, &scripts.remove] {
            script.lines().for_each(|line| self.line(line));
            self.check();
        }
    }

    fn line(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let body = || line.split_once('{').map(|(_, rest)| rest.trim().trim_end_matches('}').trim()).unwrap();
        match words.as_slice() {
            ["add", "table", ..] => self.table = true,
            ["delete", "table", ..] => *self = Self::default(),
            ["add", kind @ ("set" | "map"), _, _, name, ..] => {
                assert!(self.table);
                let old = self.collections.insert((*name).into(), (format!("{kind} {}", body()), BTreeMap::new()));
                assert!(old.is_none(), "{name} is there already");
            }
            ["delete", "set" | "map", _, _, name] => assert!(self.collections.remove(*name).is_some(), "{name}"),
            ["add", "chain", _, _, name, ..] => {
                assert!(self.chains.insert((*name).into(), Vec::new()).is_none(), "{name} is there already");
            }
            ["flush", "chain", _, _, name] => self.chains.get_mut(*name).unwrap().clear(),
            ["delete", "chain", _, _, name] => {
                assert_eq!(self.chains.remove(*name).unwrap(), Vec::<String>::new(), "{name} has rules");
            }
            ["add", "rule", _, _, name, rest @ ..] => self.chains.get_mut(*name).unwrap().push(rest.join(" ")),
            ["add", "element", _, _, name, ..] => {
                let elements = &mut self.collections.get_mut(*name).unwrap().1;
                for element in body().split(", ") {
                    let (key, verdict) = element.split_once(" : ").unwrap_or((element, ""));
                    assert!(elements.insert(key.into(), verdict.into()).is_none(), "{key} is there already");
                }
            }
            ["delete", "element", _, _, name, ..] => {
                let elements = &mut self.collections.get_mut(*name).unwrap().1;
                body().split(", ").for_each(|key| assert!(elements.remove(key).is_some(), "{key} is not there"));
            }
            _ => panic!("nftables does not know `{line}`"),
        }
    }

    /// After a transaction everything that is jumped to, or looked up, must be there.
    fn check(&self) {
        let verdicts = self.collections.values().flat_map(|(_, elements)| elements.values());
        let rules = self.chains.values().flatten();
        for text in verdicts.chain(rules) {
            let words: Vec<&str> = text.split([' ', ',']).collect();
            for pair in words.windows(2) {
                match pair {
                    ["goto" | "jump", target] => {
                        assert!(self.chains.contains_key(*target), "no chain {target}: {text}")
                    }
                    [_, name] if name.starts_with('@') => {
                        assert!(self.collections.contains_key(&name[1..]), "no collection {name}: {text}");
                    }
                    _ => {}
                }
            }
        }
    }

    /// Whether this is exactly the ruleset; dynamic sets are filled by packets and may hold anything.
    pub fn is(&self, ruleset: &Ruleset) -> bool {
        let strip = |rule: &String| rule.split(" comment ").next().unwrap().to_owned();
        let chains = ruleset.chains.iter().map(|(name, chain)| (name.clone(), chain.rules.clone())).collect();
        let found: BTreeMap<String, Vec<String>> =
            self.chains.iter().map(|(name, rules)| (name.clone(), rules.iter().map(strip).collect())).collect();
        let collections: BTreeMap<String, (String, BTreeMap<String, String>)> = ruleset
            .collections
            .iter()
            .map(|(name, collection)| {
                let kind = if collection.kind == CollectionKind::Set { "set" } else { "map" };
                let elements = collection.elements.clone().unwrap_or_default();
                (name.clone(), (format!("{kind} {}", collection.spec), elements))
            })
            .collect();
        found == chains && self.collections == collections
    }

    /// The verdict for a packet to this key in a map.
    pub fn verdict(&self, map: &str, key: &str) -> Option<&str> {
        self.collections.get(map)?.1.get(key).map(String::as_str)
    }

    /// The rules of the chain that a `goto` verdict leads to.
    pub fn chain(&self, verdict: &str) -> &[String] {
        &self.chains[verdict.strip_prefix("goto ").unwrap()]
    }
}
