//! What a pod finds in /etc/resolv.conf, by `dnsPolicy` and `dnsConfig`.

use k8s_cri::v1::DnsConfig;
use k8s_openapi::api::core::v1::PodSpec;

/// Longer lists of search domains are cut, as resolvers do (glibc since 2.26 has no limit; Kubernetes says 32).
const MAX_SEARCHES: usize = 32;
/// Resolvers look at the first three.
const MAX_SERVERS: usize = 3;

/// A parsed resolv.conf.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

impl ResolvConf {
    /// Reads the text of a resolv.conf; what is not understood is passed over.
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => conf.servers.extend(words.next().map(Into::into)),
                Some("search") => conf.searches = words.map(Into::into).collect(),
                Some("options") => conf.options = words.map(Into::into).collect(),
                _ => {}
            }
        }
        conf
    }
}

/// The resolver configuration of a pod.
pub fn dns_config(
    spec: &PodSpec,
    namespace: &str,
    cluster_dns: &[String],
    cluster_domain: &str,
    node: &ResolvConf,
) -> DnsConfig {
    let host_network = spec.host_network == Some(true);
    let cluster = || {
        let own = [format!("{namespace}.svc.{cluster_domain}"), format!("svc.{cluster_domain}"), cluster_domain.into()];
        DnsConfig {
            servers: cluster_dns.to_vec(),
            searches: own.into_iter().chain(node.searches.iter().cloned()).collect(),
            options: vec!["ndots:5".into()],
        }
    };
    let of_node =
        || DnsConfig { servers: node.servers.clone(), searches: node.searches.clone(), options: node.options.clone() };
    let mut config = match spec.dns_policy.as_deref() {
        Some("None") => DnsConfig::default(),
        Some("Default") => of_node(),
        Some("ClusterFirstWithHostNet") => cluster(),
        _ if host_network => of_node(),
        _ => cluster(),
    };
    if let Some(own) = &spec.dns_config {
        config.servers.extend(own.nameservers.iter().flatten().cloned());
        config.searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let name = option.name.as_deref().unwrap_or_default();
            config.options.retain(|o| o.split(':').next() != Some(name));
            config.options.push(match option.value.as_deref().filter(|v| !v.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name.into(),
            });
        }
    }
    unique(&mut config.servers, MAX_SERVERS);
    unique(&mut config.searches, MAX_SEARCHES);
    config
}

fn unique(list: &mut Vec<String>, most: usize) {
    let mut seen = Vec::new();
    list.retain(|item| {
        let new = !seen.contains(item);
        seen.push(item.clone());
        new
    });
    list.truncate(most);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_policy_has_its_servers() {
        let node = ResolvConf::parse("nameserver 192.0.2.53\nsearch corp.example\noptions timeout:1\n");
        let cluster = ["10.96.0.10".to_owned()];
        for (spec, servers, searches, options) in [
            (json!({}), "10.96.0.10", "ns.svc.cluster.local svc.cluster.local cluster.local corp.example", "ndots:5"),
            (json!({"dnsPolicy": "Default"}), "192.0.2.53", "corp.example", "timeout:1"),
            (json!({"hostNetwork": true, "dnsPolicy": "ClusterFirst"}), "192.0.2.53", "corp.example", "timeout:1"),
            (
                json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["a.b"],
                    "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
                "1.1.1.1",
                "a.b",
                "ndots:2 edns0",
            ),
        ] {
            let mut full = spec.clone();
            full["containers"] = json!([]);
            let parsed: PodSpec = serde_json::from_value(full).unwrap();
            let config = dns_config(&parsed, "ns", &cluster, "cluster.local", &node);
            assert_eq!(config.servers.join(" "), servers, "{spec}");
            assert_eq!(config.searches.join(" "), searches, "{spec}");
            assert_eq!(config.options.join(" "), options, "{spec}");
        }
    }
}
