//! Seeds: which ones a test runs over, and the line that replays one.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

/// Says how to replay a run that fails.
struct Tell<'a> {
    seed: u64,
    test: &'a str,
}

impl Drop for Tell<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (seed, test) = (self.seed, self.test);
            let ops = number("ACKRING_OPS").map_or(String::new(), |ops| format!("ACKRING_OPS={ops} "));
            eprintln!(
                "replay: ACKRING_SEED={seed} {ops}cargo test --no-default-features --features engine --test sim {test}"
            );
        }
    }
}

/// A number from the environment.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect(name))
}

/// Runs over the seed in `ACKRING_SEED`, or over `ACKRING_RUNS` (else `runs`) seeds that nobody knows before.
pub fn each_seed(test: &str, runs: u64, mut run: impl FnMut(u64)) {
    let mut tell = |seed: u64| {
        let _tell = Tell { seed, test };
        run(seed);
    };
    if let Some(seed) = number("ACKRING_SEED") {
        return tell(seed);
    }
    // Randomly keyed, so its hash of nothing is a number that nobody knows before.
    let first = number("ACKRING_FIRST").unwrap_or_else(|| RandomState::new().build_hasher().finish() >> 16);
    (first..first + number("ACKRING_RUNS").unwrap_or(runs)).for_each(tell);
}
