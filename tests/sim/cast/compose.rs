//! Frames of requests, with what the oracle is to know of them.

use super::party::{Party, Pending};
use crate::oracle::{Ask, Intent, IntentRef, Settling, meta_of, payload_of};
use ackring::wire::compose::{self, ReserveFields};
use ackring::{Durability, EnqueueBuilder, JobId, JobOptions, SettleBuilder, SettleEntry, Token, Verb};

/// A job to be enqueued: everything about it follows from these.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish {
    pub key: Option<u64>,
    /// For a keyed job: which of the two contents that are used under the key.
    pub variant: u64,
    pub priority: u8,
    pub delay_ms: u64,
    pub ttl_ms: u64,
    pub lease_ms: u32,
    pub max_attempts: u16,
    pub payload_len: usize,
    pub meta_len: usize,
}

/// Stamps of keyed jobs begin here.
const KEYED_STAMPS: u64 = 1 << 48;

impl Party {
    /// Puts wishes into a batch, and tells the oracle.
    fn wish(&mut self, queue: usize, level: Durability, wishes: &[Wish]) -> (EnqueueBuilder, Vec<IntentRef>) {
        let mut batch = EnqueueBuilder::new();
        let mut intents = Vec::new();
        for wish in wishes {
            let stamp = match wish.key {
                Some(key) => KEYED_STAMPS + ((queue as u64) << 16 | key << 1 | wish.variant),
                None => {
                    let stamp = self.stage.next_stamp.get();
                    self.stage.next_stamp.set(stamp + 1);
                    stamp
                }
            };
            // What is sent under a key depends on nothing but the key.
            let (payload_len, meta_len) = match wish.key {
                Some(key) => ((key % 3) as usize * 10, 8),
                None => (wish.payload_len, wish.meta_len),
            };
            let payload = payload_of(stamp, payload_len);
            let meta = meta_of(stamp, meta_len);
            let key = wish.key.map(|key| format!("key-{key}")).unwrap_or_default();
            let wish = match wish.key {
                Some(key) => &Wish {
                    key: Some(key),
                    ..Wish::default()
                },
                None => wish,
            };
            let options = JobOptions {
                priority: wish.priority,
                delay_ms: wish.delay_ms,
                due_ms: 0,
                ttl_ms: wish.ttl_ms,
                lease_ms: wish.lease_ms,
                max_attempts: wish.max_attempts,
                key: key.as_bytes(),
                meta: &meta,
            };
            batch.push(&payload, &options);
            let intent = Intent::new(stamp, queue, wish.key, &options, payload_len, meta_len, level);
            intents.push(self.stage.oracle.borrow_mut().intend(intent));
        }
        (batch, intents)
    }

    fn level_of(&self, queue: usize) -> Durability {
        self.stage.plan.queues[queue].options.durability
    }

    fn begin(&mut self, ask: Ask, number: u64, queues: Vec<usize>, frame: Vec<u8>) -> u64 {
        self.begin_as(ask, number, queues, frame, false)
    }

    fn begin_as(&mut self, ask: Ask, number: u64, queues: Vec<usize>, frame: Vec<u8>, is_quiet: bool) -> u64 {
        let request = self.stage.oracle.borrow_mut().request(ask);
        self.open(Pending {
            request,
            number,
            frame,
            queues,
            on: None,
            retry_ms: 0,
            is_quiet,
        })
    }

    pub fn enqueue(&mut self, queue: usize, asked: Option<Durability>, wishes: &[Wish]) -> u64 {
        let level = asked.unwrap_or(self.level_of(queue));
        let (batch, intents) = self.wish(queue, level, wishes);
        let number = self.number();
        let mut frame = Vec::new();
        compose::enqueue(&mut frame, 0, number, 0, asked, &batch);
        self.begin(Ask::Enqueue(intents), number, vec![queue], frame)
    }

    pub fn settle(&mut self, settlings: &[Settling]) -> u64 {
        let number = self.number();
        let mut frame = Vec::new();
        compose::settle(&mut frame, 0, number, &self.batch_of(settlings));
        self.begin(Ask::Settle(settlings.to_vec()), number, Vec::new(), frame)
    }

    pub fn settle_quietly(&mut self, settlings: &[Settling]) -> u64 {
        let mut frame = Vec::new();
        compose::settle_quietly(&mut frame, 0, &self.batch_of(settlings));
        self.begin_as(Ask::Settle(settlings.to_vec()), 0, Vec::new(), frame, true)
    }

    /// A request for each, so that they come together.
    pub fn ack_quietly(&mut self, token: Token) -> u64 {
        let settling = Settling {
            token,
            verb: Verb::Ack,
            arg: 0,
        };
        let mut frame = Vec::new();
        compose::ack_quietly(&mut frame, 0, &[token]);
        self.begin_as(Ask::Settle(vec![settling]), 0, Vec::new(), frame, true)
    }

    fn batch_of(&self, settlings: &[Settling]) -> SettleBuilder {
        let mut batch = SettleBuilder::new();
        for settling in settlings {
            let text = format!("note of {}", settling.token.attempt);
            let noted = settling.token.id.0 % 3 == 0;
            let note = match settling.verb {
                Verb::Ack | Verb::Nack | Verb::Reject if noted => Some(text.as_bytes()),
                _ => None,
            };
            batch.push(settling.token, settling.verb, settling.arg, note);
        }
        batch
    }

    pub fn step(&mut self, settlings: &[Settling], groups: &[(usize, Vec<Wish>)]) -> u64 {
        let mut batches = Vec::new();
        let mut all = Vec::new();
        for (queue, wishes) in groups {
            let (batch, intents) = self.wish(*queue, self.level_of(*queue), wishes);
            batches.push(batch);
            all.extend(intents);
        }
        let number = self.number();
        let groups_of: Vec<(u32, &EnqueueBuilder)> = batches.iter().map(|batch| (0, batch)).collect();
        let mut frame = Vec::new();
        compose::step(&mut frame, 0, number, &self.batch_of(settlings), &groups_of);
        let queues = groups.iter().map(|(queue, _)| *queue).collect();
        self.begin(Ask::Step(settlings.to_vec(), all), number, queues, frame)
    }

    pub fn reserve(&mut self, queues: Vec<usize>, jobs: u32, wait_ms: u32, bytes: u32, lease_ms: u32) -> u64 {
        let number = self.number();
        let fields = ReserveFields {
            number,
            max_jobs: jobs,
            wait_ms,
            max_bytes: bytes,
            lease_ms,
        };
        let mut frame = Vec::new();
        compose::reserve(&mut frame, 0, &fields, &vec![0; queues.len()]);
        self.begin(Ask::Reserve, number, queues, frame)
    }

    pub fn cancel(&mut self, ids: &[JobId]) -> u64 {
        let number = self.number();
        let mut frame = Vec::new();
        compose::job_cancel(&mut frame, 0, number, ids);
        self.begin(Ask::Cancel(ids.to_vec()), number, Vec::new(), frame)
    }

    pub fn redrive(&mut self, queue: usize, ids: &[JobId], limit: u32) -> u64 {
        let number = self.number();
        let mut frame = Vec::new();
        compose::job_redrive(&mut frame, 0, number, &self.name(queue), ids, limit);
        self.begin(Ask::Redrive, number, Vec::new(), frame)
    }

    pub fn purge(&mut self, queue: usize, states: u32) -> u64 {
        // Scheduled, ready, leased, dead: nothing that is there is left.
        let is_all = states & 0b1_1110 == 0b1_1110;
        let number = self.number();
        let mut frame = Vec::new();
        compose::queue_purge(&mut frame, 0, number, &self.name(queue), states);
        self.begin(Ask::Purge(queue, is_all), number, Vec::new(), frame)
    }

    pub fn change_queue(&mut self, queue: usize, op: ackring::wire::Op) -> u64 {
        let number = self.number();
        let mut frame = Vec::new();
        compose::queue_change(&mut frame, 0, op, number, &self.name(queue));
        let ask = match op {
            ackring::wire::Op::QueuePause => Ask::Pause(queue),
            ackring::wire::Op::QueueResume => Ask::Resume(queue),
            _ => Ask::Delete(queue),
        };
        self.begin(ask, number, Vec::new(), frame)
    }

    fn name(&self, queue: usize) -> String {
        self.stage.plan.queues[queue].name.clone()
    }
}

/// The delay of a nack that leaves it to the queue.
pub const BACKOFF: u32 = SettleEntry::BACKOFF;
