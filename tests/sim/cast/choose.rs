//! What a client does next.

use super::Mood;
use super::compose::{BACKOFF, Wish};
use super::link::{Link, What};
use super::party::Held;
use crate::oracle::Settling;
use crate::plan::Role;
use ackring::wire::{Op, compose};
use ackring::{Durability, JobId, Token, Verb};

/// Stale tokens that a worker remembers.
const STALE_MAX: usize = 6;

impl Link {
    /// Begins as many requests as it may now.
    pub(super) fn choose(&mut self, now_ms: u64) {
        if self.stage.mood.get() != Mood::Work {
            return;
        }
        let plan = self.party.borrow().plan.clone();
        let mut rounds = 0;
        while now_ms >= self.next_ms && rounds < 4 {
            rounds += 1;
            let (open, full) = {
                let party = self.party.borrow();
                (party.pending.len(), party.is_window_full())
            };
            if full || open >= plan.in_flight {
                return;
            }
            self.next_ms = now_ms + self.dice.below(plan.pause_ms + 1);
            if self.dice.per_mille(30) {
                self.send_again();
                continue;
            }
            if self.dice.per_mille(10) {
                // Hangs up, for a moment or for longer than the grace.
                self.away_until_ms = now_ms + self.dice.below(3 * u64::from(self.stage.plan.grace_ms) + 20);
                return;
            }
            let key = match plan.role {
                Role::Producer => Some(self.produce()),
                Role::Reserver | Role::Subscriber => self.work(now_ms),
                Role::Admin => self.administer(),
                Role::Drainer => None,
            };
            if let Some(key) = key {
                self.send(key);
            }
        }
    }

    fn any_queue(&mut self) -> usize {
        self.dice.below(self.stage.plan.queues.len() as u64) as usize
    }

    pub(super) fn wish(&mut self) -> Wish {
        let bytes = self.stage.plan.payload_bytes;
        let (keys, keyed) = (self.stage.plan.keys, self.stage.plan.keyed_per_mille);
        let dice = &mut self.dice;
        let payload_len = match dice.below(10) {
            0 => 0,
            1 => bytes * 2,
            _ => dice.below(bytes + 1),
        };
        Wish {
            key: dice.per_mille(keyed).then(|| dice.below(keys)),
            variant: u64::from(dice.per_mille(150)),
            priority: if dice.per_mille(800) {
                0
            } else {
                dice.below(8) as u8
            },
            delay_ms: if dice.per_mille(850) {
                0
            } else {
                dice.pick(&[1, 10, 80, 700])
            },
            ttl_ms: if dice.per_mille(900) {
                0
            } else {
                dice.pick(&[1, 30, 300, 5_000])
            },
            lease_ms: if dice.per_mille(850) {
                0
            } else {
                dice.pick(&[1, 20, 900])
            },
            max_attempts: if dice.per_mille(850) {
                0
            } else {
                dice.range(1, 4) as u16
            },
            payload_len: payload_len as usize,
            meta_len: dice.pick(&[8, 8, 8, 30]),
        }
    }

    fn wishes(&mut self) -> Vec<Wish> {
        let count = match self.dice.below(10) {
            0 => self.dice.range(6, 40),
            1..4 => self.dice.range(2, 5),
            _ => 1,
        };
        (0..count).map(|_| self.wish()).collect()
    }

    fn produce(&mut self) -> u64 {
        let queue = self.any_queue();
        let wishes = self.wishes();
        if self.dice.per_mille(80) {
            let other = self.any_queue();
            let more = self.wishes();
            return self
                .party
                .borrow_mut()
                .step(&[], &[(queue, wishes), (other, more)]);
        }
        // Whether a key's first job came at this level or at another nobody could tell.
        let is_keyed = wishes.iter().any(|wish| wish.key.is_some());
        let level = match self.dice.below(10) {
            _ if is_keyed => None,
            0 => Some(Durability::Memory),
            1 => Some(Durability::Written),
            2 => Some(Durability::Synced),
            _ => None,
        };
        self.party.borrow_mut().enqueue(queue, level, &wishes)
    }

    fn work(&mut self, now_ms: u64) -> Option<u64> {
        let due = {
            let max = self.dice.range(1, 12) as usize;
            self.party.borrow_mut().due(now_ms, max)
        };
        if !due.is_empty() {
            return Some(self.settle(&due, now_ms));
        }
        let queues = self.some_queues();
        if self.role() == Role::Subscriber {
            return self.subscribe(&queues);
        }
        let jobs = self.dice.pick(&[1, 1, 3, 10, 100]);
        let wait_ms = self.dice.pick(&[0, 0, 5, 50, 400]);
        let bytes = self.dice.pick(&[0, 0, 0, 1, 100, 3_000]);
        let lease_ms = self.dice.pick(&[0, 0, 0, 1, 15, 200, 8_000]);
        let key = self
            .party
            .borrow_mut()
            .reserve(queues, jobs, wait_ms, bytes, lease_ms);
        Some(key)
    }

    fn some_queues(&mut self) -> Vec<usize> {
        let mut queues: Vec<usize> = (0..self.handles.len())
            .filter(|queue| self.handles[*queue].is_some())
            .collect();
        if self.dice.per_mille(500) {
            queues = vec![self.dice.pick(&queues)];
        } else {
            let turn = self.dice.below(queues.len() as u64) as usize;
            queues.rotate_left(turn);
        }
        queues
    }

    fn subscribe(&mut self, queues: &[usize]) -> Option<u64> {
        let asking = self.sent.values().any(|(what, _)| *what == What::Subscribe);
        if asking || self.subscriptions.len() >= 2 {
            let first = self.subscriptions.keys().min().copied();
            if let Some(subscription) = first
                && !asking
                && self.dice.per_mille(80)
            {
                // Pushes that are on their way may still come, so it is not forgotten here.
                let correlation = self.expect(What::Nothing);
                compose::unsubscribe(&mut self.out, correlation, subscription);
            }
            return None;
        }
        let handles: Vec<u32> = queues.iter().filter_map(|queue| self.handles[*queue]).collect();
        let correlation = self.expect(What::Subscribe);
        let jobs = self.dice.pick(&[1, 2, 10, 500]);
        let bytes = self.dice.pick(&[0, 0, 50, 5_000]);
        let lease_ms = self.dice.pick(&[0, 0, 20, 300]);
        compose::subscribe(&mut self.out, correlation, jobs, bytes, lease_ms, &handles);
        None
    }

    /// Settles what is due, in whatever way, and now and then what is not.
    fn settle(&mut self, due: &[Held], now_ms: u64) -> u64 {
        let mut settlings: Vec<Settling> = due.iter().map(|held| self.verb_for(held, now_ms)).collect();
        let mut party = self.party.borrow_mut();
        for settling in &settlings {
            party.stale.push_back(settling.token);
            if party.stale.len() > STALE_MAX {
                party.stale.pop_front();
            }
        }
        let stale: Vec<Token> = party.stale.iter().copied().collect();
        drop(party);
        if self.dice.per_mille(200) {
            let token = self.dice.pick(&stale);
            settlings.push(self.meddling(token));
        }
        if self.dice.per_mille(250) {
            let queue = self.any_queue();
            let mut groups = vec![(queue, self.wishes())];
            if self.dice.per_mille(300) {
                let other = self.any_queue();
                groups.push((other, self.wishes()));
            }
            return self.party.borrow_mut().step(&settlings, &groups);
        }
        match self.dice.below(4) {
            0 => self.party.borrow_mut().settle_quietly(&settlings),
            1 => self.ack_each_quietly(&settlings),
            _ => self.party.borrow_mut().settle(&settlings),
        }
    }

    /// Acks all of them, in requests that come together.
    fn ack_each_quietly(&mut self, settlings: &[Settling]) -> u64 {
        let mut key = 0;
        for (place, settling) in settlings.iter().enumerate() {
            if place > 0 {
                self.send(key);
            }
            key = self.party.borrow_mut().ack_quietly(settling.token);
        }
        key
    }

    fn verb_for(&mut self, held: &Held, now_ms: u64) -> Settling {
        let token = held.token;
        let (verb, arg) = match self.dice.below(20) {
            0..12 => (Verb::Ack, 0),
            12 | 13 => (Verb::Nack, BACKOFF),
            14 => (Verb::Nack, self.dice.pick(&[0, 1, 40, 300])),
            15 => (Verb::Reject, 0),
            16 | 17 => (Verb::Release, 0),
            _ => {
                let lease_ms = self.dice.pick(&[0, 1, 30, 700]);
                self.party.borrow_mut().held.push(Held {
                    token,
                    act_ms: now_ms + self.dice.below(u64::from(lease_ms) + 30),
                });
                (Verb::Extend, lease_ms)
            }
        };
        Settling { token, verb, arg }
    }

    /// A settlement under a token that is not the current one, most likely.
    fn meddling(&mut self, token: Token) -> Settling {
        let token = match self.dice.below(4) {
            0 if token.attempt > 1 => Token {
                attempt: token.attempt - 1,
                ..token
            },
            1 => Token {
                id: JobId(token.id.0 ^ 1 << 52),
                ..token
            },
            _ => token,
        };
        let verb = self
            .dice
            .pick(&[Verb::Ack, Verb::Ack, Verb::Nack, Verb::Release, Verb::Extend]);
        let arg = if verb == Verb::Extend { 100 } else { 0 };
        Settling { token, verb, arg }
    }

    fn administer(&mut self) -> Option<u64> {
        let queue = self.any_queue();
        let known = self.stage.oracle.borrow().known_jobs();
        let some: Vec<JobId> = (0..self.dice.range(1, 3))
            .filter(|_| !known.is_empty())
            .map(|_| self.dice.pick(&known))
            .collect();
        let is_deletable = self.stage.plan.queues[queue].is_deletable;
        let name = self.stage.plan.queues[queue].name.clone();
        let mut party = self.party.borrow_mut();
        match self.dice.below(40) {
            0..5 if !some.is_empty() => Some(party.cancel(&some)),
            5..9 => Some(party.redrive(queue, &[], self.dice.below(3) as u32)),
            9 if !some.is_empty() => Some(party.redrive(queue, &some, 0)),
            10..13 => Some(party.change_queue(queue, Op::QueuePause)),
            13..19 => Some(party.change_queue(queue, Op::QueueResume)),
            19 => {
                let states = self
                    .dice
                    .pick(&[0b1_1110, 0b1111_1110, 0b1_0000, 0b0_0100, 0b1110_0000]);
                Some(party.purge(queue, states))
            }
            20 | 21 if is_deletable => Some(party.change_queue(queue, Op::QueueDelete)),
            22..30 if !some.is_empty() => {
                drop(party);
                let correlation = self.expect(What::Get(some[0].0));
                compose::job_get(&mut self.out, correlation, some[0]);
                None
            }
            30..34 => {
                drop(party);
                let correlation = self.expect(What::Look);
                compose::job_list(&mut self.out, correlation, &name, None, 0, 50);
                None
            }
            34..37 => {
                drop(party);
                let correlation = self.expect(What::Look);
                compose::job_peek(&mut self.out, correlation, &name, 5);
                None
            }
            _ => {
                drop(party);
                let correlation = self.expect(What::Look);
                compose::queue_info(&mut self.out, correlation, &name);
                None
            }
        }
    }
}
