//! Random operations against a plain reference model, with crashes in between.
//!
//! `ACKRING_SEED=n` replays one run; `ACKRING_RUNS=n` says how many runs there are (each with a seed of its own),
//! `ACKRING_OPS=n` how many operations each has.

mod driver;
mod reference;
mod source;

use driver::Driver;
use source::Rng;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

/// Says how to replay a run that fails.
struct Tell(u64);

impl Drop for Tell {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "replay: ACKRING_SEED={} cargo test --no-default-features --features engine --test engine model",
                self.0
            );
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect(name))
}

#[test]
fn random_operations_and_crashes_agree_with_the_model() {
    let ops = number("ACKRING_OPS").unwrap_or(800);
    let run = |seed: u64| {
        let _tell = Tell(seed);
        let mut driver = Driver::new(Rng::from_seed(seed));
        (0..ops).for_each(|_| driver.step());
        driver.finish();
    };
    if let Some(seed) = number("ACKRING_SEED") {
        return run(seed);
    }
    // Randomly keyed, so its hash of nothing is a number that nobody knows before.
    let first = RandomState::new().build_hasher().finish() >> 16;
    (first..first + number("ACKRING_RUNS").unwrap_or(3)).for_each(run);
}
