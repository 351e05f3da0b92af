//! What the type definitions do not say by themselves: list types, merge keys, enums, defaults, kinds; and the step back
//! to OpenAPI v2's dialect.

use std::collections::BTreeMap;

use galley_kube::schema::{self, Field, ListKind, Ty};
use serde_json::{Map, Value, json};

use crate::META;

/// Definition name by `group/version/Kind`.
pub(crate) fn names() -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    for ty in schema::types() {
        // Kinds that every group shares (DeleteOptions, WatchEvent) belong to none.
        if let [kind] = ty.kinds.as_slice() {
            names.insert((*kind).to_owned(), ty.name());
        }
    }
    names
}

/// Writes the facts into the definitions as `x-kubernetes-*` extensions.
pub(crate) fn annotate(definitions: &mut Map<String, Value>) {
    for (name, definition) in definitions.iter_mut() {
        let Some(ty) = schema::named(name) else { continue };
        if !ty.kinds.is_empty() {
            definition["x-kubernetes-group-version-kind"] = ty.kinds.iter().copied().map(kind).collect();
        }
        if ty.atomic {
            definition["x-kubernetes-map-type"] = json!("atomic");
        }
        for field in ty.fields() {
            if let Some(property) = definition["properties"].get_mut(field.name) {
                annotate_field(property, field);
            }
        }
        // The API server fills these in, so clients may leave them out.
        if let Some(required) = definition.get_mut("required").and_then(Value::as_array_mut) {
            required.retain(|field| field != "metadata");
            if required.is_empty()
                && let Some(map) = definition.as_object_mut()
            {
                map.remove("required");
            }
        }
    }
    let special = [
        (format!("{META}.Time"), json!({"type": "string", "format": "date-time"})),
        (format!("{META}.MicroTime"), json!({"type": "string", "format": "date-time"})),
        (
            "io.k8s.apimachinery.pkg.util.intstr.IntOrString".into(),
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
        ),
        (
            "io.k8s.apimachinery.pkg.api.resource.Quantity".into(),
            json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        ),
        (format!("{META}.FieldsV1"), json!({"type": "object"})),
    ];
    for (name, mut shape) in special {
        if let Some(definition) = definitions.get_mut(&name) {
            if let Some(description) = definition.get("description") {
                shape["description"] = description.clone();
            }
            *definition = shape;
        }
    }
}

fn annotate_field(property: &mut Value, field: &Field) {
    if matches!(field.ty, Ty::List(_)) {
        property["x-kubernetes-list-type"] = json!(match field.list {
            ListKind::Atomic => "atomic",
            ListKind::Set => "set",
            ListKind::Map => "map",
        });
    }
    if !field.map_keys.is_empty() {
        property["x-kubernetes-list-map-keys"] = json!(field.map_keys);
    }
    let strategies: Vec<&str> = [(field.patch_merge, "merge"), (field.patch_retain_keys, "retainKeys")]
        .into_iter()
        .filter_map(|(set, name)| set.then_some(name))
        .collect();
    if !strategies.is_empty() {
        property["x-kubernetes-patch-strategy"] = json!(strategies.join(","));
    }
    if !field.patch_merge_key.is_empty() {
        property["x-kubernetes-patch-merge-key"] = json!(field.patch_merge_key);
    }
    if field.atomic {
        property["x-kubernetes-map-type"] = json!("atomic");
    }
    if let Ok(default) = serde_json::from_str::<Value>(field.default) {
        property["default"] = default;
    }
}

fn kind(text: &str) -> Value {
    let (group_version, kind) = text.rsplit_once('/').unwrap_or(("", text));
    let (group, version) = group_version.rsplit_once('/').unwrap_or(("", group_version));
    json!({"group": group, "version": version, "kind": kind})
}

/// OpenAPI v3 schemas to v2's: references point into `definitions` and stand alone; no `oneOf`, `nullable`, `anyOf`.
pub(crate) fn downgrade(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::Array(all)) = map.remove("allOf")
                && let [only] = all.as_slice()
                && let Some(target) = only["$ref"].as_str()
            {
                // v2 tools ignore what stands beside a $ref, descriptions apart.
                map.insert("$ref".into(), json!(target));
                map.remove("default");
            }
            if let Some(Value::String(target)) = map.get_mut("$ref") {
                *target = target.replace("#/components/schemas/", "#/definitions/");
            }
            if map.remove("oneOf").is_some() || map.remove("anyOf").is_some() {
                map.entry("type").or_insert(json!("string"));
            }
            for key in ["nullable", "not"] {
                // A property may have such a name; as a keyword it is no object.
                if map.get(key).is_some_and(|v| !v.is_object()) {
                    map.remove(key);
                }
            }
            map.values_mut().for_each(downgrade);
        }
        Value::Array(list) => list.iter_mut().for_each(downgrade),
        _ => {}
    }
}
