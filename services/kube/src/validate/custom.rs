//! CustomResourceDefinitions.

use serde_json::Value;

use super::Errors;

pub(super) fn definition(_errors: &mut Errors, _object: &Value, _old: Option<&Value>) {}
