//! What stays small when something is many: a backlog of 10 million jobs, their recovery and memory, 10,000 idle
//! connections, 100,000 queues, payloads of 16 MiB. Each row against its goal, on servers of its own over loopback.
//!
//! ```sh
//! cargo bench --bench scale                          # all rows: some minutes, 5 GB of disk, 4 GB of memory
//! cargo bench --bench scale -- recovery memory --jobs 1000000 --json
//! ```
//!
//! Rows: `backlog recovery memory idle queues large`. `--jobs N` for the first three, `--rounds N`, `--data DIR` for where the
//! servers' data goes. Loads end by themselves, and data and servers are gone afterwards.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock, and one that cannot go on should panic where it stands"
)]

#[path = "../common/greeting.rs"]
mod greeting;
mod many;
mod rows;
mod server;

use serde_json::json;
use std::path::PathBuf;

/// What is asked for.
struct Plan {
    rows: Vec<String>,
    jobs: u64,
    rounds: usize,
    data: PathBuf,
    is_json: bool,
}

/// A row of the table.
struct Row {
    name: &'static str,
    goal: String,
    reached: String,
    is_met: bool,
    counted: String,
}

const ROWS: [&str; 6] = ["backlog", "recovery", "memory", "idle", "queues", "large"];

fn plan() -> Plan {
    let mut plan = Plan {
        rows: Vec::new(),
        jobs: 10_000_000,
        rounds: 3,
        data: std::env::temp_dir(),
        is_json: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .unwrap_or_else(|| panic!("{argument} takes a value"))
        };
        match argument.as_str() {
            // Cargo's own.
            "--bench" => {}
            "--json" => plan.is_json = true,
            "--jobs" => plan.jobs = value().parse().unwrap(),
            "--rounds" => plan.rounds = value().parse().unwrap(),
            "--data" => plan.data = value().into(),
            row if ROWS.contains(&row) => plan.rows.push(row.to_owned()),
            other => panic!("{other} is no row and no option; rows are {}", ROWS.join(" ")),
        }
    }
    if plan.rows.is_empty() {
        plan.rows = ROWS.map(str::to_owned).to_vec();
    }
    plan
}

/// Processes that want to run, on average over a minute, as the system counts them.
fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split(' ').next().and_then(|word| word.parse().ok());
    first.unwrap_or(f64::NAN)
}

fn main() {
    let plan = plan();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let wants = |name: &str| plan.rows.iter().any(|row| row == name);
    let (mut told, before) = (Vec::new(), load());
    let mut tell = |rows: Vec<Row>| {
        for row in rows.iter().filter(|row| wants(row.name)) {
            if !plan.is_json {
                let verdict = if row.is_met { "" } else { "  MISSED" };
                println!("{:<9} {:<34} {}{verdict}", row.name, row.goal, row.reached);
                println!("          {}", row.counted);
            }
            told.push(json!({
                "row": row.name, "goal": row.goal, "reached": row.reached, "met": row.is_met, "counted": row.counted,
            }));
        }
    };
    if !plan.is_json {
        println!("{cores} cores, load {before:.1}");
    }
    if wants("backlog") {
        tell(vec![rows::backlog(&plan)]);
    }
    if wants("recovery") || wants("memory") {
        tell(rows::pending(&plan));
    }
    if wants("idle") {
        tell(vec![many::idle(&plan)]);
    }
    if wants("queues") {
        tell(vec![many::queues(&plan)]);
    }
    if wants("large") {
        tell(vec![rows::large(&plan)]);
    }
    if plan.is_json {
        println!(
            "{}",
            json!({"cores": cores, "load_before": before, "load_after": load(), "rows": told})
        );
    }
}
