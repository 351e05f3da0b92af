//! The words that every part of Galley shares: ids, revisions, time, quantities, labels and selectors.
//!
//! Pure: no IO, no clock of its own. `now` is always a parameter or a [`Clock`].

mod clock;
mod ids;

pub use clock::{Clock, SystemClock};
pub use ids::{ClusterId, IdError, ResourceName, Revision, ShardId, TenantId};
