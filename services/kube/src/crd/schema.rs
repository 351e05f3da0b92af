//! A structural schema, read once when its definition changes.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

use crate::apply::shape::{Merge, Shape};

/// What a value must be. The default allows every type, and knows no fields.
#[derive(Debug, Default)]
pub struct Schema {
    /// `object`, `array`, `string`, `integer`, `number`, `boolean`; empty: any.
    pub(crate) kind: String,
    pub(crate) nullable: bool,
    pub(crate) properties: BTreeMap<String, Schema>,
    /// The schema of members that `properties` does not name.
    pub(crate) additional: Option<Box<Schema>>,
    /// `additionalProperties: true`.
    pub(crate) any_additional: bool,
    pub(crate) items: Option<Box<Schema>>,
    pub(crate) required: Vec<String>,
    /// What an absent value becomes.
    pub(crate) default: Option<Value>,
    pub(crate) preserve_unknown: bool,
    pub(crate) embedded: bool,
    pub(crate) int_or_string: bool,
    pub(crate) list_type: String,
    pub(crate) list_keys: Vec<String>,
    pub(crate) atomic_map: bool,
    pub(crate) rules: Rules,
    pub(crate) all_of: Vec<Schema>,
    pub(crate) any_of: Vec<Schema>,
    pub(crate) one_of: Vec<Schema>,
    pub(crate) not: Option<Box<Schema>>,
}

/// What a value of the right type must also be.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub(crate) format: String,
    pub(crate) choices: Vec<Value>,
    pub(crate) pattern: Option<(String, Option<Regex>)>,
    pub(crate) minimum: Option<f64>,
    pub(crate) exclusive_minimum: bool,
    pub(crate) maximum: Option<f64>,
    pub(crate) exclusive_maximum: bool,
    pub(crate) multiple_of: Option<f64>,
    pub(crate) min_length: Option<u64>,
    pub(crate) max_length: Option<u64>,
    pub(crate) min_items: Option<u64>,
    pub(crate) max_items: Option<u64>,
    pub(crate) min_properties: Option<u64>,
    pub(crate) max_properties: Option<u64>,
    pub(crate) unique_items: bool,
}

impl Schema {
    /// From `openAPIV3Schema`.
    pub fn parse(schema: &Value) -> Self {
        let text = |key: &str| super::text(&schema[key]);
        let flag = |key: &str| schema[key] == true;
        let boxed = |key: &str| schema[key].is_object().then(|| Box::new(Self::parse(&schema[key])));
        let list =
            |key: &str| -> Vec<Schema> { schema[key].as_array().into_iter().flatten().map(Self::parse).collect() };
        Self {
            kind: text("type"),
            nullable: flag("nullable"),
            properties: schema["properties"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, property)| (name.clone(), Self::parse(property)))
                .collect(),
            additional: boxed("additionalProperties"),
            any_additional: flag("additionalProperties"),
            items: boxed("items"),
            required: super::texts(&schema["required"]),
            default: schema.get("default").cloned(),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            list_type: text("x-kubernetes-list-type"),
            list_keys: super::texts(&schema["x-kubernetes-list-map-keys"]),
            atomic_map: schema["x-kubernetes-map-type"] == "atomic",
            rules: Rules::parse(schema),
            all_of: list("allOf"),
            any_of: list("anyOf"),
            one_of: list("oneOf"),
            not: boxed("not"),
        }
    }

    /// What is known of a member.
    pub(crate) fn member(&self, name: &str) -> Option<&Schema> {
        self.properties.get(name).or(self.additional.as_deref())
    }

    /// Whether members have free keys.
    pub(crate) fn is_map(&self) -> bool {
        self.additional.is_some() || self.any_additional
    }

    /// How server-side apply merges a list.
    pub(crate) fn list_merge(&self) -> Merge<'_> {
        let item = self.items.as_deref().map_or(Shape::Unknown, Shape::Custom);
        match self.list_type.as_str() {
            "set" => Merge::Set,
            "map" => Merge::Keyed(self.list_keys.iter().map(String::as_str).collect(), item),
            _ => Merge::Whole,
        }
    }
}

impl Rules {
    fn parse(schema: &Value) -> Self {
        let number = |key: &str| schema[key].as_f64();
        let count = |key: &str| schema[key].as_u64();
        Self {
            format: super::text(&schema["format"]),
            choices: schema["enum"].as_array().cloned().unwrap_or_default(),
            pattern: schema["pattern"].as_str().map(|pattern| (pattern.to_owned(), Regex::new(pattern).ok())),
            minimum: number("minimum"),
            exclusive_minimum: schema["exclusiveMinimum"] == true,
            maximum: number("maximum"),
            exclusive_maximum: schema["exclusiveMaximum"] == true,
            multiple_of: number("multipleOf"),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            unique_items: schema["uniqueItems"] == true,
        }
    }
}
