//! The node's network, planned.

mod names;
mod overlay;
mod services;
mod world;
