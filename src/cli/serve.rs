//! `ackring serve`: runs a server until it is told to stop.

use super::args::Global;
use super::exit::{Done, Failure};
use super::reading::ReadingProgress;
use super::{output, units};
use crate::base::limits;
use crate::base::queue::{Durability, QueueOptions};
use crate::engine::{EngineConfig, OnProgress, RecoverySummary};
use crate::log::OpenError;
use crate::server::{Server, ServerConfig, StartError, Stopper};
use clap::Args;
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use std::io::{self, IsTerminal};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tracing::level_filters::LevelFilter;

/// Queues of which it is told one by one what came back.
const QUEUES_SHOWN: usize = 5;

/// Arguments of `ackring serve`.
#[derive(Debug, Args)]
#[command(after_help = "\
Standard output tells what came back from the log, queue by queue, and in its last line, once clients are served,
the addresses that are listened on. SIGTERM or SIGINT: no new work is taken, answers are sent, the log is synced, exit code 0.

Examples:
  ackring serve
  ackring serve --data /var/lib/ackring --listen 0.0.0.0:7257 --durability synced
  ackring serve --listen none --unix /run/ackring.sock
  ackring serve --busy-poll                          the lowest latency, where cores are to spare
  ackring serve --listen 127.0.0.1:0                 on a free port, which is printed")]
pub(crate) struct Serve {
    /// Where the log is kept; made if it does not exist
    #[arg(long, value_name = "DIR", default_value = "./ackring-data")]
    data: PathBuf,
    /// TCP address to listen on, or none; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7257")]
    listen: String,
    /// Unix socket to listen on
    #[arg(long, value_name = "PATH")]
    unix: Option<PathBuf>,
    /// Threads that may serve connections, as many of them as the load needs; 0 is one for each core
    #[arg(long, value_name = "N", default_value_t = 0,
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(..=limits::REACTORS_MAX as u64))]
    threads: usize,
    /// Threads that serve connections look for more work again and again instead of sleeping, until none has come for
    /// TIME (1s if it is not given): a core for each of them, for less latency
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "1s",
          value_parser = units::millis_u32)]
    busy_poll: Option<u32>,
    /// What a confirmation means for queues made on first use: memory, written or synced
    #[arg(long, value_name = "LEVEL", default_value_t = Durability::Written)]
    durability: Durability,
    /// Jobs that can be held at once, kept finished ones included
    #[arg(long, value_name = "N", default_value_t = limits::SLOTS_DEFAULT,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::SLOTS_MAX)))]
    slots: u32,
    /// Bytes that the log may take on disk
    #[arg(long, value_name = "SIZE", default_value = "64GiB", value_parser = units::bytes)]
    log_bytes_max: u64,
    /// Size of one log segment, a power of two; a log keeps the size that it was made with
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = segment_bytes)]
    segment_bytes: u32,
    /// Bytes that payloads of durability memory may take
    #[arg(long, value_name = "SIZE", default_value = "8GiB", value_parser = units::bytes)]
    memory_bytes_max: u64,
    /// How long jobs of a connection that broke are kept for it to come back
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = units::millis_u32)]
    grace: u32,
    /// Connections at once
    #[arg(long, value_name = "N", default_value_t = limits::CONNECTIONS_DEFAULT,
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    connections: usize,
    /// Start even though the log is damaged, without what cannot be read; a report and the damaged bytes are left
    /// in the data directory
    #[arg(long)]
    salvage: bool,
    /// What to write to standard error: error, warn, info, debug or off
    #[arg(long, value_name = "LEVEL", default_value_t = LevelFilter::INFO)]
    log_level: LevelFilter,
}

fn segment_bytes(text: &str) -> Result<u32, String> {
    let bytes = units::bytes_u32(text)?;
    let range = limits::SEGMENT_BYTES_MIN..=limits::SEGMENT_BYTES_MAX;
    if bytes.is_power_of_two() && range.contains(&bytes) {
        return Ok(bytes);
    }
    Err("a segment's size is a power of two from 64KiB to 1GiB".to_owned())
}

/// Serves until a signal or a failure stops the server.
pub(crate) fn run(global: &Global, serve: Serve) -> Done {
    start_logging(serve.log_level);
    let config = ServerConfig {
        listen: listen_address(&serve.listen)?,
        unix: serve.unix.clone(),
        threads: serve.threads,
        busy_poll_ms: serve.busy_poll.unwrap_or(0),
        grace_ms: serve.grace,
        connections_max: serve.connections,
        ..ServerConfig::default()
    };
    let engine = EngineConfig {
        directory: Some(serve.data.clone()),
        slots: serve.slots,
        segment_bytes: serve.segment_bytes,
        log_bytes_max: serve.log_bytes_max,
        memory_bytes_max: serve.memory_bytes_max,
        queue_defaults: QueueOptions {
            durability: serve.durability,
            ..QueueOptions::default()
        },
        salvage: serve.salvage,
        on_progress: Some(on_progress()),
        ..EngineConfig::default()
    };
    // Each connection takes a file.
    crate::server::raise_file_limit();
    // Before the log is read: a signal that comes meanwhile stops the server as soon as it runs.
    let signals = Signals::new([SIGTERM, SIGINT])
        .map_err(|error| Failure::refused(format!("cannot watch for signals: {error}")))?;
    let start = Instant::now();
    let (server, recovered) = Server::open(engine, config).map_err(not_started)?;
    let watching = stop_on_signal(signals, server.stopper())?;
    let listening = Listening {
        tcp: server.local_addr().map(|address| address.to_string()),
        unix: serve.unix.as_ref().map(|path| path.display().to_string()),
    };
    announce(global, &serve, &listening, &recovered, start.elapsed())?;
    tracing::info!("serving {}", serve.data.display());
    let ended = server.wait();
    watching.close();
    match &ended {
        Ok(()) => tracing::info!("stopped; everything that was confirmed is on the disk"),
        Err(error) => tracing::error!("stopped by a failure: {error}"),
    }
    ended.map_err(Failure::refused)
}

/// Why the server did not start, with the flag that would change it where there is one.
fn not_started(error: StartError) -> Failure {
    let hint = match &error {
        StartError::Engine(OpenError::Corrupt { .. }) => "; that is `ackring serve --salvage`".to_owned(),
        StartError::Engine(OpenError::SegmentSize { found, .. }) => {
            format!("; that is `ackring serve --segment-bytes {found}`")
        }
        _ => String::new(),
    };
    Failure::refused(format!("{error}{hint}"))
}

fn listen_address(text: &str) -> Result<Option<SocketAddr>, Failure> {
    if text == "none" {
        return Ok(None);
    }
    let resolved = text.to_socket_addrs().map(|mut addresses| addresses.next());
    match resolved {
        Ok(Some(address)) => Ok(Some(address)),
        Ok(None) => Err(Failure::usage(format!(
            "--listen {text}: that name has no address"
        ))),
        Err(error) => Err(Failure::usage(format!(
            "--listen {text}: {error}; it is HOST:PORT or none"
        ))),
    }
}

/// Stops the server at the first signal; a second one ends the process as if nobody had watched for it.
fn stop_on_signal(mut signals: Signals, stopper: Stopper) -> Result<Handle, Failure> {
    let handle = signals.handle();
    let watch = move || {
        let mut signals = signals.forever();
        if signals.next().is_some() {
            tracing::info!("stopping");
            stopper.stop();
        }
        if let Some(signal) = signals.next() {
            // It ends the process: what was confirmed is in the log.
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(watch)
        .map_err(|error| Failure::refused(format!("cannot watch for signals: {error}")))?;
    Ok(handle)
}

/// Where clients can come in.
#[derive(Debug, Serialize)]
struct Listening {
    tcp: Option<String>,
    unix: Option<String>,
}

/// What came back, as JSON.
#[derive(Debug, Serialize)]
struct RecoveredReport<'a> {
    queues: u64,
    ready: u64,
    scheduled: u64,
    leased: u64,
    dead: u64,
    finished: u64,
    by_queue: Vec<output::QueueCounts>,
    records: u64,
    bytes: u64,
    torn: u64,
    salvaged: &'a [String],
    salvage_report: Option<String>,
    seconds: f64,
}

/// Shows how far the reading of the log is.
fn on_progress() -> OnProgress {
    let progress = ReadingProgress::new();
    OnProgress::new(move |read| progress.update(read))
}

/// Prints what came back and where the server listens; people and scripts wait for the latter.
fn announce(
    global: &Global,
    serve: &Serve,
    listening: &Listening,
    recovered: &RecoverySummary,
    time: Duration,
) -> Done {
    let salvage_report = recovered.salvage_report.as_ref();
    let salvage_report = salvage_report.map(|path| path.display().to_string());
    for what in &recovered.salvaged {
        tracing::warn!("given up: {what}");
    }
    if global.json {
        #[derive(Serialize)]
        struct Report<'a> {
            listening: &'a Listening,
            recovered: RecoveredReport<'a>,
        }
        let recovered = RecoveredReport {
            queues: recovered.queues,
            ready: recovered.ready,
            scheduled: recovered.scheduled,
            leased: recovered.leased,
            dead: recovered.dead,
            finished: recovered.finished,
            by_queue: recovered.by_queue.iter().map(Into::into).collect(),
            records: recovered.records,
            bytes: recovered.bytes,
            torn: recovered.torn,
            salvaged: &recovered.salvaged,
            salvage_report,
            seconds: time.as_secs_f64(),
        };
        return output::json(&Report { listening, recovered });
    }
    output::line(&format!(
        "recovered {} from {} in {:.2} s",
        output::recovered(recovered),
        serve.data.display(),
        time.as_secs_f64()
    ))?;
    for line in output::recovered_queues(recovered, QUEUES_SHOWN) {
        output::line(&line)?;
    }
    if recovered.torn > 0 {
        output::line("passed over the end that a crash left; nothing there was confirmed as synced")?;
    }
    if let Some(path) = salvage_report {
        output::line(&format!(
            "left {} damaged places of the log behind; what was there and where it is kept: {path}",
            recovered.salvaged.len()
        ))?;
    }
    let unix = listening.unix.as_ref().map(|path| format!("unix:{path}"));
    let places: Vec<String> = listening.tcp.iter().cloned().chain(unix).collect();
    output::line(&format!("listening on {}", places.join(" ")))
}

fn start_logging(level: LevelFilter) {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .finish();
    // Set already where the command line is run twice in one process, as tests do.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_in_the_help_are_those_of_the_library() {
        use clap::Parser;
        #[derive(Parser)]
        struct Alone {
            #[command(flatten)]
            serve: Serve,
        }
        let serve = Alone::parse_from(["serve"]).serve;
        let (engine, server) = (EngineConfig::default(), ServerConfig::default());
        assert_eq!(listen_address(&serve.listen), Ok(server.listen));
        assert_eq!(serve.grace, server.grace_ms);
        assert_eq!(serve.log_bytes_max, engine.log_bytes_max);
        assert_eq!(serve.segment_bytes, engine.segment_bytes);
        assert_eq!(serve.memory_bytes_max, engine.memory_bytes_max);
        assert_eq!(serve.durability, engine.queue_defaults.durability);
    }

    #[test]
    fn an_address_is_checked_before_anything_is_touched() {
        assert_eq!(listen_address("none"), Ok(None));
        assert!(listen_address("localhost:7257").is_ok());
        for wrong in ["7257", "localhost", "127.0.0.1:70000"] {
            assert!(listen_address(wrong).is_err(), "{wrong}");
        }
        assert!(segment_bytes("3MiB").is_err() && segment_bytes("1KiB").is_err());
    }
}
