//! Opening an engine: read the log, put every job back where it was.

use super::config::{EngineConfig, RecoveredQueue, RecoverySummary};
use super::examine::Reader;
use super::generations::Generations;
use super::journal::Kind;
use super::loss::Losses;
use super::queue::{Queue, QueueId};
use super::reclaim::Reclaim;
use super::recover::Recovery;
use super::registry::Registry;
use super::timer::Wheel;
use super::young::YoungLeases;
use super::{Engine, admin, codec};
use crate::base::limits::SLOTS_MAX;
use crate::base::sync::AtomicBool;
use crate::log::{Log, LogConfig, OpenError, Reading, Room};
use crate::ring::ChunkPool;
use parking_lot::Mutex;
use std::io;
use std::ops::ControlFlow;
use std::sync::OnceLock;

/// By how much ids go up after a salvage. A start takes 65,536 generations at once, and a lost segment holds few
/// starts.
const GENERATIONS_LOST_MAX: u32 = 1 << 20;

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
        let logged = config.directory.is_some();
        let path = config.directory.clone();
        let log_config = LogConfig {
            directory: config.directory.clone(),
            segment_bytes: config.segment_bytes,
            log_bytes_max: if logged {
                config.log_bytes_max
            } else {
                config.memory_bytes_max
            },
            salvage: config.salvage,
            disk: config.disk.clone(),
        };
        let (durable, mut recovery, mut summary) = if logged {
            read_back(&config, &log_config, now_ms)?
        } else {
            let (log, _) = Log::open(log_config, now_ms, &mut |_| ())?;
            (log, Recovery::new(config.slots), RecoverySummary::default())
        };
        // Deadlines were set by a clock that may have been set back since; time goes on from where they were set.
        let now_ms = now_ms.max(recovery.latest_ms);
        if logged {
            // Nothing is recycled before the reclaimer has looked at it.
            durable.set_hold(0);
            // What a segment tells of jobs that are over need not reach the disk first: a power cut loses their
            // beginning along with their end. (Not where a step put others in their place, see `keep_until_durable`.) All
            // else is logged again, and durable, before the hold moves on.
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
        recovery.resolve_keys(now_ms);
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
            young_leases: YoungLeases::new(config.slots),
            waker: OnceLock::new(),
            queue_defaults: config.queue_defaults,
            reclaim: Mutex::new(Reclaim::default()),
            #[cfg(planted)]
            late_attempts: Mutex::default(),
            closed: AtomicBool::new(false),
            opened_ms: now_ms,
            generations: Generations::default(),
        };
        let finished = engine.restore_jobs(recovery.fresh_from, &recovery.orders, now_ms);
        // Above every generation that may have been given out.
        let high = Engine::range_behind(recovery.generation_high);
        engine.slab.restore(recovery.fresh_from, high);
        if high != 0 {
            // What told of the generations may stand in a segment that goes before another is begun. The segment of
            // this start is still empty, so it takes this record.
            let told = engine.retell_generation(recovery.generation_high, now_ms);
            told.map_err(|error| OpenError::Io {
                action: "write to the log in",
                path: path.unwrap_or_default(),
                source: io::Error::other(error),
            })?;
        }
        engine.define_remade(now_ms)?;
        engine.keep_recovered(finished, &recovery.purged, &recovery.told);
        let queues = engine.registry.all();
        summary.queues = queues.len() as u64;
        summary.take_queues(queues.into_iter().map(recovered_queue));
        Ok((engine, summary))
    }

    /// Logs the queues whose definitions a salvage has made anew.
    fn define_remade(&self, now_ms: u64) -> Result<(), OpenError> {
        let remade = self.registry.all().into_iter();
        for queue in remade.filter(|queue| queue.defined_at().is_none()) {
            let body = codec::encode(&admin::queue_record(queue));
            let defined = self.append(Kind::Queue, 0, &body, Room::Migrate, now_ms);
            let (at, end) = defined.map_err(|error| OpenError::Config(error.to_string()))?;
            queue.set_defined_at(at);
            queue.definition.lock().defined(at, end, None);
        }
        Ok(())
    }
}

fn recovered_queue(queue: &Queue) -> RecoveredQueue {
    let counts = queue.counts();
    RecoveredQueue {
        name: queue.name.clone(),
        ready: counts.ready,
        scheduled: counts.scheduled,
        leased: counts.leased,
        dead: counts.dead,
        finished: counts.kept,
    }
}

/// Reads the log of a directory, says what is lost where it is damaged and is to be salvaged, and goes on with it.
fn read_back(
    config: &EngineConfig,
    log_config: &LogConfig,
    now_ms: u64,
) -> Result<(Log, Recovery, RecoverySummary), OpenError> {
    let mut recovery = Recovery::new(config.slots);
    if config.salvage {
        recovery.strays.want();
    }
    let mut reader = Reader {
        recovery: &mut recovery,
        on_progress: &mut |progress| {
            if let Some(hook) = &config.on_progress {
                hook.tell(progress);
            }
            ControlFlow::Continue(())
        },
    };
    let mut reading = Log::read(log_config, &mut reader)?;
    reading.check(log_config)?;
    if let Some(slots) = recovery.slots_needed {
        return Err(OpenError::Config(format!(
            "the log holds jobs in {slots} slots; open with at least as many"
        )));
    }
    if !config.salvage
        && let Some(record) = recovery.senseless.first()
    {
        // Its checksum is right, so it was written like this; what it says of jobs must not be passed over in silence.
        return Err(OpenError::Corrupt {
            path: config.directory.clone().unwrap_or_default(),
            offset: 0,
            reason: format!("the {record} is whole, but makes no sense to this program"),
        });
    }
    let mut salvage_report = None;
    if !reading.corruptions().is_empty() {
        let mut describe = |reading: &Reading| {
            let losses = Losses::of(reading, &mut recovery, &config.queue_defaults)?;
            Ok(losses.report(now_ms))
        };
        salvage_report = Some(reading.salvage(now_ms, &mut describe)?);
    }
    let (log, report) = reading.open(log_config, now_ms)?;
    recovery.raise(report.note_max as u32);
    if !report.salvaged.is_empty() && recovery.generation_high != 0 {
        // What is lost may have told of higher ones, and an id must never come again: somebody may still hold it.
        recovery.raise(recovery.generation_high.wrapping_add(GENERATIONS_LOST_MAX));
    }
    let mut salvaged: Vec<String> = report.salvaged.iter().map(ToString::to_string).collect();
    salvaged.append(&mut recovery.senseless);
    let summary = RecoverySummary {
        records: recovery.records,
        bytes: report.bytes,
        torn: report.holes.len() as u64 + u64::from(report.torn_tail),
        salvaged,
        salvage_report,
        ..RecoverySummary::default()
    };
    Ok((log, recovery, summary))
}

fn restore_queues(registry: &Registry, recovery: &Recovery) {
    for (index, (record, position)) in &recovery.queues {
        let queue = Queue::new(QueueId(*index), &record.name, record.options.clone());
        queue.set_paused(record.paused);
        if record.deleted {
            queue.set_deleted();
        }
        queue.set_defined_at(*position);
        let events = recovery.events.get(index);
        queue.definition.lock().restore(*position, events);
        if let Some(events) = events {
            queue.counters.restore_events(events);
        }
        registry.restore(queue);
    }
    registry.number_from(recovery.queues_seen);
}

/// The last chunk of each ring. Costs address space until used; but a fuzzer opens hundreds of engines a second, each
/// with a few queues, and AddressSanitizer writes an eighth of what is allocated and of what is freed.
const CHUNKS_BESIDES: usize = if cfg!(fuzzing) { 1 << 12 } else { 1 << 20 };

/// Chunks that hold every slot's handle in a ready ring and in a retention at once, and the words of young leases
/// besides. A chunk of a chain holds at least three handles, apart from the last of each ring.
fn chunks_for(slots: u32) -> usize {
    slots as usize + YoungLeases::words_for(slots) + CHUNKS_BESIDES
}
