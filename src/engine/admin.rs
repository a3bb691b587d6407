//! What people and tools do with queues as a whole: make, pause, delete.

use super::codec::{self, QueueRecord};
use super::definitions::Definitions;
use super::enqueue::{already_applied, not_fresh};
use super::journal::{Kind, NUMBERED, Prelude};
use super::queue::{Queue, QueueId};
use super::replay::{Applied, Begun, RequestId};
use super::{Confirmed, Engine, log_refusal, replayed};
use crate::base::code::{ErrorCode, Refusal};
use crate::base::queue::{Durability, QueueOptions};
use crate::log::Room;
use zerocopy::IntoBytes;

impl Engine {
    /// The queue of that name, made with the engine's defaults if there is none.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a name that is none, `LIMIT_REACHED`, or what the log says.
    pub fn open_queue(&self, name: &str, now_ms: u64) -> Result<QueueId, Refusal> {
        if let Some(queue) = self.registry.find(name) {
            return Ok(queue.id);
        }
        self.check_open()?;
        let define = |queue: &Queue| {
            let record = queue_record(queue);
            let mut definitions = queue.definition.lock();
            self.define(queue, &mut definitions, &record, RequestId::NONE, now_ms)
                .map(|_| ())
        };
        self.registry
            .open(name, self.queue_defaults.clone(), define)
            .map(|(queue, _)| queue.id)
    }

    /// Makes a queue with these options; one that is there with the same options is as good.
    ///
    /// # Errors
    /// `QUEUE_EXISTS` where it has other options; `INVALID_ARGUMENT`, `LIMIT_REACHED`, or what the log says.
    pub fn create_queue(
        &self,
        name: &str,
        options: &QueueOptions,
        request: RequestId,
        now_ms: u64,
    ) -> Result<(QueueId, Confirmed), Refusal> {
        self.check_open()?;
        let mut id = None;
        let confirmed = self.once(
            request,
            now_ms,
            |kind, _| (kind == Kind::Queue).then_some(()),
            || {
                let mut confirmed = self.unlogged();
                let define = |queue: &Queue| {
                    let record = queue_record(queue);
                    confirmed = self.define(queue, &mut queue.definition.lock(), &record, request, now_ms)?;
                    Ok(())
                };
                let (queue, is_new) = self.registry.open(name, options.clone(), define)?;
                if !is_new && queue.options != *options {
                    let text = format!(
                        "queue {name} exists with other options; see `queue info`, or delete it first"
                    );
                    return Err(Refusal::new(ErrorCode::QueueExists, text));
                }
                id = Some(queue.id);
                Ok(confirmed)
            },
        )?;
        match id {
            Some(id) => Ok((id, confirmed)),
            None => Ok((self.find_queue(name)?, confirmed)),
        }
    }

    /// The queue of that name.
    ///
    /// # Errors
    /// `QUEUE_NOT_FOUND`.
    pub fn find_queue(&self, name: &str) -> Result<QueueId, Refusal> {
        let text = || format!("there is no queue {name}; `queue ls` shows those there are");
        self.registry
            .find(name)
            .map(|queue| queue.id)
            .ok_or_else(|| Refusal::new(ErrorCode::QueueNotFound, text()))
    }

    /// Stops handing out jobs of a queue; all else goes on. Pausing a paused queue is a success.
    ///
    /// # Errors
    /// `QUEUE_NOT_FOUND`, or what the log says.
    pub fn pause(&self, queue: QueueId, request: RequestId, now_ms: u64) -> Result<Confirmed, Refusal> {
        self.set_paused(queue, true, request, now_ms)
    }

    /// Hands out jobs of a paused queue again.
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    pub fn resume(&self, queue: QueueId, request: RequestId, now_ms: u64) -> Result<Confirmed, Refusal> {
        let confirmed = self.set_paused(queue, false, request, now_ms)?;
        let queue = self.registry.live(queue)?;
        self.wake(queue, usize::MAX);
        Ok(confirmed)
    }

    fn set_paused(
        &self,
        queue: QueueId,
        paused: bool,
        request: RequestId,
        now_ms: u64,
    ) -> Result<Confirmed, Refusal> {
        self.check_open()?;
        let queue = self.registry.live(queue)?;
        self.once(
            request,
            now_ms,
            |kind, _| (kind == Kind::Queue).then_some(()),
            || {
                let mut definitions = queue.definition.lock();
                let mut record = queue_record(queue);
                record.paused = paused;
                let confirmed = self.define(queue, &mut definitions, &record, request, now_ms)?;
                queue.set_paused(paused);
                Ok(confirmed)
            },
        )
    }

    /// Deletes a queue and everything in it. Its name may be used again at once.
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    pub fn delete(&self, queue: QueueId, request: RequestId, now_ms: u64) -> Result<Confirmed, Refusal> {
        self.check_open()?;
        self.once(
            request,
            now_ms,
            |kind, _| (kind == Kind::Queue).then_some(()),
            || {
                let queue = self.registry.live(queue)?;
                let confirmed = {
                    let mut definitions = queue.definition.lock();
                    // Again, under the lock: of two deletions one finds nothing.
                    self.registry.live(queue.id)?;
                    let mut record = queue_record(queue);
                    record.deleted = true;
                    let confirmed = self.define(queue, &mut definitions, &record, request, now_ms)?;
                    queue.set_deleted();
                    confirmed
                };
                self.registry.forget(queue);
                self.dedupe.forget(queue.id);
                self.drop_jobs(queue, now_ms);
                // Whoever waits for its jobs waits in vain, and is told when it looks.
                self.wake(queue, usize::MAX);
                Ok(confirmed)
            },
        )
    }

    /// Runs a request unless its session has seen it; then `read` makes the answer again from its record, as far
    /// as that says anything.
    pub(super) fn once(
        &self,
        request: RequestId,
        now_ms: u64,
        read: impl FnOnce(Kind, &[u8]) -> Option<()>,
        run: impl FnOnce() -> Result<Confirmed, Refusal>,
    ) -> Result<Confirmed, Refusal> {
        match self.begin(request, now_ms) {
            Begun::Fresh => {}
            Begun::Applied(applied) => {
                return match self.with_record(applied, read) {
                    Some(()) => Ok(replayed(applied)),
                    None => Err(already_applied()),
                };
            }
            other => return Err(not_fresh(other)),
        }
        let done = run();
        // Whatever was logged under the number has been noted; a request that left nothing there changed nothing.
        self.sessions.abandon(request);
        done
    }

    /// Logs a queue as it is to stand.
    fn define(
        &self,
        queue: &Queue,
        definitions: &mut Definitions,
        record: &QueueRecord,
        request: RequestId,
        now_ms: u64,
    ) -> Result<Confirmed, Refusal> {
        let mut body = Vec::new();
        if request.is_numbered() {
            body.extend_from_slice(Prelude::new(request).as_bytes());
        }
        body.extend_from_slice(&codec::encode(record));
        let flags = if request.is_numbered() { NUMBERED } else { 0 };
        // Until the queue is marked: its record before must not be copied behind this one.
        let _redefining = self.registry.redefine();
        // A queue that is there must be paused, resumed and deleted in a full log too: nobody could empty it otherwise.
        let room = if queue.defined_at().is_none() {
            Room::Enqueue
        } else {
            Room::Settle
        };
        let (at, end) = self
            .append(Kind::Queue, flags, &body, room, now_ms)
            .map_err(log_refusal)?;
        queue.set_defined_at(at);
        definitions.defined(at, end, Some(queue_record(queue)));
        queue.counters.forget_told_events();
        let level = if self.logged {
            Durability::Written.max(queue.durability())
        } else {
            Durability::Memory
        };
        let applied = Applied {
            position: at,
            volatile: false,
        };
        self.sessions.finish(request, applied);
        Ok(Confirmed {
            level,
            position: Some(end),
            replayed: false,
        })
    }
}

/// A queue as it goes into the log.
pub(super) fn queue_record(queue: &Queue) -> QueueRecord {
    QueueRecord {
        index: queue.id.0,
        name: queue.name.clone(),
        options: queue.options.clone(),
        paused: queue.is_paused(),
        deleted: queue.is_deleted(),
        events: None,
    }
}
