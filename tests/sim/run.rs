//! Runs histories: which seeds, how long, and what is said when one fails.
//!
//! `ACKRING_SEED=n` replays one seed and prints every line of it with `ACKRING_TRACE=1`; `ACKRING_RUNS=n` runs n seeds
//! from there; `ACKRING_OPS=n` is the number of turns of each, and a failure is shrunk by making it smaller.

use crate::actor::Cast;
use crate::tally::Tally;
use crate::trace::Trace;
use crate::world::World;
use ackring::EngineConfig;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

/// Turns in which everything must have come to its end once nothing goes wrong.
const SETTLE_TURNS_MAX: u64 = 400_000;

/// Makes everybody of a history from its seed.
pub type Casting = fn(u64, &Trace) -> (EngineConfig, u32, Cast);

/// What became of a history.
#[derive(Debug)]
pub struct Outcome {
    pub hash: u64,
    pub tally: Tally,
}

/// A number from the environment.
pub fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let parsed = text.parse();
    Some(parsed.unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Whether the environment asks for nothing special, so that what is known of the usual run holds.
pub fn is_usual() -> bool {
    ["ACKRING_SEED", "ACKRING_RUNS", "ACKRING_OPS"]
        .iter()
        .all(|name| std::env::var_os(name).is_none())
}

/// Lives through one history; a failure is told with the line that replays it, and goes on as a panic.
pub fn run(test: &str, casting: Casting, seed: u64, turns: u64) -> Outcome {
    let trace = Trace::new(std::env::var_os("ACKRING_TRACE").is_some());
    let lived = catch_unwind(AssertUnwindSafe(|| {
        let (engine, grace_ms, cast) = casting(seed, &trace);
        let mut world = World::new(seed, trace.clone(), engine, grace_ms, cast);
        world.live(turns);
        world.settle(SETTLE_TURNS_MAX);
        world.tally()
    }));
    match lived {
        Ok(tally) => Outcome {
            hash: trace.hash(),
            tally,
        },
        Err(panic) => {
            eprintln!("{}", trace.last());
            eprintln!("seed {seed} failed after the lines above; to replay it:");
            eprintln!("ACKRING_SEED={seed} ACKRING_OPS={turns} cargo test --test sim {test} -- --nocapture");
            resume_unwind(panic)
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "only to say how long it took")]
/// Runs the seeds that the environment names, or `runs` from `first`, and adds up what happened.
pub fn run_all(test: &str, casting: Casting, first: u64, runs: u64, turns: u64) -> Tally {
    let turns = number("ACKRING_OPS").unwrap_or(turns);
    let (first, runs) = match (number("ACKRING_SEED"), number("ACKRING_RUNS")) {
        (None, None) => (first, runs),
        (seed, runs) => (seed.unwrap_or(first), runs.unwrap_or(1)),
    };
    let mut tally = Tally::default();
    let mut hash = 0u64;
    let begun = Instant::now();
    for seed in first..first + runs {
        let outcome = run(test, casting, seed, turns);
        tally.add(&outcome.tally);
        hash = hash.rotate_left(1) ^ outcome.hash;
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{runs} histories of {turns} turns from seed {first} in {seconds:.1} s, hash {hash:016x}:\n{tally}"
    );
    tally
}
