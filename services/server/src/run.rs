//! `galley-server run`: wires the store, the front door and the controllers together.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use galley_api_server::clusters::Clusters;
use galley_api_server::installation::InstallationError;
use galley_api_server::{FlowConfig, Gateway, GatewayConfig, installation, serve, serve_replicas};
use galley_openapi::Documents;
use galley_store::{KeyError, Store, StoreConfig, StoreError};
use galley_types::{Clock, SystemClock};
use ipnet::IpNet;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::arguments::{PeerAdvertise, Role, RunOptions};

/// Unused clusters stay in memory for minutes; looking four times a minute is often enough.
const SWEEP: Duration = Duration::from_secs(15);
/// How long clients may be kept while shards are handed over. It takes a fraction of a second.
const LEAVE: Duration = Duration::from_secs(3);

pub async fn run(options: RunOptions) -> anyhow::Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let data_dir = &options.state.data_dir;
    std::fs::create_dir_all(data_dir).with_context(|| format!("{} cannot be made", data_dir.display()))?;
    let advertise = match &options.advertise {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => format!("https://{}", options.listen[0]),
    };
    let host = host_of(&advertise)?;

    // First, so that a process that cannot serve takes no shard from one that can.
    let is_gateway = options.role.contains(&Role::Gateway);
    let hosts_shards = options.role.contains(&Role::ShardHost);
    let mut listeners = Vec::new();
    for address in options.listen.iter().filter(|_| is_gateway) {
        listeners.push(TcpListener::bind(address).await.with_context(|| format!("{address} cannot be listened on"))?);
    }

    let peer_listen = options.peer_listen;
    let peer_listener = match hosts_shards {
        true => {
            Some(TcpListener::bind(peer_listen).await.with_context(|| format!("{peer_listen} cannot be listened on"))?)
        }
        false => None,
    };

    let key = options.state.key()?;
    let mut config = StoreConfig::new(&options.state.database_url, holder(data_dir)?, Arc::new(key));
    let mut flow = FlowConfig::default();
    options.budgets.apply(&mut config.cache, &mut flow);
    config.retention = Duration::from_secs(options.retention_seconds);
    config.set_lease(Duration::from_secs(options.lease_seconds));
    let store = match &peer_listener {
        Some(listener) => {
            config.address = peer_address(options.peer_advertise.as_ref(), listener.local_addr()?)?;
            Store::open(config, Arc::clone(&clock)).await
        }
        None => Store::open_gateway(config, Arc::clone(&clock)).await,
    }
    .context("the store cannot be opened")?;
    let authority = match installation::authority(&store, clock.now()).await {
        Err(InstallationError::Store(StoreError::Key(KeyError::DoesNotOpen { .. }))) => bail!(
            "the database is of an installation with another master key than {}: give the server that key, or an empty database",
            options.state.key_source()
        ),
        other => other?,
    };
    write_atomically(&data_dir.join("ca.pem"), authority.pem().as_bytes())?;

    let mut names = vec![host, "localhost".to_owned(), "127.0.0.1".to_owned()];
    names.extend(
        options.listen.iter().map(|address| address.ip()).filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string()),
    );
    names.sort();
    names.dedup();
    let clusters = Arc::new(Clusters::new(store.clone(), Arc::clone(&clock), options.domain.clone())?);
    let shutdown = CancellationToken::new();
    let gateway = Arc::new(Gateway::new(
        GatewayConfig {
            domain: options.domain.clone(),
            advertise: advertise.clone(),
            names,
            node_certificate_duration: options.node_certificate_duration,
            flow,
        },
        store.clone(),
        Arc::clone(&clusters),
        Arc::new(authority),
        Arc::new(Documents::builtin()),
        Arc::clone(&clock),
        shutdown.clone(),
    )?);

    let mut controlling = galley_controllers_drive::Config::default();
    if let Some(grace) = options.node_monitor_grace_period {
        controlling.node_monitor_grace_period = grace;
    }
    let apis = Arc::clone(&clusters);
    // A process without shards has no clusters in memory: they have nothing to do there.
    let controllers = tokio::spawn(galley_controllers_drive::run(
        store.clone(),
        Arc::new(move |cluster| apis.api_over(&cluster)),
        controlling,
        shutdown.clone(),
    ));
    let house = tokio::spawn(sweep(clusters, shutdown.clone()));
    let signals = tokio::spawn(stop_on_signal(store.clone(), shutdown.clone()));
    tracing::info!(listen = ?options.listen, advertise, domain = options.domain, roles = ?options.role, "serving");

    let replicas = async {
        if let Some(listener) = peer_listener {
            serve_replicas(listener, Arc::clone(&gateway), shutdown.clone()).await;
        }
    };
    tokio::join!(replicas, serve(listeners, Arc::clone(&gateway), shutdown.clone()));
    let _ = controllers.await;
    let _ = house.await;
    store.close().await;
    signals.abort();
    tracing::info!("stopped");
    Ok(())
}

/// Lets go of clusters that nobody uses.
async fn sweep(clusters: Arc<Clusters>, shutdown: CancellationToken) {
    while tokio::time::timeout(SWEEP, shutdown.cancelled()).await.is_err() {
        clusters.sweep();
    }
}

/// Other replicas take over first: a client that is sent away finds the next owner.
async fn stop_on_signal(store: Store, shutdown: CancellationToken) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return tracing::error!("signals cannot be awaited");
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    if !store.replicas().is_empty() {
        match tokio::time::timeout(LEAVE, store.leave()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "shards are not handed over yet")
            }
            Err(_) => tracing::warn!("shards are not handed over yet"),
        }
    }
    shutdown.cancel();
}

/// Where other replicas reach this one.
fn peer_address(advertise: Option<&PeerAdvertise>, listening: SocketAddr) -> anyhow::Result<String> {
    match advertise {
        Some(PeerAdvertise::Address(address)) => Ok(address.clone()),
        Some(PeerAdvertise::Network(network)) => {
            Ok(SocketAddr::new(own_address(*network)?, listening.port()).to_string())
        }
        None if listening.ip().is_unspecified() => {
            bail!(
                "--peer-listen {listening} is no address that others can reach: say which with --peer-advertise HOST:PORT"
            )
        }
        None => Ok(listening.to_string()),
    }
}

/// This machine's address in a network: the one that it would send from to others there.
fn own_address(network: IpNet) -> anyhow::Result<IpAddr> {
    let unspecified: IpAddr = match network {
        IpNet::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpNet::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let somebody = network.hosts().next().unwrap_or(network.addr());
    // Connecting a datagram socket asks the kernel for a route, and sends nothing. The port, discard's, is never reached.
    let address = UdpSocket::bind((unspecified, 0))
        .and_then(|socket| socket.connect((somebody, 9)).and_then(|()| socket.local_addr()))
        .with_context(|| format!("this machine has no way to {network} of --peer-advertise"))?
        .ip();
    anyhow::ensure!(
        network.contains(&address),
        "this machine's address {address} is not in {network} of --peer-advertise"
    );
    Ok(address)
}

/// The host of `https://HOST:PORT`.
fn host_of(url: &str) -> anyhow::Result<String> {
    let Some(rest) = url.strip_prefix("https://") else {
        bail!("--advertise must be https://HOST:PORT, not {url:?}");
    };
    let authority = rest.split('/').next().unwrap_or(rest);
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    Ok(host.trim_start_matches('[').trim_end_matches(']').to_owned())
}

/// Names this process in lease rows, the same after a restart: its shards are then its own again at once.
fn holder(data_dir: &Path) -> anyhow::Result<String> {
    let path = data_dir.join("holder");
    match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        _ => {
            let name = uuid::Uuid::new_v4().to_string();
            write_atomically(&path, name.as_bytes())?;
            Ok(name)
        }
    }
}

fn write_atomically(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let temporary = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().with_context(|| format!("{} cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::{host_of, peer_address};

    #[test]
    fn other_replicas_are_told_an_address_that_they_can_reach() {
        let listening = |text: &str| text.parse().unwrap();
        assert_eq!(peer_address(None, listening("127.0.0.1:7")).unwrap(), "127.0.0.1:7");
        let told = |text: &str| peer_address(Some(&text.parse().unwrap()), listening("0.0.0.0:7"));
        assert_eq!(told("a.internal:9").unwrap(), "a.internal:9");
        assert_eq!(told("127.0.0.0/8").unwrap(), "127.0.0.1:7");
        assert!(peer_address(None, listening("0.0.0.0:7")).is_err());
        // Reserved: no machine is there.
        assert!(told("240.0.0.0/4").unwrap_err().to_string().contains("240.0.0.0/4"));
    }

    #[test]
    fn the_advertised_host_goes_into_the_certificate() {
        assert_eq!(host_of("https://10.0.0.1:6443").unwrap(), "10.0.0.1");
        assert_eq!(host_of("https://[fd00::1]:6443/").unwrap(), "fd00::1");
        assert_eq!(host_of("https://galley.example.com").unwrap(), "galley.example.com");
        assert!(host_of("http://x").is_err());
    }
}
