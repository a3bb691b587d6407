//! A queue's options and counters for people.

use crate::base::queue::{Backoff, QueueStats};
use crate::cli::units::{show_bytes, show_millis};
use std::fmt::Write as _;

/// A queue on some lines of text.
pub(super) fn describe(stats: &QueueStats) -> String {
    let (options, counts) = (&stats.options, &stats.counts);
    let backoff = match &options.backoff {
        Backoff::Exponential { base_ms, cap_ms } => {
            format!(
                "{}, doubling up to {}",
                show_millis(u64::from(*base_ms)),
                show_millis(u64::from(*cap_ms))
            )
        }
        Backoff::List(list) => list
            .iter()
            .map(|delay| show_millis(u64::from(*delay)))
            .collect::<Vec<_>>()
            .join(", "),
    };
    let rows = [
        (
            "queue",
            format!("{}{}", stats.name, if stats.paused { " (paused)" } else { "" }),
        ),
        ("durability", options.durability.to_string()),
        ("lease", show_millis(u64::from(options.lease_ms))),
        ("max attempts", options.max_attempts.to_string()),
        ("backoff", backoff),
        (
            "capacity",
            format!(
                "{} jobs, {}",
                options.capacity_jobs,
                show_bytes(options.capacity_bytes)
            ),
        ),
        ("payload limit", show_bytes(u64::from(options.payload_bytes_max))),
        ("dedupe window", show_millis(options.dedupe_window_ms)),
        (
            "finished kept",
            format!("{} of up to {}", counts.kept, options.keep_finished),
        ),
        (
            "now",
            format!(
                "{} ready, {} scheduled, {} leased, {} dead, {}",
                counts.ready,
                counts.scheduled,
                counts.leased,
                counts.dead,
                show_bytes(counts.bytes)
            ),
        ),
        (
            "since the start",
            format!(
                "{} enqueued, {} delivered, {} done, {} failed, {} expired leases, {} released, {} became dead, \
                 {} redriven, {} cancelled, {} expired",
                counts.enqueued,
                counts.deliveries,
                counts.done,
                counts.failures,
                counts.expiries,
                counts.releases,
                counts.buried,
                counts.redriven,
                counts.cancelled,
                counts.expired
            ),
        ),
    ];
    let mut text = String::new();
    for (name, value) in rows {
        // Writing into a string cannot fail.
        let _ = writeln!(text, "{name:<16}{value}");
    }
    text.trim_end().to_owned()
}
