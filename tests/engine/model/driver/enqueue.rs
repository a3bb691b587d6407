//! Enqueues: jobs as drawn, and what must come of them.

use super::super::reference::{Job, KeyUse};
use super::Driver;
use super::again::{Call, Sent};
use ackring::engine::{EnqueueReply, QueueId, RequestId};
use ackring::{
    Durability, EnqueueBatch, EnqueueBuilder, ErrorCode, ItemError, JobId, JobOptions, JobState, Refusal,
};

/// A job to be enqueued, as drawn.
#[derive(Clone)]
pub(super) struct Draft {
    pub(super) payload: Vec<u8>,
    pub(super) meta: Vec<u8>,
    pub(super) key: Vec<u8>,
    pub(super) priority: u8,
    pub(super) delay_ms: u64,
    pub(super) ttl_ms: u64,
    pub(super) max_attempts: u16,
    pub(super) lease_ms: u32,
}

impl std::fmt::Debug for Draft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "draft of {}", self.payload.len())
    }
}

impl Driver {
    pub(super) fn draft(&mut self) -> Draft {
        self.drafts += 1;
        let size = match self.rng.below(20) {
            0 => self.rng.below(8_000),
            _ => self.rng.below(120),
        } as usize;
        let mut payload = self.drafts.to_le_bytes().to_vec();
        payload.resize(8 + size, self.drafts as u8);
        let rng = &mut self.rng;
        let mut draft = Draft {
            payload,
            meta: vec![7; rng.pick(&[0, 0, 3, 16])],
            key: Vec::new(),
            priority: rng.pick(&[0, 0, 0, 3, 7]),
            delay_ms: if rng.one_in(5) {
                10 * (1 + rng.below(200))
            } else {
                0
            },
            ttl_ms: if rng.one_in(6) {
                10 * (1 + rng.below(300))
            } else {
                0
            },
            max_attempts: rng.pick(&[0, 0, 1, 3]),
            lease_ms: rng.pick(&[0, 0, 150, 700]),
        };
        if rng.one_in(4) {
            draft.key = vec![b'a' + rng.below(6) as u8];
            if rng.one_in(2) {
                // The same body again and again, so that keys find it.
                draft.payload = b"the same".to_vec();
                draft.meta = Vec::new();
            }
        }
        draft
    }

    pub(super) fn drafts(&mut self) -> Vec<Draft> {
        let count = match self.rng.below(10) {
            0..=4 => 1,
            5..=8 => 1 + self.rng.below(6),
            _ => 1 + self.rng.below(40),
        };
        (0..count).map(|_| self.draft()).collect()
    }

    pub(super) fn encode(drafts: &[Draft]) -> Vec<u8> {
        let mut builder = EnqueueBuilder::new();
        for draft in drafts {
            let options = JobOptions {
                priority: draft.priority,
                delay_ms: draft.delay_ms,
                due_ms: 0,
                ttl_ms: draft.ttl_ms,
                lease_ms: draft.lease_ms,
                max_attempts: draft.max_attempts,
                key: &draft.key,
                meta: &draft.meta,
            };
            builder.push(&draft.payload, &options);
        }
        let mut bytes = Vec::new();
        builder.write_to(&mut bytes);
        bytes
    }

    pub(super) fn send_enqueue(
        &self,
        queue: QueueId,
        drafts: &[Draft],
        level: Option<Durability>,
        request: RequestId,
    ) -> Result<(EnqueueReply, Durability), Refusal> {
        let bytes = Self::encode(drafts);
        let batch = EnqueueBatch::parse(drafts.len(), &bytes).unwrap();
        let mut reply = EnqueueReply::default();
        let confirmed = self
            .engine()
            .enqueue(queue, &batch, level, request, self.now_ms, &mut reply)?;
        Ok((reply, confirmed.level))
    }

    pub(super) fn enqueue(&mut self) {
        let queue = {
            let queues = self.queues();
            self.rng.pick(&queues)
        };
        let drafts = self.drafts();
        let level = self.rng.pick(&[
            None,
            None,
            None,
            Some(Durability::Memory),
            Some(self.last_level()),
        ]);
        let request = self.draw_request();
        let asked = level.unwrap_or(self.model.queues[queue].options.durability);
        let answer = self.send_enqueue(self.id(queue), &drafts, level, request);
        self.note(format!(
            "enqueue {} into {queue} {asked} {} {:?}",
            drafts.len(),
            request.number,
            answer
                .as_ref()
                .map(|(reply, _)| reply.ids.iter().map(|id| JobId(*id)).collect::<Vec<_>>())
        ));
        match answer {
            Ok((reply, reached)) => {
                let volatile = asked == Durability::Memory;
                let repeats_volatile = self.accept(queue, &drafts, &reply.ids, &reply.items, 0, volatile);
                let expected = if repeats_volatile {
                    Durability::Memory
                } else {
                    asked
                };
                assert_eq!(reached, expected, "what is confirmed");
                if reached == Durability::Synced {
                    // As the server does before it says so.
                    self.engine().sync().unwrap();
                }
                self.remember(Sent {
                    request,
                    call: Call::Enqueue(queue, drafts, level),
                    ids: reply.ids,
                    items: reply.items,
                    tokens: Vec::new(),
                    logged: !volatile,
                    op: self.history.op + 1,
                });
            }
            Err(refusal) => self.judge_refusal(&refusal, queue, &drafts),
        }
    }

    pub(super) fn judge_refusal(&self, refusal: &Refusal, queue: usize, drafts: &[Draft]) {
        let options = &self.model.queues[queue].options;
        let jobs = self.model.live(queue).count() + drafts.len();
        let bytes: u64 = self.model.live(queue).map(Job::bytes).sum::<u64>()
            + drafts
                .iter()
                .map(|draft| (draft.payload.len() + draft.meta.len()) as u64)
                .sum::<u64>();
        match refusal.code {
            ErrorCode::QueueFull => assert!(
                jobs as u64 > options.capacity_jobs || bytes > options.capacity_bytes,
                "refused as full with {jobs} jobs and {bytes} bytes: {refusal}"
            ),
            ErrorCode::SlabFull | ErrorCode::LogFull => {}
            _ => panic!("{refusal}"),
        }
    }

    /// Takes over what an enqueue answered. Says whether an entry repeats a job that is not logged.
    pub(super) fn accept(
        &mut self,
        queue: usize,
        drafts: &[Draft],
        ids: &[u64],
        items: &[ItemError],
        from: usize,
        volatile: bool,
    ) -> bool {
        assert_eq!(ids.len(), drafts.len());
        let mut repeats_volatile = false;
        for (position, (draft, id)) in drafts.iter().zip(ids).enumerate() {
            let code = items
                .iter()
                .find(|item| item.position as usize == from + position)
                .map(|item| item.code);
            let body = (draft.payload.clone(), draft.meta.clone());
            let known = self.model.queues[queue]
                .keys
                .get(&draft.key)
                .filter(|known| !draft.key.is_empty() && known.expires_ms > self.now_ms)
                // After a power cut a key that was not synced may be there or not.
                .filter(|known| !known.is_uncertain || code.is_some())
                .cloned();
            match known {
                Some(known) if known.body == body => {
                    self.model.key_is_there(queue, &draft.key);
                    assert_eq!((code, *id), (Some(ErrorCode::Duplicate), known.id.0));
                    repeats_volatile |= known.volatile;
                    continue;
                }
                Some(_) => {
                    self.model.key_is_there(queue, &draft.key);
                    assert_eq!((code, *id), (Some(ErrorCode::KeyConflict), 0));
                    continue;
                }
                None => assert_eq!(code, None, "{}", JobId(*id)),
            }
            let options = &self.model.queues[queue].options;
            let id = JobId(*id);
            let job = Job {
                id,
                queue,
                priority: draft.priority,
                payload: draft.payload.clone(),
                meta: draft.meta.clone(),
                state: if draft.delay_ms > 0 {
                    JobState::Scheduled
                } else {
                    JobState::Ready
                },
                attempt: 0,
                limit: if draft.max_attempts == 0 {
                    options.max_attempts
                } else {
                    draft.max_attempts
                },
                releases: 0,
                failures: 0,
                expiries: 0,
                expires_ms: if draft.ttl_ms == 0 {
                    0
                } else {
                    self.now_ms + draft.ttl_ms
                },
                at_ms: self.now_ms + draft.delay_ms,
                logged_at_ms: 0,
                lease_ms: draft.lease_ms,
                volatile,
                delayed: draft.delay_ms > 0,
                order: 0,
                last_error: None,
                result: None,
            };
            if !draft.key.is_empty() {
                let known = KeyUse {
                    id,
                    body,
                    expires_ms: self.now_ms + options.dedupe_window_ms,
                    volatile,
                    op: self.history.op + 1,
                    is_uncertain: false,
                };
                self.model.queues[queue].keys.insert(draft.key.clone(), known);
            }
            self.model.accept(job);
        }
        let options = &self.model.queues[queue].options;
        assert!(self.model.live(queue).count() as u64 <= options.capacity_jobs);
        assert!(self.model.live(queue).map(Job::bytes).sum::<u64>() <= options.capacity_bytes);
        repeats_volatile
    }
}
