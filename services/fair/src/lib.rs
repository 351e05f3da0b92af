//! Who is served next when more is wanted than can be done at once, and how much may wait. Values in, values out: the API
//! server's turns and the store's batches are thin layers over this.
//!
//! ```text
//!  Fair<tenant> ──┬─ tenant a ── Fair<level> ──┬─ nodes ── Fair<user> ── Fifo
//!                 │                            └─ users ── Fair<user> ── Fifo
//!                 └─ tenant b ── ...
//! ```
//!
//! Without it the busiest tenant's requests stand before everybody's: a queue that is shared in order of arrival gives each
//! what it asks for, not its share.

mod budget;
mod queue;
mod seats;

pub use budget::{Budget, Exceeded, Limit};
pub use queue::{Fair, Fifo, Queue};
pub use seats::{Answer, Level, Limits, Refused, Seats, Who};
