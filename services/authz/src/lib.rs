//! Who may do what. Pure: rules and a request's attributes in, a decision with its reason out.

mod actor;
mod attributes;
pub mod node;
pub mod rbac;
#[cfg(test)]
mod tests;

pub use actor::Actor;
pub use attributes::{Attributes, Decision, Target};
