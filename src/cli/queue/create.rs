//! `ackring queue create`: options as flags.

use crate::base::queue::{Backoff, Durability, QueueOptions, check_queue_name};
use crate::cli::exit::Failure;
use crate::cli::units;
use clap::Args;

/// Arguments of `ackring queue create`.
#[derive(Debug, Args)]
#[command(after_help = "\
A queue that exists with the same options is left as it is; with others it is refused.

Examples:
  ackring queue create mail --max-attempts 4 --backoff 10ms --lease 30s
  ackring queue create bills --durability synced --capacity 1000000 --capacity-bytes 2GiB
  ackring queue create hooks --backoff-list 1s,5s,1m,10m")]
pub(crate) struct Create {
    /// The queue: up to 128 of A-Z a-z 0-9 . _ - : / @ +
    #[arg(value_name = "NAME")]
    name: String,
    /// Attempts before a job is dead [default: 25]
    #[arg(long, value_name = "N")]
    max_attempts: Option<u16>,
    /// Pause after the first failure; doubles with each further one, with jitter [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = units::millis_u32, conflicts_with = "backoff_list")]
    backoff: Option<u32>,
    /// Longest pause [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = units::millis_u32, conflicts_with = "backoff_list")]
    backoff_cap: Option<u32>,
    /// Or exactly these pauses, one a failure, the last one repeated
    #[arg(long, value_name = "TIME,…", value_parser = delays)]
    backoff_list: Option<Delays>,
    /// How long a worker has a job before it is given to another [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = units::millis_u32)]
    lease: Option<u32>,
    /// What a confirmation means: memory, written or synced [default: written]
    #[arg(long, value_name = "LEVEL")]
    durability: Option<Durability>,
    /// Most jobs at once, dead ones included
    #[arg(long, value_name = "JOBS")]
    capacity: Option<u64>,
    /// Most bytes of payloads and metadata at once
    #[arg(long, value_name = "SIZE", value_parser = units::bytes)]
    capacity_bytes: Option<u64>,
    /// Largest payload, up to 16MiB [default: 1MiB]
    #[arg(long, value_name = "SIZE", value_parser = units::bytes_u32)]
    payload_max: Option<u32>,
    /// How long an idempotency key is remembered [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = units::millis)]
    dedupe_window: Option<u64>,
    /// How many finished jobs can still be looked at [default: 1024]
    #[arg(long, value_name = "N")]
    keep_finished: Option<u32>,
}

/// A backoff list as one argument.
#[derive(Debug, Clone)]
struct Delays(Vec<u32>);

fn delays(text: &str) -> Result<Delays, String> {
    units::millis_list(text).map(Delays)
}

impl Create {
    /// The queue's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The options, checked before a server is asked.
    pub(super) fn options(&self) -> Result<QueueOptions, Failure> {
        let defaults = QueueOptions::default();
        let backoff = match (&self.backoff_list, &defaults.backoff) {
            (Some(Delays(list)), _) => Backoff::List(list.clone()),
            (None, Backoff::Exponential { base_ms, cap_ms }) => {
                let base_ms = self.backoff.unwrap_or(*base_ms);
                // A base above the usual cap means that pauses do not grow, unless the cap is given too.
                Backoff::Exponential {
                    base_ms,
                    cap_ms: self.backoff_cap.unwrap_or(base_ms.max(*cap_ms)),
                }
            }
            (None, list) => list.clone(),
        };
        let options = QueueOptions {
            durability: self.durability.unwrap_or(defaults.durability),
            lease_ms: self.lease.unwrap_or(defaults.lease_ms),
            max_attempts: self.max_attempts.unwrap_or(defaults.max_attempts),
            backoff,
            capacity_jobs: self.capacity.unwrap_or(defaults.capacity_jobs),
            capacity_bytes: self.capacity_bytes.unwrap_or(defaults.capacity_bytes),
            payload_bytes_max: self.payload_max.unwrap_or(defaults.payload_bytes_max),
            dedupe_window_ms: self.dedupe_window.unwrap_or(defaults.dedupe_window_ms),
            keep_finished: self.keep_finished.unwrap_or(defaults.keep_finished),
        };
        options.check().map_err(Failure::usage)?;
        check_queue_name(&self.name).map_err(Failure::usage)?;
        Ok(options)
    }
}
