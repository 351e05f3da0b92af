//! The store as its users see it.

mod cluster;
mod support;
