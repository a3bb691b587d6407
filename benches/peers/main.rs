//! The same work for ackring and for the queues that people would otherwise take, in turn, for several rounds, on
//! this machine: `benches/peers/run.sh`, or
//!
//! ```sh
//! cargo bench --bench peers -- [--rounds 5] [--millis 2000] [--only TEXT] [--out BENCHMARKS.md] [--data DIR]
//! ```
//!
//! What is not installed is skipped with a line. Each contestant gets a server of its own for each work of a round,
//! with its data in a new directory. `--only` takes part of a contestant's name; the page is then not written
//! unless `--out` says where.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock, and one that cannot go on should panic where it stands"
)]

mod ackring;
mod beanstalk;
mod limits;
mod load;
mod nats;
mod peer;
mod redis;
mod table;
mod who;
mod wire;

use load::{Round, Work};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use table::Contestant;
use who::Who;

const WORKS: [Work; 4] = [
    Work {
        name: "Life, in batches",
        batch: 500,
        take: 500,
        in_flight: 16,
        producers: 1,
        workers: 1,
        rate: None,
    },
    Work {
        name: "Life, one by one, pipelined",
        batch: 1,
        take: 500,
        in_flight: 512,
        producers: 1,
        workers: 1,
        rate: None,
    },
    Work {
        name: "Life, many services",
        batch: 1,
        take: 1,
        in_flight: 1,
        producers: 50,
        workers: 50,
        rate: None,
    },
    Work {
        name: "Enqueue to delivery",
        batch: 1,
        take: 64,
        in_flight: 64,
        producers: 1,
        workers: 1,
        rate: Some(5_000),
    },
];

struct Arguments {
    rounds: usize,
    time: Duration,
    only: Option<String>,
    out: Option<PathBuf>,
    data: PathBuf,
}

fn arguments() -> Result<Arguments, String> {
    let mut parsed = Arguments {
        rounds: 5,
        time: Duration::from_millis(2_000),
        only: None,
        out: None,
        data: std::env::temp_dir(),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        // Cargo says so to every benchmark.
        if word == "--bench" {
            continue;
        }
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| format!("{word} {value}: a number is wanted"))
        };
        match word.as_str() {
            "--rounds" => parsed.rounds = number()?.max(1) as usize,
            "--millis" => parsed.time = Duration::from_millis(number()?.max(100)),
            "--only" => parsed.only = Some(value),
            "--out" => parsed.out = Some(value.into()),
            "--data" => parsed.data = value.into(),
            _ => return Err(format!("{word} is unknown")),
        }
    }
    Ok(parsed)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = arguments()?;
    // What the kernel adds to each sleep would count as the peers'.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    let mut taking_part: Vec<(Who, Contestant)> = Vec::new();
    for who in who::all() {
        let Some(contestant) = who.contestant(WORKS.len()) else {
            if let Who::Peer(peer) = &who {
                eprintln!("skipped: {} ({}) is not installed", peer.name(), peer.settings());
            }
            continue;
        };
        let wanted = arguments.only.as_ref();
        if wanted.is_none_or(|only| contestant.name.to_lowercase().contains(&only.to_lowercase())) {
            taking_part.push((who, contestant));
        }
    }
    let mut limits = Vec::new();
    for round in 0..arguments.rounds {
        limits.push(limits::measure(&arguments.data, Duration::from_millis(300))?);
        for (index, work) in WORKS.iter().enumerate() {
            // Whoever comes after one who wrote much meets a disk that is still busy with that: another one each round.
            for place in 0..taking_part.len() {
                let place = (place + round) % taking_part.len();
                let (who, contestant) = &mut taking_part[place];
                if !who.does(work) {
                    continue;
                }
                let directory = arguments
                    .data
                    .join(format!("ackring-peers-{}", std::process::id()));
                std::fs::create_dir_all(&directory)?;
                let done = who.round(*work, arguments.time, &directory);
                remove(&directory)?;
                tell(round, work, contestant, &done);
                match done {
                    Ok(done) => contestant.rounds[index].push(done),
                    Err(error) => contestant.failures[index] = Some(format!("{}: {error}", work.name)),
                }
            }
        }
    }
    let contestants: Vec<Contestant> = taking_part
        .into_iter()
        .map(|(_, contestant)| contestant)
        .collect();
    let page = table::page(&WORKS, &contestants, &limits, &how(&arguments));
    match (&arguments.out, &arguments.only) {
        (Some(out), _) => std::fs::write(out, page)?,
        (None, Some(_)) => println!("{page}"),
        (None, None) => {
            std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/BENCHMARKS.md"), &page)?;
            println!("{page}");
        }
    }
    Ok(())
}

/// Removes a peer's data. A child of it, which writes its log anew, may be a little behind it.
fn remove(directory: &Path) -> io::Result<()> {
    for _ in 0..50 {
        match std::fs::remove_dir_all(directory) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            done => return done,
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    std::fs::remove_dir_all(directory)
}

fn tell(round: usize, work: &Work, contestant: &Contestant, done: &io::Result<Round>) {
    let head = format!(
        "round {}, {}: {}, {}",
        round + 1,
        work.name,
        contestant.name,
        contestant.settings
    );
    match done {
        Ok(Round {
            jobs_per_s,
            latency_us: None,
        }) => eprintln!("{head}: {jobs_per_s:.0} jobs/s"),
        Ok(Round {
            jobs_per_s,
            latency_us: Some([p50, p99, p999]),
        }) => eprintln!("{head}: p50 {p50:.0} p99 {p99:.0} p99.9 {p999:.0} µs at {jobs_per_s:.0} jobs/s"),
        Err(error) => eprintln!("{head}: failed: {error}"),
    }
}

/// How the page came about: the command, the machine, the rules.
fn how(arguments: &Arguments) -> String {
    let line = |program: &str, words: &[&str]| {
        let output = Command::new(program).args(words).output().ok();
        output.map_or_else(String::new, |output| {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        })
    };
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find(|line| line.starts_with("model name"));
    let model = model
        .and_then(|line| line.split_once(": "))
        .map_or("?", |(_, model)| model);
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = meminfo
        .split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<f64>().ok());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("?").to_owned();
    format!(
        "Written by `benches/peers/run.sh --rounds {} --millis {}`; load average {load} at the end.\n\n\
         Machine: {model}, {cores} cores, {:.0} GiB, Linux {}, clients and servers on it together. Jobs of {} bytes \
         over loopback TCP.\nIn each round everybody does each work in turn, on a server of its own that is warmed up \
         first; who begins changes from round to round; a figure is the median of the rounds.\nMachines of this kind \
         are shared and noisy: ratios within one run count, not figures of different runs.\n\nA closed loop has at most 100,000 jobs under way. All peers are \
         driven from Rust with as few system calls as their protocols allow: pipelined, everything encoded into one \
         buffer, acks in the same write as the next request.\n\nWith quiet acks a worker of ackring \
         hears of an ack only if it fails, and asks once at its end whether all of them were taken, so that jobs are under way \
         until their acks are sent; those of NATS hear nothing of their acks, and Redis' lists have none. The ratios are to ackring with every ack answered.\n\nWith `--busy-poll` ackring's server and its tool \
         look for bytes again and again instead of sleeping, at the price of a core each; everybody else sleeps. \
         That is for latency, so it takes part in no other work.",
        arguments.rounds,
        arguments.time.as_millis(),
        kib.unwrap_or(0.0) / f64::from(1 << 20),
        line("uname", &["-r"]),
        load::PAYLOAD,
    )
}
