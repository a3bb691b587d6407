//! What the damaged places of a log held, as far as what is left tells: which jobs, settlements, keys and queues
//! are lost when one goes on without them.
//!
//! Two sources: what still reads like records in the damaged stretch, where any byte may be wrong; and records
//! behind it that tell of jobs of which nobody knows the body.

use super::codec::{self, KeyRecord, QueueRecord};
use super::journal::{self, EnqueueHead, Group, JobHead, Kind, Prelude};
use super::recover::Recovery;
use crate::base::entry::EnqueueEntry;
use crate::base::job::{JobId, JobState};
use crate::base::queue::QueueOptions;
use crate::log::{Corruption, Damage, Fragment, InspectReport, KIND_LOG_FIRST, OpenError, Reading};
use std::collections::BTreeMap;
use zerocopy::FromBytes;

/// Most jobs that are listed one by one.
const JOBS_LISTED_MAX: usize = 10_000;

/// What goes with the damaged places of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Losses {
    /// The damaged places, in the order of the log.
    pub places: Vec<LostPlace>,
    /// Jobs that were not over and whose bodies are lost: records behind the damage tell of them.
    pub jobs: Vec<LostJob>,
    /// Further ones that are not listed.
    pub jobs_more: u64,
    /// Queues whose definition is lost, and which come back for the sake of their jobs: by number, with the name
    /// that they get.
    pub queues: Vec<(u32, String)>,
    /// Records that are whole and make no sense to this program.
    pub senseless: Vec<String>,
}

/// One damaged place, and what can still be read there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LostPlace {
    /// Where it is and what is wrong.
    pub corruption: Corruption,
    /// Bytes of the log that cannot be read.
    pub bytes: u64,
    /// Bytes of these in which nothing like a record is left.
    pub bytes_unknown: u64,
    /// Records whose headers can still be read.
    pub records: u64,
    /// Jobs enqueued by them, by queue.
    pub enqueued: BTreeMap<String, u64>,
    /// Jobs handed out by them.
    pub delivered: u64,
    /// Jobs settled or otherwise changed by them.
    pub changed: u64,
    /// Idempotency keys told of by them.
    pub keys: u64,
    /// Queues defined or changed by them.
    pub queues: Vec<String>,
    /// Client sessions told of by them.
    pub sessions: u64,
    /// The jobs, and what became of each there; not all of them if there are many.
    pub jobs: Vec<(JobId, &'static str)>,
}

/// A job that is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LostJob {
    /// Its id.
    pub id: JobId,
    /// Its queue, where what is left tells it.
    pub queue: Option<String>,
    /// Where it stood when it was last told of.
    pub state: JobState,
    /// Deliveries until then.
    pub attempts: u16,
}

impl Losses {
    /// Looks at what is damaged in a log whose records `recovery` has read.
    pub(super) fn of(
        reading: &Reading,
        recovery: &mut Recovery,
        defaults: &QueueOptions,
    ) -> Result<Self, OpenError> {
        let report = reading.report();
        let mut finder = Finder {
            recovery,
            queue_of: BTreeMap::new(),
            definitions: BTreeMap::new(),
        };
        let mut places = Vec::new();
        for corruption in reading.corruptions() {
            places.push(finder.look(reading, corruption, &report)?);
        }
        let Finder {
            queue_of,
            definitions,
            ..
        } = finder;
        let queues = if places.is_empty() {
            Vec::new()
        } else {
            recovery.remake_queues(&definitions, defaults)
        };
        let first = places.iter().map(|place| place.corruption.range.start).min();
        let lost = recovery.strays.lost_behind(first.unwrap_or_default());
        let listed = lost.iter().take(JOBS_LISTED_MAX).filter_map(|(id, stray)| {
            let queue = queue_of.get(id).map(|queue| recovery.queue_name(*queue));
            Some(LostJob {
                id: *id,
                queue,
                state: stray.phase.public()?,
                attempts: stray.attempt,
            })
        });
        let listed: Vec<LostJob> = if places.is_empty() {
            Vec::new()
        } else {
            listed.collect()
        };
        Ok(Self {
            jobs_more: if places.is_empty() {
                0
            } else {
                (lost.len() - listed.len()) as u64 + recovery.strays.more
            },
            jobs: listed,
            places,
            queues,
            senseless: recovery.senseless.clone(),
        })
    }

    /// Nothing is damaged.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty() && self.senseless.is_empty()
    }

    /// Bytes of the log that cannot be read, all together.
    pub fn bytes(&self) -> u64 {
        self.places.iter().map(|place| place.bytes).sum()
    }

    /// Records whose headers can still be read, all together.
    pub fn records(&self) -> u64 {
        self.places.iter().map(|place| place.records).sum()
    }
}

/// Reads what is left.
struct Finder<'a> {
    recovery: &'a Recovery,
    queue_of: BTreeMap<JobId, u32>,
    /// Definitions of queues that still read as such.
    definitions: BTreeMap<u32, QueueRecord>,
}

impl Finder<'_> {
    fn look(
        &mut self,
        reading: &Reading,
        corruption: &Corruption,
        report: &InspectReport,
    ) -> Result<LostPlace, OpenError> {
        // A header says nothing of jobs, and its segment is there without it.
        let is_of_records = corruption.damage != Damage::Header;
        let bytes = if is_of_records {
            corruption.bytes(report.segment_bytes)
        } else {
            0
        };
        let mut place = LostPlace {
            corruption: corruption.clone(),
            bytes,
            bytes_unknown: bytes,
            records: 0,
            enqueued: BTreeMap::new(),
            delivered: 0,
            changed: 0,
            keys: 0,
            queues: Vec::new(),
            sessions: 0,
            jobs: Vec::new(),
        };
        if is_of_records {
            reading.fragments(corruption, &mut |fragment| self.read(&mut place, &fragment))?;
        }
        Ok(place)
    }

    fn read(&mut self, place: &mut LostPlace, fragment: &Fragment<'_>) {
        let len = (crate::log::HEADER_LEN + fragment.body.len()) as u64;
        place.bytes_unknown = place.bytes_unknown.saturating_sub(len);
        if fragment.kind >= KIND_LOG_FIRST {
            return;
        }
        place.records += 1;
        let split = Prelude::split(fragment.flags, fragment.body);
        if let (Some(kind), Some((_, body))) = (Kind::from_u8(fragment.kind), split) {
            // What does not read as it should is counted among the records, and that is all.
            let _ = self.read_body(place, kind, body);
        }
    }

    fn read_body(&mut self, place: &mut LostPlace, kind: Kind, body: &[u8]) -> Option<()> {
        match kind {
            Kind::Enqueue => self.enqueued(place, body)?,
            Kind::Reserve => {
                for entry in journal::parse_reserve(body)? {
                    place.delivered += 1;
                    place.note(JobId(entry.id.get()), JobState::Leased.name());
                }
            }
            Kind::Change => changed(place, body)?,
            Kind::Step => {
                let (change, groups) = journal::parse_step(body)?;
                changed(place, change)?;
                for group in groups {
                    if let Group::Jobs(_, body) = group {
                        self.enqueued(place, body)?;
                    }
                }
            }
            Kind::Job => {
                let (head, _) = JobHead::ref_from_prefix(body).ok()?;
                self.enqueue(place, JobId(head.id.get()), head.queue.get());
            }
            Kind::Queue => {
                let queue: QueueRecord = codec::decode(body)?;
                place.queues.push(queue.name.clone());
                self.definitions.insert(queue.index, queue);
            }
            Kind::Session => place.sessions += 1,
            Kind::Key => {
                let _: KeyRecord = codec::decode(body)?;
                place.keys += 1;
            }
            Kind::Generation => {}
        }
        Some(())
    }

    fn enqueued(&mut self, place: &mut LostPlace, body: &[u8]) -> Option<()> {
        let Some(parsed) = journal::parse_enqueue(body) else {
            // The entries are damaged; the head may still count them.
            let (head, rest) = EnqueueHead::ref_from_prefix(body).ok()?;
            let (count, queue) = (u64::from(head.count.get()), head.queue.get());
            let least = count.checked_mul(8 + EnqueueEntry::LEN as u64)?;
            if least <= rest.len() as u64 {
                *place.enqueued.entry(self.recovery.queue_name(queue)).or_default() += count;
            }
            return Some(());
        };
        for (item, id) in parsed.batch.items().zip(parsed.ids) {
            let flags = item.entry.flags.get();
            if flags & (EnqueueEntry::DUPLICATE | EnqueueEntry::KEY_CONFLICT) == 0 {
                place.keys += u64::from(!item.key().is_empty());
                self.enqueue(place, JobId(id.get()), parsed.queue);
            }
        }
        Some(())
    }

    fn enqueue(&mut self, place: &mut LostPlace, id: JobId, queue: u32) {
        self.queue_of.insert(id, queue);
        *place.enqueued.entry(self.recovery.queue_name(queue)).or_default() += 1;
        place.note(id, "enqueued");
    }
}

impl LostPlace {
    fn note(&mut self, id: JobId, became: &'static str) {
        if self.jobs.len() < JOBS_LISTED_MAX {
            self.jobs.push((id, became));
        }
    }
}

fn changed(place: &mut LostPlace, body: &[u8]) -> Option<()> {
    let parsed = journal::parse_change(body)?;
    for entry in parsed.done {
        place.changed += 1;
        place.note(JobId(entry.id.get()), JobState::Done.name());
    }
    for entry in parsed.changes {
        place.changed += 1;
        let state = JobState::from_u8(entry.phase);
        place.note(JobId(entry.id.get()), state.map_or("forgotten", JobState::name));
    }
    Some(())
}
