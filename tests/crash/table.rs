//! The sets of Jepsen's total-queue checker, as numbers.

use std::fmt;
use std::ops::AddAssign;

/// How many jobs are in which set.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Sets {
    /// An enqueue was sent, or about to be.
    pub attempted: u64,
    /// An enqueue was answered as applied.
    pub confirmed: u64,
    /// … at a level that must survive what was done to the server.
    pub durable: u64,
    /// It reached a worker at least once.
    pub delivered: u64,
    /// Its ack was confirmed.
    pub acked: u64,
    /// Confirmed durably, and never came, or came and vanished without an end.
    pub lost: u64,
    /// They came, and nobody had enqueued them so.
    pub unexpected: u64,
    /// One enqueue made two jobs, or one id or attempt stands for two.
    pub duplicated: u64,
    /// They came again after their ack was confirmed.
    pub back: u64,
    /// Confirmed at a level that promises no more, and gone.
    pub lost_allowed: u64,
    /// Not confirmed, and came all the same.
    pub recovered: u64,
    /// Deliveries beyond a job's first.
    pub repeats: u64,
}

impl AddAssign for Sets {
    fn add_assign(&mut self, other: Self) {
        let Self {
            attempted,
            confirmed,
            durable,
            delivered,
            acked,
            lost,
            unexpected,
            duplicated,
            back,
            lost_allowed,
            recovered,
            repeats,
        } = other;
        self.attempted += attempted;
        self.confirmed += confirmed;
        self.durable += durable;
        self.delivered += delivered;
        self.acked += acked;
        self.lost += lost;
        self.unexpected += unexpected;
        self.duplicated += duplicated;
        self.back += back;
        self.lost_allowed += lost_allowed;
        self.recovered += recovered;
        self.repeats += repeats;
    }
}

impl Sets {
    /// What matters of it, for the progress of a long run.
    pub fn line(&self) -> String {
        let Self {
            attempted,
            confirmed,
            acked,
            lost,
            lost_allowed,
            recovered,
            repeats,
            ..
        } = self;
        format!(
            "{attempted} attempted, {confirmed} confirmed, {acked} acked, {lost} lost ({lost_allowed} as allowed), \
             {recovered} recovered, {repeats} repeats"
        )
    }
}

impl fmt::Display for Sets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            ("attempted", self.attempted, ""),
            ("confirmed", self.confirmed, ""),
            ("  that must survive", self.durable, ""),
            ("delivered", self.delivered, ""),
            ("acked", self.acked, "confirmed acks"),
            ("LOST", self.lost, "confirmed, and not there"),
            ("UNEXPECTED", self.unexpected, "there, and not enqueued so"),
            ("DUPLICATED", self.duplicated, "one enqueue, id or attempt twice"),
            ("BACK", self.back, "there again after a confirmed ack"),
            (
                "lost, as allowed",
                self.lost_allowed,
                "confirmed at a lower level",
            ),
            ("recovered", self.recovered, "not confirmed, and there"),
            (
                "repeats",
                self.repeats,
                "deliveries beyond the first of jobs not acked",
            ),
        ];
        for (name, count, note) in rows {
            writeln!(f, "  {name:<20}{count:>12}  {note}")?;
        }
        Ok(())
    }
}
