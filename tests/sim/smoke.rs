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
    let tally = run_all("a_plain_queue_survives_its_world", plain_cast, 1, 40, 3_000);
    if crate::run::is_usual() {
        tally.has_all(&WHAT_HAPPENS);
    }
}

/// What the world does to everybody, however short a run.
pub const WHAT_HAPPENS: [&str; 31] = [
    "answers lost on the way",
    "clients gave up",
    "connections cut",
    "connections lost, the client unaware",
    "connections lost, the server unaware",
    "connections moved",
    "connections refused",
    "connections stalled",
    "crashes in recovery",
    "failed accepts",
    "failed logs",
    "failed registrations",
    "failed syncs",
    "interrupted calls",
    "kills",
    "names lost",
    "power cuts",
    "requests lost on the way",
    "requests that came after the client gave up",
    "sectors lost",
    "sectors torn",
    "short writes",
    "starts",
    "starts that failed",
    "stops in good order",
    "syncs",
    "time jumps",
    "time steps",
    "wall clock steps back",
    "wall clock steps forward",
    "writes refused for want of space",
];
