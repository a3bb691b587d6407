//! What recovery found, counted: how many jobs of which state come back in which queue, and queues that have jobs
//! but no definition any more.

use super::codec::QueueRecord;
use super::config::{RecoveredQueue, RecoverySummary};
use super::recover::Recovery;
use super::word::Phase;
use crate::base::queue::{QueueOptions, check_queue_name};
use crate::log::LogPosition;
use std::collections::BTreeMap;

impl Recovery {
    /// The name of a queue, or its number where the definition is lost.
    pub(super) fn queue_name(&self, index: u32) -> String {
        let known = self.queues.get(&index);
        known.map_or_else(
            || format!("queue number {index}"),
            |(queue, _)| queue.name.clone(),
        )
    }

    /// Gives queues that have jobs but no definition one: what a damaged record still reads as, and otherwise the
    /// defaults under a name that says so. Only for a damaged log: in a whole one every queue has its definition.
    pub(super) fn remake_queues(
        &mut self,
        read: &BTreeMap<u32, QueueRecord>,
        defaults: &QueueOptions,
    ) -> Vec<(u32, String)> {
        let mut orphaned: BTreeMap<u32, ()> = BTreeMap::new();
        for number in 0..self.fresh_from {
            let slot = self.slab.slot(number);
            if slot.state().phase() != Phase::Free && !self.queues.contains_key(&slot.queue()) {
                orphaned.insert(slot.queue(), ());
            }
        }
        let mut remade = Vec::new();
        for index in orphaned.into_keys() {
            let record = self.remade(index, read.get(&index), defaults);
            remade.push((index, record.name.clone()));
            self.queues.insert(index, (record, LogPosition::NONE));
        }
        remade
    }

    fn remade(&self, index: u32, read: Option<&QueueRecord>, defaults: &QueueOptions) -> QueueRecord {
        let is_taken = |name: &str| self.queues.values().any(|(queue, _)| queue.name == name);
        let is_sound = |queue: &&QueueRecord| {
            check_queue_name(&queue.name).is_ok() && queue.options.check().is_ok() && !is_taken(&queue.name)
        };
        if let Some(queue) = read.filter(is_sound) {
            return QueueRecord {
                events: None,
                deleted: false,
                ..queue.clone()
            };
        }
        let names = std::iter::once(format!("salvaged-{index}"))
            .chain((2..).map(|count: u64| format!("salvaged-{index}-{count}")));
        QueueRecord {
            index,
            name: { names }.find(|name| !is_taken(name)).unwrap_or_default(),
            options: defaults.clone(),
            paused: false,
            deleted: false,
            events: None,
        }
    }

    /// What a start would bring back.
    pub(super) fn census(&self, now_ms: u64) -> RecoverySummary {
        let now_ms = now_ms.max(self.latest_ms);
        let mut queues: BTreeMap<u32, RecoveredQueue> = BTreeMap::new();
        for number in 0..self.fresh_from {
            let slot = self.slab.slot(number);
            let (phase, queue) = (slot.state().phase(), slot.queue());
            let Some((record, _)) = self.queues.get(&queue).filter(|(queue, _)| !queue.deleted) else {
                continue;
            };
            let phase = match phase {
                Phase::Scheduled if slot.fields().at_ms <= now_ms => Phase::Ready,
                phase => phase,
            };
            let counted = queues
                .entry(queue)
                .or_insert_with(|| RecoveredQueue::new(&record.name));
            match phase {
                Phase::Ready => counted.ready += 1,
                Phase::Scheduled => counted.scheduled += 1,
                Phase::Leased => counted.leased += 1,
                Phase::Dead => counted.dead += 1,
                phase if phase.is_finished() => {
                    let kept = u64::from(record.options.keep_finished);
                    counted.finished = (counted.finished + 1).min(kept);
                }
                _ => {}
            }
        }
        let mut summary = RecoverySummary {
            queues: self.queues.values().filter(|(queue, _)| !queue.deleted).count() as u64,
            records: self.records,
            ..RecoverySummary::default()
        };
        summary.take_queues(queues.into_values());
        summary
    }
}
