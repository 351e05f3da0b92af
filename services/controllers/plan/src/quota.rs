//! ResourceQuota: `status` tells what is used of what is allowed. Admission counts for itself; this is for people to read.

use std::collections::BTreeMap;
use std::sync::Arc;

use galley_types::Quantity;
use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;

use crate::action::{Action, Plan};

/// What events and audit call the controller.
pub const COMPONENT: &str = "resourcequota-controller";

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Usage or limits changed.
    StatusIsOld,
    /// The status is right.
    AsWanted,
}

/// Plans for a quota of which this much is used.
pub fn plan(quota: &Arc<ResourceQuota>, used: &BTreeMap<String, Quantity>) -> Plan<Reason> {
    let hard = quota.spec.as_ref().and_then(|s| s.hard.clone()).unwrap_or_default();
    let used: BTreeMap<String, Amount> = hard
        .keys()
        .map(|key| (key.clone(), Amount(used.get(key).copied().unwrap_or(Quantity::ZERO).to_string())))
        .collect();
    let old = quota.status.clone().unwrap_or_default();
    let mut plan = Plan::new();
    if !same(old.hard.as_ref(), &hard) || !same(old.used.as_ref(), &used) {
        let status = ResourceQuotaStatus { hard: Some(hard), used: Some(used) };
        let updated = ResourceQuota { status: Some(status), ..ResourceQuota::clone(quota) };
        plan.push(Action::update_status("resourcequotas", &quota.metadata, &updated, Reason::StatusIsOld));
    }
    plan.or_nothing(Reason::AsWanted)
}

/// Equal amounts, however they are written.
fn same(old: Option<&BTreeMap<String, Amount>>, new: &BTreeMap<String, Amount>) -> bool {
    let amount = |a: &Amount| a.0.parse::<Quantity>().ok();
    let none = BTreeMap::new();
    let old = old.unwrap_or(&none);
    old.len() == new.len() && new.iter().all(|(key, n)| old.get(key).is_some_and(|o| amount(o) == amount(n)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::world::World;

    #[test]
    fn the_status_follows_what_is_used() {
        let mut world = World::new();
        world.create(
            "resourcequotas",
            &json!({"metadata": {"name": "q", "namespace": "d"}, "spec": {"hard": {"pods": "5", "cpu": "2"}}}),
        );
        let used =
            BTreeMap::from([("cpu".to_owned(), Quantity::from_millis(1500)), ("other".to_owned(), Quantity::ZERO)]);
        world.settle(|w| plan(&w.get("resourcequotas", "d", "q").unwrap(), &used));
        let quota = world.get::<serde_json::Value>("resourcequotas", "d", "q").unwrap();
        assert_eq!(quota["status"], json!({"hard": {"pods": "5", "cpu": "2"}, "used": {"pods": "0", "cpu": "1500m"}}));
    }
}
