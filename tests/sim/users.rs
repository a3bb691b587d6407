//! Histories with everybody in them: every operation, every durability, small limits, and the oracle as judge.

use crate::actor::Cast;
use crate::cast;
use crate::plan::Plan;
use crate::rng::Rng;
use crate::run::{number, run_all};
use crate::tally::Tally;
use crate::trace::Trace;
use crate::world::World;
use ackring::EngineConfig;

/// Everybody of the history of that seed.
pub fn users(seed: u64, trace: &Trace) -> (EngineConfig, u32, Cast) {
    let plan = Plan::draw(seed);
    trace.note(format!("{plan:?}"));
    let cast = cast::cast(&plan, &mut Rng::new(seed, "cast"), trace);
    (plan.engine(), plan.grace_ms, cast)
}

#[test]
fn nothing_confirmed_is_lost() {
    run_all("nothing_confirmed_is_lost", users, 1, 40, 3_000);
}

/// Runs many seeds, goes on behind a failure, and says in one line each what failed; to find out how many seeds a bug
/// takes to be seen.
#[test]
#[ignore = "for people: ACKRING_SEED=first ACKRING_RUNS=n ACKRING_OPS=turns"]
fn hunt() {
    let first = number("ACKRING_SEED").unwrap_or(1);
    let runs = number("ACKRING_RUNS").unwrap_or(1_000);
    let turns = number("ACKRING_OPS").unwrap_or(3_000);
    let failures_max = number("ACKRING_FAILURES").unwrap_or(u64::MAX);
    let mut tally = Tally::default();
    let mut failures = 0;
    let said = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let hears = said.clone();
    std::panic::set_hook(Box::new(move |info| {
        let text = info.payload_as_str().unwrap_or("?").replace('\n', " ");
        let at = info.location().map(ToString::to_string).unwrap_or_default();
        *hears.lock().unwrap() = format!("{text} [{at}]");
    }));
    for seed in first..first + runs {
        let quiet = Trace::new(false);
        let lived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let (engine, grace_ms, cast) = users(seed, &quiet);
            let mut world = World::new(seed, quiet.clone(), engine, grace_ms, cast);
            world.live(turns);
            world.settle(400_000);
            world.tally()
        }));
        match lived {
            Ok(lived) => tally.add(&lived),
            Err(_) => {
                failures += 1;
                println!("seed {seed}: {}", said.lock().unwrap());
                if failures >= failures_max {
                    println!("after {} seeds", seed - first + 1);
                    break;
                }
            }
        }
    }
    let _ = std::panic::take_hook();
    println!("{failures} of {runs} histories of {turns} turns failed\n{tally}");
}
