//! Random operations against a plain reference model, with crashes in between.
//!
//! `ACKRING_SEED=n` replays one run; `ACKRING_RUNS=n` says how many runs there are (each with a seed of its own),
//! `ACKRING_OPS=n` how many operations each has.

mod driver;
mod power;
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
fn power_cuts_and_failed_syncs_take_nothing_that_was_synced() {
    let ops = number("ACKRING_OPS").unwrap_or(400);
    each_seed(6, |seed| {
        let mut driver = Driver::on_disk(seed);
        (0..ops).for_each(|_| driver.step());
        driver.finish();
    });
}

#[test]
fn random_operations_and_crashes_agree_with_the_model() {
    let ops = number("ACKRING_OPS").unwrap_or(800);
    each_seed(3, |seed| {
        let mut driver = Driver::new(Rng::from_seed(seed));
        (0..ops).for_each(|_| driver.step());
        driver.finish();
    });
}

fn each_seed(runs: u64, run: impl Fn(u64)) {
    let run = |seed: u64| {
        let _tell = Tell(seed);
        run(seed);
    };
    if let Some(seed) = number("ACKRING_SEED") {
        return run(seed);
    }
    // Randomly keyed, so its hash of nothing is a number that nobody knows before.
    let first = number("ACKRING_FIRST").unwrap_or_else(|| RandomState::new().build_hasher().finish() >> 16);
    (first..first + number("ACKRING_RUNS").unwrap_or(runs)).for_each(run);
}
