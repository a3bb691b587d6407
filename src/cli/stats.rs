//! `ackring stats`: what stands where.

use super::args::Global;
use super::connect::connect;
use super::exit::Done;
use super::output::{self, Align, Table};
use super::report::QueueReport;
use super::units::show_bytes;
use crate::base::queue::QueueStats;
use clap::Args;
use serde::Serialize;

/// Arguments of `ackring stats`.
#[derive(Debug, Args)]
#[command(after_help = "\
Ready, scheduled, leased, dead and kept count the jobs that are there now; the others count events since the
server was started.

Examples:
  ackring stats
  ackring stats --json")]
pub(crate) struct Stats {}

/// Prints every queue's counters.
pub(crate) fn run(global: &Global, _stats: &Stats) -> Done {
    let queues = connect(global)?.queues()?;
    if global.json {
        #[derive(Serialize)]
        struct Report {
            queues: Vec<QueueReport>,
        }
        return output::json(&Report {
            queues: queues.iter().map(QueueReport::counters).collect(),
        });
    }
    table(&queues).print("no queues yet; `ackring push QUEUE` makes the first one")
}

/// The counters that people look at first.
pub(super) fn table(queues: &[QueueStats]) -> Table {
    let right = |name| (name, Align::Right);
    let mut table = Table::new(&[
        ("QUEUE", Align::Left),
        right("READY"),
        right("SCHEDULED"),
        right("LEASED"),
        right("DEAD"),
        right("BYTES"),
        right("ENQUEUED"),
        right("DONE"),
        right("FAILURES"),
        right("EXPIRIES"),
    ]);
    for queue in queues {
        let counts = &queue.counts;
        let paused = if queue.paused { " (paused)" } else { "" };
        table.row(vec![
            format!("{}{paused}", queue.name),
            counts.ready.to_string(),
            counts.scheduled.to_string(),
            counts.leased.to_string(),
            counts.dead.to_string(),
            show_bytes(counts.bytes),
            counts.enqueued.to_string(),
            counts.done.to_string(),
            counts.failures.to_string(),
            counts.expiries.to_string(),
        ]);
    }
    table
}
