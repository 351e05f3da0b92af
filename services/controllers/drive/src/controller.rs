//! What a controller is to the driver.

use std::fmt::Debug;

use galley_controllers_plan::{Failure, Plan};
use galley_pipeline::Settings;
use galley_store::{DecodeError, ObjectKey};
use galley_types::Revision;
use jiff::{SignedDuration, Timestamp};

use crate::apply::Outcome;
use crate::view::{Change, Owner, View};

/// A controller of one loaded cluster. It lives as long as the cluster is loaded here, so it may keep an index or a state
/// of its own, fed by [`Controller::changed`]; it must be able to start from nothing at any time.
///
/// # Guarantees
/// - All calls for one cluster come from one task, one at a time, and never wait: none may block.
/// - `changed` is called for every object when the cluster is loaded, and then for every change, in order, with the view at
///   that change.
/// - `plan` for a key is called after it was woken, when the view has the writes that the key's last plan made; never while
///   that plan is still being applied.
/// - A panic in `plan` backs the key off; a panic in `changed` makes the driver start this controller anew, from nothing.
pub trait Controller: Send + Debug {
    /// What events and audit call it: `replicaset-controller`.
    fn name(&self) -> &'static str;

    /// Which keys does this change concern?
    fn changed(&mut self, change: &Change<'_>, view: &View, wake: &mut Wake);

    /// Observes a key and plans for it.
    fn plan(&mut self, key: &ObjectKey, context: &Context<'_>) -> Result<Plan<String>, DecodeError>;

    /// What became of the plan, for a controller that keeps state.
    fn applied(&mut self, _key: &ObjectKey, _outcomes: &[Outcome]) {}
}

/// What a plan is made from.
pub struct Context<'a> {
    /// The cluster.
    pub view: &'a View,
    /// The time.
    pub now: Timestamp,
    /// The last attempt at this key, if it failed.
    pub failure: Option<&'a Failure>,
    /// The installation's settings for this cluster: address ranges, root CA.
    pub settings: &'a Settings,
    /// How long a node may be silent before it counts as lost.
    pub node_monitor_grace_period: SignedDuration,
    /// Since when every write was taken: who was silent before may have spoken and not been heard.
    pub hearing_since: Timestamp,
    /// Whether a kind (apiVersion, kind) is served here.
    pub served: &'a dyn Fn(&str, &str) -> bool,
}

/// Collects the keys that a change concerns.
#[derive(Debug, Default)]
pub struct Wake {
    pub(crate) keys: Vec<ObjectKey>,
    pub(crate) revision: Revision,
}

impl Wake {
    /// This key.
    pub fn key(&mut self, key: ObjectKey) {
        self.keys.push(key);
    }

    /// The key of an object.
    pub fn object(&mut self, resource: &str, namespace: &str, name: &str) {
        self.keys.push(ObjectKey::new(&resource.into(), namespace, name));
    }

    /// The owner of the changed object, if `is` says that it is of the kind that the controller works on.
    pub fn controllers(&mut self, change: &Change<'_>, resource: &str, is: impl Fn(&Owner) -> bool) {
        for owner in change.controllers().filter(|owner| is(owner)) {
            self.object(resource, &change.key().namespace, &owner.name);
        }
    }
}
