//! What becomes of leases when connections end.

use crate::peer::{Peer, config, start_with, texts};
use ackring::server::ServerConfig;
use ackring::wire::{compose, response};
use ackring::{ErrorCode, QueueOptions, Token};

#[test]
fn a_job_comes_back_after_the_grace_when_its_worker_is_gone() {
    let server = start_with(
        None,
        ServerConfig {
            grace_ms: 50,
            ..config()
        },
    );
    let mut lost = Peer::connect(&server);
    let mut next = Peer::connect(&server);
    let queue = lost.open("q");
    let ids = lost.enqueue(queue, &["one", "two", "three"]);
    lost.subscribe(&[queue], 2, 0);
    let mut pushed = 0;
    while pushed < 2 {
        pushed += lost.push().deliveries().len();
    }
    let settled = lost.reserve(&[queue], 1, 0);
    assert_eq!(texts(&settled), ["three"]);
    lost.ack(&settled);
    drop(lost);
    // Its lease was 30 seconds; the answers come when the grace time is over.
    let mut back: Vec<Token> = (0..2)
        .map(|_| next.reserve(&[queue], 1, 600_000)[0].token)
        .collect();
    back.sort_by_key(|token| token.id);
    assert_eq!(
        back,
        [
            Token {
                id: ids[0],
                attempt: 2
            },
            Token {
                id: ids[1],
                attempt: 2
            }
        ]
    );
}

#[test]
fn a_lease_outlives_its_connection_within_the_grace() {
    let server = start_with(
        None,
        ServerConfig {
            grace_ms: 600_000,
            ..config()
        },
    );
    let mut worker = Peer::connect(&server);
    let queue = worker.open("q");
    worker.enqueue(queue, &["job"]);
    let held = worker.reserve(&[queue], 1, 0);
    drop(worker);
    let mut again = Peer::connect(&server);
    assert!(again.reserve(&[queue], 1, 0).is_empty());
    again.ack(&held);
}

#[test]
fn an_extension_after_the_disconnect_saves_the_lease() {
    let server = start_with(
        None,
        ServerConfig {
            grace_ms: 1_000,
            ..config()
        },
    );
    let mut worker = Peer::connect(&server);
    let mut other = Peer::connect(&server);
    let queue = worker.open("q");
    worker.enqueue(queue, &["job", "second"]);
    let held = worker.reserve(&[queue], 1, 0);
    let unsaved = worker.reserve(&[queue], 1, 0);
    let lease_end_ms = |peer: &mut Peer| {
        let reply = peer.call(|out, c| compose::job_get(out, c, held[0].token.id));
        response::decode_job(reply.ok()).unwrap().at_ms
    };
    let before_ms = lease_end_ms(&mut other);
    drop(worker);
    // The server has noticed as soon as the lease is shorter.
    while lease_end_ms(&mut other) == before_ms {}
    other.settle(|batch| batch.extend(held[0].token, 3_600_000));
    // The other job comes back when the grace is over; by then this one would have, too.
    let back = other.reserve(&[queue], 2, 600_000);
    assert_eq!(back[0].token.id, unsaved[0].token.id);
    other.ack(&held);
}

#[test]
fn an_expired_lease_costs_the_job_and_not_the_connection() {
    let server = start_with(None, config());
    let mut worker = Peer::connect(&server);
    let options = QueueOptions {
        lease_ms: 1,
        max_attempts: 2,
        ..QueueOptions::default()
    };
    worker
        .call(|out, c| compose::queue_create(out, c, 0, "q", &options))
        .ok();
    let queue = worker.open("q");
    worker.enqueue(queue, &["job"]);
    let first = worker.reserve(&[queue], 1, 600_000);
    let second = worker.reserve(&[queue], 1, 600_000);
    assert_eq!(second[0].token.attempt, 2);
    let outcome = worker.settle(|batch| batch.ack(first[0].token, None));
    assert_eq!(outcome.items[0].code, ErrorCode::LeaseLost);
}

#[test]
fn the_waiters_of_a_lost_connection_take_no_jobs() {
    let server = start_with(None, config());
    let mut producer = Peer::connect(&server);
    let queue = producer.open("q");
    for _ in 0..50 {
        let mut lost = Peer::connect(&server);
        lost.ask_reserve(&[queue], 100, 600_000);
        lost.subscribe(&[queue], 100, 0);
        drop(lost);
    }
    // The server may not have noticed the last ones yet; what they were sent comes back after the grace. Nothing
    // is lost in any case, and no job needs more than that.
    let mut worker = Peer::connect(&server);
    let asked = worker.ask_reserve(&[queue], 1, 600_000);
    producer.enqueue(queue, &["job"]);
    let deliveries = worker.answer(asked).deliveries();
    worker.ack(&deliveries);
}
