//! Keeps the load balancers of one cluster as its Services say.

#[cfg(test)]
mod fake_api;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use galley_cloud::{Address, CloudError, LoadBalancer, LoadBalancerName, LoadBalancers};
use galley_cloud_plan::{Action, Plan, Reason, plan, status_is};
use k8s_openapi::api::core::v1::{Node, Service};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::sync::Notify;

use crate::service::{ApiError, Level, ServiceApi};

/// Changes that come together are looked at together.
const GATHER: Duration = Duration::from_millis(50);
/// After a failure.
const RETRY: Duration = Duration::from_secs(5);
/// Without any change: repairs what somebody else undid.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Why a Service does not have what it should.
#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error(transparent)]
    Cloud(#[from] CloudError),
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// Runs until it is aborted.
pub async fn keep(cluster: String, client: Client, balancers: Arc<impl LoadBalancers>, class: &'static str) {
    let changed = Notify::new();
    let (services, services_writer) = reflector::store::<Service>();
    let (nodes, nodes_writer) = reflector::store::<Node>();
    let follow_services = follow(Api::all(client.clone()), services_writer, &changed);
    let follow_nodes = follow(Api::all(client.clone()), nodes_writer, &changed);
    let mut state = State {
        cluster,
        api: ServiceApi::new(client),
        balancers,
        class,
        services,
        nodes,
        applied: BTreeMap::new(),
        told: BTreeMap::new(),
    };
    let work = async {
        // Before both are known whole, every Service would seem to have lost its nodes.
        if state.services.wait_until_ready().await.is_err() || state.nodes.wait_until_ready().await.is_err() {
            return;
        }
        loop {
            let wait = if state.sync().await { LOOK_AGAIN } else { RETRY };
            if tokio::time::timeout(wait, changed.notified()).await.is_ok() {
                tokio::time::sleep(GATHER).await;
            } else {
                state.applied.clear();
            }
        }
    };
    tokio::join!(follow_services, follow_nodes, work);
}

async fn follow<K>(api: Api<K>, writer: reflector::store::Writer<K>, changed: &Notify)
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static,
{
    let stream = reflector::reflector(writer, watcher(api, watcher::Config::default()));
    let mut stream = std::pin::pin!(stream.default_backoff());
    while let Some(event) = stream.next().await {
        match event {
            Ok(_) => changed.notify_one(),
            Err(error) => tracing::debug!(%error, "a watch broke; it starts again"),
        }
    }
}

struct State<L> {
    cluster: String,
    api: ServiceApi,
    balancers: Arc<L>,
    class: &'static str,
    services: Store<Service>,
    nodes: Store<Node>,
    /// What the cloud was told last, so that a quiet cluster costs no calls.
    applied: BTreeMap<LoadBalancerName, (LoadBalancer, Address)>,
    /// The last failure of each Service, so that it is told once.
    told: BTreeMap<LoadBalancerName, String>,
}

impl<L: LoadBalancers> State<L> {
    /// Brings every Service to what its plan says; false when something failed.
    async fn sync(&mut self) -> bool {
        let nodes = self.nodes.state();
        let mut well = true;
        let mut existing = BTreeSet::new();
        for service in self.services.state() {
            let plan = plan(&self.cluster, &service, &nodes, self.class);
            let name = LoadBalancerName {
                cluster: self.cluster.clone(),
                namespace: service.metadata.namespace.clone().unwrap_or_default(),
                service: service.metadata.name.clone().unwrap_or_default(),
            };
            if !plan.actions.is_empty() {
                existing.insert(name.clone());
            }
            match self.apply(&service, &name, plan).await {
                Ok(()) => {
                    self.told.remove(&name);
                }
                Err(error) => {
                    well = false;
                    self.tell_failure(&service, name, &error).await;
                }
            }
        }
        well & self.forget(&existing).await
    }

    /// Deletes load balancers of this cluster that no Service speaks of: their Service was changed by force.
    async fn forget(&mut self, existing: &BTreeSet<LoadBalancerName>) -> bool {
        self.applied.retain(|name, _| existing.contains(name));
        let Ok(names) = self.balancers.load_balancer_list().await else { return false };
        let mut well = true;
        for name in names.iter().filter(|name| name.cluster == self.cluster && !existing.contains(*name)) {
            match self.balancers.load_balancer_delete(name).await {
                Ok(()) => tracing::info!(%name, "a load balancer without a Service is gone"),
                Err(error) => {
                    tracing::warn!(%name, %error, "a load balancer without a Service stays");
                    well = false;
                }
            }
        }
        well
    }

    async fn apply(&mut self, service: &Service, name: &LoadBalancerName, plan: Plan) -> Result<(), SyncError> {
        let new = plan.actions.contains(&Action::FinalizerAdd);
        let mut address = None;
        for action in plan.actions {
            match action {
                Action::FinalizerAdd => {
                    self.api.event(service, Level::Normal, "EnsuringLoadBalancer", "Ensuring load balancer").await;
                    self.api.finalizer_add(service).await?;
                }
                Action::Ensure(wanted) => {
                    if let Some((before, known)) = self.applied.get(name)
                        && *before == wanted
                    {
                        address = Some(*known);
                        continue;
                    }
                    let given = self.balancers.load_balancer_ensure(&wanted).await?;
                    tracing::info!(%name, ip = %given.ip, targets = wanted.targets.len(), "a load balancer is as its Service says");
                    if new {
                        self.api.event(service, Level::Normal, "EnsuredLoadBalancer", "Ensured load balancer").await;
                    } else if self.applied.contains_key(name) {
                        let message = "Updated load balancer with new hosts";
                        self.api.event(service, Level::Normal, "UpdatedLoadBalancer", message).await;
                    }
                    self.applied.insert(name.clone(), (wanted, given));
                    address = Some(given);
                }
                Action::StatusSet => match address {
                    Some(address) if !status_is(service, address) => {
                        self.api.status_set(service, Some(address)).await?
                    }
                    _ => {}
                },
                Action::Delete(gone) => {
                    self.api.event(service, Level::Normal, "DeletingLoadBalancer", "Deleting load balancer").await;
                    self.balancers.load_balancer_delete(&gone).await?;
                    self.applied.remove(&gone);
                    tracing::info!(name = %gone, "a load balancer is gone");
                    if plan.reason == Reason::NoLongerALoadBalancer {
                        self.api.event(service, Level::Normal, "DeletedLoadBalancer", "Deleted load balancer").await;
                    }
                }
                Action::StatusClear => self.api.status_set(service, None).await?,
                Action::FinalizerRemove => self.api.finalizer_remove(service).await?,
            }
        }
        Ok(())
    }

    async fn tell_failure(&mut self, service: &Service, name: LoadBalancerName, error: &SyncError) {
        // Somebody else wrote first; the watch brings what they wrote.
        if matches!(error, SyncError::Api(error) if error.is_conflict()) {
            return;
        }
        let message = format!("Error syncing load balancer: {error}");
        if self.told.get(&name) == Some(&message) {
            return;
        }
        tracing::warn!(%name, error = error as &dyn std::error::Error, "a load balancer is not as its Service says");
        self.api.event(service, Level::Warning, "SyncLoadBalancerFailed", &message).await;
        self.told.insert(name, message);
    }
}
