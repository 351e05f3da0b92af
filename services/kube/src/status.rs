//! `Status`: the answer to a request that failed, in the words clients match on.
//!
//! Shapes and reasons: Kubernetes API reference, `Status` and `StatusDetails` (meta/v1).

use serde_json::{Value, json};

/// `status.reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// 400
    BadRequest,
    /// 401
    Unauthorized,
    /// 403
    Forbidden,
    /// 404
    NotFound,
    /// 405
    MethodNotAllowed,
    /// 406
    NotAcceptable,
    /// 409, the name is taken
    AlreadyExists,
    /// 409, somebody else changed it
    Conflict,
    /// 410, the revision or continue token is too old
    Expired,
    /// 410
    Gone,
    /// 413
    RequestEntityTooLarge,
    /// 415
    UnsupportedMediaType,
    /// 422
    Invalid,
    /// 429
    TooManyRequests,
    /// 500
    InternalError,
    /// 503
    ServiceUnavailable,
    /// 504
    Timeout,
}

/// One entry of `status.details.causes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueRequired`, `FieldValueInvalid`, ...
    pub reason: &'static str,
    /// Text for people.
    pub message: String,
    /// `spec.containers[0].image`.
    pub field: String,
}

/// A validation error of one field; renders as Kubernetes' field errors do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// `spec.containers[0].image`.
    pub field: String,
    /// `FieldValueRequired`, ...
    pub reason: &'static str,
    /// The text after the field: `Required value`, `Invalid value: "x": must be ...`.
    pub message: String,
}

impl FieldError {
    fn new(field: impl ToString, reason: &'static str, what: &str, value: Option<&Value>, detail: &str) -> Self {
        let mut message = what.to_owned();
        if let Some(value) = value {
            message.push_str(": ");
            match value {
                Value::String(text) => message.push_str(&format!("{text:?}")),
                Value::Null => message.push_str("\"null\""),
                other => message.push_str(&other.to_string()),
            }
        }
        if !detail.is_empty() {
            message.push_str(": ");
            message.push_str(detail);
        }
        Self { field: field.to_string(), reason, message }
    }

    /// `Required value`, with a detail where it is not empty.
    pub fn required(field: impl ToString, detail: &str) -> Self {
        Self::new(field, "FieldValueRequired", "Required value", None, detail)
    }

    /// `Invalid value: "x": detail`.
    pub fn invalid(field: impl ToString, value: &Value, detail: &str) -> Self {
        Self::new(field, "FieldValueInvalid", "Invalid value", Some(value), detail)
    }

    /// `Invalid value: "x": detail`, for a value of the wrong JSON type.
    pub fn type_invalid(field: impl ToString, value: &Value, detail: &str) -> Self {
        Self::new(field, "FieldValueTypeInvalid", "Invalid value", Some(value), detail)
    }

    /// `Unsupported value: "x": supported values: "a", "b"`.
    pub fn not_supported(field: impl ToString, value: &Value, supported: &[&str]) -> Self {
        let supported: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        let detail = format!("supported values: {}", supported.join(", "));
        Self::new(field, "FieldValueNotSupported", "Unsupported value", Some(value), &detail)
    }

    /// `Forbidden: detail`.
    pub fn forbidden(field: impl ToString, detail: &str) -> Self {
        Self::new(field, "FieldValueForbidden", "Forbidden", None, detail)
    }

    /// `Duplicate value: "x"`.
    pub fn duplicate(field: impl ToString, value: &Value) -> Self {
        Self::new(field, "FieldValueDuplicate", "Duplicate value", Some(value), "")
    }

    /// `Not found: "x"`.
    pub fn not_found(field: impl ToString, value: &Value) -> Self {
        Self::new(field, "FieldValueNotFound", "Not found", Some(value), "")
    }

    /// `Too long: may not be more than 63 bytes`.
    pub fn too_long(field: impl ToString, max: usize) -> Self {
        let detail = format!("may not be more than {max} bytes");
        Self::new(field, "FieldValueTooLong", "Too long", None, &detail)
    }

    /// `Too many: 3: must have at most 2 items`.
    pub fn too_many(field: impl ToString, actual: usize, max: usize) -> Self {
        let detail = format!("must have at most {max} {}", if max == 1 { "item" } else { "items" });
        Self::new(field, "FieldValueTooMany", "Too many", Some(&json!(actual)), &detail)
    }

    /// `Invalid value: "x": field is immutable`.
    pub fn immutable(field: impl ToString, value: &Value) -> Self {
        Self::invalid(field, value, "field is immutable")
    }
}

/// A failed request's answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// HTTP status.
    pub code: u16,
    /// Machine-readable reason.
    pub reason: Reason,
    /// Text for people; clients match on some of them.
    pub message: String,
    /// `details.name`.
    pub name: String,
    /// `details.group`.
    pub group: String,
    /// `details.kind`: the resource's plural, or the kind for `Invalid`.
    pub kind: String,
    /// `details.causes`.
    pub causes: Vec<Cause>,
    /// `details.retryAfterSeconds`; also the `Retry-After` header. 0: absent.
    pub retry_after_seconds: u32,
    /// `metadata.continue` of a list that cannot go on as it began; empty: absent.
    pub continue_token: String,
}

impl Status {
    /// A status without details.
    pub fn new(code: u16, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            causes: Vec::new(),
            retry_after_seconds: 0,
            continue_token: String::new(),
        }
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        (self.group, self.kind, self.name) = (group.into(), kind.into(), name.into());
        self
    }

    /// `pods "x" not found`. `resource` is the plural.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        Self::new(404, Reason::NotFound, format!("{} {name:?} not found", qualified(resource, group)))
            .about(group, resource, name)
    }

    /// `pods "x" already exists`.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        Self::new(409, Reason::AlreadyExists, format!("{} {name:?} already exists", qualified(resource, group)))
            .about(group, resource, name)
    }

    /// `Operation cannot be fulfilled on pods "x": the object has been modified; ...`.
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        Self::new(
            409,
            Reason::Conflict,
            format!("Operation cannot be fulfilled on {} {name:?}: {why}", qualified(resource, group)),
        )
        .about(group, resource, name)
    }

    /// `pods "x" is forbidden: why`.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let subject = if name.is_empty() {
            qualified(resource, group)
        } else {
            format!("{} {name:?}", qualified(resource, group))
        };
        Self::new(403, Reason::Forbidden, format!("{subject} is forbidden: {why}")).about(group, resource, name)
    }

    /// 400 with this text.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, Reason::BadRequest, message)
    }

    /// 500: `Internal error occurred: why`.
    pub fn internal(why: impl std::fmt::Display) -> Self {
        Self::new(500, Reason::InternalError, format!("Internal error occurred: {why}"))
    }

    /// 422: `Deployment.apps "x" is invalid: [a, b]`, a cause for each field.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let texts: Vec<String> = errors.iter().map(|e| format!("{}: {}", e.field, e.message)).collect();
        let list = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let mut status =
            Self::new(422, Reason::Invalid, format!("{} {name:?} is invalid: {list}", qualified(kind, group)))
                .about(group, kind, name);
        status.causes = errors
            .iter()
            .map(|e| Cause { reason: e.reason, message: e.message.clone(), field: e.field.clone() })
            .collect();
        status
    }

    /// The body of the answer.
    pub fn to_value(&self) -> Value {
        let mut details = serde_json::Map::new();
        for (key, text) in [("name", &self.name), ("group", &self.group), ("kind", &self.kind)] {
            if !text.is_empty() {
                details.insert(key.into(), json!(text));
            }
        }
        if !self.causes.is_empty() {
            let causes: Vec<Value> = self
                .causes
                .iter()
                .map(|c| json!({"reason": c.reason, "message": c.message, "field": c.field}))
                .collect();
            details.insert("causes".into(), json!(causes));
        }
        if self.retry_after_seconds > 0 {
            details.insert("retryAfterSeconds".into(), json!(self.retry_after_seconds));
        }
        let mut value = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": format!("{:?}", self.reason), "code": self.code,
        });
        if !self.continue_token.is_empty() {
            value["metadata"] = json!({"continue": self.continue_token});
        }
        if !details.is_empty() {
            value["details"] = Value::Object(details);
        }
        value
    }
}

fn qualified(resource: &str, group: &str) -> String {
    if group.is_empty() { resource.into() } else { format!("{resource}.{group}") }
}
