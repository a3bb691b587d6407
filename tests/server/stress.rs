//! Many workers and producers on all reactors: every job is handed out and acked, and nobody sleeps through one.

use crate::peer::{Delivered, Peer, config, start_with};
use ackring::server::{Server, ServerConfig};
use ackring::wire::compose;
use ackring::{JobId, SettleBuilder};
use std::collections::HashSet;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

const QUEUES: u64 = 3;

/// A small generator of numbers, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Takes jobs until the server stops; reports each that it acked.
fn work(mut peer: Peer, mut dice: Dice, acked: &Sender<JobId>) {
    let all: Vec<u32> = (0..QUEUES).map(|n| peer.open(&format!("q{n}"))).collect();
    let first = dice.roll(QUEUES) as usize;
    let queues: Vec<u32> = all.iter().cycle().skip(first).take(1 + first).copied().collect();
    let subscribes = dice.roll(2) == 0;
    if subscribes {
        peer.subscribe(&queues, 1 + dice.roll(20) as u32, 0);
    } else {
        peer.ask_reserve(&queues, 1 + dice.roll(20) as u32, 600_000);
    }
    while let Some(frame) = peer.next() {
        if frame.header.is_error() {
            return;
        }
        let is_outcome = frame.header.answered_op() == Some(ackring::wire::Op::Settle);
        let jobs: Vec<Delivered> = if is_outcome {
            Vec::new()
        } else {
            frame.deliveries()
        };
        if jobs.is_empty() {
            continue;
        }
        let mut batch = SettleBuilder::new();
        jobs.iter().for_each(|job| batch.ack(job.token, None));
        peer.ask(|out, c| compose::settle(out, c, 0, &batch));
        jobs.iter().for_each(|job| acked.send(job.token.id).unwrap());
        if !subscribes {
            peer.ask_reserve(&queues, 1 + dice.roll(20) as u32, 600_000);
        }
    }
}

/// Enqueues batches, now and then waiting until all is acked, so that the workers fall asleep.
fn produce(server: &Server, dice: &mut Dice, acked: &Receiver<JobId>, seed: u64) {
    let mut peers: Vec<Peer> = (0..3).map(|_| Peer::connect(server)).collect();
    let queues: Vec<u32> = (0..QUEUES).map(|n| peers[0].open(&format!("q{n}"))).collect();
    let mut open: HashSet<JobId> = HashSet::new();
    for _ in 0..600 {
        let peer = &mut peers[dice.roll(3) as usize];
        let queue = queues[dice.roll(QUEUES) as usize];
        let is_large = dice.roll(3) == 0;
        let count = 1 + dice.roll(if is_large { 40 } else { 2 }) as usize;
        open.extend(peer.enqueue(queue, &vec!["job"; count]));
        let settle_all = dice.roll(4) == 0;
        while settle_all && !open.is_empty() {
            let id = acked.recv_timeout(Duration::from_secs(30));
            let id =
                id.unwrap_or_else(|_| panic!("{} jobs lie and nobody takes them, seed {seed}", open.len()));
            assert!(open.remove(&id), "{id} was handed out twice, seed {seed}");
        }
    }
    while !open.is_empty() {
        let id = acked.recv_timeout(Duration::from_secs(30));
        let id = id.unwrap_or_else(|_| panic!("{} jobs lie and nobody takes them, seed {seed}", open.len()));
        assert!(open.remove(&id), "{id} was handed out twice, seed {seed}");
    }
}

#[test]
fn nobody_sleeps_through_a_job() {
    for seed in 1..=20 {
        let server = start_with(
            None,
            ServerConfig {
                threads: 1 + seed as usize % 4,
                ..config()
            },
        );
        let mut dice = Dice(seed);
        let (sender, acked) = channel();
        std::thread::scope(|scope| {
            // The first worker of each queue sees to it that no queue is without one.
            for n in 0..QUEUES {
                let (sender, mut peer) = (sender.clone(), Peer::connect(&server));
                scope.spawn(move || {
                    let queue = peer.open(&format!("q{n}"));
                    peer.subscribe(&[queue], 1, 0);
                    while let Some(frame) = peer.next() {
                        if frame.header.is_error() {
                            return;
                        }
                        if frame.header.is_push() {
                            let jobs = frame.deliveries();
                            let mut batch = SettleBuilder::new();
                            jobs.iter().for_each(|job| batch.ack(job.token, None));
                            peer.ask(|out, c| compose::settle(out, c, 0, &batch));
                            jobs.iter().for_each(|job| sender.send(job.token.id).unwrap());
                        }
                    }
                });
            }
            for n in 0..5 {
                let (sender, peer) = (sender.clone(), Peer::connect(&server));
                scope.spawn(move || work(peer, Dice(seed * 100 + n), &sender));
            }
            produce(&server, &mut dice, &acked, seed);
            server.stop().unwrap();
        });
    }
}
