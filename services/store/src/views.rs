//! Decoded views of objects: how long they stay.
//!
//! Controllers look at the same objects again and again, and decoding one costs more than anything else that they do with it.
//! A decoded Pod is several times as large as its JSON, though, and most objects are looked at when they change and not for
//! hours after. So an object refers to its view weakly, and the views decoded last are held here, up to a budget for
//! the whole process: what is worked on is decoded once, what rests costs its bytes only.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

/// A decoded object of some type.
pub(crate) type View = Arc<dyn Any + Send + Sync>;

/// About what all views together may take, in bytes. It holds the pods of a Deployment of several thousand replicas, whose
/// controller looks at all of them whenever one changes.
const BUDGET: usize = 48 << 20;
/// How much larger a view is than the JSON it was decoded from, roughly: typed objects are mostly empty `Option`s; an estimate, not a measurement.
const LARGER: usize = 4;
/// What a view takes at least.
const LEAST: usize = 1024;

/// First in, first out: what is used all the time is decoded again once in many thousand times, which is cheaper than
/// keeping an order of use.
struct Recent {
    views: VecDeque<(View, usize)>,
    bytes: usize,
}

static RECENT: Mutex<Recent> = Mutex::new(Recent { views: VecDeque::new(), bytes: 0 });

/// Keeps a view that was decoded from so many bytes for a while.
pub(crate) fn hold(view: View, decoded_from: usize) {
    let size = decoded_from * LARGER + LEAST;
    let mut gone = Vec::new();
    let mut recent = RECENT.lock();
    recent.bytes += size;
    recent.views.push_back((view, size));
    while recent.bytes > BUDGET
        && let Some((view, size)) = recent.views.pop_front()
    {
        recent.bytes -= size;
        gone.push(view);
    }
    // Freed without the lock.
    drop(recent);
}
