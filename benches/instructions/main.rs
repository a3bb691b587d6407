//! Instructions that a job costs on the hot paths, counted under callgrind: noise does not touch them.
//!
//! ```sh
//! cargo bench --bench instructions               # counts, and compares with benches/instructions/counts.txt
//! cargo bench --bench instructions -- --write    # writes them there, when a change is meant
//! cargo bench --bench instructions -- --run "engine written 64" 1000     # what is counted, for a profiler
//! ```
//!
//! Each path runs twice, the second time for longer; the difference is what a job costs, without the start and the end.
//! A path that costs over 3 in a hundred more than what is written down is a regression, and ends this with 1; one
//! that costs that much less is to be written down. Copying by the system's library is left out, since that chooses the
//! way to do it by the processor. Needs valgrind, and says so where it is missing. Counts hold for
//! one compiler: with another they are printed and not judged.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark that cannot go on should panic where it stands; it starts the processes that it counts"
)]

#[path = "../common/mod.rs"]
mod common;
mod counts;
mod engine;
#[path = "../common/greeting.rs"]
mod greeting;
mod profile;
mod ring;
mod served;

use counts::Counts;
use std::process::{Command, ExitCode};

/// A path: a number of rounds is lived through, each with that many jobs.
struct Path {
    name: &'static str,
    jobs_a_round: u64,
    rounds: u64,
    run: fn(u64),
}

const PATHS: &[Path] = &[
    path("ring 1", 1, 20_000, |rounds| ring::hand_over(1, rounds)),
    path("ring 64", 64, 2_000, |rounds| ring::hand_over(64, rounds)),
    path("engine memory 1", 1, 4_000, |rounds| {
        engine::MEMORY.life(1, rounds)
    }),
    path("engine memory 64", 64, 400, |rounds| {
        engine::MEMORY.life(64, rounds)
    }),
    path("engine written 1", 1, 4_000, |rounds| {
        engine::WRITTEN.life(1, rounds)
    }),
    path("engine written 64", 64, 400, |rounds| {
        engine::WRITTEN.life(64, rounds)
    }),
    path("engine written 500", 500, 60, |rounds| {
        engine::WRITTEN.life(500, rounds)
    }),
    path("engine numbered 1", 1, 4_000, |rounds| {
        engine::NUMBERED.life(1, rounds)
    }),
    path("engine keyed 64", 64, 200, |rounds| {
        engine::KEYED.life(64, rounds)
    }),
    path("served written 1", 1, 4_000, |rounds| served::life(1, 1, rounds)),
    path("served written 1, 64 frames at once", 64, 100, |rounds| {
        served::life(1, 64, rounds)
    }),
    path("served written 64", 64, 400, |rounds| served::life(64, 1, rounds)),
    path("served written 500", 500, 60, |rounds| {
        served::life(500, 1, rounds)
    }),
];

const fn path(name: &'static str, jobs_a_round: u64, rounds: u64, run: fn(u64)) -> Path {
    Path {
        name,
        jobs_a_round,
        rounds,
        run,
    }
}

/// Instructions of this program while it runs the path for that many rounds.
fn count(path: &Path, rounds: u64) -> u64 {
    let profile = tempfile::NamedTempFile::new().unwrap();
    let out = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", profile.path().display()))
        .arg(std::env::current_exe().unwrap())
        .args(["--run", path.name, &rounds.to_string()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{} under valgrind: {said}", path.name);
    profile::own_instructions(&std::fs::read_to_string(profile.path()).unwrap())
}

/// Instructions that a job costs on a path.
fn per_job(path: &Path) -> f64 {
    let (some, more) = (count(path, path.rounds), count(path, 3 * path.rounds));
    (more - some) as f64 / (2 * path.rounds * path.jobs_a_round) as f64
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["--run", name, rounds] = words[..] {
        let path = PATHS.iter().find(|path| path.name == name).unwrap();
        (path.run)(rounds.parse().unwrap());
        return ExitCode::SUCCESS;
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        eprintln!("valgrind is needed to count instructions, and is not there: install it, as .ci/run does");
        return ExitCode::from(77);
    }
    let writes = words.contains(&"--write");
    let known = Counts::read();
    let mut counted = Counts::of_this_compiler();
    println!("{:<38} {:>12} {:>12}", "path", "a job", "written down");
    let mut regressions = 0;
    for path in PATHS {
        let now = per_job(path);
        let verdict = known.judge(path.name, now);
        regressions += u32::from(verdict.is_regression());
        println!("{:<38} {now:>12.1} {verdict}", path.name);
        counted.put(path.name, now);
    }
    if writes {
        counted.write();
        return ExitCode::SUCCESS;
    }
    ExitCode::from(u8::from(regressions > 0))
}
