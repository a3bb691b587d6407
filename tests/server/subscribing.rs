//! Subscriptions and their windows.

use crate::peer::{Delivered, Peer, start, start_in, texts};
use ackring::wire::{compose, response};
use ackring::{Durability, ErrorCode, JobOptions, QueueOptions};

/// Collects pushes until `count` jobs came.
fn collect(peer: &mut Peer, count: usize) -> Vec<Delivered> {
    let mut jobs = Vec::new();
    while jobs.len() < count {
        jobs.extend(peer.push().deliveries());
    }
    assert_eq!(jobs.len(), count);
    jobs
}

/// Whether a push came before the answer to a PING: what the connection was sent in this time.
fn pushed_meanwhile(peer: &mut Peer) -> usize {
    peer.ping();
    peer.early().iter().map(|frame| frame.deliveries().len()).sum()
}

#[test]
fn jobs_are_pushed_up_to_the_window() {
    let server = start();
    let mut worker = Peer::connect(&server);
    let mut producer = Peer::connect(&server);
    let queue = producer.open("q");
    producer.enqueue(queue, &["0", "1", "2"]);
    let subscription = worker.subscribe(&[queue], 5, 0);
    let jobs = collect(&mut worker, 3);
    assert_eq!(texts(&jobs), ["0", "1", "2"]);
    producer.enqueue(queue, &["3", "4", "5", "6", "7"]);
    let more = worker.push();
    assert_eq!(more.header.aux.get(), subscription);
    let more = more.deliveries();
    assert_eq!(texts(&more), ["3", "4"]);
    assert_eq!(pushed_meanwhile(&mut worker), 0);
    // Settling one lets one come.
    worker.ack(&jobs[..1]);
    assert_eq!(texts(&collect(&mut worker, 1)), ["5"]);
    worker.ack(&jobs[1..]);
    assert_eq!(texts(&collect(&mut worker, 2)), ["6", "7"]);
}

#[test]
fn a_window_of_bytes_always_takes_one_job() {
    let server = start();
    let mut worker = Peer::connect(&server);
    let queue = worker.open("q");
    let long = "x".repeat(1_000);
    worker.subscribe(&[queue], 100, 10);
    worker.enqueue(queue, &[&long, &long]);
    let first = collect(&mut worker, 1);
    assert_eq!(pushed_meanwhile(&mut worker), 0);
    worker.ack(&first);
    collect(&mut worker, 1);
}

#[test]
fn a_window_opens_whoever_ends_the_lease() {
    let server = start();
    let mut worker = Peer::connect(&server);
    let mut other = Peer::connect(&server);
    let queue = worker.open("q");
    worker.subscribe(&[queue], 2, 0);
    other.enqueue(queue, &["a", "b"]);
    let held = collect(&mut worker, 2);
    other.enqueue(queue, &["c", "d", "e", "f"]);
    // Acked from elsewhere.
    other.ack(&held[..1]);
    let c = collect(&mut worker, 1);
    // Cancelled.
    other
        .call(|out, correlation| compose::job_cancel(out, correlation, 0, &[held[1].token.id]))
        .outcome();
    let d = collect(&mut worker, 1);
    assert_eq!((c[0].text(), d[0].text()), ("c", "d"));
    // Its lease ran out: it goes behind, and another comes.
    other.settle(|batch| batch.extend(c[0].token, 1));
    assert_eq!(texts(&collect(&mut worker, 1)), ["e"]);
}

#[test]
fn a_thousand_jobs_flow_through_a_small_window() {
    let server = start();
    let mut worker = Peer::connect(&server);
    let mut producer = Peer::connect(&server);
    let queue = producer.open("q");
    worker.subscribe(&[queue], 10, 0);
    let payloads: Vec<String> = (0..1_000).map(|n| n.to_string()).collect();
    for chunk in payloads.chunks(50) {
        let chunk: Vec<&str> = chunk.iter().map(String::as_str).collect();
        producer.enqueue(queue, &chunk);
    }
    let mut seen = Vec::new();
    while seen.len() < payloads.len() {
        let jobs = worker.push().deliveries();
        assert!(jobs.len() <= 10);
        worker.ack(&jobs);
        seen.extend(jobs.iter().map(|job| job.text().to_owned()));
    }
    assert_eq!(seen, payloads);
}

#[test]
fn two_subscribers_on_two_reactors_share_the_work() {
    let server = start();
    let mut workers: Vec<Peer> = (0..2).map(|_| Peer::connect(&server)).collect();
    let mut producer = Peer::connect(&server);
    let queue = producer.open("q");
    workers.iter_mut().for_each(|worker| {
        worker.subscribe(&[queue], 1, 0);
    });
    // Each has a window of one, so that both must be woken for both to be handed out.
    for round in 0..100 {
        producer.enqueue(queue, &["a", "b"]);
        let held: Vec<_> = workers.iter_mut().map(|worker| collect(worker, 1)).collect();
        for (worker, jobs) in workers.iter_mut().zip(held) {
            assert_eq!(jobs[0].token.attempt, 1, "round {round}");
            worker.ack(&jobs);
        }
    }
}

#[test]
fn nothing_is_pushed_after_the_end_of_a_subscription() {
    let server = start();
    let mut worker = Peer::connect(&server);
    let queue = worker.open("q");
    let subscription = worker.subscribe(&[queue], 10, 0);
    worker.enqueue(queue, &["before"]);
    let before = collect(&mut worker, 1);
    worker
        .call(|out, c| compose::unsubscribe(out, c, subscription))
        .ok();
    worker.enqueue(queue, &["after"]);
    assert_eq!(pushed_meanwhile(&mut worker), 0);
    // What it holds stays its own.
    worker.ack(&before);
    assert_eq!(texts(&worker.reserve(&[queue], 1, 0)), ["after"]);
    let again = worker.call(|out, c| compose::unsubscribe(out, c, subscription));
    assert_eq!(again.code(), ErrorCode::InvalidArgument);
}

#[test]
fn a_subscription_needs_queues_that_are_there() {
    let server = start();
    let mut worker = Peer::connect(&server);
    let refused = worker.call(|out, c| compose::subscribe(out, c, 1, 0, 0, &[4_711]));
    assert_eq!(refused.code(), ErrorCode::QueueNotFound);
}

#[test]
fn pushes_of_a_synced_queue_come_after_the_sync() {
    let directory = tempfile::tempdir().unwrap();
    let server = start_in(directory.path());
    let mut worker = Peer::connect(&server);
    let options = QueueOptions {
        durability: Durability::Synced,
        ..QueueOptions::default()
    };
    let reply = worker.call(|out, c| compose::queue_create(out, c, 0, "synced", &options));
    let queue = response::decode_handle(reply.ok()).unwrap();
    let subscription = worker.subscribe(&[queue], 100, 0);
    let outcome = worker
        .enqueue_with(queue, &["a", "b"], &JobOptions::default(), None)
        .outcome();
    assert_eq!(outcome.head.level, Some(Durability::Synced));
    let jobs = collect(&mut worker, 2);
    worker.ack(&jobs);
    worker.enqueue(queue, &["c"]);
    // The answer to UNSUBSCRIBE does not overtake a push that waits for the disk.
    worker
        .call(|out, c| compose::unsubscribe(out, c, subscription))
        .ok();
    let early = worker.early().len();
    worker.ping();
    assert_eq!((worker.early().len(), early <= 1), (0, true));
}
