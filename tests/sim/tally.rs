//! How often what happened, so that a simulation that has gone blind is noticed.

use crate::disk::Counters;
use crate::net::NetCounts;
use std::collections::BTreeMap;

/// Names of events and how often each was.
#[derive(Debug, Clone, Default)]
pub struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    /// It happened.
    pub fn note(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    /// All of it happened, each at least once: the simulation looks where it is meant to look.
    pub fn has_all(&self, names: &[&str]) {
        let is_missing = |what: &&&str| self.0.get(**what).is_none_or(|count| *count == 0);
        let missing: Vec<_> = names.iter().filter(is_missing).collect();
        assert!(missing.is_empty(), "the simulation is blind to {missing:?}");
    }

    pub fn add_all(&mut self, counts: &[(&'static str, u64)]) {
        for (what, count) in counts {
            *self.0.entry(what).or_default() += count;
        }
    }

    pub fn add(&mut self, other: &Tally) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    pub fn add_net(&mut self, net: &NetCounts) {
        self.add_all(&[
            ("connections made", net.connects),
            ("connections refused", net.refused),
            ("connections cut", net.resets),
            ("connections lost, the server unaware", net.half_open_server),
            ("connections lost, the client unaware", net.half_open_client),
            ("connections stalled", net.stalls),
            ("answers lost on the way", net.answers_lost),
            ("requests lost on the way", net.requests_lost),
            ("requests that came after the client gave up", net.late_requests),
            ("short writes", net.short_writes),
            ("failed accepts", net.accept_errors),
            ("failed registrations", net.watch_errors),
            ("interrupted calls", net.interrupts),
        ]);
    }

    pub fn add_disk(&mut self, disk: &Counters) {
        self.add_all(&[
            ("syncs", disk.syncs),
            ("failed syncs", disk.syncs_failed),
            ("writes refused for want of space", disk.refused_for_space),
            ("files not opened", disk.opens_refused),
            ("sectors lost", disk.sectors_lost),
            ("sectors torn", disk.sectors_torn),
            ("names lost", disk.names_lost),
        ]);
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (what, count) in &self.0 {
            writeln!(f, "{count:>12}  {what}")?;
        }
        Ok(())
    }
}
