//! Opening an engine: read the log, put every job back where it was.

use super::Engine;
use super::config::{EngineConfig, RecoverySummary};
use super::queue::{Queue, QueueId};
use super::reclaim::Reclaim;
use super::recover::Recovery;
use super::registry::Registry;
use super::slot::{Fields, Phase, QUEUED, StateWord, TIMED, id_of};
use super::timer::{Entry, Watch, Wheel};
use crate::base::limits::{PRIORITIES, SLOTS_MAX, TICK_MS};
use crate::base::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::log::{Log, LogConfig, LogPosition, OpenError};
use crate::ring::{ChunkPool, Ring};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::OnceLock;

impl Engine {
    /// Opens an engine: reads the log of `config.directory`, if there is one, and puts every job back where it
    /// was, under its id. Nothing is served before all that was read is known to be on the disk.
    ///
    /// # Errors
    /// See [`OpenError`]: the directory is in use, unreadable, of a newer format, or damaged. Nothing was changed.
    pub fn open(config: EngineConfig, now_ms: u64) -> Result<(Engine, RecoverySummary), OpenError> {
        if config.slots == 0 || config.slots > SLOTS_MAX {
            return Err(OpenError::Config(format!(
                "slots must be between 1 and {SLOTS_MAX}, not {}",
                config.slots
            )));
        }
        if let Err(error) = config.queue_defaults.check() {
            return Err(OpenError::Config(error.to_string()));
        }
        let mut recovery = Recovery::new(config.slots);
        let path = config.directory.clone().unwrap_or_default();
        let logged = config.directory.is_some();
        let log_config = LogConfig {
            directory: config.directory,
            segment_bytes: config.segment_bytes,
            log_bytes_max: if logged {
                config.log_bytes_max
            } else {
                config.memory_bytes_max
            },
            salvage: config.salvage,
            disk: config.disk.clone(),
        };
        let (durable, report) = Log::open(log_config, now_ms, &mut |record| recovery.visit(record))?;
        if let Some(slots) = recovery.slots_needed {
            return Err(OpenError::Config(format!(
                "the log holds jobs in {slots} slots; open with at least as many"
            )));
        }
        // Deadlines were set by a clock that may have been set back since; time goes on from where they were set.
        let now_ms = now_ms.max(recovery.latest_ms);
        if logged {
            // Nothing is recycled before the reclaimer has looked at it.
            durable.set_hold(0);
            // What a segment tells of jobs that are over need not reach the disk first: a power cut loses their
            // beginning along with their end. All else is logged again, and durable, before the hold moves on.
            durable.set_recycles_unsynced(true);
        }
        let volatile_config = LogConfig {
            directory: None,
            segment_bytes: config.segment_bytes,
            log_bytes_max: config.memory_bytes_max,
            salvage: false,
            disk: config.disk,
        };
        let (volatile, _) = Log::open(volatile_config, now_ms, &mut |_| {})?;
        recovery.raise(report.note_max as u32);
        recovery.resolve_keys(now_ms);
        let mut salvaged: Vec<String> = report.salvaged.iter().map(ToString::to_string).collect();
        salvaged.append(&mut recovery.senseless);
        let mut summary = RecoverySummary {
            records: recovery.records,
            torn: report.holes.len() as u64 + u64::from(report.torn_tail),
            salvaged,
            ..RecoverySummary::default()
        };
        let registry = Registry::new();
        restore_queues(&registry, &recovery);
        let mut engine = Engine {
            slab: recovery.slab,
            pool: ChunkPool::new(chunks_for(config.slots)),
            registry,
            durable,
            volatile,
            logged,
            sessions: std::mem::take(&mut recovery.sessions),
            dedupe: std::mem::take(&mut recovery.dedupe),
            wheel: Mutex::new(Wheel::new(now_ms)),
            young_leases: Ring::default(),
            young_len: AtomicU64::new(0),
            waker: OnceLock::new(),
            queue_defaults: config.queue_defaults,
            reclaim: Mutex::new(Reclaim::default()),
            closed: AtomicBool::new(false),
            opened_ms: now_ms,
            generation_told: AtomicU32::new(0),
        };
        let finished = engine.restore_jobs(recovery.fresh_from, &recovery.orders, now_ms, &mut summary);
        // Above every generation that may have been given out: see `note_generation`.
        let high = if recovery.generation_high == 0 {
            0
        } else {
            (recovery.generation_high | 0xffff).wrapping_add(1)
        };
        engine.slab.restore(recovery.fresh_from, high);
        if high != 0 {
            // What told of the generations may stand in a segment that goes before another is begun. The segment of
            // this start is still empty, so it takes this record.
            let told = engine.tell_generation(recovery.generation_high, now_ms);
            told.map_err(|error| OpenError::Io {
                action: "begin the log in",
                path,
                source: std::io::Error::other(error),
            })?;
        }
        summary.finished = engine.keep_recovered(finished);
        summary.queues = engine.registry.all().len() as u64;
        Ok((engine, summary))
    }

    /// Walks the recovered slots: counts, timers, rings, live counts of the log. Returns finished jobs, with
    /// when they ended.
    fn restore_jobs(
        &self,
        fresh_from: u32,
        orders: &HashMap<u32, u64>,
        now_ms: u64,
        summary: &mut RecoverySummary,
    ) -> Vec<(u64, u32)> {
        let mut fresh: Vec<(u64, u64, u32)> = Vec::new();
        let mut retried: Vec<(u64, u64, u32)> = Vec::new();
        let mut finished: Vec<(u64, u32)> = Vec::new();
        let mut timers: Vec<(u64, u64, Entry)> = Vec::new();
        let mut live: HashMap<u32, u32> = HashMap::new();
        for number in 0..fresh_from {
            let slot = self.slab.slot(number);
            let word = slot.state();
            if word.phase() == Phase::Free {
                continue;
            }
            let mut fields = slot.fields();
            let Some(queue) = self
                .registry
                .get(QueueId(fields.queue))
                .filter(|queue| !queue.is_deleted())
            else {
                // Of a queue that was deleted: gone with it.
                slot.drop_body();
                slot.publish(StateWord::new(word.generation(), 0, Phase::Free, 0));
                continue;
            };
            if fields.limit == 0 {
                fields.limit = queue.options.max_attempts;
                slot.write(&fields);
            }
            *live.entry(fields.body.sequence()).or_default() += 1;
            let id = id_of(number, word);
            let phase = match word.phase() {
                Phase::Scheduled if fields.at_ms <= now_ms => Phase::Ready,
                phase => phase,
            };
            queue.counters.arrived(phase, 1);
            if phase.is_finished() {
                finished.push((fields.at_ms, number));
                continue;
            }
            queue.counters.occupy(1, fields.body_bytes());
            let order = orders.get(&number).copied().unwrap_or(fields.body.raw());
            if fields.expires_ms > 0 && phase != Phase::Dead {
                let entry = Entry::new(fields.expires_ms, id, Watch::Ttl);
                timers.push((fields.expires_ms, order, entry));
            }
            match phase {
                Phase::Scheduled | Phase::Leased => {
                    let entry = Entry::new(fields.at_ms, id, Watch::Deadline(word.attempt()));
                    timers.push((fields.at_ms.div_ceil(TICK_MS), order, entry));
                    slot.publish(word.with(TIMED));
                }
                Phase::Ready => {
                    slot.publish(word.with_phase(Phase::Ready).with(QUEUED));
                    // A job that was delayed has its due time there, whether it is told of as Ready (in a copy) or not.
                    if word.attempt() == 0 && fields.at_ms <= fields.enqueued_ms {
                        fresh.push((0, order, number));
                    } else {
                        retried.push((fields.at_ms.div_ceil(TICK_MS), order, number));
                    }
                }
                _ => {}
            }
            match phase {
                Phase::Scheduled => summary.scheduled += 1,
                Phase::Leased => summary.leased += 1,
                Phase::Ready => summary.ready += 1,
                _ => summary.dead += 1,
            }
        }
        // Deadlines of one tick in the order in which their jobs were accepted (G7).
        timers.sort_unstable_by_key(|(tick, order, _)| (*tick, *order));
        let mut wheel = self.wheel.lock();
        timers.into_iter().for_each(|(_, _, entry)| wheel.insert(entry));
        drop(wheel);
        for (sequence, jobs) in live {
            self.durable.retain(LogPosition::new(sequence, 0), jobs);
        }
        // Jobs never handed out come first, in the order in which they were accepted; the others behind (G7).
        self.requeue_all(fresh);
        self.requeue_all(retried);
        finished
    }

    /// Pushes handles in order, a run of one ring at a time.
    fn requeue_all(&self, mut jobs: Vec<(u64, u64, u32)>) {
        jobs.sort_unstable();
        let mut handles: HashMap<(u32, u8), Vec<u32>> = HashMap::new();
        for (_, _, number) in jobs {
            let Fields { queue, priority, .. } = self.slab.slot(number).fields();
            debug_assert!(usize::from(priority) < PRIORITIES);
            let run = handles.entry((queue, priority)).or_default();
            run.push(number);
            if run.len() == 4096 {
                self.push_recovered(queue, priority, run);
                run.clear();
            }
        }
        for ((queue, priority), run) in handles {
            self.push_recovered(queue, priority, &run);
        }
    }

    fn push_recovered(&self, queue: u32, priority: u8, run: &[u32]) {
        if let Some(queue) = self.registry.get(QueueId(queue)) {
            queue.push_ready(&self.pool, priority, run);
        }
    }

    /// Finished jobs go back into their queues' retention, oldest first; says how many are kept.
    fn keep_recovered(&self, mut finished: Vec<(u64, u32)>) -> u64 {
        finished.sort_unstable();
        for (_, number) in finished {
            if let Some(queue) = self.registry.get(QueueId(self.slab.slot(number).queue())) {
                self.retain_finished(queue, &[number]);
            }
        }
        self.registry.all().iter().map(|queue| queue.counts().kept).sum()
    }
}

fn restore_queues(registry: &Registry, recovery: &Recovery) {
    for (index, (record, position)) in &recovery.queues {
        let queue = Queue::new(QueueId(*index), &record.name, record.options.clone());
        queue.set_paused(record.paused);
        if record.deleted {
            queue.set_deleted();
        }
        queue.defined_at.store(position.raw(), Ordering::Release);
        if let Some(events) = recovery.events.get(index) {
            queue.counters.restore_events(events);
        }
        registry.restore(queue);
    }
}

/// Chunks that hold every slot's handle in a ready ring and in a retention at once, and young leases besides. A
/// chunk of a chain holds at least three handles, apart from the last of each ring.
fn chunks_for(slots: u32) -> usize {
    slots as usize + (1 << 20)
}
