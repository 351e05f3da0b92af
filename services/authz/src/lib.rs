//! Who may do what. Pure: rules and a request's attributes in, a decision with its reason out.

mod actor;

pub use actor::Actor;
