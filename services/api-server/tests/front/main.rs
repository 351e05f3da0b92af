//! The front door on loopback: real TLS, real kubectl, the store in memory.

mod front_door;
mod nodes;
mod replicas;
mod slow;
mod support;
