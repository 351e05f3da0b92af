//! A client that watches across everything that happens, resumes where it was, and lists again only where it must.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use galley_types::{ClusterId, Revision};
use rand::Rng as _;
use rand::rngs::SmallRng;

use super::super::support::*;
use super::ledger::{Ledger, tell_change};
use super::world::World;
use crate::*;

/// One watcher's history.
pub struct Follower {
    pub cluster: ClusterId,
    scope: Scope,
    state: BTreeMap<ObjectKey, (Revision, String)>,
    reached: Revision,
    /// From where to where it watched, and what it was told there.
    stretches: Vec<(Revision, Revision, Vec<(Revision, String)>)>,
}

impl Follower {
    pub fn new(cluster: ClusterId, scope: Scope) -> Self {
        let start = Revision(0);
        Self { cluster, scope, state: BTreeMap::new(), reached: start, stretches: vec![(start, start, Vec::new())] }
    }

    fn reach(&mut self, revision: Revision) {
        self.reached = revision;
        self.stretches.last_mut().expect("never empty").1 = revision;
    }

    fn hear(&mut self, event: &Event) {
        let object = &event.object;
        assert!(object.revision > self.reached, "no duplicate, in order");
        self.reach(object.revision);
        let previous = event.previous.as_ref().map(|previous| (previous.revision, value_of(previous)));
        let value = value_of(object);
        assert_eq!(self.state.get(&object.key), previous.as_ref(), "{} follows from what was seen", tell(event));
        match event.kind {
            EventKind::Added | EventKind::Modified => {
                self.state.insert(object.key.clone(), (object.revision, value.clone()));
            }
            EventKind::Deleted => {
                self.state.remove(&object.key);
            }
        }
        let told = tell_change(event.kind, &object.key, &value);
        self.stretches.last_mut().expect("never empty").2.push((object.revision, told));
    }

    /// Its revision is gone: it starts over from a list.
    fn relist(&mut self, cluster: &ClusterStore) {
        let listing = cluster.list(&self.scope);
        assert!(listing.revision >= self.reached, "no going back");
        self.state = listing.objects.iter().map(|o| (o.key.clone(), (o.revision, value_of(o)))).collect();
        self.reached = listing.revision;
        self.stretches.push((listing.revision, listing.revision, Vec::new()));
    }

    pub fn told(&self) -> Vec<&(Revision, String)> {
        self.stretches.iter().flat_map(|(_, _, told)| told).collect()
    }

    /// Wherever it watched it was told everything, and nothing else.
    pub fn agrees_with(&self, ledger: &Ledger) {
        for (from, until, told) in &self.stretches {
            let told: Vec<_> = told.iter().map(|(revision, told)| (*revision, told.as_str())).collect();
            assert_eq!(told, ledger.between(&self.scope, *from, *until), "{:?} from {from} to {until}", self.scope);
        }
    }
}

/// Until the end of the world.
pub async fn follow(world: Arc<World>, mut follower: Follower, mut rng: SmallRng) -> Follower {
    loop {
        let cluster = world.cluster(follower.cluster, &mut rng).await;
        let mut watch = match cluster.watch(follower.scope.clone(), follower.reached).await {
            Ok(watch) => watch,
            Err(end) => {
                if world.may_end(follower.cluster, &follower.scope, &end) {
                    follower.relist(&*world.cluster(follower.cluster, &mut rng).await);
                }
                continue;
            }
        };
        loop {
            match next(&mut watch).await {
                Ok(WatchItem::Event(event)) => follower.hear(&event),
                Ok(WatchItem::Progress(revision)) => {
                    assert!(revision >= follower.reached, "progress goes forward");
                    follower.reach(revision);
                    if world.ends.lock().get(&follower.cluster).is_some_and(|last| revision >= *last) {
                        return follower;
                    }
                }
                Err(end) => {
                    if world.may_end(follower.cluster, &follower.scope, &end) {
                        follower.relist(&*world.cluster(follower.cluster, &mut rng).await);
                    }
                    break;
                }
            }
            if rng.random_bool(0.05) {
                // A slow client, or one that goes and comes back.
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..3000))).await;
                if rng.random_bool(0.5) {
                    break;
                }
            }
        }
    }
}
