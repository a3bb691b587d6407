//! The short runs that every change has to pass.

use crate::actor::Cast;
use crate::plain;
use crate::run::{run, run_all};
use crate::trace::Trace;
use ackring::EngineConfig;

fn plain_cast(_seed: u64, _trace: &Trace) -> (EngineConfig, u32, Cast) {
    plain::cast()
}

#[test]
fn a_seed_decides_everything() {
    for seed in 1..=6 {
        let test = "a_seed_decides_everything";
        let hashes = [0; 2].map(|_| run(test, plain_cast, seed, 3_000).hash);
        assert_eq!(hashes[0], hashes[1], "seed {seed} went two ways");
    }
}

#[test]
fn a_plain_queue_survives_its_world() {
    run_all("a_plain_queue_survives_its_world", plain_cast, 1, 20, 3_000);
}
