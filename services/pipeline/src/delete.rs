//! Delete: at once, or by marking the object and waiting for whoever has to finish something first.
//!
//! ```text
//!              +-- nothing keeps it ---------------------------------> gone
//!  DELETE -----+-- finalizers --> deletionTimestamp --(last one out)-> gone
//!              +-- a running pod -> deletionTimestamp + grace period --(DELETE, grace 0)--> gone
//! ```

use std::sync::Arc;

use galley_authz::Actor;
use galley_kube::{Resource, Status};
use galley_store::{CommitError, Object, Scope, Write};
use galley_types::ResourceName;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::api::{ClusterApi, DeleteOptions, MODIFIED, Propagation, Written, commit_status};
use crate::value::{int, map_at, metadata, text};
use crate::{admission, encode, update};

/// How often a deletion is decided again after losing a race.
const ATTEMPTS: usize = 16;

/// What a DELETE does to an object.
#[derive(Debug, Clone, PartialEq)]
enum Plan {
    /// It goes now.
    Remove,
    /// It is marked, and goes when finalizers and grace period let it.
    Mark(Value),
    /// It is on its way already.
    Pending,
}

impl ClusterApi {
    /// Deletes, or marks for deletion where finalizers or a grace period ask for it. The answer is the object as it is then.
    pub async fn delete(
        &self,
        actor: &Actor,
        resource: &Resource,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Written, Status> {
        self.delete_object(actor, resource, namespace, name, options).await.map(|(written, _)| written)
    }

    /// As [`Self::delete`]; also whether the object is gone (rather than marked).
    pub async fn delete_object(
        &self,
        actor: &Actor,
        resource: &Resource,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<(Written, bool), Status> {
        admission::delete(self, actor, resource, namespace, name)?;
        for _ in 0..ATTEMPTS {
            let stored = self.get(resource, namespace, name)?;
            check_preconditions(resource, name, options, &stored)?;
            let old = stored.value().map_err(Status::internal)?;
            let now = self.clock.now();
            let (write, gone) = match plan(resource, &old, options, now) {
                Plan::Pending => return Ok((written(stored), false)),
                Plan::Mark(new) if update::is_finished(resource, &new) => (remove(&stored), true),
                Plan::Mark(new) if options.dry_run => {
                    return Ok((written(Arc::new(encode::unstored(resource, stored.key.clone(), &new)?)), false));
                }
                Plan::Mark(new) => {
                    let draft = encode::draft(resource, stored.key.clone(), &new)?;
                    (Write::Update { draft, expected: stored.revision }, false)
                }
                Plan::Remove => (remove(&stored), true),
            };
            if options.dry_run {
                return Ok((written(stored), gone));
            }
            if gone && resource.group == "apiextensions.k8s.io" {
                self.remove_custom_objects(&old).await?;
            }
            match self.store.commit(write).await {
                Ok(object) => {
                    let mut written = written(object);
                    if let Some(warning) = orphan_warning(resource, options) {
                        written.warnings.push(warning);
                    }
                    return Ok((written, gone));
                }
                Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(commit_status(resource, name, error)),
            }
        }
        Err(Status::conflict(&resource.group, &resource.plural, name, MODIFIED))
    }
}

impl ClusterApi {
    /// A definition takes its objects with it: without it nothing could read or delete them.
    async fn remove_custom_objects(&self, definition: &Value) -> Result<(), Status> {
        let name = ResourceName::new(text(definition, "/spec/names/plural"), text(definition, "/spec/group"));
        let objects = self.store.list(&Scope { resource: name, namespace: None }).objects;
        let writes = objects.iter().map(|object| remove(object)).collect();
        for answer in self.store.commit_all(writes).await {
            match answer {
                Ok(_) | Err(CommitError::NotFound(_) | CommitError::Conflict { .. }) => {}
                Err(error @ (CommitError::Exists(_) | CommitError::NoRoom { .. } | CommitError::Unavailable(_))) => {
                    return Err(Status::internal(error));
                }
            }
        }
        Ok(())
    }
}

fn remove(stored: &Object) -> Write {
    Write::Delete { key: stored.key.clone(), expected: stored.revision }
}

fn written(object: Arc<Object>) -> Written {
    Written { object, warnings: Vec::new() }
}

fn check_preconditions(
    resource: &Resource,
    name: &str,
    options: &DeleteOptions,
    stored: &Object,
) -> Result<(), Status> {
    let refuse = |what: &str, wanted: &str, found: &str| {
        let why = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}");
        Err(Status::conflict(&resource.group, &resource.plural, name, &why))
    };
    match (&options.preconditions.uid, &options.preconditions.resource_version) {
        (Some(uid), _) if **uid != *stored.uid => refuse("UID", uid, &stored.uid),
        (_, Some(version)) if *version != stored.revision.to_string() => {
            refuse("ResourceVersion", version, &stored.revision.to_string())
        }
        _ => Ok(()),
    }
}

/// What happens to dependents when the client does not say: batch/v1 Jobs and core ReplicationControllers keep theirs.
fn orphans_by_default(resource: &Resource) -> bool {
    matches!((resource.group.as_str(), resource.plural.as_str()), ("batch", "jobs") | ("", "replicationcontrollers"))
}

fn orphan_warning(resource: &Resource, options: &DeleteOptions) -> Option<String> {
    (resource.group == "batch" && resource.plural == "jobs" && options.propagation.is_none()).then(|| {
        "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or \
         set propagationPolicy=Orphan to suppress this warning"
            .to_owned()
    })
}

/// `metadata.finalizers` after the propagation policy had its say.
fn finalizers(resource: &Resource, old: &Value, options: &DeleteOptions) -> Vec<String> {
    let mut list: Vec<String> = old
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|finalizer| finalizer.as_str().map(str::to_owned))
        .collect();
    let marked = list.iter().any(|f| f == "orphan" || f == "foregroundDeletion");
    let wanted = match options.propagation {
        Some(Propagation::Orphan) => Some("orphan"),
        Some(Propagation::Foreground) => Some("foregroundDeletion"),
        Some(Propagation::Background) => None,
        None if marked => return list,
        None if orphans_by_default(resource) => Some("orphan"),
        None => None,
    };
    list.retain(|f| f != "orphan" && f != "foregroundDeletion");
    list.extend(wanted.map(str::to_owned));
    list
}

fn plan(resource: &Resource, old: &Value, options: &DeleteOptions, now: Timestamp) -> Plan {
    let is = |plural: &str| resource.group.is_empty() && resource.plural == plural;
    let deleting = old.pointer("/metadata/deletionTimestamp").is_some_and(|t| !t.is_null());
    let finalizers = finalizers(resource, old, options);
    let mut new = old.clone();

    if is("namespaces") {
        let kept = old.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        if kept || !finalizers.is_empty() {
            if deleting {
                return Plan::Pending;
            }
            mark(&mut new, now, 0);
            metadata(&mut new).remove("deletionGracePeriodSeconds");
            map_at(&mut new, &["status"]).insert("phase".into(), json!("Terminating"));
            return Plan::Mark(new);
        }
        return Plan::Remove;
    }

    let pod_grace = is("pods").then(|| pod_grace(old, options));
    if deleting {
        // A deletion under way may only be shortened.
        let Some(current) = int(old, "/metadata/deletionGracePeriodSeconds") else {
            return if finalizers.is_empty() { Plan::Remove } else { Plan::Pending };
        };
        let Some(asked) = options.grace_period_seconds.filter(|_| pod_grace.is_some()) else { return Plan::Pending };
        if asked >= current {
            return Plan::Pending;
        }
        let asked = asked.max(0);
        let until: Option<Timestamp> = text(old, "/metadata/deletionTimestamp").parse().ok();
        let until = until.unwrap_or(now) - SignedDuration::from_secs(current) + SignedDuration::from_secs(asked);
        metadata(&mut new).insert("deletionTimestamp".into(), json!(crate::time::seconds(until)));
        metadata(&mut new).insert("deletionGracePeriodSeconds".into(), json!(asked));
        return Plan::Mark(new);
    }
    let grace = pod_grace.unwrap_or(0);
    if grace == 0 && finalizers.is_empty() {
        return Plan::Remove;
    }
    if finalizers.is_empty() {
        metadata(&mut new).remove("finalizers");
    } else {
        metadata(&mut new).insert("finalizers".into(), json!(finalizers));
    }
    mark(&mut new, now, grace);
    Plan::Mark(new)
}

fn mark(object: &mut Value, now: Timestamp, grace: i64) {
    let metadata = metadata(object);
    let until = now + SignedDuration::from_secs(grace);
    metadata.insert("deletionTimestamp".into(), json!(crate::time::seconds(until)));
    metadata.insert("deletionGracePeriodSeconds".into(), json!(grace));
    if let Some(generation) = metadata.get("generation").and_then(Value::as_i64)
        && generation > 0
    {
        metadata.insert("generation".into(), json!(generation + 1));
    }
}

/// Seconds that a pod gets: none when it never reached a node or has ended.
fn pod_grace(pod: &Value, options: &DeleteOptions) -> i64 {
    if text(pod, "/spec/nodeName").is_empty() || matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") {
        return 0;
    }
    let asked = options.grace_period_seconds.or_else(|| int(pod, "/spec/terminationGracePeriodSeconds"));
    // A negative period means 'at once, but tell the node'.
    asked.map_or(30, |seconds| if seconds < 0 { 1 } else { seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(group: &str, plural: &str) -> Resource {
        crate::testing::resource(group, plural)
    }

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn an_unscheduled_pod_goes_at_once_and_a_running_one_gets_its_grace_period() {
        let pods = resource("", "pods");
        let options = DeleteOptions::default();
        assert_eq!(plan(&pods, &json!({"metadata": {"name": "a"}, "spec": {}}), &options, now()), Plan::Remove);
        let running = json!({"metadata": {"name": "a", "generation": 1}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 7}});
        let Plan::Mark(marked) = plan(&pods, &running, &options, now()) else { panic!("not marked") };
        assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-01T00:00:07Z");
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 7);
        assert_eq!(marked["metadata"]["generation"], 2);
        assert_eq!(plan(&pods, &marked, &options, now()), Plan::Pending);
        let force = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
        assert_eq!(plan(&pods, &running, &force, now()), Plan::Remove);
        let Plan::Mark(shortened) = plan(&pods, &marked, &force, now()) else { panic!("not shortened") };
        assert_eq!(shortened["metadata"]["deletionTimestamp"], "2026-01-01T00:00:00Z");
        assert!(update::is_finished(&pods, &shortened));
    }

    #[test]
    fn propagation_policies_are_finalizers() {
        let deployments = resource("apps", "deployments");
        let object = json!({"metadata": {"name": "a"}});
        for (propagation, finalizer) in
            [(Propagation::Orphan, "orphan"), (Propagation::Foreground, "foregroundDeletion")]
        {
            let options = DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() };
            let Plan::Mark(marked) = plan(&deployments, &object, &options, now()) else { panic!("not marked") };
            assert_eq!(marked["metadata"]["finalizers"], json!([finalizer]));
        }
        assert_eq!(plan(&deployments, &object, &DeleteOptions::default(), now()), Plan::Remove);
    }

    #[test]
    fn a_job_keeps_its_pods_unless_told_otherwise() {
        let jobs = resource("batch", "jobs");
        let object = json!({"metadata": {"name": "a"}});
        let Plan::Mark(marked) = plan(&jobs, &object, &DeleteOptions::default(), now()) else { panic!("not marked") };
        assert_eq!(marked["metadata"]["finalizers"], json!(["orphan"]));
    }

    #[test]
    fn a_namespace_waits_for_its_finalizer() {
        let namespaces = resource("", "namespaces");
        let object =
            json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        let Plan::Mark(marked) = plan(&namespaces, &object, &DeleteOptions::default(), now()) else {
            panic!("not marked")
        };
        assert_eq!(marked["status"]["phase"], "Terminating");
        assert_eq!(plan(&namespaces, &marked, &DeleteOptions::default(), now()), Plan::Pending);
        let emptied = json!({"metadata": {"name": "a"}, "spec": {}});
        assert_eq!(plan(&namespaces, &emptied, &DeleteOptions::default(), now()), Plan::Remove);
    }
}
