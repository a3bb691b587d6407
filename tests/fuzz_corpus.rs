//! The fuzz targets as plain tests: over their corpora in `fuzz/corpus`, and over inputs that follow from a seed.
#![cfg(all(feature = "engine", any(feature = "client", feature = "server"), not(loom)))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

#[path = "sim/disk.rs"]
#[allow(dead_code, reason = "of the simulation; the driver names it")]
mod disk;
#[path = "engine/model/driver.rs"]
mod driver;
#[path = "fuzz_targets/engine_ops.rs"]
mod engine_ops;
#[path = "fuzz_targets/histories.rs"]
mod histories;
#[path = "fuzz_targets/log_recover.rs"]
mod log_recover;
#[path = "fuzz_targets/mutations.rs"]
mod mutations;
#[path = "engine/model/power.rs"]
#[allow(dead_code, reason = "of the engine's tests; the driver names it")]
mod power;
#[path = "fuzz_targets/ram_disk.rs"]
mod ram_disk;
#[path = "log_common/reader.rs"]
mod reader;
#[path = "engine/model/reference.rs"]
mod reference;
#[path = "engine/model/source.rs"]
mod source;
#[path = "fuzz_targets/wire_again.rs"]
mod wire_again;
#[path = "fuzz_targets/wire_decode.rs"]
mod wire_decode;
#[path = "engine/world.rs"]
#[allow(dead_code, reason = "of the engine's tests; the driver uses a part")]
mod world;

use std::path::PathBuf;

/// Says which input was the one.
struct Tell<'a>(&'a str, &'a [u8]);

impl Drop for Tell<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("input {}: {:?}", self.0, self.1);
        }
    }
}

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut inputs: Vec<_> = files
        .map(|file| file.unwrap().path())
        .map(|path| (path.display().to_string(), std::fs::read(&path).unwrap()))
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    inputs
}

/// SplitMix64.
fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut x = *state;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Runs the corpus, and `count` inputs more (`ACKRING_FUZZ_RUNS` of them if that is set): random ones, and those of the
/// corpus with some bytes changed.
fn run(target: &str, count: u64, len_max: u64, run: fn(&[u8])) {
    let count = std::env::var("ACKRING_FUZZ_RUNS").map_or(count, |text| text.parse().unwrap());
    let corpus = corpus(target);
    for (name, input) in &corpus {
        let _tell = Tell(name, input);
        run(input);
    }
    for seed in 0..count {
        let mut state = seed;
        let mut input = corpus[draw(&mut state) as usize % corpus.len()].1.clone();
        if input.is_empty() || draw(&mut state).is_multiple_of(2) {
            let len = draw(&mut state) % len_max;
            input = (0..len).map(|_| draw(&mut state) as u8).collect();
        } else {
            for _ in 0..1 + draw(&mut state) % 4 {
                let at = draw(&mut state) as usize % input.len();
                input[at] = draw(&mut state) as u8;
            }
        }
        let _tell = Tell(&format!("of seed {seed}"), &input);
        run(&input);
    }
}

#[test]
fn wire_decode_over_its_corpus() {
    run("wire_decode", 2_000, 400, wire_decode::run);
}

#[test]
fn log_recover_over_its_corpus() {
    run("log_recover", 1_000, 60, log_recover::run);
}

#[test]
fn engine_ops_over_its_corpus() {
    run("engine_ops", 100, 2_000, engine_ops::run);
}
