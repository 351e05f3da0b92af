//! The words that every part of Galley shares: ids, revisions, time, quantities, labels and selectors.
//!
//! Pure: no IO, no clock of its own. `now` is always a parameter or a [`Clock`].

mod clock;
mod ids;
mod int_or_string;
pub mod names;
mod pairs;
mod quantity;
mod selector;

pub use clock::{Clock, SystemClock};
pub use ids::{ClusterId, IdError, ResourceName, Revision, ShardId, TenantId};
pub use int_or_string::{IntOrString, NotAPercentage};
pub use pairs::{LabelSet, Pairs};
pub use quantity::{Quantity, QuantityError, QuantityFormat};
pub use selector::{FieldSelector, FieldTerm, LabelSelector, SelectorError};
