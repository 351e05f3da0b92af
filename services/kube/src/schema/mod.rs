//! The types of the built-in API: which fields an object may have, and how their lists and maps are merged.
//!
//! One graph, read once from `data/schema.txt`, is what decoding, patches, server-side apply and OpenAPI walk. Everything in
//! it lives as long as the process, so that a request walks it without counting references.

mod decode;
mod load;
mod scalars;

use std::collections::HashMap;
use std::sync::LazyLock;

pub use decode::{Body, Decoded, FieldValidation, decode};
pub(crate) use decode::{check_type_meta, unreadable};

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| load::load(include_str!("../../data/schema.txt")));

/// All types.
#[derive(Debug)]
pub struct Schema {
    types: Vec<Type>,
    by_name: HashMap<&'static str, TypeId>,
    by_kind: HashMap<&'static str, TypeId>,
}

/// A type's place in the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TypeId(u16);

impl TypeId {
    /// The type.
    pub fn get(self) -> &'static Type {
        &SCHEMA.types[usize::from(self.0)]
    }
}

/// A type with named fields.
#[derive(Debug)]
pub struct Type {
    /// `~core.v1.PodSpec`; `~` stands for `io.k8s.api.`.
    short_name: &'static str,
    id: TypeId,
    /// Sorted by name.
    fields: Vec<Field>,
    /// Apply replaces it whole.
    pub atomic: bool,
    /// `apps/v1/Deployment`: the kinds that have this type; empty for types within objects.
    pub kinds: Vec<&'static str>,
}

/// A field of a type.
#[derive(Debug)]
pub struct Field {
    /// As in JSON.
    pub name: &'static str,
    /// What it holds.
    pub ty: Ty,
    /// Whether the API reference calls it required.
    pub required: bool,
    /// For lists: how apply merges them.
    pub list: ListKind,
    /// For `ListKind::Map`: the fields that identify an item.
    pub map_keys: Vec<&'static str>,
    /// Strategic merge patch merges the list (`patchStrategy: merge`).
    pub patch_merge: bool,
    /// Strategic merge patch drops the fields that the patch does not name (`retainKeys`).
    pub patch_retain_keys: bool,
    /// The field that identifies an item to strategic merge patch; empty for lists of scalars.
    pub patch_merge_key: &'static str,
    /// Apply replaces the map or object whole.
    pub atomic: bool,
    /// The default, as JSON; empty: none. Most defaults are not here but in `defaults`.
    pub default: &'static str,
    /// Go's zero value is the same as absence, and is dropped.
    pub(crate) drop_zero: bool,
}

/// How server-side apply merges a list (`x-kubernetes-list-type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ListKind {
    /// One owner, replaced whole.
    #[default]
    Atomic,
    /// Scalars, each owned apart.
    Set,
    /// Objects, each owned apart, told apart by key fields.
    Map,
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ty {
    /// Text.
    String,
    /// Text that is base64.
    Bytes,
    /// A 32-bit integer.
    Int32,
    /// A 64-bit integer.
    Int64,
    /// A floating-point number.
    Double,
    /// `true`, `false`.
    Bool,
    /// `100m`, `1Gi`.
    Quantity,
    /// `80`, `http`.
    IntOrString,
    /// RFC 3339 to the second.
    Time,
    /// RFC 3339 to the microsecond.
    MicroTime,
    /// Any JSON.
    Any,
    /// Any JSON object.
    Object,
    /// A JSON schema, or a boolean or list in its place.
    JsonSchema,
    /// An object with known fields.
    Struct(TypeId),
    /// A list.
    List(&'static Ty),
    /// An object with free keys.
    Map(&'static Ty),
}

impl Type {
    /// Its place in the schema.
    pub fn id(&self) -> TypeId {
        self.id
    }

    /// `io.k8s.api.core.v1.PodSpec`.
    pub fn name(&self) -> String {
        match self.short_name.strip_prefix('~') {
            Some(rest) => format!("io.k8s.api.{rest}"),
            None => self.short_name.to_owned(),
        }
    }

    /// `~core.v1.PodSpec`: as the data files name it.
    pub(crate) fn short_name(&self) -> &'static str {
        self.short_name
    }

    /// `PodSpec`.
    pub fn base_name(&self) -> &'static str {
        self.short_name.rsplit('.').next().unwrap_or(self.short_name)
    }

    /// `v1.PodSpec`: how the API server's messages call it.
    pub(crate) fn go_name(&self) -> &'static str {
        let mut dots = self.short_name.rmatch_indices('.').map(|(at, _)| at);
        dots.next();
        let package = dots.next().map_or(0, |at| at + 1);
        self.short_name[package..].trim_start_matches('~')
    }

    /// The fields, sorted by name.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The field of this name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.index(name).map(|at| &self.fields[at])
    }

    fn index(&self, name: &str) -> Option<usize> {
        self.fields.binary_search_by(|f| f.name.cmp(name)).ok()
    }
}

/// The type of a kind: `apps/v1`, `Deployment`. `None` for custom resources.
pub fn kind(api_version: &str, kind: &str) -> Option<&'static Type> {
    let mut key = String::with_capacity(api_version.len() + kind.len() + 1);
    key.push_str(api_version);
    key.push('/');
    key.push_str(kind);
    SCHEMA.by_kind.get(key.as_str()).map(|id| id.get())
}

/// The type of a full name: `io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions`.
pub fn named(name: &str) -> Option<&'static Type> {
    let id = match name.strip_prefix("io.k8s.api.") {
        Some(rest) => SCHEMA.by_name.get(format!("~{rest}").as_str()),
        None => SCHEMA.by_name.get(name),
    };
    id.map(|id| id.get())
}

/// Every type.
pub fn types() -> &'static [Type] {
    &SCHEMA.types
}
