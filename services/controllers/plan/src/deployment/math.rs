//! The arithmetic of a rollout. Source: Kubernetes documentation, Deployment: 'Max Unavailable', 'Max Surge', 'Proportional
//! scaling'.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::DESIRED_REPLICAS;
use super::MAX_REPLICAS;

/// Which way a percentage rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// A surge is generous.
    Up,
    /// An unavailability is careful.
    Down,
}

/// `25%` of `total`, or the number itself. What is neither counts as 0: validation refuses it.
pub fn scaled(value: Option<&IntOrString>, total: i32, round: Round) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.strip_suffix('%').and_then(|digits| digits.parse().ok()).unwrap_or(0);
            let product = percent * i64::from(total);
            let scaled = match round {
                Round::Up => product.div_euclid(100) + i64::from(product.rem_euclid(100) != 0),
                Round::Down => product.div_euclid(100),
            };
            i32::try_from(scaled).unwrap_or(i32::MAX)
        }
    }
}

/// The bounds of a rolling update of `desired` pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fenceposts {
    /// More than desired by so many at most.
    pub surge: i32,
    /// Fewer available than desired by so many at most.
    pub unavailable: i32,
}

/// Both zero would mean no progress: then one pod may be unavailable.
pub fn fenceposts(surge: Option<&IntOrString>, unavailable: Option<&IntOrString>, desired: i32) -> Fenceposts {
    let surge = scaled(surge, desired, Round::Up);
    let unavailable = scaled(unavailable, desired, Round::Down);
    Fenceposts { surge, unavailable: if surge == 0 && unavailable == 0 { 1 } else { unavailable } }
}

/// The bounds of a Deployment; both zero for `Recreate`.
pub fn bounds(deployment: &Deployment) -> Fenceposts {
    let Some(spec) = &deployment.spec else { return Fenceposts::default() };
    if is_recreate(deployment) {
        return Fenceposts::default();
    }
    let desired = spec.replicas.unwrap_or(1);
    let rolling = spec.strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".into());
    let surge = rolling.and_then(|r| r.max_surge.as_ref()).unwrap_or(&quarter);
    let unavailable = rolling.and_then(|r| r.max_unavailable.as_ref()).unwrap_or(&quarter);
    let posts = fenceposts(Some(surge), Some(unavailable), desired);
    Fenceposts { unavailable: posts.unavailable.min(desired), ..posts }
}

/// Whether old pods go before new ones come.
pub fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|s| s.strategy.as_ref());
    strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate")
}

/// A ReplicaSet, and what it is to become in this plan.
#[derive(Debug, Clone)]
pub struct Draft<'a> {
    /// As observed.
    pub set: &'a ReplicaSet,
    /// `spec.replicas` to be.
    pub replicas: i32,
    /// Annotations to be.
    pub annotations: BTreeMap<String, String>,
    /// `spec.minReadySeconds` to be.
    pub min_ready_seconds: Option<i32>,
}

impl<'a> Draft<'a> {
    /// Unchanged so far.
    pub fn of(set: &'a ReplicaSet) -> Self {
        Self {
            set,
            replicas: replicas(set),
            annotations: set.metadata.annotations.clone().unwrap_or_default(),
            min_ready_seconds: set.spec.as_ref().and_then(|s| s.min_ready_seconds),
        }
    }

    /// Notes how large the Deployment was when the set was last scaled: what proportions are computed from later.
    pub fn annotate(&mut self, desired: i32, max: i32) {
        self.annotations.insert(DESIRED_REPLICAS.into(), desired.to_string());
        self.annotations.insert(MAX_REPLICAS.into(), max.to_string());
    }

    /// Available pods as the set's status tells.
    pub fn available(&self) -> i32 {
        self.set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
    }
}

/// `spec.replicas` of a set.
pub fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

/// How large the new set may be now, beside `total` pods of all sets.
pub fn new_size(deployment: &Deployment, total: i32, current: i32) -> i32 {
    let desired = desired(deployment);
    if is_recreate(deployment) {
        return desired;
    }
    let most = desired + bounds(deployment).surge;
    if total >= most { current } else { current + (most - total).min(desired - current) }
}

/// `spec.replicas` of the Deployment.
pub fn desired(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

/// What to add to (or take from) a set of a Deployment that is scaled in the middle of a rollout, so that its sets keep their
/// proportions.
pub fn proportion(set: &Draft<'_>, deployment: &Deployment, to_add: i32, added: i32) -> i32 {
    if set.replicas == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let fraction = fraction(set, deployment);
    let allowed = to_add - added;
    if to_add > 0 { fraction.min(allowed) } else { fraction.max(allowed) }
}

fn fraction(set: &Draft<'_>, deployment: &Deployment) -> i32 {
    let desired = desired(deployment);
    if desired == 0 {
        return -set.replicas;
    }
    let size = i64::from(desired + bounds(deployment).surge);
    let annotated = set.annotations.get(MAX_REPLICAS).and_then(|text| text.parse::<i64>().ok()).filter(|n| *n > 0);
    let before = annotated
        .or_else(|| deployment.status.as_ref().and_then(|s| s.replicas).map(i64::from).filter(|n| *n > 0))
        .unwrap_or(size);
    // Half rounds up.
    let scaled = (i64::from(set.replicas) * size * 2 + before).div_euclid(2 * before);
    i32::try_from(scaled).unwrap_or(i32::MAX) - set.replicas
}
