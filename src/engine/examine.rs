//! Looking at what a log says without opening it: what would come back, and what would be lost.

use super::config::RecoverySummary;
use super::loss::Losses;
use super::recover::Recovery;
use crate::base::limits::{SLOTS_DEFAULT, SLOTS_MAX};
use crate::base::queue::QueueOptions;
use crate::log::{InspectReport, LogVisitor, OpenError, ReadProgress, Recovered, inspect_with};
use std::ops::ControlFlow;
use std::path::Path;

/// What a log holds, and what of it is damaged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Examination {
    /// Segments, records, and where something is wrong.
    pub log: InspectReport,
    /// What a start (with salvage, where something is damaged) would bring back.
    pub recovered: RecoverySummary,
    /// What would be lost then.
    pub losses: Losses,
}

/// Reads the log in `directory`, which no server may have open, and changes nothing. `on_progress` may end it:
/// `None` then. Takes as much memory as the jobs take in a server.
///
/// ```
/// use std::ops::ControlFlow;
/// # let home = tempfile::tempdir()?;
/// # let directory = home.path();
/// # drop(ackring::Engine::open(directory)?);
/// let found = ackring::engine::examine(directory, 0, &mut |_| ControlFlow::Continue(()))?;
/// assert!(found.is_some_and(|found| found.losses.is_empty()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// As [`inspect`](crate::log::inspect). Damage is no error here.
pub fn examine(
    directory: &Path,
    now_ms: u64,
    on_progress: &mut dyn FnMut(&ReadProgress) -> ControlFlow<()>,
) -> Result<Option<Examination>, OpenError> {
    let mut slots = SLOTS_DEFAULT;
    loop {
        let mut recovery = Recovery::new(slots);
        recovery.strays.want();
        let mut reader = Reader {
            recovery: &mut recovery,
            on_progress,
        };
        let Some(reading) = inspect_with(directory, &mut reader)? else {
            return Ok(None);
        };
        if let Some(needed) = recovery.slots_needed.filter(|_| slots < SLOTS_MAX) {
            // A server with more slots than usual has written it: once more with enough of them.
            slots = needed
                .checked_next_power_of_two()
                .map_or(SLOTS_MAX, |slots| slots.min(SLOTS_MAX));
            continue;
        }
        let log = reading.report();
        let losses = Losses::of(&reading, &mut recovery, &QueueOptions::default())?;
        let recovered = RecoverySummary {
            bytes: log.bytes,
            torn: log.holes.len() as u64 + u64::from(log.torn_tail),
            ..recovery.census(now_ms)
        };
        return Ok(Some(Examination {
            log,
            recovered,
            losses,
        }));
    }
}

/// Feeds records to a recovery and progress to whoever wants to know it.
pub(super) struct Reader<'a> {
    pub(super) recovery: &'a mut Recovery,
    pub(super) on_progress: &'a mut dyn FnMut(&ReadProgress) -> ControlFlow<()>,
}

impl LogVisitor for Reader<'_> {
    fn record(&mut self, record: Recovered<'_>) {
        self.recovery.visit(record);
    }

    fn progress(&mut self, progress: &ReadProgress) -> ControlFlow<()> {
        (self.on_progress)(progress)
    }
}
