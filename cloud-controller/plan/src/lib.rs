//! What to do about a Service, as values: no IO, no clock.
//!
//! ```text
//!  type LoadBalancer, ours        ──► finalizer ──► load balancer ──► status
//!  deleted, or of another type    ──► no load balancer ──► no status ──► no finalizer
//! ```
//!
//! The finalizer is there before the load balancer is, and goes after it: a Service that is deleted while the controller is down
//! waits for it.

mod service;

pub use service::{Action, FINALIZER, Plan, Reason, plan, status_is};
