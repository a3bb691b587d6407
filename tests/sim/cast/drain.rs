//! The end of a history: everything that is there is handed out and acked, and then nothing may be left.

use super::compose::Wish;
use super::link::{Link, What};
use crate::oracle::Settling;
use ackring::wire::{Op, STATES_ALL, compose};
use ackring::{ErrorCode, QueueStats, Verb};

/// How far the drainer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Task {
    /// What was enqueued under a key is enqueued once more: within its window that makes no second job.
    #[default]
    Repeat,
    Resume,
    Redrive,
    Reserve,
    Settle,
    List,
    /// What finished jobs are kept goes.
    Purge,
    /// Each queue takes as many jobs as it may have: nothing of its capacity has leaked.
    Probe,
}

#[derive(Debug, Default)]
pub struct Drain {
    task: Task,
    queue: usize,
    pub(super) waits_for: Option<u64>,
    pub(super) refused: Option<ErrorCode>,
    pub(super) listed: Option<Vec<QueueStats>>,
    wait_until_ms: u64,
    is_probed: bool,
}

/// A lease that outlasts the drain.
const LEASE_MS: u32 = 600_000;

impl Link {
    pub(super) fn drain_on(&mut self, now_ms: u64) {
        let open = !self.party.borrow().pending.is_empty()
            || self.sent.values().any(|(what, _)| *what == What::Look);
        if open || now_ms < self.drain.wait_until_ms {
            return;
        }
        self.judge_probe();
        let queues = self.handles.len();
        let queue = self.drain.queue;
        // A full log makes no queue before jobs of the others are worked off.
        let is_closed = |queue: &usize| self.handles[*queue].is_none();
        let is_one_closed = (0..queues).any(|queue| is_closed(&queue));
        let is_early = matches!(self.drain.task, Task::Repeat | Task::Resume | Task::Redrive);
        if is_early && queue < queues && is_closed(&queue) {
            self.drain.queue += 1;
            return;
        }
        if is_one_closed && matches!(self.drain.task, Task::Purge | Task::Probe) {
            return;
        }
        let key = match self.drain.task {
            Task::Repeat if queue < queues => Some(self.repeat(queue)),
            Task::Repeat => return self.go(Task::Resume),
            Task::Resume if queue < queues => {
                self.drain.queue += 1;
                Some(self.party.borrow_mut().change_queue(queue, Op::QueueResume))
            }
            Task::Resume => return self.go(Task::Redrive),
            Task::Redrive if queue < queues => {
                self.drain.queue += 1;
                Some(self.party.borrow_mut().redrive(queue, &[], 0))
            }
            Task::Redrive => return self.go(Task::Reserve),
            Task::Reserve => {
                let opened: Vec<usize> = (0..queues).filter(|queue| !is_closed(queue)).collect();
                if opened.is_empty() {
                    return;
                }
                self.drain.task = Task::Settle;
                Some(self.party.borrow_mut().reserve(opened, 100, 0, 0, LEASE_MS))
            }
            Task::Settle => {
                let held = self.party.borrow_mut().due(u64::MAX, 1_000);
                if held.is_empty() {
                    return self.go(Task::List);
                }
                self.drain.task = Task::Reserve;
                let ack = |held: &super::party::Held| Settling {
                    token: held.token,
                    verb: Verb::Ack,
                    arg: 0,
                };
                let settlings: Vec<Settling> = held.iter().map(ack).collect();
                Some(self.party.borrow_mut().settle(&settlings))
            }
            Task::List if is_one_closed => {
                self.drain.wait_until_ms = now_ms + 20;
                return self.go(Task::Resume);
            }
            Task::List => return self.look(now_ms),
            Task::Purge if queue < queues => {
                self.drain.queue += 1;
                Some(self.party.borrow_mut().purge(queue, STATES_ALL))
            }
            Task::Purge if self.drain.is_probed => {
                self.stage.drained.set(true);
                None
            }
            Task::Purge => return self.go(Task::Probe),
            Task::Probe if queue < queues => Some(self.probe(queue)),
            Task::Probe => {
                self.drain.is_probed = true;
                return self.go(Task::Reserve);
            }
        };
        if let Some(key) = key {
            self.send(key);
        }
    }

    fn go(&mut self, task: Task) {
        self.drain.task = task;
        self.drain.queue = 0;
    }

    /// Looks whether anything is left; if so, time has to pass.
    fn look(&mut self, now_ms: u64) {
        let Some(queues) = self.drain.listed.take() else {
            let correlation = self.expect(What::Look);
            compose::queue_list(&mut self.out, correlation, "", 100);
            return;
        };
        let left = queues.iter().any(|queue| {
            let counts = queue.counts;
            counts.ready + counts.scheduled + counts.leased + counts.dead > 0
        });
        if left {
            self.drain.wait_until_ms = now_ms + 20;
            return self.go(Task::Redrive);
        }
        self.go(Task::Purge);
    }

    fn repeat(&mut self, queue: usize) -> u64 {
        self.drain.queue += 1;
        let wish = |key| Wish {
            key: Some(key),
            ..Wish::default()
        };
        let wishes: Vec<Wish> = (0..self.stage.plan.keys).map(wish).collect();
        self.party.borrow_mut().enqueue(queue, None, &wishes)
    }

    /// Whether a request that a full log refuses is sent again. What only repeats is not: the log becomes no emptier
    /// before the drainer goes on.
    pub(super) fn insists(&self) -> bool {
        self.drain.task != Task::Repeat
    }

    fn probe(&mut self, queue: usize) -> u64 {
        self.drain.queue += 1;
        let options = &self.stage.plan.queues[queue].options;
        // Metadata has 8 bytes.
        let jobs = options
            .capacity_jobs
            .min(options.capacity_bytes / 8)
            .min(u64::from(self.stage.plan.slots))
            .min(200);
        // All slots are free only for the first queue; the others get theirs when it is drained again.
        let jobs = if queue == 0 { jobs } else { 1 };
        let wish = Wish {
            meta_len: 8,
            ..Wish::default()
        };
        let key = self
            .party
            .borrow_mut()
            .enqueue(queue, None, &vec![wish; jobs as usize]);
        self.drain.waits_for = Some(key);
        self.drain.refused = None;
        key
    }

    fn judge_probe(&mut self) {
        if self.drain.waits_for.take().is_some()
            && let Some(code) = self.drain.refused.take()
        {
            let full = self.drain.queue > 1 && code == ErrorCode::SlabFull;
            assert!(
                full,
                "CHECK leak: everything is drained, and a job is refused with {code}"
            );
        }
    }
}
