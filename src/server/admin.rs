//! The operations that people and tools use: queues by name, jobs by id.

use super::desk::Desk;
use super::dispatch::is_failure;
use super::peer::Peer;
use crate::base::code::{ErrorCode, Refusal};
use crate::base::job::{JobState, JobStatus};
use crate::base::limits;
use crate::base::queue::QueueOptions;
use crate::engine::{Confirmed, Engine, QueueId, RequestId};
use crate::wire::{Reply, Request, status_len};
use zerocopy::little_endian::U64;

/// What a page of statuses may take of a frame, in bytes.
const PAGE_BYTES_MAX: usize = limits::FRAME_BYTES_MAX as usize - 1_024;

/// Queues in one page of a listing; the engine answers at most one more.
const QUEUES_PAGE_MAX: u32 = limits::LIST_PAGE_MAX - 1;
/// Statuses in one page of a listing: with the largest notes they are a few frames' worth of memory.
const JOBS_PAGE_MAX: u32 = 256;

type Change = fn(&Engine, QueueId, RequestId, u64) -> Result<Confirmed, Refusal>;

impl Desk {
    /// Carries out what is not on the hot path.
    pub(super) fn administer(
        &mut self,
        peer: &mut Peer,
        reply: Reply,
        request: Request<'_>,
    ) -> Result<(), Refusal> {
        match request {
            Request::QueueOpen { name } => {
                let queue = self.hub.engine.open_queue(name, self.now_ms)?;
                reply.handle(peer.outbox.buffer(), queue.0);
                Ok(())
            }
            Request::QueueCreate {
                number,
                name,
                options,
            } => self.create(peer, reply, number, name, &options),
            Request::QueueInfo { name } => {
                let engine = &self.hub.engine;
                let stats = engine.queue_stats(engine.find_queue(name)?)?;
                reply.queue_info(peer.outbox.buffer(), &stats);
                Ok(())
            }
            Request::QueueList { after, limit } => {
                let limit = limit.min(QUEUES_PAGE_MAX);
                // One more than asked for, to know whether there are more.
                let mut queues = self.hub.engine.queue_list(after, limit + 1);
                let more = queues.len() > limit as usize;
                queues.truncate(limit as usize);
                reply.queue_list(peer.outbox.buffer(), &queues, more);
                Ok(())
            }
            Request::QueuePause { number, name } => self.change(peer, reply, number, name, Engine::pause),
            Request::QueueResume { number, name } => self.change(peer, reply, number, name, Engine::resume),
            Request::QueueDelete { number, name } => {
                let queue = self.change_queue(peer, reply, number, name, Engine::delete)?;
                // Waiting reserves and subscriptions of the queue end now, on every reactor.
                self.hub.doors.tell_all(queue);
                Ok(())
            }
            Request::QueuePurge { number, name, states } => self.purge(peer, reply, number, name, states),
            Request::JobGet { id } => {
                let status = self.hub.engine.job(id)?;
                reply.job(peer.outbox.buffer(), &status);
                Ok(())
            }
            Request::JobList {
                queue,
                state,
                cursor,
                limit,
            } => self.list(peer, reply, queue, state, cursor, limit),
            Request::JobPeek { queue, limit } => self.peek(peer, reply, queue, limit),
            Request::JobCancel { number, ids } => self.cancel(peer, reply, number, ids),
            Request::JobRedrive {
                number,
                queue,
                ids,
                limit,
            } => self.redrive(peer, reply, number, queue, ids, limit),
            _ => unreachable!("the hot operations have their own branches"),
        }
    }

    fn create(
        &mut self,
        peer: &mut Peer,
        reply: Reply,
        number: u64,
        name: &str,
        options: &QueueOptions,
    ) -> Result<(), Refusal> {
        let request = self.request(peer, number);
        let (queue, confirmed) = self
            .hub
            .engine
            .create_queue(name, options, request, self.now_ms)?;
        let (_, until) = self.promise(&confirmed);
        let mark = peer.outbox.mark();
        reply.handle(peer.outbox.buffer(), queue.0);
        self.hold(peer, mark, until);
        Ok(())
    }

    fn change(
        &mut self,
        peer: &mut Peer,
        reply: Reply,
        number: u64,
        name: &str,
        change: Change,
    ) -> Result<(), Refusal> {
        self.change_queue(peer, reply, number, name, change).map(|_| ())
    }

    fn change_queue(
        &mut self,
        peer: &mut Peer,
        reply: Reply,
        number: u64,
        name: &str,
        change: Change,
    ) -> Result<QueueId, Refusal> {
        let request = self.request(peer, number);
        let queue = self.numbered_queue(name, request)?;
        let confirmed = change(&self.hub.engine, queue, request, self.now_ms)?;
        self.items.clear();
        self.answer_count(peer, reply, &confirmed, 1);
        Ok(queue)
    }

    /// The queue that a request names. Where it is gone, the request may have been applied before that (G5b).
    fn numbered_queue(&self, name: &str, request: RequestId) -> Result<QueueId, Refusal> {
        let engine = &self.hub.engine;
        engine.find_queue(name).map_err(|refusal| {
            if engine.is_applied(request) {
                let text = "the request was applied before, and its queue is gone";
                Refusal::new(ErrorCode::AlreadyApplied, text)
            } else {
                refusal
            }
        })
    }

    fn purge(
        &mut self,
        peer: &mut Peer,
        reply: Reply,
        number: u64,
        name: &str,
        states: u32,
    ) -> Result<(), Refusal> {
        let request = self.request(peer, number);
        let queue = self.numbered_queue(name, request)?;
        let wanted = |state: &JobState| states & 1 << *state as u32 != 0;
        let states: Vec<JobState> = JobState::ALL.into_iter().filter(wanted).collect();
        let (count, confirmed) = self.hub.engine.purge(queue, &states, request, self.now_ms)?;
        self.items.clear();
        self.answer_count(peer, reply, &confirmed, count);
        Ok(())
    }

    fn list(
        &mut self,
        peer: &mut Peer,
        reply: Reply,
        name: &str,
        state: Option<JobState>,
        cursor: u64,
        limit: u32,
    ) -> Result<(), Refusal> {
        let queue = self.hub.engine.find_queue(name)?;
        let mut page = self
            .hub
            .engine
            .list_jobs(queue, state, cursor, limit.min(JOBS_PAGE_MAX))?;
        let fitting = fitting(&page.jobs);
        if fitting < page.jobs.len() {
            // Asked again for what fits, so that the cursor stands behind it.
            page = self
                .hub
                .engine
                .list_jobs(queue, state, cursor, fitting.max(1) as u32)?;
        }
        reply.jobs(peer.outbox.buffer(), &page.jobs, page.next_cursor);
        Ok(())
    }

    fn peek(&mut self, peer: &mut Peer, reply: Reply, name: &str, limit: u32) -> Result<(), Refusal> {
        let queue = self.hub.engine.find_queue(name)?;
        // Bounded by bytes as it goes: behind many small payloads there may be large ones.
        let bytes_max = limits::FRAME_BYTES_MAX as usize;
        let mut jobs = self.hub.engine.peek_within(queue, limit, bytes_max)?;
        jobs.truncate(fitting(&jobs));
        reply.jobs(peer.outbox.buffer(), &jobs, 0);
        Ok(())
    }

    fn cancel(&mut self, peer: &mut Peer, reply: Reply, number: u64, ids: &[U64]) -> Result<(), Refusal> {
        let request = self.request(peer, number);
        self.take_ids(ids);
        let confirmed = self
            .hub
            .engine
            .cancel(&self.ids, request, self.now_ms, &mut self.items)?;
        let failed = self.items.iter().filter(|item| is_failure(item)).count();
        self.answer_count(peer, reply, &confirmed, (ids.len() - failed) as u64);
        Ok(())
    }

    fn redrive(
        &mut self,
        peer: &mut Peer,
        reply: Reply,
        number: u64,
        name: &str,
        ids: &[U64],
        limit: u32,
    ) -> Result<(), Refusal> {
        let request = self.request(peer, number);
        let queue = self.numbered_queue(name, request)?;
        self.take_ids(ids);
        let which = (!ids.is_empty()).then_some(&self.ids[..]);
        let limit = if limit == 0 { usize::MAX } else { limit as usize };
        let engine = &self.hub.engine;
        let (count, confirmed) =
            engine.redrive(queue, which, limit, request, self.now_ms, &mut self.items)?;
        self.answer_count(peer, reply, &confirmed, count as u64);
        Ok(())
    }
}

/// How many of these statuses fit into one frame.
fn fitting(jobs: &[JobStatus]) -> usize {
    let mut room = PAGE_BYTES_MAX;
    jobs.iter()
        .take_while(|status| match room.checked_sub(status_len(status)) {
            Some(left) => {
                room = left;
                true
            }
            None => false,
        })
        .count()
}

// The largest job fits, so no page is empty for want of room.
const _: () = assert!(
    PAGE_BYTES_MAX
        > (limits::PAYLOAD_BYTES_MAX + limits::META_BYTES_MAX + 2 * limits::NOTE_BYTES_MAX) as usize + 1_024
);
