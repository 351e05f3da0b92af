//! The names of the cluster: what cluster DNS answers, as the Kubernetes specification "DNS-Based Service Discovery" 1.1.0 says.
//!
//! ```text
//!  <service>.<ns>.svc.<domain>                  A: ClusterIP; headless: ready endpoints; ExternalName: CNAME
//!  <hostname|a-b-c-d>.<service>.<ns>.svc…       A: one endpoint of a headless Service
//!  _<port>._<proto>.<service>.<ns>.svc…         SRV of a named port
//!  a-b-c-d.<ns>.pod.<domain>                    A: a.b.c.d
//!  d.c.b.a.in-addr.arpa                         PTR of ClusterIPs and of headless endpoints
//! ```
//!
//! Names here are lower case, without the final dot.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::ops::Deref;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::frontends::{Protocol, SERVICE_NAME};

/// How many seconds answers may be kept: short, because endpoints change and a pod's resolver keeps no cache anyway.
pub const TTL: u32 = 5;

/// The specification that this follows, told under `dns-version.<domain>`.
const SPECIFICATION: &str = "1.1.0";

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    A(Ipv4Addr),
    Cname(String),
    Ns(String),
    Ptr(String),
    Srv { port: u16, target: String },
    Txt(String),
}

/// One resource record; its time to live is [`TTL`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    pub name: String,
    pub data: Data,
}

/// What is asked for, as far as the zone tells types apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    A,
    Any,
    Cname,
    Ns,
    Ptr,
    Soa,
    Srv,
    Txt,
    /// AAAA among them: the cluster has no IPv6.
    Other,
}

impl Kind {
    fn wants(self, data: &Data) -> bool {
        match data {
            Data::A(_) => matches!(self, Self::A | Self::Any),
            // An alias answers every question about its name.
            Data::Cname(_) => true,
            Data::Ns(_) => matches!(self, Self::Ns | Self::Any),
            Data::Ptr(_) => matches!(self, Self::Ptr | Self::Any),
            Data::Srv { .. } => matches!(self, Self::Srv | Self::Any),
            Data::Txt(_) => matches!(self, Self::Txt | Self::Any),
        }
    }
}

/// The zone's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// Not ours: ask the node's resolvers.
    Forward,
    /// There is no such name.
    NoName,
    /// The name is there. No records is 'not of this type'; the server then adds the SOA.
    Found { answers: Vec<Record>, additional: Vec<Record> },
}

#[derive(Debug, Default)]
struct Entry {
    cluster_ip: Option<Ipv4Addr>,
    external_name: Option<String>,
    /// Addresses of endpoints by their host name; only headless Services have them.
    hosts: BTreeMap<String, BTreeSet<Ipv4Addr>>,
    /// Named ports. Of a headless Service the port may differ between endpoints.
    ports: BTreeMap<(String, Protocol), BTreeSet<(u16, Option<String>)>>,
}

/// All names of one cluster.
#[derive(Debug)]
pub struct Zone {
    domain: String,
    dns_ip: Ipv4Addr,
    service_cidr: Ipv4Net,
    namespaces: HashMap<String, HashMap<String, Entry>>,
    reverse: HashMap<Ipv4Addr, BTreeSet<String>>,
}

fn dashed(ip: Ipv4Addr) -> String {
    ip.to_string().replace('.', "-")
}

fn undashed(text: &str) -> Option<Ipv4Addr> {
    text.replace('-', ".").parse().ok()
}

impl Zone {
    /// The names that follow from the cluster's Services and EndpointSlices.
    pub fn new<S, E>(domain: &str, dns_ip: Ipv4Addr, service_cidr: Ipv4Net, services: &[S], slices: &[E]) -> Self
    where
        S: Deref<Target = Service>,
        E: Deref<Target = EndpointSlice>,
    {
        let mut zone = Self {
            domain: domain.trim_end_matches('.').to_ascii_lowercase(),
            dns_ip,
            service_cidr,
            namespaces: HashMap::new(),
            reverse: HashMap::new(),
        };
        for service in services {
            zone.add_service(service);
        }
        for slice in slices {
            zone.add_slice(slice);
        }
        zone
    }

    fn add_service(&mut self, service: &Service) {
        let (Some(namespace), Some(name)) = (&service.metadata.namespace, &service.metadata.name) else { return };
        let Some(spec) = &service.spec else { return };
        let mut entry = Entry::default();
        if spec.type_.as_deref() == Some("ExternalName") {
            entry.external_name =
                spec.external_name.as_ref().map(|name| name.trim_end_matches('.').to_ascii_lowercase());
        } else {
            entry.cluster_ip =
                spec.cluster_ips.iter().flatten().chain(spec.cluster_ip.iter()).find_map(|ip| ip.parse().ok());
        }
        if let Some(ip) = entry.cluster_ip {
            for port in spec.ports.iter().flatten() {
                let (Some(name), Some(protocol), Ok(number)) =
                    (&port.name, Protocol::parse(port.protocol.as_deref()), u16::try_from(port.port))
                else {
                    continue;
                };
                entry.ports.entry((name.to_ascii_lowercase(), protocol)).or_default().insert((number, None));
            }
            let full = self.service_name(namespace, name);
            self.reverse.entry(ip).or_default().insert(full);
        }
        self.namespaces.entry(namespace.clone()).or_default().insert(name.clone(), entry);
    }

    fn add_slice(&mut self, slice: &EndpointSlice) {
        let Some(namespace) = &slice.metadata.namespace else { return };
        let Some(service) = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME)) else { return };
        if slice.address_type != "IPv4" {
            return;
        }
        let full = self.service_name(namespace, service);
        let Some(entry) = self.namespaces.get_mut(namespace).and_then(|services| services.get_mut(service)) else {
            return;
        };
        if entry.cluster_ip.is_some() || entry.external_name.is_some() {
            return;
        }
        // The controller says `ready` also for the unready endpoints of a Service with publishNotReadyAddresses.
        let ready =
            slice.endpoints.iter().flatten().filter(|endpoint| {
                endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
            });
        for endpoint in ready {
            let Some(ip) = endpoint.addresses.first().and_then(|address| address.parse::<Ipv4Addr>().ok()) else {
                continue;
            };
            let host = endpoint.hostname.as_ref().map_or_else(|| dashed(ip), |host| host.to_ascii_lowercase());
            for port in slice.ports.iter().flatten() {
                let (Some(name), Some(protocol), Some(Ok(number))) =
                    (&port.name, Protocol::parse(port.protocol.as_deref()), port.port.map(u16::try_from))
                else {
                    continue;
                };
                if !name.is_empty() {
                    let key = (name.to_ascii_lowercase(), protocol);
                    entry.ports.entry(key).or_default().insert((number, Some(host.clone())));
                }
            }
            self.reverse.entry(ip).or_default().insert(format!("{host}.{full}"));
            entry.hosts.entry(host).or_default().insert(ip);
        }
    }

    fn service_name(&self, namespace: &str, service: &str) -> String {
        format!("{service}.{namespace}.svc.{}", self.domain)
    }

    /// The zone's own name.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The name server's name, for SOA and NS.
    pub fn name_server(&self) -> String {
        format!("ns.dns.{}", self.domain)
    }

    /// The answer to a question.
    pub fn lookup(&self, name: &str, kind: Kind) -> Lookup {
        if let Some(reverse) = name.strip_suffix(".in-addr.arpa") {
            return self.lookup_reverse(name, reverse, kind);
        }
        let relative = if name == self.domain {
            ""
        } else {
            match name.strip_suffix(&self.domain).and_then(|rest| rest.strip_suffix('.')) {
                Some(relative) => relative,
                None => return Lookup::Forward,
            }
        };
        let labels: Vec<&str> = relative.split('.').rev().filter(|label| !label.is_empty()).collect();
        let Some(records) = self.records(name, &labels) else { return Lookup::NoName };
        let answers: Vec<Record> = records.into_iter().filter(|record| kind.wants(&record.data)).collect();
        let additional = self.targets(&answers);
        Lookup::Found { answers, additional }
    }

    fn lookup_reverse(&self, name: &str, reverse: &str, kind: Kind) -> Lookup {
        let octets: Vec<&str> = reverse.split('.').rev().collect();
        let Some(ip) = octets.join(".").parse::<Ipv4Addr>().ok().filter(|_| octets.len() == 4) else {
            return Lookup::Forward;
        };
        match self.reverse.get(&ip) {
            Some(names) => {
                let records = names.iter().map(|target| Record { name: name.into(), data: Data::Ptr(target.clone()) });
                let answers = records.filter(|record| kind.wants(&record.data)).collect();
                Lookup::Found { answers, additional: Vec::new() }
            }
            // Nobody else knows the cluster's own range.
            None if self.service_cidr.contains(&ip) => Lookup::NoName,
            None => Lookup::Forward,
        }
    }

    /// All records of a name, given its labels from the domain outwards; `None` where there is no such name.
    fn records(&self, name: &str, labels: &[&str]) -> Option<Vec<Record>> {
        let all = |data: Vec<Data>| Some(data.into_iter().map(|data| Record { name: name.into(), data }).collect());
        match labels {
            [] => all(vec![Data::Ns(self.name_server())]),
            ["dns-version"] => all(vec![Data::Txt(SPECIFICATION.into())]),
            ["dns", "ns"] => all(vec![Data::A(self.dns_ip)]),
            ["svc" | "pod" | "dns"] => all(Vec::new()),
            // Pods' namespaces are not watched here, so every namespace is taken to be there.
            ["pod", _namespace] => all(Vec::new()),
            ["pod", _namespace, address] => all(vec![Data::A(undashed(address)?)]),
            ["svc", namespace, rest @ ..] => {
                let services = self.namespaces.get(*namespace)?;
                let [service, rest @ ..] = rest else { return all(Vec::new()) };
                all(self.service_records(namespace, service, services.get(*service)?, rest)?)
            }
            _ => None,
        }
    }

    fn service_records(&self, namespace: &str, service: &str, entry: &Entry, rest: &[&str]) -> Option<Vec<Data>> {
        match rest {
            [] => Some(match (&entry.external_name, entry.cluster_ip) {
                (Some(target), _) => vec![Data::Cname(target.clone())],
                (None, Some(ip)) => vec![Data::A(ip)],
                (None, None) => {
                    entry.hosts.values().flatten().collect::<BTreeSet<_>>().into_iter().map(|ip| Data::A(*ip)).collect()
                }
            }),
            [protocol] if protocol.starts_with('_') => {
                let known = entry.ports.keys().any(|(_, found)| protocol[1..] == *found.lower());
                known.then(Vec::new)
            }
            [host] => Some(entry.hosts.get(*host)?.iter().map(|ip| Data::A(*ip)).collect()),
            [protocol, port] => {
                let (protocol, port) = (protocol.strip_prefix('_')?, port.strip_prefix('_')?);
                let full = self.service_name(namespace, service);
                let (_, targets) =
                    entry.ports.iter().find(|((name, found), _)| name == port && found.lower() == protocol)?;
                Some(
                    targets
                        .iter()
                        .map(|(number, host)| Data::Srv {
                            port: *number,
                            target: host.as_ref().map_or_else(|| full.clone(), |host| format!("{host}.{full}")),
                        })
                        .collect(),
                )
            }
            _ => None,
        }
    }

    /// The addresses of what SRV records point at, so that the client need not ask again.
    fn targets(&self, answers: &[Record]) -> Vec<Record> {
        let mut found = BTreeSet::new();
        for answer in answers {
            let Data::Srv { target, .. } = &answer.data else { continue };
            if let Lookup::Found { answers, .. } = self.lookup(target, Kind::A) {
                found.extend(answers);
            }
        }
        found.into_iter().collect()
    }
}
