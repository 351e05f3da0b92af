//! Load balancers that are listeners of this process.
//!
//! Each has an address of its own out of the cloud's range, on the bridge. What was given to whom is in a file, so that a Service keeps
//! its address over a restart of the controller; connections do not outlive it.
//!
//! ```text
//!  client ──► 10.89.255.1:80 ──► healthy node, round robin ──► 10.89.0.11:30080
//! ```

mod health;
mod tcp;
mod udp;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use galley_cloud::{Address, CloudError, LoadBalancer, LoadBalancerName, LoadBalancers, Protocol};
use ipnet::Ipv4Net;
use tokio::sync::{Mutex, watch};
use tokio::task::AbortHandle;

use crate::command;
use crate::error::LocalError;

pub use health::Rhythm;

/// Where a balancer takes its addresses, and on which link they are.
#[derive(Debug, Clone)]
pub struct BalancerConfig {
    /// Its network and broadcast addresses are not used.
    pub range: Ipv4Net,
    /// Loopback addresses need none.
    pub link: Option<String>,
    /// What is remembered of the given addresses.
    pub file: PathBuf,
    pub rhythm: Rhythm,
    /// How long connections to a node that is taken out may go on.
    pub drain: Duration,
}

impl BalancerConfig {
    /// Addresses of this range, on the cloud's bridge.
    pub fn new(cloud: &crate::LocalCloud) -> Self {
        Self {
            range: cloud.balancers,
            link: (!cloud.balancers.addr().is_loopback()).then(|| cloud.bridge()),
            file: cloud.state_dir.join("balancers.json"),
            rhythm: Rhythm::default(),
            drain: Duration::from_secs(30),
        }
    }
}

/// What the listeners of one balancer read.
#[derive(Debug, Clone)]
struct Settings {
    wanted: Arc<LoadBalancer>,
}

struct Running {
    settings: watch::Sender<Settings>,
    health: health::Health,
    listeners: BTreeMap<(Protocol, u16), AbortHandle>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.listeners.values().for_each(AbortHandle::abort);
    }
}

#[derive(Default)]
struct State {
    /// What the file says.
    addresses: BTreeMap<LoadBalancerName, Ipv4Addr>,
    running: BTreeMap<LoadBalancerName, Running>,
}

/// All load balancers of a local cloud.
pub struct LocalBalancers {
    config: BalancerConfig,
    state: Mutex<State>,
}

impl LocalBalancers {
    /// Takes up the addresses that an earlier process gave out. Their listeners come back when they are ensured again.
    pub fn open(config: BalancerConfig) -> Result<Self, LocalError> {
        let addresses = match std::fs::read(&config.file) {
            Ok(text) => {
                let list: Vec<(LoadBalancerName, Ipv4Addr)> = serde_json::from_slice(&text)
                    .map_err(|source| LocalError::Record { path: config.file.clone(), source })?;
                list.into_iter().collect()
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(LocalError::File { path: config.file.clone(), source }),
        };
        Ok(Self { config, state: Mutex::new(State { addresses, running: BTreeMap::new() }) })
    }

    fn save(&self, state: &State) -> Result<(), LocalError> {
        let path = &self.config.file;
        let list: Vec<_> = state.addresses.iter().collect();
        let text =
            serde_json::to_vec_pretty(&list).map_err(|source| LocalError::Record { path: path.clone(), source })?;
        crate::file::write_atomically(path, &text).map_err(LocalError::file(path))
    }

    fn choose(&self, state: &State, wanted: &LoadBalancer) -> Result<Ipv4Addr, CloudError> {
        let taken = |ip: &Ipv4Addr| state.addresses.values().any(|taken| taken == ip);
        if let Some(ip) = wanted.wanted_address {
            if !self.config.range.contains(&ip) {
                let detail = format!("the address {ip} is not in the range {}", self.config.range);
                return Err(CloudError::Invalid { detail });
            }
            if taken(&ip) {
                return Err(CloudError::Invalid { detail: format!("the address {ip} is taken") });
            }
            return Ok(ip);
        }
        self.config.range.hosts().find(|ip| !taken(ip)).ok_or_else(|| CloudError::Quota {
            what: "load balancer addresses",
            detail: format!("the range {} has no address left", self.config.range),
        })
    }

    async fn link_address(&self, verb: &'static str, ip: Ipv4Addr) -> Result<(), LocalError> {
        let Some(link) = self.config.link.clone() else { return Ok(()) };
        let words = format!("addr {verb} {ip}/32 dev {link}");
        let run = tokio::task::spawn_blocking(move || command::ip(&words).map(drop));
        run.await.unwrap_or(Ok(()))
    }

    /// Opens what listeners are missing and closes what is not wanted.
    async fn listen(&self, running: &mut Running, ip: Ipv4Addr, wanted: &LoadBalancer) -> Result<(), LocalError> {
        let keys: Vec<_> = wanted.listeners.iter().map(|listener| (listener.protocol, listener.port)).collect();
        running.listeners.retain(|key, task| {
            let keep = keys.contains(key) && !task.is_finished();
            if !keep {
                task.abort();
            }
            keep
        });
        for key @ (protocol, port) in keys {
            if running.listeners.contains_key(&key) {
                continue;
            }
            let error = |source| LocalError::Listen { address: ip, port, source };
            let (settings, health) = (running.settings.subscribe(), running.health.clone());
            let task = match protocol {
                Protocol::Tcp => {
                    let listener = tokio::net::TcpListener::bind((ip, port)).await.map_err(error)?;
                    tokio::spawn(tcp::serve(listener, settings, health, self.config.drain))
                }
                Protocol::Udp => {
                    let socket = tokio::net::UdpSocket::bind((ip, port)).await.map_err(error)?;
                    tokio::spawn(udp::serve(Arc::new(socket), settings, health))
                }
            };
            running.listeners.insert(key, task.abort_handle());
        }
        Ok(())
    }
}

fn failed(operation: &'static str) -> impl FnOnce(LocalError) -> CloudError {
    move |source| CloudError::Failed { operation, source: Box::new(source) }
}

impl LoadBalancers for LocalBalancers {
    async fn load_balancer_list(&self) -> Result<Vec<LoadBalancerName>, CloudError> {
        Ok(self.state.lock().await.addresses.keys().cloned().collect())
    }

    async fn load_balancer_ensure(&self, wanted: &LoadBalancer) -> Result<Address, CloudError> {
        let mut state = self.state.lock().await;
        let name = &wanted.name;
        let ip = match state.addresses.get(name) {
            Some(ip) if self.config.range.contains(ip) => *ip,
            _ => {
                let ip = self.choose(&state, wanted)?;
                state.addresses.insert(name.clone(), ip);
                // Before it is used: an address that is used and not remembered would be given twice.
                self.save(&state).map_err(failed("remember an address"))?;
                ip
            }
        };
        self.link_address("replace", ip).await.map_err(failed("add an address"))?;
        let settings = Settings { wanted: Arc::new(wanted.clone()) };
        let mut running = match state.running.remove(name) {
            Some(running) => {
                running.settings.send_if_modified(|before| {
                    let changed = before.wanted != settings.wanted;
                    *before = settings.clone();
                    changed
                });
                running
            }
            None => {
                let (sender, receiver) = watch::channel(settings);
                let health = health::Health::start(receiver, self.config.rhythm);
                Running { settings: sender, health, listeners: BTreeMap::new() }
            }
        };
        let listening = self.listen(&mut running, ip, wanted).await.map_err(failed("listen"));
        state.running.insert(name.clone(), running);
        listening.map(|()| Address { ip })
    }

    async fn load_balancer_delete(&self, name: &LoadBalancerName) -> Result<(), CloudError> {
        let mut state = self.state.lock().await;
        state.running.remove(name);
        let Some(ip) = state.addresses.get(name).copied() else { return Ok(()) };
        if let Err(error) = self.link_address("del", ip).await {
            // The link went with the cloud, or the address was never added.
            tracing::debug!(%ip, %error, "an address was not removed");
        }
        state.addresses.remove(name);
        self.save(&state).map_err(failed("forget an address"))
    }
}
