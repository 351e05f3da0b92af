//! Query parameters: the options of lists, watches and writes.

use std::collections::BTreeMap;

use galley_kube::{FieldError, FieldValidation, Resource, Status};
use galley_pipeline::{DeleteOptions, Propagation, WriteOptions, fields};
use galley_store::Object;
use galley_types::{FieldSelector, LabelSelector};
use http::Uri;

/// A request's parameters; of a repeated one the first counts.
#[derive(Debug, Default)]
pub struct Query(BTreeMap<String, String>);

impl Query {
    /// Reads them. What cannot be read is as if it were not there.
    pub fn of(uri: &Uri) -> Self {
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri).map(|query| query.0);
        let mut found = BTreeMap::new();
        for (key, value) in pairs.unwrap_or_default() {
            found.entry(key).or_insert(value);
        }
        Self(found)
    }

    /// A parameter; empty when it is absent.
    pub fn text(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    /// `true`, `1`, or given without a value.
    pub fn flag(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|value| !matches!(value.as_str(), "false" | "0"))
    }

    /// A flag that may be absent.
    pub fn optional_flag(&self, key: &str) -> Option<bool> {
        self.0.contains_key(key).then(|| self.flag(key))
    }

    /// A number, or 400.
    pub fn number(&self, key: &str) -> Result<Option<i64>, Status> {
        match self.text(key) {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))),
        }
    }

    /// Whether a collection is to be watched.
    pub fn watches(&self) -> bool {
        self.flag("watch")
    }

    /// `dryRun`, or what is wrong with it.
    fn dry_run(&self) -> Result<bool, FieldError> {
        match self.text("dryRun") {
            "" => Ok(false),
            "All" => Ok(true),
            other => Err(FieldError {
                field: "dryRun".into(),
                reason: "FieldValueNotSupported",
                message: format!("Unsupported value: [{other:?}]: supported values: \"All\""),
            }),
        }
    }

    /// Options of a create, update or patch. `kind`: `CreateOptions`, ...; `user_agent` names the manager of those that do
    /// not name themselves.
    pub fn write_options(&self, kind: &str, user_agent: &str) -> Result<WriteOptions, Status> {
        let invalid = |error: FieldError| Status::invalid("meta.k8s.io", kind, "", &[error]);
        let field_validation = match self.text("fieldValidation") {
            "" | "Warn" => FieldValidation::Warn,
            "Strict" => FieldValidation::Strict,
            "Ignore" => FieldValidation::Ignore,
            other => {
                return Err(invalid(FieldError {
                    field: "fieldValidation".into(),
                    reason: "FieldValueNotSupported",
                    message: format!(
                        "Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
                    ),
                }));
            }
        };
        let manager = match self.text("fieldManager") {
            "" => user_agent.split('/').next().unwrap_or_default(),
            manager => manager,
        };
        let manager = match manager {
            "" => "unknown",
            manager => manager,
        };
        if manager.len() > 128 {
            return Err(invalid(FieldError {
                field: "fieldManager".into(),
                reason: "FieldValueTooLong",
                message: "Too long: may not be more than 128 bytes".into(),
            }));
        }
        Ok(WriteOptions {
            dry_run: self.dry_run().map_err(invalid)?,
            field_manager: manager.to_owned(),
            force: self.flag("force"),
            field_validation,
        })
    }

    /// Adds to the options of a delete what the parameters say and its body does not.
    pub fn delete_options(&self, options: &mut DeleteOptions) -> Result<(), Status> {
        let invalid = |error: FieldError| Status::invalid("meta.k8s.io", "DeleteOptions", "", &[error]);
        options.dry_run |= self.dry_run().map_err(invalid)?;
        if options.grace_period_seconds.is_none() {
            options.grace_period_seconds = self.number("gracePeriodSeconds")?;
        }
        if options.propagation.is_none() {
            options.propagation = propagation(self.text("propagationPolicy"), self.optional_flag("orphanDependents"))?;
        }
        Ok(())
    }
}

/// `propagationPolicy` and the older `orphanDependents`.
pub fn propagation(policy: &str, orphan: Option<bool>) -> Result<Option<Propagation>, Status> {
    Ok(match (policy, orphan) {
        ("", None) => None,
        ("", Some(true)) | ("Orphan", None) => Some(Propagation::Orphan),
        ("", Some(false)) | ("Background", None) => Some(Propagation::Background),
        ("Foreground", None) => Some(Propagation::Foreground),
        (policy, orphan) => {
            let message = if orphan.is_some() {
                format!("Invalid value: {policy:?}: orphanDependents and deletionPropagation cannot be both set")
            } else {
                format!(
                    "Unsupported value: {policy:?}: supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
                )
            };
            let error = FieldError { field: "propagationPolicy".into(), reason: "FieldValueInvalid", message };
            return Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &[error]));
        }
    })
}

/// Which objects of a collection are meant.
#[derive(Debug, Default)]
pub struct Selectors {
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selectors {
    /// From `labelSelector` and `fieldSelector`, the latter in the names under which fields are kept.
    pub fn of(query: &Query, resource: &Resource) -> Result<Self, Status> {
        let labels = LabelSelector::parse(query.text("labelSelector"))
            .map_err(|error| Status::bad_request(format!("unable to parse requirement: {error}")))?;
        let mut fields = FieldSelector::parse(query.text("fieldSelector"))
            .map_err(|error| Status::bad_request(error.to_string()))?;
        for term in &mut fields.terms {
            term.field = fields::canonical(resource, &term.field)
                .ok_or_else(|| Status::bad_request(format!("field label not supported: {}", term.field)))?;
        }
        Ok(Self { labels, fields })
    }

    /// Whether every object is meant.
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// Whether this one is.
    pub fn matches(&self, object: &Object) -> bool {
        self.labels.matches(&object.labels)
            && self.fields.matches(|field| match field {
                "metadata.name" => Some(&object.key.name),
                "metadata.namespace" => Some(&object.key.namespace),
                field => object.fields.get(field),
            })
    }
}

/// Fields that a selector requires to have one value: what authorization of lists looks at.
pub fn required_fields(query: &Query) -> Vec<(String, String)> {
    let Ok(selector) = FieldSelector::parse(query.text("fieldSelector")) else { return Vec::new() };
    let names = selector.terms.iter().map(|term| &term.field);
    names.filter_map(|field| Some((field.clone(), selector.required(field)?.to_owned()))).collect()
}
