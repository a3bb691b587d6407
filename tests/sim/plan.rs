//! What a history is made of, drawn from its seed: small limits, so that every one of them is hit all the time.

use crate::rng::Rng;
use ackring::engine::EngineConfig;
use ackring::{Backoff, Durability, QueueOptions};

/// A queue of the history.
#[derive(Debug, Clone)]
pub struct QueuePlan {
    pub name: String,
    pub options: QueueOptions,
    /// Whether somebody deletes it now and then; it is made again by whoever opens it next.
    pub is_deletable: bool,
}

/// What somebody does with the queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Producer,
    /// Takes jobs by RESERVE.
    Reserver,
    /// Has jobs pushed.
    Subscriber,
    Admin,
    /// Takes out everything at the end.
    Drainer,
}

/// A client: one session, or none, and the connections that share it.
#[derive(Debug, Clone)]
pub struct PartyPlan {
    pub role: Role,
    /// 0: requests are not numbered.
    pub session: u128,
    pub links: usize,
    pub heartbeat_ms: u32,
    /// Requests in flight at most.
    pub in_flight: usize,
    /// Pause between two requests at most, in milliseconds.
    pub pause_ms: u64,
}

/// See the [module](self).
#[derive(Debug, Clone)]
pub struct Plan {
    pub queues: Vec<QueuePlan>,
    pub parties: Vec<PartyPlan>,
    pub slots: u32,
    pub segment_bytes: u32,
    pub log_bytes_max: u64,
    pub memory_bytes_max: u64,
    pub grace_ms: u32,
    /// Largest payload that is sent often, in bytes.
    pub payload_bytes: u64,
    /// Idempotency keys that producers share.
    pub keys: u64,
    /// How many of a thousand jobs are enqueued under one.
    pub keyed_per_mille: u64,
}

impl Plan {
    pub fn draw(seed: u64) -> Self {
        let dice = &mut Rng::new(seed, "plan");
        let mut queues: Vec<_> = (0..dice.range(1, 3)).map(|n| queue(dice, n, false)).collect();
        if dice.per_mille(250) {
            queues.push(queue(dice, 9, true));
        }
        let segment_bytes = 64 * 1024;
        let segments = dice.pick(&[4, 4, 5, 6, 8]);
        let plan = Self {
            queues,
            parties: parties(dice),
            slots: dice.pick(&[8, 24, 64, 256]),
            segment_bytes,
            log_bytes_max: segments * u64::from(segment_bytes),
            memory_bytes_max: dice.pick(&[4, 5, 8]) * u64::from(segment_bytes),
            grace_ms: dice.pick(&[1, 40, 300, 2_000]),
            payload_bytes: dice.pick(&[20, 60, 300, 2_000, 9_000]),
            keys: dice.pick(&[1, 3, 12]),
            keyed_per_mille: 150,
        };
        let own = &mut Rng::new(seed, "room");
        let plan = match own.below(1_000) {
            0..150 => plan.churning(own),
            150..250 => plan.churning(own).cramped(own),
            _ => plan,
        };
        let own = &mut Rng::new(seed, "habits");
        match own.below(1_000) {
            0..100 => plan.keyed(own),
            100..200 => plan.lined_up(own),
            _ => plan,
        }
    }

    /// The same with segments that are used again all the time, over jobs that stay: large payloads in a hurry, on
    /// the disk before they are confirmed, and a queue where most jobs are late or dead.
    fn churning(mut self, dice: &mut Rng) -> Self {
        for queue in &mut self.queues {
            let options = &mut queue.options;
            options.durability = dice.pick(&[Durability::Written, Durability::Synced, Durability::Synced]);
            options.capacity_jobs = options.capacity_jobs.max(30);
            options.capacity_bytes = 1 << 20;
            options.payload_bytes_max = 60_000;
        }
        self.queues[0].options.max_attempts = 1;
        for party in &mut self.parties {
            party.pause_ms = party.pause_ms.min(5);
            party.in_flight = party.in_flight.max(5);
        }
        self.slots = self.slots.max(64);
        self.payload_bytes = dice.pick(&[4_000, 9_000, 20_000]);
        self
    }

    /// A churning one in a log where a few jobs fill everything, the largest of them nearly a segment each.
    fn cramped(mut self, dice: &mut Rng) -> Self {
        for queue in &mut self.queues {
            queue.options.payload_bytes_max = 62_000;
        }
        self.log_bytes_max = dice.range(4, 8) * u64::from(self.segment_bytes);
        self.payload_bytes = dice.pick(&[20_000, 40_000, 62_000]);
        self
    }

    /// Nearly every job comes under one of few keys, over and over, in queues that remember keys for longer than it takes
    /// to start again, and not for much longer than a history takes.
    fn keyed(mut self, dice: &mut Rng) -> Self {
        for queue in &mut self.queues {
            let options = &mut queue.options;
            options.durability = dice.pick(&[Durability::Written, Durability::Synced]);
            options.dedupe_window_ms = dice.pick(&[150, 400, 400, 2_000, 60_000]);
            options.capacity_jobs = options.capacity_jobs.max(30);
            options.capacity_bytes = 1 << 20;
        }
        for party in &mut self.parties {
            party.pause_ms = party.pause_ms.min(10);
        }
        self.slots = self.slots.max(24);
        self.keys = dice.pick(&[1, 3, 6]);
        self.keyed_per_mille = 800;
        self
    }

    /// More jobs come than slow workers take, so that many of one caller are left, in slots that were used before.
    fn lined_up(mut self, dice: &mut Rng) -> Self {
        for queue in &mut self.queues {
            let options = &mut queue.options;
            options.durability = dice.pick(&[Durability::Written, Durability::Synced]);
            options.capacity_jobs = options.capacity_jobs.max(30);
            options.capacity_bytes = 1 << 20;
        }
        for party in &mut self.parties {
            if party.role == Role::Producer {
                party.pause_ms = party.pause_ms.min(10);
                party.in_flight = party.in_flight.max(5);
            } else {
                party.pause_ms = party.pause_ms.max(30);
            }
        }
        self.slots = self.slots.max(64);
        self.keyed_per_mille = 20;
        self
    }

    /// How the engine is to be opened; where its log lies is the world's business.
    pub fn engine(&self) -> EngineConfig {
        EngineConfig {
            slots: self.slots,
            segment_bytes: self.segment_bytes,
            log_bytes_max: self.log_bytes_max,
            memory_bytes_max: self.memory_bytes_max,
            ..EngineConfig::default()
        }
    }
}

fn queue(dice: &mut Rng, n: u64, is_deletable: bool) -> QueuePlan {
    let durability = dice.pick(&[
        Durability::Memory,
        Durability::Written,
        Durability::Written,
        Durability::Written,
        Durability::Synced,
        Durability::Synced,
    ]);
    let backoff = match dice.below(3) {
        0 => Backoff::Exponential {
            base_ms: 0,
            cap_ms: 0,
        },
        1 => Backoff::Exponential {
            base_ms: 10,
            cap_ms: 80,
        },
        _ => Backoff::List(vec![0, 30, 5]),
    };
    QueuePlan {
        name: format!("q{n}"),
        options: QueueOptions {
            durability,
            lease_ms: dice.pick(&[25, 120, 600, 5_000]),
            max_attempts: dice.pick(&[1, 2, 3, 25]),
            backoff,
            capacity_jobs: dice.pick(&[2, 7, 30, 1_000]),
            capacity_bytes: dice.pick(&[600, 8_000, 1 << 20]),
            payload_bytes_max: dice.pick(&[1_000, 10_000, 60_000]),
            dedupe_window_ms: dice.pick(&[0, 50, 400, 60_000]),
            keep_finished: dice.pick(&[0, 1, 5, 100]),
        },
        is_deletable,
    }
}

fn parties(dice: &mut Rng) -> Vec<PartyPlan> {
    let mut roles = vec![Role::Producer, Role::Reserver];
    for _ in 0..dice.below(4) {
        roles.push(dice.pick(&[
            Role::Producer,
            Role::Reserver,
            Role::Subscriber,
            Role::Subscriber,
            Role::Admin,
        ]));
    }
    if dice.per_mille(600) {
        roles.push(Role::Admin);
    }
    roles
        .into_iter()
        .map(|role| PartyPlan {
            role,
            session: if dice.per_mille(850) {
                u128::from(dice.next()) << 64 | u128::from(dice.next() | 1)
            } else {
                0
            },
            links: if dice.per_mille(300) { 2 } else { 1 },
            heartbeat_ms: dice.pick(&[1_000, 3_000, 10_000]),
            in_flight: dice.pick(&[1, 2, 5, 20]),
            pause_ms: dice.pick(&[0, 5, 30, 100]),
        })
        .collect()
}
