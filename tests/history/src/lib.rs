//! Judges a recorded history of requests to a Kubernetes API server: did it keep Kubernetes' promises of consistency?
//!
//! ```text
//!  entries ── evidence ──► one log: what each revision did ──┬── chains: each object's changes follow from each other
//!  (requests, answers,                                       ├── order: revisions and reads respect real time
//!   events, bookmarks)                                       ├── lists: each is the state at its revision
//!                                                            └── watches: each stream is the log over its interval
//! ```
//!
//! What makes this decidable in linear time is that every committed write has a revision of its own, and that revisions order
//! all writes of a cluster. Linearizability in general is a search for an order; here the order is told, and it only remains
//! to show that it agrees with the clock and with everything that anybody read.
//!
//! The judge does no IO and knows no clock: the same history always gets the same verdict, also when it is read from a file.
//! Requests whose outcome is unknown (time-outs, broken connections, 5xx) may or may not have happened, at any time after
//! they were sent: they bind nobody, but what others saw of them does.

mod check;
mod entry;
mod lists;
mod log;
mod order;
#[cfg(test)]
mod tests;
mod watches;

pub use check::{Counts, Report, Rule, Violation, check, explain};
pub use entry::{
    Asked, Bookmark, End, EndKind, Entry, Event, EventKind, From, Get, List, Micros, Open, Opened, Outcome, Page, Read,
    Selector, Setup, State, Stuck, Write, WriteKind,
};
