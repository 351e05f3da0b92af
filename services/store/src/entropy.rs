//! Where ids and generated names come from: the machine, or a seed, so that a simulation is the same each time it is run.
//!
//! Never for keys, nonces and tokens: those come from `ring`, in simulations too, since nothing is decided by them.

use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng as _};
use uuid::{Builder, Uuid};

/// A source of randomness that is shared by all of one store. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Entropy(Option<Arc<Mutex<SmallRng>>>);

impl Entropy {
    /// The machine's: unpredictable, a generator for each thread.
    pub fn system() -> Self {
        Self(None)
    }

    /// The same sequence for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self(Some(Arc::new(Mutex::new(SmallRng::seed_from_u64(seed)))))
    }

    /// Draws. `draw` must not draw from the same source within.
    pub fn draw<T>(&self, draw: impl FnOnce(&mut dyn RngCore) -> T) -> T {
        match &self.0 {
            None => draw(&mut rand::rng()),
            Some(seeded) => draw(&mut *seeded.lock()),
        }
    }

    /// A version 4 UUID.
    pub fn uuid(&self) -> Uuid {
        let mut bytes = [0; 16];
        self.draw(|rng| rng.fill_bytes(&mut bytes));
        Builder::from_random_bytes(bytes).into_uuid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_sequence_and_the_machine_is_none() {
        let [one, two, other] = [7, 7, 8].map(Entropy::seeded);
        let first = one.uuid();
        assert_eq!((first, one.uuid()), (two.uuid(), two.uuid()));
        assert_ne!(first, other.uuid());
        assert_ne!(Entropy::system().uuid(), Entropy::system().uuid());
        assert_eq!(first.get_version_num(), 4);
    }
}
