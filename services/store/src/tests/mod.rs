//! The store as its users see it.

mod cluster;
mod postgres;
mod registry;
mod support;
