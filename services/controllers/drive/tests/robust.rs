//! What the driver promises: a kill at any point harms nothing, and a controller that panics harms nobody else.

mod support;

use galley_controllers_drive::{Change, Context, Controller, View, Wake, controllers};
use galley_controllers_plan::Plan;
use galley_store::{DecodeError, ObjectKey};
use serde_json::{Value, json};
use support::World;
use tokio_util::sync::CancellationToken;

fn deployment(replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "example.com/one:1"}]},
            },
        },
    })
}

#[tokio::test]
async fn controllers_killed_at_every_stage_end_with_the_pods_wanted() {
    let mut world = World::start().await;
    world.kill();
    world.create("deployments.apps", deployment(60)).await;
    for made in [0, 1, 5, 17, 40, 59] {
        let stop = CancellationToken::new();
        world.run_with(world.api.clone(), controllers::all, stop.clone());
        world.until("some pods", |w| w.list("pods").len() > made).await;
        stop.cancel();
    }
    world.run_with(world.api.clone(), controllers::all, CancellationToken::new());
    world
        .until("the set has counted its pods", |w| {
            w.list("replicasets.apps").iter().any(|set| set["status"]["replicas"] == 60)
        })
        .await;
    assert_eq!((world.list("replicasets.apps").len(), world.list("pods").len()), (1, 60));
}

/// Panics on whatever it is shown and asked.
#[derive(Debug, Default)]
struct Clumsy {
    shown: usize,
}

impl Controller for Clumsy {
    fn name(&self) -> &'static str {
        "clumsy"
    }

    fn changed(&mut self, change: &Change<'_>, _: &View, wake: &mut Wake) {
        wake.key(change.key().clone());
        self.shown += 1;
        assert!(!self.shown.is_multiple_of(3), "clumsy");
    }

    fn plan(&mut self, key: &ObjectKey, _: &Context<'_>) -> Result<Plan<String>, DecodeError> {
        panic!("clumsy with {key:?}");
    }
}

fn with_a_clumsy_one() -> Vec<Box<dyn Controller>> {
    let mut all = controllers::all();
    all.insert(0, Box::<Clumsy>::default());
    all
}

#[tokio::test]
async fn a_controller_that_panics_stops_no_other() {
    let mut world = World::start().await;
    world.kill();
    world.run_with(world.api.clone(), with_a_clumsy_one, CancellationToken::new());
    world.create("deployments.apps", deployment(3)).await;
    world.until("three pods", |w| w.list("pods").len() == 3).await;
}
