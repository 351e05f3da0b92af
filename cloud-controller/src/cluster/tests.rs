use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use galley_cloud::LoadBalancers;
use galley_cloud_local::{BalancerConfig, LocalBalancers, Rhythm};
use galley_cloud_plan::FINALIZER;
use serde_json::{Value, json};
use tokio::task::AbortHandle;

use super::fake_api::FakeApi;
use super::keep;

/// Aborts the controller when the test is over.
struct Controller(AbortHandle);

impl Drop for Controller {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn balancers(directory: &Path) -> Arc<LocalBalancers> {
    let octet = std::process::id() % 200 + 20;
    let config = BalancerConfig {
        range: format!("127.{octet}.254.0/30").parse().unwrap(),
        link: None,
        file: directory.join("balancers.json"),
        rhythm: Rhythm::default(),
        drain: Duration::ZERO,
    };
    Arc::new(LocalBalancers::open(config).unwrap())
}

fn start(api: &FakeApi, balancers: &Arc<LocalBalancers>) -> Controller {
    Controller(tokio::spawn(keep("c".into(), api.client(), balancers.clone(), "galley.dev/local")).abort_handle())
}

fn service() -> Value {
    json!({ "spec": { "type": "LoadBalancer", "ports": [{ "port": 8081, "nodePort": 30080, "protocol": "TCP" }] } })
}

fn address(service: Option<&Value>) -> Option<Ipv4Addr> {
    service?.pointer("/status/loadBalancer/ingress/0/ip")?.as_str()?.parse().ok()
}

fn held(service: Option<&Value>) -> bool {
    service.is_some_and(|service| {
        service["metadata"]["finalizers"].as_array().is_some_and(|all| all.contains(&json!(FINALIZER)))
    })
}

fn reasons(api: &FakeApi) -> Vec<String> {
    api.events().into_iter().map(|(reason, _)| reason).collect()
}

#[tokio::test]
async fn a_service_gets_its_balancer_keeps_it_over_a_restart_and_loses_it_with_its_type() {
    let directory = tempfile::tempdir().unwrap();
    let (api, balancers) = (FakeApi::new(), balancers(directory.path()));
    let controller = start(&api, &balancers);
    api.put("services", "default/web", service());
    api.until("an address", "default/web", |web| address(web).is_some() && held(web)).await;
    let ip = address(api.service("default/web").as_ref());
    assert_eq!(reasons(&api), ["EnsuringLoadBalancer", "EnsuredLoadBalancer"]);

    // The controller is killed; meanwhile a second Service comes, and the first one's status is lost.
    drop(controller);
    api.put("services", "default/other", service());
    api.patch("default/web", json!({ "status": { "loadBalancer": null } }));
    let _controller = start(&api, &balancers);
    api.until("the other's address", "default/other", |other| address(other).is_some()).await;
    api.until("the address again", "default/web", |web| address(web).is_some()).await;
    assert_eq!(address(api.service("default/web").as_ref()), ip);
    assert_eq!(reasons(&api).len(), 4, "only the new Service has news");

    // Two addresses are all there are: the third waits, and says why.
    api.put("services", "default/third", service());
    let quota = async {
        while !reasons(&api).contains(&"SyncLoadBalancerFailed".into()) {
            tokio::task::yield_now().await
        }
    };
    tokio::time::timeout(Duration::from_secs(20), quota).await.unwrap();
    let (_, message) = api.events().pop().unwrap();
    assert!(message.contains("the quota for load balancer addresses is used up"), "{message}");

    api.patch("default/web", json!({ "spec": { "type": "ClusterIP" } }));
    api.until("no trace", "default/web", |web| !held(web) && address(web).is_none()).await;
    api.until("the third has its address", "default/third", |third| address(third) == ip).await;
}

#[tokio::test]
async fn a_deleted_service_goes_when_its_balancer_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let (api, balancers) = (FakeApi::new(), balancers(directory.path()));
    let controller = start(&api, &balancers);
    api.put("services", "default/web", service());
    api.until("an address", "default/web", |web| address(web).is_some()).await;
    drop(controller);
    // Deleted while nobody watches: the finalizer holds it.
    api.patch("default/web", json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } }));
    assert!(held(api.service("default/web").as_ref()));
    let _controller = start(&api, &balancers);
    api.until("gone", "default/web", |web| web.is_none()).await;
    assert_eq!(balancers.load_balancer_list().await.unwrap(), []);
}
