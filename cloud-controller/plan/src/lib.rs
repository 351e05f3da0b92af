//! What to do about a Service or a node group, as values: no IO, no clock. Of a Service:
//!
//! ```text
//!  type LoadBalancer, ours        ──► finalizer ──► load balancer ──► status
//!  deleted, or of another type    ──► no load balancer ──► no status ──► no finalizer
//! ```
//!
//! The finalizer is there before the load balancer is, and goes after it: a Service that is deleted while the controller is down
//! waits for it.

pub mod node_group;
mod service;

pub use service::{Action, FINALIZER, Plan, Reason, plan, status_is};
