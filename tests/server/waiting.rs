//! Reserves that wait, on one reactor and across two.

use crate::peer::{Peer, config, start, start_with, texts};
use ackring::server::ServerConfig;
use ackring::wire::compose::{self, ReserveFields};
use ackring::{ErrorCode, JobOptions, limits};

#[test]
fn a_waiting_reserve_gets_the_job_that_comes() {
    // Connections are given to the reactors in turn, so each pair of these meets its worker on the same reactor
    // once and on the other one once.
    let server = start();
    let mut workers: Vec<Peer> = (0..2).map(|_| Peer::connect(&server)).collect();
    let mut producers: Vec<Peer> = (0..2).map(|_| Peer::connect(&server)).collect();
    for worker in &mut workers {
        for producer in &mut producers {
            let queue = worker.open("q");
            let waiting = worker.ask_reserve(&[queue], 5, 600_000);
            worker.ping();
            producer.enqueue(queue, &["job"]);
            let deliveries = worker.answer(waiting).deliveries();
            assert_eq!(texts(&deliveries), ["job"]);
            worker.ack(&deliveries);
        }
    }
}

#[test]
fn a_wait_that_is_over_is_answered_with_nothing() {
    let server = start();
    let mut peer = Peer::connect(&server);
    let queue = peer.open("q");
    assert!(peer.reserve(&[queue], 1, 1).is_empty());
    peer.enqueue(queue, &["later"]);
    assert_eq!(peer.reserve(&[queue], 1, 1).len(), 1);
}

#[test]
fn one_job_goes_to_one_of_many_who_wait() {
    let server = start();
    let mut workers: Vec<Peer> = (0..8).map(|_| Peer::connect(&server)).collect();
    let mut producer = Peer::connect(&server);
    let queue = producer.open("q");
    let asked: Vec<u32> = workers
        .iter_mut()
        .map(|worker| worker.ask_reserve(&[queue], 1, 600_000))
        .collect();
    workers.iter_mut().for_each(Peer::ping);
    // One at a time and then all at once: every job finds somebody, and nobody gets two.
    producer.enqueue(queue, &["1"]);
    producer.enqueue(queue, &["2"]);
    producer.enqueue(queue, &["3", "4", "5", "6", "7", "8"]);
    let mut got: Vec<String> = workers
        .iter_mut()
        .zip(asked)
        .map(|(worker, asked)| texts(&worker.answer(asked).deliveries()).concat())
        .collect();
    got.sort();
    assert_eq!(got, ["1", "2", "3", "4", "5", "6", "7", "8"]);
}

#[test]
fn jobs_that_one_leaves_behind_wake_the_next() {
    let server = start_with(
        None,
        ServerConfig {
            threads: 4,
            ..config()
        },
    );
    let mut workers: Vec<Peer> = (0..4).map(|_| Peer::connect(&server)).collect();
    let mut producer = Peer::connect(&server);
    let queue = producer.open("q");
    for round in 0..200 {
        let asked: Vec<u32> = workers
            .iter_mut()
            .map(|worker| worker.ask_reserve(&[queue], 1, 600_000))
            .collect();
        workers.iter_mut().for_each(Peer::ping);
        producer.enqueue(queue, &["a", "b", "c", "d"]);
        for (worker, asked) in workers.iter_mut().zip(asked) {
            let deliveries = worker.answer(asked).deliveries();
            assert_eq!(deliveries.len(), 1, "round {round}");
            worker.ack(&deliveries);
        }
    }
}

#[test]
fn first_come_first_served_on_one_connection() {
    let server = start();
    let mut worker = Peer::connect(&server);
    let mut producer = Peer::connect(&server);
    let queue = worker.open("q");
    let asked: Vec<u32> = (0..5).map(|_| worker.ask_reserve(&[queue], 1, 600_000)).collect();
    worker.ping();
    producer.enqueue(queue, &["0", "1", "2", "3", "4"]);
    for (n, asked) in asked.into_iter().enumerate() {
        assert_eq!(texts(&worker.answer(asked).deliveries()), [n.to_string()]);
    }
}

#[test]
fn a_reserve_waits_at_several_queues() {
    let server = start();
    let mut worker = Peer::connect(&server);
    let mut producer = Peer::connect(&server);
    let queues: Vec<u32> = (0..3).map(|n| worker.open(&format!("q{n}"))).collect();
    for queue in &queues {
        let asked = worker.ask_reserve(&queues, 1, 600_000);
        worker.ping();
        producer.enqueue(*queue, &["job"]);
        assert_eq!(worker.answer(asked).deliveries()[0].queue, *queue);
    }
}

#[test]
fn a_job_that_becomes_due_wakes_whoever_waits() {
    let server = start();
    let mut worker = Peer::connect(&server);
    let mut producer = Peer::connect(&server);
    let queue = worker.open("q");
    let asked = worker.ask_reserve(&[queue], 1, 600_000);
    worker.ping();
    let soon = JobOptions {
        delay_ms: 30,
        ..JobOptions::default()
    };
    producer.enqueue_with(queue, &["soon"], &soon, None).outcome();
    let deliveries = worker.answer(asked).deliveries();
    assert_eq!(texts(&deliveries), ["soon"]);
    // So does a job whose lease runs out, and one that failed and is due again.
    let asked = worker.ask_reserve(&[queue], 1, 600_000);
    producer.settle(|batch| batch.nack(deliveries[0].token, Some(20), None));
    let again = worker.answer(asked).deliveries();
    assert_eq!(again[0].token.attempt, 2);
    let asked = worker.ask_reserve(&[queue], 1, 600_000);
    producer.settle(|batch| batch.extend(again[0].token, 20));
    assert_eq!(worker.answer(asked).deliveries()[0].token.attempt, 3);
}

#[test]
fn the_waiters_of_one_connection_are_bounded() {
    let server = start();
    let mut peer = Peer::connect(&server);
    let queue = peer.open("q");
    for _ in 0..limits::WAITERS_PER_CONNECTION_MAX {
        peer.ask_reserve(&[queue], 1, 600_000);
    }
    let one_more = peer.ask_reserve(&[queue], 1, 600_000);
    assert_eq!(peer.answer(one_more).code(), ErrorCode::LimitReached);
    peer.enqueue(queue, &["job"]);
}

#[test]
fn a_waiting_reserve_that_is_sent_again_gets_the_same_jobs() {
    let server = start();
    let (mut one, _) = Peer::with_session(&server, 99);
    let (mut two, _) = Peer::with_session(&server, 99);
    let queue = one.open("q");
    let fields = ReserveFields {
        number: 1,
        max_jobs: 4,
        wait_ms: 600_000,
        max_bytes: 0,
        lease_ms: 0,
    };
    let first = one.ask(|out, c| compose::reserve(out, c, &fields, &[queue]));
    one.ping();
    let second = two.ask(|out, c| compose::reserve(out, c, &fields, &[queue]));
    two.ping();
    let mut producer = Peer::connect(&server);
    producer.enqueue(queue, &["a"]);
    // Whichever was not woken by the first job looks at the second, and finds its answer of before.
    producer.enqueue(queue, &["b"]);
    let answers = [one.answer(first), two.answer(second)];
    let told: Vec<_> = answers
        .iter()
        .filter(|answer| !answer.header.is_error() || answer.code() != ErrorCode::InProgress)
        .map(|answer| answer.deliveries())
        .collect();
    assert!(!told.is_empty());
    assert!(
        told.iter()
            .all(|deliveries| deliveries == &told[0] || deliveries[0].token == told[0][0].token)
    );
}
