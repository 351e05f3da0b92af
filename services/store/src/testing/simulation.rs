//! Runs histories under a seed: one thread, paused time, so that a seed is a whole history and a failing one replays.

use std::ops::Range;
use std::panic::AssertUnwindSafe;

/// The seeds to run: `GALLEY_SEED=7` or `GALLEY_SEED=7..9`, else the first `GALLEY_SIMULATION_SEEDS`, else the first `usual`.
fn seeds(usual: u64) -> Range<u64> {
    let read = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    if let Some(text) = read("GALLEY_SEED") {
        let number = |text: &str| text.parse::<u64>().unwrap_or_else(|_| panic!("GALLEY_SEED={text} is no number"));
        return match text.split_once("..") {
            Some((first, end)) => number(first)..number(end),
            None => number(&text)..number(&text) + 1,
        };
    }
    let count = read("GALLEY_SIMULATION_SEEDS");
    0..count.map_or(usual, |count| count.parse().expect("GALLEY_SIMULATION_SEEDS is a number"))
}

/// Every how many seeds a history is run twice, to see that it is the same.
const TWICE: u64 = 16;

/// Runs `simulate` for each seed in a runtime of its own: the first `usual` in an ordinary test run. It answers a hash of its history, which must be the same each time.
///
/// # Panics
/// As the history does, after telling its seed.
pub fn run_seeds<F: Future<Output = u64>>(test: &str, usual: u64, simulate: impl Fn(u64) -> F) {
    for seed in seeds(usual) {
        let once = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .expect("a runtime without IO");
            runtime.block_on(simulate(seed))
        };
        let told = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let history = once();
            if seed % TWICE == 0 {
                assert_eq!(history, once(), "the same seed is the same history");
            }
        }));
        if let Err(panic) = told {
            eprintln!("seed {seed} fails; once more: GALLEY_SEED={seed} cargo nextest run {test}");
            std::panic::resume_unwind(panic);
        }
    }
}
