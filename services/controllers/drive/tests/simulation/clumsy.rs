//! A controller that panics now and then, in the middle of everybody else's work.

use std::cell::Cell;

use galley_controllers_drive::{Change, Context, Controller, View, Wake, controllers};
use galley_controllers_plan::Plan;
use galley_store::{DecodeError, ObjectKey};

thread_local! {
    /// A simulation has one thread, and controllers are made by a function without arguments.
    static CALM: Cell<bool> = const { Cell::new(false) };
}

/// From now on it does not panic any more, or does again.
pub fn calm(calm: bool) {
    CALM.set(calm);
}

#[derive(Debug, Default)]
struct Clumsy {
    shown: u32,
}

impl Controller for Clumsy {
    fn name(&self) -> &'static str {
        "clumsy"
    }

    fn changed(&mut self, change: &Change<'_>, _: &View, wake: &mut Wake) {
        wake.key(change.key().clone());
        self.shown += 1;
        if !CALM.get() && self.shown.is_multiple_of(29) {
            std::panic::resume_unwind(Box::new("clumsy"));
        }
    }

    fn plan(&mut self, _: &ObjectKey, _: &Context<'_>) -> Result<Plan<String>, DecodeError> {
        if !CALM.get() && self.shown.is_multiple_of(7) {
            std::panic::resume_unwind(Box::new("clumsy"));
        }
        Ok(Plan::nothing("clumsy".into()))
    }
}

/// All controllers, and this one first.
pub fn with_everybody() -> Vec<Box<dyn Controller>> {
    let mut all = controllers::all();
    all.insert(0, Box::<Clumsy>::default());
    all
}
