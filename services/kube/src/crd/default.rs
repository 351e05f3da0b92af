//! Defaults of a structural schema.

use serde_json::Value;

use super::Schema;

/// Fills in the defaults of a schema. A null that the schema does not allow is absence.
pub fn apply_defaults(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(members) => {
            for (name, property) in &schema.properties {
                if !property.nullable && members.get(name) == Some(&Value::Null) {
                    members.remove(name);
                }
                if !members.contains_key(name)
                    && let Some(default) = &property.default
                {
                    members.insert(name.clone(), default.clone());
                }
            }
            for (name, member) in members.iter_mut() {
                if let Some(schema) = schema.member(name) {
                    apply_defaults(member, schema);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = &schema.items {
                for item in items {
                    apply_defaults(item, schema);
                }
            }
        }
        _ => {}
    }
}
