//! Validation of a custom object against its schema, in the words of the API server's OpenAPI validation.

use serde_json::Value;

use super::Schema;
use crate::status::FieldError;

/// The problems of an object.
pub(crate) fn validate(object: &Value, schema: &Schema) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check(&mut errors, object, schema, "", true);
    errors
}

fn named(path: &str) -> &str {
    if path.is_empty() { "<nil>" } else { path }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_i64() || n.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn fits(value: &Value, kind: &str) -> bool {
    match (type_of(value), kind) {
        ("integer", "number") => true,
        ("number", "integer") => value.as_f64().is_some_and(|n| n.fract() == 0.0),
        (found, wanted) => found == wanted,
    }
}

fn check(errors: &mut Vec<FieldError>, value: &Value, schema: &Schema, path: &str, root: bool) {
    if value.is_null() && schema.nullable {
        return;
    }
    let wanted = if schema.int_or_string { "integer,string" } else { schema.kind.as_str() };
    let fitting = match wanted {
        "" => true,
        "integer,string" => value.is_string() || fits(value, "integer"),
        kind => fits(value, kind),
    };
    if !fitting {
        let shown = Value::from(type_of(value));
        let detail = format!("{path} in body must be of type {wanted}: {shown}");
        return errors.push(FieldError::type_invalid(named(path), &shown, &detail));
    }
    let choices = &schema.rules.choices;
    if !choices.is_empty() && !choices.contains(value) {
        let choices: Vec<String> =
            choices.iter().map(|choice| choice.as_str().map_or_else(|| choice.to_string(), str::to_owned)).collect();
        let choices: Vec<&str> = choices.iter().map(String::as_str).collect();
        errors.push(FieldError::not_supported(named(path), value, &choices));
    }
    match value {
        Value::String(text) => check_text(errors, text, value, schema, path),
        Value::Number(_) => check_number(errors, value, schema, path),
        Value::Array(items) => check_items(errors, items, value, schema, path),
        Value::Object(_) => check_members(errors, value, schema, path, root),
        Value::Null | Value::Bool(_) => {}
    }
    check_combinations(errors, value, schema, path, root);
}

fn check_number(errors: &mut Vec<FieldError>, value: &Value, schema: &Schema, path: &str) {
    let rules = &schema.rules;
    let number = value.as_f64().unwrap_or(0.0);
    let mut invalid = |detail: String| {
        errors.push(FieldError::invalid(named(path), value, &format!("{path} in body {detail}")));
    };
    match rules.minimum {
        Some(least) if rules.exclusive_minimum && number <= least => invalid(format!("should be greater than {least}")),
        Some(least) if number < least => invalid(format!("should be greater than or equal to {least}")),
        _ => {}
    }
    match rules.maximum {
        Some(most) if rules.exclusive_maximum && number >= most => invalid(format!("should be less than {most}")),
        Some(most) if number > most => invalid(format!("should be less than or equal to {most}")),
        _ => {}
    }
    if let Some(factor) = rules.multiple_of.filter(|f| *f != 0.0)
        && (number / factor).fract() != 0.0
    {
        invalid(format!("should be a multiple of {factor}"));
    }
    if rules.format == "int32" && value.as_i64().is_some_and(|n| i32::try_from(n).is_err()) {
        invalid(format!("must be of type int32: {value}"));
    }
}

fn check_text(errors: &mut Vec<FieldError>, text: &str, value: &Value, schema: &Schema, path: &str) {
    let rules = &schema.rules;
    let length = text.chars().count() as u64;
    let invalid = |detail: String| FieldError::invalid(named(path), value, &format!("{path} in body {detail}"));
    if let Some(most) = rules.max_length.filter(|most| length > *most) {
        errors.push(FieldError::too_long(named(path), most as usize));
    }
    if let Some(least) = rules.min_length.filter(|least| length < *least) {
        errors.push(invalid(format!("should be at least {least} chars long")));
    }
    if let Some((pattern, Some(regex))) = &rules.pattern
        && !regex.is_match(text)
    {
        errors.push(invalid(format!("should match '{pattern}'")));
    }
    if !has_format(text, &rules.format) {
        errors.push(invalid(format!("must be of type {}: {text:?}", rules.format)));
    }
}

/// Formats that are not known are not checked, as the API reference says.
fn has_format(text: &str, format: &str) -> bool {
    match format {
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "cidr" => text.parse::<ipnet::IpNet>().is_ok(),
        "uuid" | "uuid3" | "uuid4" | "uuid5" => {
            let hex: String = text.chars().filter(|c| *c != '-').collect();
            hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit())
        }
        "byte" => base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).is_ok(),
        "hostname" => galley_types::names::dns1123_subdomain(&text.to_lowercase()).is_empty(),
        "uri" => text.contains(':') && !text.contains(' '),
        "email" => text.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty()),
        _ => true,
    }
}

fn check_items(errors: &mut Vec<FieldError>, items: &[Value], value: &Value, schema: &Schema, path: &str) {
    let rules = &schema.rules;
    let count = items.len() as u64;
    if let Some(most) = rules.max_items.filter(|most| count > *most) {
        errors.push(FieldError::too_many(named(path), items.len(), most as usize));
    }
    if let Some(least) = rules.min_items.filter(|least| count < *least) {
        let detail = format!("{path} in body should have at least {least} items");
        errors.push(FieldError::invalid(named(path), value, &detail));
    }
    let key = |item: &Value| -> Value {
        let keys = schema.list_keys.iter();
        Value::Object(keys.map(|k| (k.clone(), item.get(k).cloned().unwrap_or(Value::Null))).collect())
    };
    for (at, item) in items.iter().enumerate() {
        let duplicate = match schema.list_type.as_str() {
            "set" => items[..at].contains(item).then(|| item.clone()),
            "map" => items[..at].iter().any(|other| key(other) == key(item)).then(|| key(item)),
            _ => None,
        };
        if let Some(duplicate) = duplicate {
            errors.push(FieldError::duplicate(format!("{path}[{at}]"), &duplicate));
        }
    }
    if rules.unique_items && items.iter().enumerate().any(|(at, item)| items[..at].contains(item)) {
        let detail = format!("{path} in body shouldn't contain duplicates");
        errors.push(FieldError::invalid(named(path), value, &detail));
    }
    if let Some(item_schema) = &schema.items {
        for (at, item) in items.iter().enumerate() {
            check(errors, item, item_schema, &format!("{path}[{at}]"), false);
        }
    }
}

fn check_members(errors: &mut Vec<FieldError>, value: &Value, schema: &Schema, path: &str, root: bool) {
    let Value::Object(members) = value else { return };
    let (rules, count) = (&schema.rules, members.len() as u64);
    for name in schema.required.iter().filter(|name| !members.contains_key(*name)) {
        errors.push(FieldError::required(join(path, name), ""));
    }
    if let Some(most) = rules.max_properties.filter(|most| count > *most) {
        errors.push(FieldError::too_many(named(path), members.len(), most as usize));
    }
    if let Some(least) = rules.min_properties.filter(|least| count < *least) {
        let detail = format!("{path} in body should have at least {least} properties");
        errors.push(FieldError::invalid(named(path), value, &detail));
    }
    if schema.embedded && !root {
        for field in ["apiVersion", "kind"] {
            if members.get(field).and_then(Value::as_str).unwrap_or("").is_empty() {
                errors.push(FieldError::required(join(path, field), "must not be empty"));
            }
        }
    }
    for (name, member) in members {
        if (root || schema.embedded) && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
            continue;
        }
        if let Some(schema) = schema.member(name) {
            check(errors, member, schema, &join(path, name), false);
        }
    }
}

fn check_combinations(errors: &mut Vec<FieldError>, value: &Value, schema: &Schema, path: &str, root: bool) {
    let holds = |schema: &Schema| {
        let mut problems = Vec::new();
        check(&mut problems, value, schema, path, root);
        problems.is_empty()
    };
    let mut fail = |what: &str| {
        let detail = format!("{path:?} must {what}");
        errors.push(FieldError::invalid(named(path), &Value::from(""), &detail));
    };
    if !schema.any_of.is_empty() && !schema.any_of.iter().any(holds) {
        fail("validate at least one schema (anyOf)");
    }
    if !schema.one_of.is_empty() {
        match schema.one_of.iter().filter(|s| holds(s)).count() {
            1 => {}
            0 => fail("validate one and only one schema (oneOf). Found none valid"),
            many => fail(&format!("validate one and only one schema (oneOf). Found {many} valid alternatives")),
        }
    }
    if schema.not.as_deref().is_some_and(holds) {
        fail("not validate the schema (not)");
    }
    for part in &schema.all_of {
        check(errors, value, part, path, root);
    }
}
