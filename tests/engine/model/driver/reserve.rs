//! Reserves.

use super::super::reference::Job;
use super::Driver;
use super::again::{Call, Sent};
use crate::world::Collect;
use ackring::engine::QueueId;
use ackring::{ErrorCode, JobState, Token};

impl Driver {
    pub(super) fn reserve(&mut self) {
        let all = self.queues();
        let mut queues = vec![self.rng.pick(&all)];
        if self.rng.one_in(4) {
            let second = self.rng.pick(&all);
            if second != queues[0] {
                queues.push(second);
            }
        }
        let max = self.rng.pick(&[1, 1, 3, 10, 100]);
        let asked_lease_ms = self.rng.pick(&[0, 0, 0, 400]);
        let request = self.draw_request();
        let late = self.rng.one_in(8);
        if late {
            // The clock is ahead of the timers.
            self.now_ms += 10 * self.rng.below(60);
        }
        let mut sink = Collect::new();
        if self.rng.one_in(4) {
            sink.bytes_left = 50 + self.rng.below(500) as usize;
        }
        let room = sink.bytes_left;
        let ids: Vec<QueueId> = queues.iter().map(|queue| self.id(*queue)).collect();
        let answer = self
            .engine()
            .reserve(&ids, max, asked_lease_ms, request, self.now_ms, &mut sink);
        let tokens: Vec<Token> = sink.jobs.iter().map(|job| job.token).collect();
        self.note(format!(
            "reserve {max} of {queues:?} late {late} {} {answer:?} {tokens:?}",
            request.number
        ));
        if let Err(refusal) = answer {
            assert_eq!(refusal.code, ErrorCode::LogFull, "{refusal}");
            assert_eq!(tokens, []);
            if late {
                // What it found past its TTL it has ended, although it hands nothing out.
                self.run_timers();
            }
            return;
        }
        let mut logged = false;
        let mut bytes = 0;
        let places: Vec<(usize, u8)> = tokens
            .iter()
            .map(|token| {
                let job = &self.model.jobs[&token.id];
                let place = queues.iter().position(|queue| *queue == job.queue).unwrap();
                (place, 7 - job.priority)
            })
            .collect();
        assert!(places.is_sorted(), "queues and levels in order: {places:?}");
        for job in &sink.jobs {
            self.model
                .deliver(job.token, job.lease_ms, asked_lease_ms, self.now_ms);
            let known = &self.model.jobs[&job.token.id];
            assert_eq!((&job.payload, &job.meta), (&known.payload, &known.meta));
            assert_eq!(job.attempts, known.attempt - known.releases);
            bytes += known.bytes() as usize;
            logged |= !known.volatile;
        }
        assert!(tokens.len() <= max && (bytes <= room || tokens.len() == 1));
        // Nothing was passed over.
        let now_ms = self.now_ms;
        let left = |queue: usize| {
            let paused = self.model.queues[queue].paused;
            let ready = move |job: &&Job| {
                !paused && job.state == JobState::Ready && (job.expires_ms == 0 || job.expires_ms > now_ms)
            };
            self.model.live(queue).filter(ready)
        };
        let last = places.last().copied().unwrap_or((0, 0));
        for (place, queue) in queues.iter().enumerate() {
            for job in left(*queue) {
                let is_full = tokens.len() == max || bytes + 8_200 > room;
                assert!(is_full, "{} is ready and was not handed out", job.id);
                assert!((place, 7 - job.priority) >= last, "{} was passed over", job.id);
            }
        }
        self.tokens.extend(&tokens);
        self.remember(Sent {
            request,
            call: Call::Reserve(queues, max),
            ids: Vec::new(),
            items: Vec::new(),
            tokens,
            logged,
            op: self.history.op + 1,
        });
        if late {
            self.run_timers();
        }
    }
}
