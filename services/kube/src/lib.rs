//! The Kubernetes API's rules, as pure functions and tables: resources, strict decoding, defaults, validation, patches,
//! server-side apply, tables, discovery, OpenAPI, CRD schemas, and the `Status` errors clients match on.

pub mod apply;
pub mod crd;
pub mod defaults;
pub mod kubernetes_service;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod resource;
pub mod schema;
pub mod status;
pub mod table;
pub mod validate;

pub use resource::Resource;
pub use schema::FieldValidation;
pub use status::{Cause, FieldError, Reason, Status};
