//! Distributes endpoints over slices with few writes: an endpoint stays where it is, new ones fill slices that are written
//! anyway, then those with room, then new ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::Reason;
use crate::action::{Action, Plan};
use crate::meta::{self, Labels};

/// Where EndpointSlices are.
pub const RESOURCE: &str = "endpointslices.discovery.k8s.io";
/// Endpoints of one slice at most: a change of one costs every node the slice (kube-controller-manager's
/// `--max-endpoints-per-slice`).
pub const CAPACITY: usize = 100;

/// What slices of one Service have in common.
#[derive(Debug, Clone)]
pub struct Template {
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.generateName`
    pub generate_name: String,
    /// All of `metadata.labels`.
    pub labels: Labels,
    /// Whose slices they are.
    pub owner: OwnerReference,
}

/// Endpoints with the same ports and kind of address.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// `IPv4`, `IPv6`.
    pub address_type: String,
    /// `ports`
    pub ports: Vec<EndpointPort>,
    /// What the slices are to hold, in the order in which new ones are added.
    pub endpoints: Vec<Endpoint>,
}

/// Plans creates and updates, and after them deletions.
pub fn reconcile(template: &Template, groups: Vec<Group>, existing: &[Arc<EndpointSlice>], plan: &mut Plan<Reason>) {
    let mut unused: BTreeMap<&str, &Arc<EndpointSlice>> = BTreeMap::new();
    for slice in existing.iter().filter(|s| !meta::is_deleting(&s.metadata)) {
        unused.insert(meta::name(&slice.metadata), slice);
    }
    for group in groups {
        let names: Vec<&str> = unused.iter().filter(|(_, slice)| belongs(slice, &group)).map(|(n, _)| *n).collect();
        let slices: Vec<_> = names.iter().filter_map(|name| unused.remove(name)).collect();
        for slice in fill(template, group, &slices, plan) {
            unused.insert(meta::name(&slice.metadata), slice);
        }
    }
    plan.barrier();
    for slice in unused.into_values() {
        plan.push(Action::delete(RESOURCE, &slice.metadata, Reason::Unused));
    }
}

fn belongs(slice: &EndpointSlice, group: &Group) -> bool {
    slice.address_type == group.address_type && slice.ports.as_deref().unwrap_or_default() == group.ports
}

/// Who an endpoint is, whatever its state.
fn identity(endpoint: &Endpoint) -> (String, String) {
    let uid = endpoint.target_ref.as_ref().and_then(|t| t.uid.clone()).unwrap_or_default();
    (uid, endpoint.addresses.first().cloned().unwrap_or_default())
}

struct Filling<'a> {
    slice: &'a Arc<EndpointSlice>,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

/// Puts a group's endpoints into its slices; answers the slices that are not needed.
fn fill<'a>(
    template: &Template,
    group: Group,
    slices: &[&'a Arc<EndpointSlice>],
    plan: &mut Plan<Reason>,
) -> Vec<&'a Arc<EndpointSlice>> {
    let mut wanted: BTreeMap<(String, String), Endpoint> = BTreeMap::new();
    let mut order = Vec::new();
    for endpoint in group.endpoints {
        let id = identity(&endpoint);
        order.push(id.clone());
        wanted.insert(id, endpoint);
    }
    let mut filling: Vec<Filling<'a>> = slices
        .iter()
        .map(|slice| {
            let old = slice.endpoints.as_deref().unwrap_or_default();
            let endpoints: Vec<Endpoint> = old.iter().filter_map(|e| wanted.remove(&identity(e))).collect();
            let relabelled = slice.metadata.labels.as_ref() != Some(&template.labels);
            Filling { slice, changed: relabelled || old != endpoints, endpoints }
        })
        .collect();
    let mut seen = BTreeSet::new();
    let mut fresh: Vec<Endpoint> =
        order.into_iter().filter(|id| seen.insert(id.clone())).filter_map(|id| wanted.remove(&id)).collect();
    fresh.reverse();
    // Those that are written anyway first, then the fullest.
    let mut by_preference: Vec<usize> = (0..filling.len()).collect();
    by_preference.sort_by_key(|at| (!filling[*at].changed, CAPACITY.saturating_sub(filling[*at].endpoints.len())));
    for at in by_preference {
        let slot = &mut filling[at];
        while slot.endpoints.len() < CAPACITY
            && let Some(endpoint) = fresh.pop()
        {
            slot.endpoints.push(endpoint);
            slot.changed = true;
        }
    }
    let empty_wanted = filling.iter().all(|f| f.endpoints.is_empty()) && fresh.is_empty();
    let mut keep_empty = empty_wanted;
    let mut unused = Vec::new();
    for slot in filling {
        if slot.endpoints.is_empty() && !std::mem::take(&mut keep_empty) {
            unused.push(slot.slice);
        } else if slot.changed {
            let mut new = EndpointSlice::clone(slot.slice);
            new.metadata.labels = Some(template.labels.clone());
            new.metadata.owner_references = Some(vec![template.owner.clone()]);
            new.endpoints = Some(slot.endpoints);
            plan.push(Action::update(RESOURCE, &slot.slice.metadata, &new, Reason::Differs));
        }
    }
    // Nobody's slice was there to say 'none'.
    if keep_empty {
        plan.push(create(template, &group.address_type, &group.ports, Vec::new()));
    }
    while !fresh.is_empty() {
        let endpoints: Vec<Endpoint> = std::iter::from_fn(|| fresh.pop()).take(CAPACITY).collect();
        plan.push(create(template, &group.address_type, &group.ports, endpoints));
    }
    unused
}

fn create(template: &Template, address_type: &str, ports: &[EndpointPort], endpoints: Vec<Endpoint>) -> Action<Reason> {
    let slice = EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(template.generate_name.clone()),
            namespace: Some(template.namespace.clone()),
            labels: Some(template.labels.clone()),
            owner_references: Some(vec![template.owner.clone()]),
            ..ObjectMeta::default()
        },
        address_type: address_type.into(),
        ports: if ports.is_empty() { None } else { Some(ports.to_vec()) },
        endpoints: Some(endpoints),
    };
    Action::create(RESOURCE, &template.namespace, meta::to_value(&slice), Reason::Missing)
}
