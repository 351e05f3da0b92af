//! Create: decode -> default -> admit -> prepare -> validate -> commit.

use std::sync::Arc;

use galley_authz::Actor;
use galley_kube::apply::Writer;
use galley_kube::{FieldValidation, Reason, Resource, Status, validate};
use galley_store::{CommitError, ObjectKey, Write};
use serde_json::Value;

use crate::api::{Body, ClusterApi, WriteOptions, Written, commit_status};
use crate::value::text;
use crate::{admission, convert, encode, names, rules, strategy};

/// How often a taken `generateName` is drawn again before the client hears of it.
const NAME_ATTEMPTS: usize = 8;

/// Who keeps `metadata.managedFields` of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ManagedFields {
    /// The write changes the fields that differ.
    OfThisWrite,
    /// Server-side apply has set them already.
    Applied,
}

impl ClusterApi {
    /// Creates an object. The name is the body's, or made from its `generateName`.
    pub async fn create(
        &self,
        actor: &Actor,
        resource: &Resource,
        namespace: &str,
        body: impl Into<Body>,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        let (mut object, warnings) = decode_body(resource, body.into(), options.field_validation)?;
        let namespace = if resource.namespaced { namespace } else { "" };
        check_namespace_of_body(resource, namespace, &object)?;
        if !matches!(text(&object, "/metadata/resourceVersion"), "" | "0") {
            return Err(Status::new(
                500,
                Reason::InternalError,
                "resourceVersion should not be set on objects to be created",
            ));
        }
        rules::default(resource, &mut object);

        let generated = text(&object, "/metadata/name").is_empty();
        let base = text(&object, "/metadata/generateName").to_owned();
        if generated && base.is_empty() {
            return Err(name_required(resource));
        }
        for attempt in 1.. {
            let name = if generated {
                names::generate(&base, self.store.entropy())
            } else {
                text(&object, "/metadata/name").to_owned()
            };
            // A name that was chosen is tried once; a drawn one may be taken.
            let this = if generated { object.clone() } else { std::mem::take(&mut object) };
            match self.create_named(actor, resource, namespace, &name, this, ManagedFields::OfThisWrite, options).await
            {
                Err(status) if generated && status.reason == Reason::AlreadyExists && attempt < NAME_ATTEMPTS => {}
                Err(mut status) if generated && status.reason == Reason::AlreadyExists => {
                    status.message.push_str(", the server was not able to generate a unique name for the object");
                    return Err(status);
                }
                Err(status) => return Err(status),
                Ok(mut written) => {
                    written.warnings.splice(0..0, warnings);
                    return Ok(written);
                }
            }
        }
        unreachable!("the loop ends by returning")
    }

    /// Creates the object under this name. `object` is decoded and defaulted.
    pub(crate) async fn create_named(
        &self,
        actor: &Actor,
        resource: &Resource,
        namespace: &str,
        name: &str,
        mut object: Value,
        fields: ManagedFields,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        let now = self.clock.now();
        let warnings = validate::warnings(resource, &object, None);
        strategy::start_metadata(resource, namespace, name, &self.store.entropy().uuid().to_string(), now, &mut object);
        self.namespace_must_live(resource, namespace, name)?;
        // Before admission: what that adds belongs to nobody.
        if fields == ManagedFields::OfThisWrite {
            let writer = Writer { manager: manager(options, actor), subresource: "", now };
            rules::manage_fields(resource, None, &mut object, &writer);
        }
        let request = admission::Request { api: self, actor, resource, namespace, name };
        admission::create(&request, &mut object)?;
        strategy::prepare_create(resource, actor, now, &mut object);

        let services = admission::services::is_service(resource).then(|| self.shared.services.lock());
        let _allocating = match services {
            Some(lock) => Some(lock.await),
            None => None,
        };
        if _allocating.is_some() {
            admission::services::allocate(&request, None, &mut object)?;
        }
        let errors = rules::validate_create(resource, &object);
        if !errors.is_empty() {
            return Err(Status::invalid(&resource.group, &resource.kind, name, &errors));
        }
        let _charging = admission::quota::admit(&request, None, &object).await?;

        let key = self.key(resource, namespace, name);
        if options.dry_run {
            if self.store.get(&key).is_some() {
                return Err(Status::already_exists(&resource.group, &resource.plural, name));
            }
            return Ok(Written { object: Arc::new(encode::unstored(resource, key, &object)?), warnings });
        }
        let draft = encode::draft(resource, key, &object)?;
        match self.store.commit(Write::Create(draft)).await {
            Ok(object) => Ok(Written { object, warnings }),
            Err(error @ CommitError::Exists(_)) => Err(self.exists(resource, namespace, name, error)),
            Err(error) => Err(commit_status(resource, name, error)),
        }
    }

    /// `object is being deleted: pods "x" already exists` while the old one is still going.
    fn exists(&self, resource: &Resource, namespace: &str, name: &str, error: CommitError) -> Status {
        let mut status = commit_status(resource, name, error);
        let deleting = self
            .get(resource, namespace, name)
            .ok()
            .and_then(|object| object.value().ok())
            .is_some_and(|value| value.pointer("/metadata/deletionTimestamp").is_some());
        if deleting {
            status.message = format!("object is being deleted: {}", status.message);
        }
        status
    }

    /// A namespaced object needs its namespace, and one that is not going away.
    pub(crate) fn namespace_must_live(&self, resource: &Resource, namespace: &str, name: &str) -> Result<(), Status> {
        if !resource.namespaced {
            return Ok(());
        }
        let key = ObjectKey::new(&"namespaces".into(), "", namespace);
        let Some(found) = self.store.get(&key) else {
            return Err(Status::not_found("", "namespaces", namespace));
        };
        if found.fields.get("status.phase").is_some_and(|phase| phase == "Terminating") {
            let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
            let mut status = Status::forbidden(&resource.group, &resource.plural, name, &why);
            status.causes.push(galley_kube::Cause {
                reason: "NamespaceTerminating",
                message: format!("namespace {namespace} is being terminated"),
                field: "metadata.namespace".into(),
            });
            return Err(status);
        }
        Ok(())
    }
}

/// The field manager of a write: what the client said, else who it is.
pub(crate) fn manager<'a>(options: &'a WriteOptions, actor: &'a Actor) -> &'a str {
    if options.field_manager.is_empty() {
        actor.username.rsplit(':').next().unwrap_or("unknown")
    } else {
        &options.field_manager
    }
}

/// Checks types, apiVersion and kind, drops or refuses unknown fields, and converts to the storage version.
pub(crate) fn decode_body(
    resource: &Resource,
    body: Body,
    mode: FieldValidation,
) -> Result<(Value, Vec<String>), Status> {
    let mut decoded = rules::decode(resource, body, mode)?;
    convert::to_storage(resource, &mut decoded.value);
    let warnings = if mode == FieldValidation::Warn { decoded.warnings } else { Vec::new() };
    Ok((decoded.value, warnings))
}

/// A body may repeat the namespace of the request, and no other.
pub(crate) fn check_namespace_of_body(resource: &Resource, namespace: &str, body: &Value) -> Result<(), Status> {
    let said = text(body, "/metadata/namespace");
    if said.is_empty() || said == namespace || !resource.namespaced {
        return Ok(());
    }
    Err(Status::bad_request("the namespace of the provided object does not match the namespace sent on the request"))
}

fn name_required(resource: &Resource) -> Status {
    Status::invalid(
        &resource.group,
        &resource.kind,
        "",
        &[galley_kube::FieldError {
            field: "metadata.name".into(),
            reason: "FieldValueRequired",
            message: "Required value: name or generateName is required".into(),
        }],
    )
}
