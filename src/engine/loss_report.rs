//! The report of a salvage, for people: what was left behind, and where it is kept.

use super::loss::{Losses, LostPlace};
use crate::base::stamp;
use crate::log::Damage;
use std::fmt::{self, Write};

impl Losses {
    /// The text that a salvage leaves beside the log.
    pub(super) fn report(&self, now_ms: u64) -> String {
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = self.write_report(&mut text, now_ms);
        text
    }

    fn write_report(&self, out: &mut String, now_ms: u64) -> fmt::Result {
        writeln!(
            out,
            "What ackring {} left behind of a damaged log on {}.",
            env!("CARGO_PKG_VERSION"),
            stamp::text(now_ms)
        )?;
        writeln!(
            out,
            "{} damaged places, {} bytes that could not be read. Everything else came back.\n",
            self.places.len(),
            self.bytes()
        )?;
        for (index, place) in self.places.iter().enumerate() {
            writeln!(out, "{}. {place}", index + 1)?;
            for (id, became) in &place.jobs {
                writeln!(out, "     {id} {became}")?;
            }
        }
        if !self.jobs.is_empty() {
            writeln!(
                out,
                "\nJobs that are lost: later records tell of them, but what was enqueued is gone."
            )?;
        }
        for job in &self.jobs {
            let queue = job.queue.as_deref().unwrap_or("unknown queue");
            let (id, state, attempts) = (job.id, job.state.name(), job.attempts);
            writeln!(out, "     {id} {state}, {attempts} attempts, {queue}")?;
        }
        if self.jobs_more > 0 {
            writeln!(out, "     and {} more", self.jobs_more)?;
        }
        if !self.queues.is_empty() {
            writeln!(
                out,
                "\nQueues whose definition is lost; their jobs came back here:"
            )?;
        }
        for (index, name) in &self.queues {
            writeln!(out, "     number {index}: {name}; check its options")?;
        }
        for record in &self.senseless {
            writeln!(out, "\nNot understood, although whole: {record}")?;
        }
        out.write_str(
            "\nAn acknowledgement that is lost makes its job come back; an idempotency key that is lost can be \
             used again.\n",
        )
    }
}

impl fmt::Display for LostPlace {
    /// Several lines: where, what, when, and what it held.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let corruption = &self.corruption;
        let range = corruption.range;
        write!(f, "{}", corruption.path.display())?;
        match corruption.sequence() {
            0 => {}
            sequence if range.start.sequence() == range.end.sequence() => {
                let (start, end) = (range.start.offset(), range.end.offset());
                write!(f, ", segment {sequence}, bytes {start} to {end}")?;
            }
            _ => write!(f, ", from {} to {} of the log", range.start, range.end)?,
        }
        let damage = corruption.damage;
        writeln!(
            f,
            "\n   {} ({}): {}",
            damage.text(),
            damage.name(),
            corruption.reason
        )?;
        self.write_times(f)?;
        self.write_contents(f)?;
        for kept in &corruption.kept {
            writeln!(f, "   kept in {}", kept.display())?;
        }
        Ok(())
    }
}

impl LostPlace {
    fn write_times(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, after) = (self.corruption.before_ms, self.corruption.after_ms);
        match (before > 0, after > 0) {
            (true, true) => {
                let (before, after) = (stamp::text(before), stamp::text(after));
                writeln!(f, "   written between {before} and {after}")
            }
            (true, false) => writeln!(f, "   written after {}", stamp::text(before)),
            (false, true) => writeln!(f, "   written before {}", stamp::text(after)),
            (false, false) => Ok(()),
        }
    }

    fn write_contents(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.corruption.damage == Damage::Header && self.corruption.sequence() != 0 {
            return writeln!(
                f,
                "   nothing is lost: the records of the segment prove where it belongs"
            );
        }
        if self.corruption.sequence() == 0 {
            return writeln!(f, "   what it held, if anything, cannot be told");
        }
        writeln!(f, "   {} bytes cannot be read", self.bytes)?;
        if self.records > 0 {
            write!(f, "   what is left there reads like {} records:", self.records)?;
            for (queue, jobs) in &self.enqueued {
                write!(f, " {jobs} jobs enqueued in {queue};")?;
            }
            let counts = [
                (self.delivered, "deliveries"),
                (self.changed, "jobs settled or changed"),
                (self.keys, "idempotency keys"),
                (self.sessions, "client sessions"),
            ];
            for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
                write!(f, " {count} {what};")?;
            }
            for queue in &self.queues {
                write!(f, " the definition of {queue};")?;
            }
            writeln!(f)?;
        }
        if self.bytes_unknown > 0 {
            writeln!(f, "   of {} bytes nothing can be told", self.bytes_unknown)?;
        }
        Ok(())
    }
}
