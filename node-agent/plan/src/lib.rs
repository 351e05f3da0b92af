//! What the node should do, as values.

pub mod net;
