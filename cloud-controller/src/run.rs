//! `run`: one task for each cluster, as long as the cluster is there.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use galley_cloud::LoadBalancers;
use galley_cloud_local::{BalancerConfig, LocalBalancers, ensure_bridge};
use kube::{Client, Config};
use serde::Deserialize;
use tokio::task::AbortHandle;

use crate::{CloudArguments, cluster};

/// How often the list of clusters is read.
const CLUSTERS_INTERVAL: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, ValueEnum)]
enum Cloud {
    /// This machine
    Local,
}

impl Cloud {
    /// `spec.loadBalancerClass` of Services that ask for this cloud by name.
    fn class(self) -> &'static str {
        match self {
            Self::Local => "galley.dev/local",
        }
    }
}

#[derive(Args)]
pub struct Run {
    #[arg(long, value_enum)]
    cloud: Cloud,
    /// The address of the control plane
    #[arg(long)]
    server: String,
    /// The installation's certificate authority, PEM
    #[arg(long)]
    ca_file: PathBuf,
    /// The cloud controller's token
    #[arg(long)]
    token_file: PathBuf,
    #[command(flatten)]
    local: CloudArguments,
}

#[derive(Deserialize)]
struct ClusterList {
    items: Vec<ListedCluster>,
}

#[derive(Deserialize)]
struct ListedCluster {
    id: String,
}

struct Endpoint {
    server: String,
    ca_file: PathBuf,
    token_file: PathBuf,
}

impl Endpoint {
    fn client(&self, path: &str) -> anyhow::Result<Client> {
        let url = format!("{}{path}", self.server.trim_end_matches('/'));
        let mut config = Config::new(url.parse().with_context(|| format!("`{url}` is not a URL"))?);
        config.root_cert_file = Some(self.ca_file.clone());
        let token = std::fs::read_to_string(&self.token_file)
            .with_context(|| format!("the token file {} cannot be read", self.token_file.display()))?;
        // Its own reading of token files takes the line's end for a part of the token.
        config.auth_info = serde_json::from_value(serde_json::json!({ "token": token.trim() }))?;
        Client::try_from(config).with_context(|| format!("there is no client for {url}"))
    }
}

impl Run {
    pub async fn run(self) -> anyhow::Result<()> {
        // Two libraries that link different providers would otherwise leave the choice open.
        if rustls::crypto::ring::default_provider().install_default().is_err() {
            bail!("another cryptography provider is installed already");
        }
        let endpoint = Endpoint { server: self.server, ca_file: self.ca_file, token_file: self.token_file };
        let class = self.cloud.class();
        match self.cloud {
            Cloud::Local => {
                let cloud = self.local.cloud();
                let config = BalancerConfig::new(&cloud);
                if config.link.is_some() {
                    let cloud = cloud.clone();
                    tokio::task::spawn_blocking(move || ensure_bridge(&cloud)).await??;
                }
                let balancers = Arc::new(LocalBalancers::open(config)?);
                tokio::select! {
                    never = keep(&endpoint, balancers, class) => never,
                    () = told_to_stop() => Ok(()),
                }
            }
        }
    }
}

async fn told_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

async fn keep(endpoint: &Endpoint, balancers: Arc<impl LoadBalancers>, class: &'static str) -> anyhow::Result<()> {
    let client = endpoint.client("")?;
    let mut running: BTreeMap<String, AbortHandle> = BTreeMap::new();
    let mut told = String::new();
    loop {
        let request = http::Request::get("/v1/cloud/clusters").body(Vec::new())?;
        match client.request::<ClusterList>(request).await {
            Ok(list) => {
                told.clear();
                let wanted: BTreeSet<String> = list.items.into_iter().map(|cluster| cluster.id).collect();
                running.retain(|id, task| {
                    let keep = wanted.contains(id) && !task.is_finished();
                    if !keep {
                        task.abort();
                    }
                    keep
                });
                forget_deleted(&*balancers, &wanted).await;
                for id in wanted {
                    if let Entry::Vacant(vacant) = running.entry(id) {
                        let id = vacant.key().clone();
                        let client = endpoint.client(&format!("/clusters/{id}"))?;
                        let task = tokio::spawn(cluster::keep(id, client, balancers.clone(), class));
                        vacant.insert(task.abort_handle());
                    }
                }
            }
            Err(error) if error.to_string() == told => {}
            Err(error) => {
                tracing::warn!(%error, "the list of clusters cannot be read; trying on");
                told = error.to_string();
            }
        }
        tokio::time::sleep(CLUSTERS_INTERVAL).await;
    }
}

/// A deleted cluster has nobody who would wait for its load balancers to go.
async fn forget_deleted(balancers: &impl LoadBalancers, clusters: &BTreeSet<String>) {
    let names = balancers.load_balancer_list().await.unwrap_or_default();
    for name in names.into_iter().filter(|name| !clusters.contains(&name.cluster)) {
        match balancers.load_balancer_delete(&name).await {
            Ok(()) => tracing::info!(%name, "the load balancer of a deleted cluster is gone"),
            Err(error) => tracing::warn!(%name, %error, "the load balancer of a deleted cluster stays"),
        }
    }
}
