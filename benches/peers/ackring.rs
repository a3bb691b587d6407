//! ackring itself, measured by its own tool over the same kind of socket.

use crate::load::{PAYLOAD, Round, Work};
use crate::peer::{Class, Server};
use crate::who::Manner;
use serde_json::Value;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ackring");

pub fn level(class: Class) -> &'static str {
    match class {
        Class::Memory => "memory",
        Class::Written => "written",
        Class::Synced => "synced",
    }
}

/// Starts a server, which may look for work again and again instead of sleeping.
pub fn start(directory: &Path, port: u16, polls: bool) -> io::Result<Server> {
    let mut command = Command::new(PROGRAM);
    command.args([
        "serve",
        "--log-level",
        "error",
        "--listen",
        &format!("127.0.0.1:{port}"),
        "--data",
    ]);
    command.arg(directory).args(polls.then_some("--busy-poll"));
    Server::start(command, port)
}

/// Does the work with the tool, in that manner.
pub fn run(
    address: &str,
    (class, manner): (Class, Manner),
    work: Work,
    time: Duration,
    warmup: Duration,
) -> io::Result<Round> {
    let mut command = Command::new(PROGRAM);
    let millis = |time: Duration| format!("{}ms", time.as_millis());
    command.args([
        "--server",
        address,
        "--json",
        "bench",
        "life",
        "--durability",
        level(class),
    ]);
    for (name, value) in [
        ("--duration", millis(time)),
        ("--warmup", millis(warmup)),
        ("--payload", PAYLOAD.to_string()),
        ("--batch", work.batch.to_string()),
        ("--producers", work.producers.to_string()),
        ("--workers", work.workers.to_string()),
        ("--in-flight", work.in_flight.to_string()),
    ] {
        command.args([name, &value]);
    }
    if manner != Manner::Plain {
        command.args(["--acks", "quiet"]);
    }
    command.args((manner == Manner::Polling).then_some("--busy-poll"));
    if let Some(rate) = work.rate {
        command.args(["--rate", &rate.to_string()]);
    }
    let output = command.output()?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(io::Error::other(text));
    }
    let report: Value = serde_json::from_slice(&output.stdout).map_err(io::Error::other)?;
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let latency = &report["latency_us"];
    Ok(Round {
        jobs_per_s: number(&report["jobs_per_s"]),
        latency_us: work
            .rate
            .map(|_| ["p50", "p99", "p99.9"].map(|name| number(&latency[name]))),
    })
}
