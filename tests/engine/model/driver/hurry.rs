//! Others, whose jobs are over at once, so that segments are over before it is time to sync them.

use super::Driver;
use ackring::engine::{EnqueueReply, QueueId, RequestId};
use ackring::{EnqueueBatch, EnqueueBuilder, JobId, JobOptions, JobState, QueueOptions};

/// Their queue, which is not the model's business.
const BUSY: &str = "busy";
/// Of each job, in bytes: some ten of them fill a segment.
const PAYLOAD_BYTES: usize = 6_000;
const JOBS: usize = 10;

impl Driver {
    /// Many segments fill by a clock that stands, while the log lets go what it can. A writer may stand in the middle of a
    /// record meanwhile, and the machine may stop.
    pub(super) fn hurry(&mut self) {
        let segments = 2 + self.rng.below(14);
        self.note(format!("{segments} segments in a hurry"));
        let options = QueueOptions {
            keep_finished: 0,
            ..QueueOptions::default()
        };
        let made = self
            .engine()
            .create_queue(BUSY, &options, RequestId::NONE, self.now_ms);
        let Ok((busy, _)) = made else { return };
        for _ in 0..segments {
            if self.rng.one_in(5) {
                self.stall();
            }
            if !self.fill_one(busy) {
                break;
            }
            if self.rng.one_in(3) {
                self.engine().log_step(self.now_ms, 8);
            }
        }
        if self.rng.one_in(3) {
            self.go_on();
        }
        for _ in 0..self.rng.below(8) {
            self.engine().log_step(self.now_ms, 8);
        }
        if self.rng.one_in(3) {
            return self.crash();
        }
        self.go_on();
        self.end_hurry();
    }

    /// Fills about a segment; `false`: the log or the table of jobs is full.
    fn fill_one(&self, busy: QueueId) -> bool {
        let mut builder = EnqueueBuilder::new();
        (0..JOBS).for_each(|_| builder.push(&[7; PAYLOAD_BYTES], &JobOptions::default()));
        let mut bytes = Vec::new();
        builder.write_to(&mut bytes);
        let batch = EnqueueBatch::parse(JOBS, &bytes).unwrap();
        let mut reply = EnqueueReply::default();
        let (engine, now_ms) = (self.engine(), self.now_ms);
        let taken = engine.enqueue(busy, &batch, None, RequestId::NONE, now_ms, &mut reply);
        let ids: Vec<JobId> = reply.ids.iter().map(|id| JobId(*id)).collect();
        taken.is_ok()
            && engine
                .cancel(&ids, RequestId::NONE, now_ms, &mut Vec::new())
                .is_ok()
    }

    /// Nothing of theirs is left, unless the log has no room to say so: then the next time.
    pub(super) fn end_hurry(&mut self) {
        if let Ok(busy) = self.engine().find_queue(BUSY) {
            let _ = self
                .engine()
                .purge(busy, &JobState::ALL, RequestId::NONE, self.now_ms);
        }
    }
}

/// Only builds with planted bugs have writers that stand in the middle of a record.
#[cfg(not(planted))]
impl Driver {
    fn stall(&mut self) {}

    pub(super) fn go_on(&mut self) {}
}

#[cfg(planted)]
impl Driver {
    fn stall(&mut self) {
        let is_begun = self.engine().log_to_stall().stall(64);
        self.note(format!("a record is begun: {is_begun}"));
    }

    pub(super) fn go_on(&mut self) {
        self.engine().log_to_stall().go_on();
    }
}
