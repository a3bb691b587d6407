//! A server in a process of its own, what it takes, and loads that are put on it.

use crate::Plan;
use ackring::client::{Client, ClientConfig};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ackring");

/// Runs until it is dropped; then it is killed.
pub struct Server {
    child: Child,
    pub address: String,
    /// From its start to the moment at which it served.
    pub started_in: Duration,
}

/// What a process takes of memory, in bytes.
#[derive(Clone, Copy)]
pub struct Memory {
    /// All of it that is there: its own and mapped pages of the log.
    pub resident: u64,
    /// Its own.
    pub own: u64,
}

impl Server {
    pub fn start(data: &tempfile::TempDir) -> Self {
        let began = Instant::now();
        let mut child = Command::new(PROGRAM)
            .args([
                "serve",
                "--log-level",
                "error",
                "--listen",
                "127.0.0.1:0",
                "--data",
            ])
            .arg(data.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut addresses =
            lines.filter_map(|line| Some(line.ok()?.strip_prefix("listening on ")?.to_owned()));
        let address = addresses.next();
        let started_in = began.elapsed();
        let server = Self {
            child,
            address: address.unwrap_or_default(),
            started_in,
        };
        assert!(!server.address.is_empty(), "the server did not start");
        server
    }

    pub fn client(&self) -> Client {
        Client::connect(ClientConfig::to(&self.address).unwrap()).unwrap()
    }

    pub fn memory(&self) -> Memory {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
            kib * 1024
        };
        Memory {
            resident: field("VmRSS:"),
            own: field("RssAnon:"),
        }
    }

    /// Processor time that it has used, in seconds.
    pub fn cpu_s(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let ticks = fields.split_whitespace().skip(11).take(2);
        ticks.map(|field| field.parse::<f64>().unwrap()).sum::<f64>() / 100.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory for a server's data, removed when it goes.
pub fn data_in(plan: &Plan) -> tempfile::TempDir {
    tempfile::tempdir_in(&plan.data).unwrap()
}

/// One run of `ackring bench`; its report.
pub fn bench(arguments: &[&str]) -> Value {
    let output = Command::new(PROGRAM)
        .args(["--json", "bench"])
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "bench {arguments:?}: {text}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Jobs a second of the full life of 64-byte jobs, in batches, with a connection on each side.
pub fn life(server: &Server) -> f64 {
    let report = bench(&["life", "--server", &server.address, "--duration", "2s"]);
    report["jobs_per_s"].as_f64().unwrap()
}

pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
