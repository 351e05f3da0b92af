//! How a part of an object is merged: as a whole, by field, or by item. Built-in kinds say it in the schema, custom ones in
//! their CRD; where nothing is known, objects merge by field and lists as a whole.

use serde_json::Value;

use crate::crd;
use crate::schema::{self, Field, ListKind, Ty, Type};

/// What is known of a value.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape<'s> {
    /// A value of a built-in type, in a field that may say more.
    Typed(Ty, Option<&'static Field>),
    /// A value that a CRD's schema describes.
    Custom(&'s crd::Schema),
    /// A whole custom object, which has the metadata that every object has.
    CustomObject(&'s crd::Schema),
    /// Anything.
    Unknown,
}

/// How to treat a value.
pub(crate) enum Merge<'s> {
    /// Replaced whole.
    Whole,
    /// By member.
    Members,
    /// By item, told apart by value.
    Set,
    /// By item, told apart by these fields.
    Keyed(Vec<&'s str>, Shape<'s>),
}

impl<'s> Shape<'s> {
    pub(crate) fn of_type(ty: &'static Type) -> Self {
        Self::Typed(Ty::Struct(ty.id()), None)
    }

    /// How `value` is treated.
    pub(crate) fn merge(self, value: &Value) -> Merge<'s> {
        match value {
            Value::Object(_) if self.members_merge() => Merge::Members,
            Value::Array(_) => self.list(),
            _ => Merge::Whole,
        }
    }

    fn members_merge(self) -> bool {
        match self {
            Self::Typed(Ty::Struct(id), field) => !id.get().atomic && !field.is_some_and(|f| f.atomic),
            Self::Typed(Ty::Map(_), field) => !field.is_some_and(|f| f.atomic),
            Self::Typed(..) => false,
            Self::Custom(schema) | Self::CustomObject(schema) => !schema.atomic_map,
            Self::Unknown => true,
        }
    }

    fn list(self) -> Merge<'s> {
        match self {
            Self::Typed(Ty::List(item), Some(field)) => {
                let item = Self::Typed(*item, None);
                match field.list {
                    ListKind::Atomic => Merge::Whole,
                    ListKind::Set => Merge::Set,
                    ListKind::Map => Merge::Keyed(field.map_keys.clone(), item),
                }
            }
            Self::Custom(schema) => schema.list_merge(),
            _ => Merge::Whole,
        }
    }

    /// What is known of a member.
    pub(crate) fn member(self, name: &str) -> Shape<'s> {
        match self {
            Self::Typed(Ty::Struct(id), _) => {
                id.get().field(name).map_or(Self::Unknown, |field| Self::Typed(field.ty, Some(field)))
            }
            Self::Typed(Ty::Map(value), _) => Self::Typed(*value, None),
            Self::Typed(..) => Self::Unknown,
            Self::CustomObject(_) if name == "metadata" => object_meta(),
            Self::Custom(schema) | Self::CustomObject(schema) => match schema.member(name) {
                Some(schema) if schema.embedded => Self::CustomObject(schema),
                Some(schema) => Self::Custom(schema),
                None => Self::Unknown,
            },
            Self::Unknown => Self::Unknown,
        }
    }

    /// Whether members are free keys, which are owned apart even while they hold nothing.
    pub(crate) fn is_map(self) -> bool {
        match self {
            Self::Typed(ty, _) => matches!(ty, Ty::Map(_)),
            Self::Custom(schema) | Self::CustomObject(schema) => schema.is_map(),
            Self::Unknown => false,
        }
    }

    /// The default of a key field: a port without protocol is the same item as one with `TCP`.
    fn key_default(self, key: &str) -> Option<Value> {
        match self {
            Self::Typed(Ty::Struct(id), _) => {
                let default = id.get().field(key)?.default;
                serde_json::from_str(default).ok()
            }
            Self::Custom(schema) => schema.member(key)?.default.clone(),
            _ => None,
        }
    }
}

fn object_meta() -> Shape<'static> {
    match schema::named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta") {
        Some(ty) => Shape::of_type(ty),
        None => Shape::Unknown,
    }
}

/// The path element of an item of a keyed list.
pub(crate) fn keyed_element(item: &Value, keys: &[&str], shape: Shape<'_>) -> String {
    let mut members = serde_json::Map::new();
    for key in keys {
        if let Some(value) = item.get(*key).cloned().or_else(|| shape.key_default(key)) {
            members.insert((*key).to_owned(), value);
        }
    }
    format!("k:{}", Value::Object(members))
}

/// The path element of an item of a set.
pub(crate) fn value_element(item: &Value) -> String {
    format!("v:{item}")
}
