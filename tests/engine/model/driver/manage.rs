//! What is asked of jobs and queues from outside: to cancel, redrive, purge, pause, delete.

use super::Driver;
use super::again::{Call, Sent};
use ackring::engine::RequestId;
use ackring::{ErrorCode, ItemError, JobId, JobState, Token};
use std::collections::BTreeSet;

impl Driver {
    pub(super) fn cancel(&mut self) {
        let known: Vec<JobId> = self.model.jobs.keys().copied().collect();
        if known.is_empty() {
            return;
        }
        let ids: Vec<JobId> = (0..self.rng.pick(&[1, 2, 5]))
            .map(|_| self.rng.pick(&known))
            .collect();
        let request = self.draw_request();
        let mut cancelled = BTreeSet::new();
        let mut expected = Vec::new();
        for (position, id) in ids.iter().enumerate() {
            let job = &self.model.jobs[id];
            let code = if job.is_live() {
                (!cancelled.insert(*id)).then_some(ErrorCode::AlreadySettled)
            } else if self.engine().job(*id).is_err() {
                Some(ErrorCode::JobNotFound)
            } else if job.state == JobState::Cancelled {
                Some(ErrorCode::AlreadySettled)
            } else {
                Some(ErrorCode::WrongState)
            };
            expected.extend(code.map(|code| ItemError {
                position: position as u32,
                code,
            }));
        }
        let mut items = Vec::new();
        let answer = self.engine().cancel(&ids, request, self.now_ms, &mut items);
        self.note(format!("cancel {} {ids:?} {answer:?} {items:?}", request.number));
        if let Err(refusal) = answer {
            return assert_eq!(refusal.code, ErrorCode::LogFull, "{refusal}");
        }
        assert_eq!(items, expected);
        let mut logged = false;
        for id in &cancelled {
            let job = self.model.jobs.get_mut(id).unwrap();
            job.state = JobState::Cancelled;
            logged |= !job.volatile;
        }
        if !cancelled.is_empty() {
            self.remember(Sent {
                request,
                call: Call::Cancel(ids),
                ids: Vec::new(),
                items,
                tokens: Vec::new(),
                logged,
                op: self.history.op + 1,
            });
        }
    }

    pub(super) fn redrive(&mut self) {
        let queue = {
            let queues = self.queues();
            self.rng.pick(&queues)
        };
        let dead: Vec<JobId> = self
            .model
            .live(queue)
            .filter(|job| job.state == JobState::Dead)
            .map(|job| job.id)
            .collect();
        let some: Option<Vec<JobId>> = self
            .rng
            .one_in(2)
            .then(|| dead.iter().copied().filter(|_| self.rng.one_in(2)).collect());
        let limit = 1 + self.rng.below(5) as usize;
        let mut items = Vec::new();
        let answer = self.engine().redrive(
            self.id(queue),
            some.as_deref(),
            limit,
            RequestId::NONE,
            self.now_ms,
            &mut items,
        );
        self.note(format!("redrive {queue} {some:?} limit {limit} {answer:?}"));
        let Ok((count, _)) = answer else {
            return assert_eq!(answer.unwrap_err().code, ErrorCode::LogFull);
        };
        let brought: Vec<JobId> = match some {
            Some(ids) => ids,
            None => {
                let back = |id: &JobId| self.engine().job(*id).unwrap().state != JobState::Dead;
                dead.iter().copied().filter(back).collect()
            }
        };
        assert_eq!(items, []);
        assert_eq!(count, brought.len());
        brought.into_iter().for_each(|id| self.model.redrive(id));
    }

    pub(super) fn purge(&mut self) {
        let queue = {
            let queues = self.queues();
            self.rng.pick(&queues)
        };
        let states: Vec<JobState> = JobState::ALL.into_iter().filter(|_| self.rng.one_in(3)).collect();
        let forgotten = self.finished_in(queue, &states);
        let answer = self
            .engine()
            .purge(self.id(queue), &states, RequestId::NONE, self.now_ms);
        self.note(format!("purge {queue} {states:?} {answer:?}"));
        let Ok((count, _)) = answer else {
            return assert_eq!(answer.unwrap_err().code, ErrorCode::LogFull);
        };
        let mut expected = forgotten;
        for job in self
            .model
            .jobs
            .values_mut()
            .filter(|job| job.queue == queue && job.is_live())
        {
            if states.contains(&job.state) {
                job.state = JobState::Cancelled;
                expected += 1;
            }
        }
        assert_eq!(count, expected, "what a purge says it purged");
        assert_eq!(self.finished_in(queue, &states), 0);
    }

    /// Finished jobs of a queue that are still kept and in one of the states.
    pub(super) fn finished_in(&self, queue: usize, states: &[JobState]) -> u64 {
        let finished = states.iter().filter(|state| state.is_finished());
        let count_in = |state: &JobState| {
            let (mut count, mut cursor) = (0, 0);
            loop {
                let page = self
                    .engine()
                    .list_jobs(self.id(queue), Some(*state), cursor, 1_000)
                    .unwrap();
                count += page.jobs.len() as u64;
                if page.next_cursor == 0 {
                    return count;
                }
                cursor = page.next_cursor;
            }
        };
        finished.map(count_in).sum()
    }

    pub(super) fn pause(&mut self) {
        let queue = {
            let queues = self.queues();
            self.rng.pick(&queues)
        };
        let paused = !self.model.queues[queue].paused;
        let id = self.id(queue);
        let answer = if paused {
            self.engine().pause(id, RequestId::NONE, self.now_ms)
        } else {
            self.engine().resume(id, RequestId::NONE, self.now_ms)
        };
        self.note(format!("pause {queue} {paused} {answer:?}"));
        match answer {
            Ok(_) => self.model.queues[queue].paused = paused,
            Err(refusal) => assert_eq!(refusal.code, ErrorCode::LogFull, "{refusal}"),
        }
    }

    pub(super) fn delete(&mut self) {
        let queue = {
            let queues = self.queues();
            self.rng.pick(&queues)
        };
        let answer = self.engine().delete(self.id(queue), RequestId::NONE, self.now_ms);
        self.note(format!("delete {queue} {answer:?}"));
        if let Err(refusal) = answer {
            return assert_eq!(refusal.code, ErrorCode::LogFull, "{refusal}");
        }
        let name = std::mem::take(&mut self.model.queues[queue].name);
        let gone: Vec<JobId> = self
            .model
            .jobs
            .values()
            .filter(|job| job.queue == queue)
            .map(|job| job.id)
            .collect();
        for id in gone {
            self.model.jobs.remove(&id);
            assert_eq!(self.engine().job(id).unwrap_err().code, ErrorCode::JobNotFound);
        }
        assert_eq!(
            self.engine().find_queue(&name).unwrap_err().code,
            ErrorCode::QueueNotFound
        );
        // Whether the deletion is there after a power cut is not what is asked here.
        self.engine().sync().unwrap();
        let options = self.draw_options();
        for _ in 0..50 {
            let made = self
                .engine()
                .create_queue(&name, &options, RequestId::NONE, self.now_ms);
            match made {
                Ok(_) => break,
                // A full log: the agent makes room.
                Err(_) => self.tidy(),
            }
        }
        self.create(name, options);
        self.engine().sync().unwrap();
    }

    pub(super) fn shorten(&mut self) {
        let until_ms = self.now_ms + 50;
        let mut tokens = Vec::new();
        for job in self.model.jobs.values_mut() {
            if job.state == JobState::Leased && self.rng.one_in(3) {
                let token = Token {
                    id: job.id,
                    attempt: job.attempt,
                };
                tokens.push((token, job.at_ms));
                job.at_ms = job.at_ms.min(until_ms);
            }
        }
        self.engine().shorten_leases(tokens.iter().copied(), until_ms);
        self.note(format!("shorten {tokens:?}"));
    }
}
