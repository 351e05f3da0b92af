//! Update and patch: both compute a new state from the stored one, and commit it only if that one is still there.

use std::borrow::Cow;
use std::sync::Arc;

use galley_authz::Actor;
use galley_kube::apply::Writer;
use galley_kube::{FieldError, FieldValidation, Resource, Status, patch as patches, validate};
use galley_store::{CommitError, Object, Write};
use serde_json::{Value, json};

use crate::api::{Body, ClusterApi, MODIFIED, Patch, PatchKind, WriteOptions, Written, commit_status};
use crate::create::{ManagedFields, check_namespace_of_body, decode_body, manager};
use crate::strategy::Part;
use crate::value::{metadata, same_but_bookkeeping, text};
use crate::{admission, convert, encode, rules, scale, strategy};

/// How often a write that named no resourceVersion is computed again after losing a race.
const ATTEMPTS: usize = 16;

/// Why a computed state was not committed.
pub(crate) enum Failure {
    /// The request is refused.
    Refused(Status),
    /// Somebody else wrote in between: compute again.
    Lost,
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

impl ClusterApi {
    /// Replaces the object (or its `status`, `scale`, ...). A body without resourceVersion overwrites.
    pub async fn update(
        &self,
        actor: &Actor,
        resource: &Resource,
        namespace: &str,
        name: &str,
        subresource: Option<&str>,
        body: impl Into<Body>,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        if subresource == Some("scale") {
            return self.update_scale(actor, resource, namespace, name, body.into(), options).await;
        }
        let (mut body, warnings) = decode_body(resource, body.into(), options.field_validation)?;
        check_name_of_body(name, &body)?;
        check_namespace_of_body(resource, namespace, &body)?;
        rules::default(resource, &mut body);
        for _ in 0..ATTEMPTS {
            let stored = self.get(resource, namespace, name)?;
            check_preconditions(resource, name, &body, &stored)?;
            let old = stored.value().map_err(Status::internal)?;
            let recorded = subresource.unwrap_or_default();
            let change = Change { actor, resource, namespace, name, part: Part::of(subresource), recorded, options };
            match self.replace(&change, &stored, &old, body.clone(), ManagedFields::OfThisWrite).await {
                Ok(object) => {
                    let mut warnings = warnings;
                    warnings.extend(validate::warnings(resource, &body, Some(&old)));
                    return Ok(Written { object, warnings });
                }
                Err(Failure::Refused(status)) => return Err(status),
                Err(Failure::Lost) if names_version(&body) => break,
                Err(Failure::Lost) => {}
            }
        }
        Err(Status::conflict(&resource.group, &resource.plural, name, MODIFIED))
    }

    /// Patches, and retries when somebody else wrote in between.
    pub async fn patch(
        &self,
        actor: &Actor,
        resource: &Resource,
        namespace: &str,
        name: &str,
        subresource: Option<&str>,
        patch: Patch,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        let mut warnings = Vec::new();
        for _ in 0..ATTEMPTS {
            let stored = self.store.get(&self.key(resource, namespace, name));
            let Some(stored) = stored else {
                if patch.kind == PatchKind::Apply && subresource.is_none() {
                    return self.create_applied(actor, resource, namespace, name, &patch.body, options).await;
                }
                return Err(Status::not_found(&resource.group, &resource.plural, name));
            };
            let old = stored.value().map_err(Status::internal)?;
            let recorded = subresource.unwrap_or_default();
            let change = Change { actor, resource, namespace, name, part: Part::of(subresource), recorded, options };
            let (new, fields) = if subresource == Some("scale") {
                (scale::patched(resource, &old, &patch)?, ManagedFields::OfThisWrite)
            } else {
                self.patched(&change, &stored, &old, &patch, &mut warnings)?
            };
            let change = Change { part: if subresource == Some("scale") { Part::Main } else { change.part }, ..change };
            match self.replace(&change, &stored, &old, new, fields).await {
                Ok(object) => return Ok(Written { object, warnings }),
                Err(Failure::Refused(status)) => return Err(status),
                Err(Failure::Lost) if names_version(&patch.body) => break,
                Err(Failure::Lost) => warnings.clear(),
            }
        }
        Err(Status::conflict(&resource.group, &resource.plural, name, MODIFIED))
    }

    /// The state that a patch makes of `old`, in the storage version.
    fn patched(
        &self,
        change: &Change<'_>,
        stored: &Object,
        old: &Value,
        patch: &Patch,
        warnings: &mut Vec<String>,
    ) -> Result<(Value, ManagedFields), Status> {
        let Change { actor, resource, namespace, name, part, options, .. } = *change;
        let shown = if convert::is_identity(resource, &stored.body) {
            Cow::Borrowed(old)
        } else {
            let mut shown = old.clone();
            convert::from_storage(resource, &mut shown);
            Cow::Owned(shown)
        };
        let patched = if patch.kind == PatchKind::Apply {
            let mut applied = patch.body.clone();
            check_applied(resource, namespace, name, &applied)?;
            metadata(&mut applied).insert("name".into(), json!(name));
            (applied, *warnings) = decode_body(resource, applied.into(), apply_validation(options))?;
            convert::from_storage(resource, &mut applied);
            check_preconditions(resource, name, &applied, stored)?;
            let sub = if let Part::Sub(sub) = part { sub } else { "" };
            let writer = Writer { manager: manager(options, actor), subresource: sub, now: self.clock.now() };
            rules::apply(resource, Some(&shown), &applied, &writer, options.force)?
        } else {
            rules::patch(&resource.api_version(), &resource.kind, patch.kind, &shown, &patch.body)?
        };
        let (mut body, unknown) = match decode_body(resource, patched.into(), options.field_validation) {
            Ok(decoded) => decoded,
            // What an apply makes is decoded as it was sent; what a patch makes is the patch's fault.
            Err(status) if patch.kind == PatchKind::Apply => return Err(status),
            Err(status) => {
                let patched = rules::patch(&resource.api_version(), &resource.kind, patch.kind, &shown, &patch.body)?;
                return Err(patches::undecodable(patch.kind == PatchKind::Strategic, &patch.body, &patched, &status));
            }
        };
        warnings.extend(unknown);
        check_name_of_body(name, &body)?;
        check_namespace_of_body(resource, namespace, &body)?;
        check_preconditions(resource, name, &body, stored)?;
        rules::default(resource, &mut body);
        let fields = if patch.kind == PatchKind::Apply { ManagedFields::Applied } else { ManagedFields::OfThisWrite };
        Ok((body, fields))
    }

    /// Server-side apply of an object that does not exist creates it.
    async fn create_applied(
        &self,
        actor: &Actor,
        resource: &Resource,
        namespace: &str,
        name: &str,
        patch: &Value,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        check_applied(resource, namespace, name, patch)?;
        if !text(patch, "/metadata/uid").is_empty() {
            let why = "uid mismatch: the provided object specified uid, and no existing object was found";
            return Err(Status::conflict(&resource.group, &resource.plural, name, why));
        }
        if names_version(patch) {
            return Err(Status::not_found(&resource.group, &resource.plural, name));
        }
        let mut object = patch.clone();
        metadata(&mut object).insert("name".into(), json!(name));
        let (mut object, warnings) = decode_body(resource, object.into(), apply_validation(options))?;
        convert::from_storage(resource, &mut object);
        let writer = Writer { manager: manager(options, actor), subresource: "", now: self.clock.now() };
        let mut object = rules::apply(resource, None, &object, &writer, options.force)?;
        convert::to_storage(resource, &mut object);
        rules::default(resource, &mut object);
        let mut written =
            self.create_named(actor, resource, namespace, name, object, ManagedFields::Applied, options).await?;
        written.warnings.splice(0..0, warnings);
        Ok(written)
    }

    /// Commits `new` in place of `stored`, after admission and validation. What changes nothing writes nothing; the last
    /// finalizer's removal from an object that is being deleted deletes it.
    pub(crate) async fn replace(
        &self,
        change: &Change<'_>,
        stored: &Arc<Object>,
        old: &Value,
        mut new: Value,
        fields: ManagedFields,
    ) -> Result<Arc<Object>, Failure> {
        let Change { actor, resource, namespace, name, part, recorded, options } = *change;
        let now = self.clock.now();
        strategy::prepare_update(resource, part, old, now, &mut new);
        // Before admission: what that changes belongs to nobody.
        if fields == ManagedFields::OfThisWrite {
            let writer = Writer { manager: manager(options, actor), subresource: recorded, now };
            rules::manage_fields(resource, Some(old), &mut new, &writer);
        }
        let request = admission::Request { api: self, actor, resource, namespace, name };
        admission::update(&request, part, old, &mut new)?;

        let services = part == Part::Main && admission::services::is_service(resource);
        let _allocating = if services { Some(self.shared.services.lock().await) } else { None };
        if services {
            admission::services::allocate(&request, Some(old), &mut new)?;
        }
        let sub = if let Part::Sub(sub) = part { Some(sub) } else { None };
        let errors = rules::validate_update(resource, sub, &new, old);
        if !errors.is_empty() {
            return Err(Status::invalid(&resource.group, &resource.kind, name, &errors).into());
        }
        let _charging =
            if part == Part::Main { admission::quota::admit(&request, Some(old), &new).await? } else { None };
        if same_but_bookkeeping(old, &new) {
            return Ok(stored.clone());
        }
        if options.dry_run {
            return Ok(Arc::new(encode::unstored(resource, stored.key.clone(), &new)?));
        }
        let write = if is_finished(resource, &new) {
            Write::Delete { key: stored.key.clone(), expected: stored.revision }
        } else {
            Write::Update { draft: encode::draft(resource, stored.key.clone(), &new)?, expected: stored.revision }
        };
        self.store.commit(write).await.map_err(|error| match error {
            CommitError::Conflict { .. } => Failure::Lost,
            error => Failure::Refused(commit_status(resource, name, error)),
        })
    }
}

/// Which write, of what, by whom.
#[derive(Clone, Copy)]
pub(crate) struct Change<'a> {
    pub(crate) actor: &'a Actor,
    pub(crate) resource: &'a Resource,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) part: Part<'a>,
    /// Under which subresource `managedFields` record the write.
    pub(crate) recorded: &'a str,
    pub(crate) options: &'a WriteOptions,
}

/// Server-side apply never ignores unknown fields: it could not say who owns them.
fn apply_validation(options: &WriteOptions) -> FieldValidation {
    match options.field_validation {
        FieldValidation::Ignore => FieldValidation::Warn,
        other => other,
    }
}

/// Whether nothing keeps an object that is being deleted any more.
pub(crate) fn is_finished(resource: &Resource, object: &Value) -> bool {
    let metadata = object.get("metadata").unwrap_or(&Value::Null);
    let present = |value: Option<&Value>| value.and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    if metadata.get("deletionTimestamp").is_none_or(Value::is_null) || present(metadata.get("finalizers")) {
        return false;
    }
    if resource.group.is_empty() && resource.plural == "namespaces" && present(object.pointer("/spec/finalizers")) {
        return false;
    }
    metadata.get("deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0) == 0
}

fn names_version(body: &Value) -> bool {
    !matches!(text(body, "/metadata/resourceVersion"), "" | "0")
}

fn check_name_of_body(name: &str, body: &Value) -> Result<(), Status> {
    match text(body, "/metadata/name") {
        "" => Err(Status::bad_request("name must be provided")),
        said if said != name => Err(Status::bad_request(format!(
            "the name of the object ({said}) does not match the name on the URL ({name})"
        ))),
        _ => Ok(()),
    }
}

/// `resourceVersion` and `uid` of a body are what the caller believes to be there.
fn check_preconditions(resource: &Resource, name: &str, body: &Value, stored: &Object) -> Result<(), Status> {
    let version = text(body, "/metadata/resourceVersion");
    if names_version(body) && version != stored.revision.to_string() {
        if version.parse::<u64>().is_err() {
            return Err(Status::invalid(
                &resource.group,
                &resource.kind,
                name,
                &[FieldError {
                    field: "metadata.resourceVersion".into(),
                    reason: "FieldValueInvalid",
                    message: format!("Invalid value: {version:?}: must be an unsigned integer"),
                }],
            ));
        }
        return Err(Status::conflict(&resource.group, &resource.plural, name, MODIFIED));
    }
    let uid = text(body, "/metadata/uid");
    if !uid.is_empty() && uid != &*stored.uid {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", stored.uid);
        return Err(Status::conflict(&resource.group, &resource.plural, name, &why));
    }
    Ok(())
}

/// An applied body must say what it is, as itself.
fn check_applied(resource: &Resource, namespace: &str, name: &str, body: &Value) -> Result<(), Status> {
    if body.pointer("/metadata/managedFields").and_then(Value::as_array).is_some_and(|list| !list.is_empty()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let said = text(body, "/metadata/name");
    if !said.is_empty() && said != name {
        return Err(Status::bad_request(format!("name in URL does not match name in apply configuration: {name}")));
    }
    check_namespace_of_body(resource, namespace, body)
}
