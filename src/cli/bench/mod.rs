//! `ackring bench`: a load, and what it came to.

mod child;
mod directory;
mod embedded;
mod lane;
mod latency;
mod ledger;
mod pace;
mod payload;
mod phase;
mod plan;
mod process;
mod produce;
mod progress;
mod report;
mod run;
mod target;
mod work;

use super::args::Global;
use super::exit::{Done, Failure};
use super::units;
use crate::base::limits::{BATCH_JOBS_MAX, PAYLOAD_BYTES_MAX, SESSION_WINDOW};
use crate::base::queue::Durability;
use clap::Args;
use clap::builder::RangedU64ValueParser;
use pace::End;
use plan::{Acks, Deliver, Plan, Shape};
use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use target::Target;

/// Most threads of one kind.
const THREADS_MAX: u64 = 1_024;

/// Arguments of `ackring bench`.
#[derive(Debug, Args)]
#[command(after_help = "\
The load goes to the server that --server names; with --spawn to one that is started for it, with its data in a new
directory, and ended with it. Queues are made for the load and removed after it.

Latency is told a job, in microseconds. With --rate the loop is open: it counts from the time at which a job should
have been sent, however late it was, to its delivery. Without a rate the producers wait for the answers, so latency
is what the load makes of it, and says nothing about a service; the report says so.

Each job carries its number, if the payload has 8 bytes or more; a job that was confirmed and did not come is lost,
one that came again is repeated. Exit code 1 if there is any such job or any error, 3 if the server went away.

Examples:
  ackring bench --spawn                                    the full life of a job, on a server of its own
  ackring bench life --jobs 10000000 --batch 500 --durability synced
  ackring bench life --producers 50 --workers 50 --batch 1 --in-flight 1 --duration 10s
  ackring bench life --rate 5000 --batch 1 --acks quiet --duration 30s --hgrm life.hgrm
  ackring bench reserve --jobs 1000000 --backlog 10000000
  ackring bench echo --in-flight 1 --json
  ackring bench --embedded --batch 64")]
pub(crate) struct Bench {
    /// What to do
    #[arg(value_name = "SHAPE", default_value = "life")]
    shape: Shape,
    /// Jobs to send; for the shape reserve, to take [default: as many as go into --duration; reserve: 1000000]
    #[arg(long, value_name = "N", conflicts_with = "duration", value_parser = RangedU64ValueParser::<u64>::new().range(1..=1 << 40))]
    jobs: Option<u64>,
    /// How long to send [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    duration: Option<Duration>,
    /// Jobs, or time, that come first and do not count; 0 for none [default: a quarter of the load]
    #[arg(long, value_name = "N|TIME", value_parser = plan::jobs_or_time)]
    warmup: Option<End>,
    /// Size of a job [default: 64]
    #[arg(long, value_name = "SIZE", value_parser = payload_bytes)]
    payload: Option<u32>,
    /// Jobs in one request, of producers and of workers [default: 500, for an echo 1]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=BATCH_JOBS_MAX as u64))]
    batch: Option<usize>,
    /// Connections that send, each with a thread unless --busy-poll is given
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=THREADS_MAX))]
    producers: usize,
    /// Connections that work, each with a thread unless --busy-poll is given
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=THREADS_MAX))]
    workers: usize,
    /// Queues that the jobs are spread over
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=131_072))]
    queues: usize,
    /// What a confirmation means: memory, written or synced
    #[arg(long, value_name = "LEVEL", default_value_t = Durability::Written)]
    durability: Durability,
    /// Jobs that stand before the others in the queues all the while
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = RangedU64ValueParser::<u64>::new().range(..=1 << 30))]
    backlog: u64,
    /// Jobs a second, of all producers together, sent on time whatever comes back
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
    /// Requests that a connection has under way; 1 waits for each answer [default: 16, fewer for large batches]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..SESSION_WINDOW - 1))]
    in_flight: Option<usize>,
    /// Jobs under way, without --rate, at which producers leave workers time; 0 for any number [default: twice what
    /// all connections may have in flight, 10000 to 100000]
    #[arg(long, value_name = "N")]
    depth: Option<u64>,
    /// How workers get their jobs [default: subscribe]
    #[arg(long, value_name = "HOW")]
    deliver: Option<Deliver>,
    /// What workers hear of their acks [default: answered]
    #[arg(long, value_name = "HOW")]
    acks: Option<Acks>,
    /// Look for bytes again and again instead of sleeping, for less latency: threads that do so, as many as half of the
    /// cores and at least one, have the connections in turn and a core each; a server that --spawn starts polls too
    #[arg(long)]
    busy_poll: bool,
    /// Put the load on an engine in this process; no server
    #[arg(long)]
    embedded: bool,
    /// Start a server for the load, and end it afterwards
    #[arg(long)]
    spawn: bool,
    /// Where --spawn and --embedded make the directory for their data [default: the system's for temporary files]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Write the distribution of the latency there, as HdrHistogram's tools read it, in microseconds
    #[arg(long, value_name = "FILE")]
    hgrm: Option<PathBuf>,
}

fn payload_bytes(text: &str) -> Result<u32, String> {
    let bytes = units::bytes_u32(text)?;
    if bytes > PAYLOAD_BYTES_MAX {
        return Err("a payload has at most 16MiB".to_owned());
    }
    Ok(bytes)
}

/// Puts the load on, and says what it came to; also when it failed half-way.
pub(crate) fn run(global: &Global, bench: &Bench) -> Done {
    let plan = Plan::new(bench, global.timeout)?;
    let abort = Arc::new(AtomicBool::new(false));
    end_on_signal(&abort)?;
    let hgrm = bench.hgrm.as_ref().map(|path| {
        let file = File::create(path).map(BufWriter::new);
        file.map_err(|error| Failure::usage(format!("cannot write {}: {error}", path.display())))
    });
    let hgrm = hgrm.transpose()?;
    // A load wakes up often, and what the kernel adds to each sleep would count as the server's.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    let target = Target::open(global, bench, &plan)?;
    let measured = run::measure(&plan, &target, &abort);
    let done = measured.and_then(|measured| report::tell(global, &plan, measured, hgrm));
    let is_gone = matches!(&done, Err(failure) if failure.is_no_connection());
    let cleaned = if is_gone { Ok(()) } else { target.clean() };
    done.and(cleaned)
}

/// The first signal ends the load and has it reported as far as it came; a second one ends the process.
fn end_on_signal(abort: &Arc<AtomicBool>) -> Result<(), Failure> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::flag;
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_default(signal, Arc::clone(abort))
            .and_then(|_| flag::register(signal, Arc::clone(abort)))
            .map_err(|error| Failure::refused(format!("cannot watch for signals: {error}")))?;
    }
    Ok(())
}
