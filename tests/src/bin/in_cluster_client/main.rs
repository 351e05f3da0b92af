//! Programs for pods. With the argument `grpc-health`: a server of gRPC's health protocol. Without:
//! what a program in a pod does with the Kubernetes API: an unmodified client library, found by the environment and the
//! mounted service account alone. Lists pods, writes a ConfigMap, watches it change, and says so.

mod grpc_health;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client, Config};
use serde_json::json;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    if std::env::args().nth(1).as_deref() == Some("grpc-health") {
        return grpc_health::serve(9000).await;
    }
    let config = Config::incluster().context("in-cluster configuration")?;
    println!("server {}", config.cluster_url);
    // Those that look for the API server by its endpoints connect to what they find there, and trust it by the same CA.
    let mut direct = config.clone();
    let endpoint = std::env::var("API_ENDPOINT").context("API_ENDPOINT")?;
    direct.cluster_url = format!("https://{endpoint}").parse().context("API_ENDPOINT")?;
    Client::try_from(direct)?.apiserver_version().await.context("the API server at its endpoint")?;
    let client = Client::try_from(config)?;
    println!("version {}", client.apiserver_version().await?.git_version);
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let listed = pods.list(&ListParams::default()).await.context("list pods")?;
    ensure!(!listed.items.is_empty(), "this pod itself must be listed");
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let name = "from-inside";
    let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": name}, "data": {"step": "1"}}))?;
    let made = maps.create(&PostParams::default(), &map).await.context("create a ConfigMap")?;
    let version = made.metadata.resource_version.context("resourceVersion")?;
    let mut watch =
        maps.watch(&WatchParams::default().fields(&format!("metadata.name={name}")), &version).await?.boxed();
    maps.patch(name, &PatchParams::default(), &Patch::Merge(json!({"data": {"step": "2"}}))).await?;
    let event = watch.try_next().await?.context("a watch event")?;
    let WatchEvent::Modified(seen) = event else { anyhow::bail!("not a modification: {event:?}") };
    ensure!(seen.data.is_some_and(|d| d["step"] == "2"), "the watch must show the new data");
    let forbidden = Api::<Pod>::namespaced(client, "kube-system").list(&ListParams::default()).await;
    let Err(kube::Error::Api(status)) = forbidden else { anyhow::bail!("kube-system must be closed to this pod") };
    ensure!(status.code == 403, "{status:?}");
    println!("in-cluster client: all well");
    Ok(())
}
