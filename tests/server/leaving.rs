//! What becomes of leases when connections end.

use crate::peer::{Peer, batch, config, start_with, texts};
use ackring::server::ServerConfig;
use ackring::wire::compose;
use ackring::{ErrorCode, JobOptions, QueueOptions, SettleBuilder, Token};

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

/// One reactor, so that connections end in the order in which they are dropped; and a grace to wait for.
fn short_grace() -> ServerConfig {
    ServerConfig {
        threads: 1,
        grace_ms: 1_000,
        ..config()
    }
}

#[test]
fn an_extension_from_another_connection_saves_the_lease() {
    let server = start_with(None, short_grace());
    let mut worker = Peer::connect(&server);
    let mut other = Peer::connect(&server);
    let queue = worker.open("q");
    worker.enqueue(queue, &["before", "after", "unsaved"]);
    let held = worker.reserve(&[queue], 2, 0);
    let unsaved = worker.reserve(&[queue], 1, 0);
    other.settle(|batch| batch.extend(held[0].token, 3_600_000));
    drop(worker);
    other.settle(|batch| batch.extend(held[1].token, 3_600_000));
    // The third job comes back when the grace is over; by then the others would have, too.
    let back = other.reserve(&[queue], 3, 600_000);
    assert_eq!(texts(&back), ["unsaved"]);
    assert_eq!(back[0].token.id, unsaved[0].token.id);
    other.ack(&held);
}

#[test]
fn a_lease_extended_in_a_step_with_a_known_key_comes_back_when_its_worker_is_gone() {
    let server = start_with(None, short_grace());
    let mut worker = Peer::connect(&server);
    let mut other = Peer::connect(&server);
    let queue = worker.open("q");
    worker.enqueue(queue, &["extended"]);
    let held = worker.reserve(&[queue], 1, 0);
    let keyed = JobOptions {
        key: b"key",
        ..JobOptions::default()
    };
    let known = batch(&["first"], &keyed);
    let elsewhere = worker.open("elsewhere");
    let enqueue = |out: &mut Vec<u8>, c| compose::enqueue(out, c, 0, elsewhere, None, &known);
    worker.call(enqueue).outcome();
    let mut settles = SettleBuilder::new();
    settles.extend(held[0].token, 3_600_000);
    // The exception in its outcome is about the job, which stands at the same position as the extension.
    let step = |out: &mut Vec<u8>, c| compose::step(out, c, 0, &settles, &[(elsewhere, &known)]);
    let outcome = worker.call(step).outcome();
    assert_eq!(outcome.items[0].code, ErrorCode::Duplicate);
    drop(worker);
    let back = other.reserve(&[queue], 1, 600_000);
    assert_eq!(texts(&back), ["extended"]);
}

#[test]
fn a_session_that_returns_keeps_its_leases_beyond_the_grace_until_it_leaves_again() {
    let server = start_with(None, short_grace());
    let (mut worker, _) = Peer::with_session(&server, 9);
    let mut marker = Peer::connect(&server);
    let mut other = Peer::connect(&server);
    let queue = worker.open("q");
    worker.enqueue(queue, &["kept", "extended", "marker"]);
    let held = worker.reserve(&[queue], 2, 0);
    marker.reserve(&[queue], 1, 0);
    drop(worker);
    let (mut again, _) = Peer::with_session(&server, 9);
    again.settle(|batch| batch.extend(held[1].token, 3_600_000));
    // It is lost later than the worker was, so when its job comes back the worker's grace is over as well.
    drop(marker);
    let back = other.reserve(&[queue], 3, 600_000);
    assert_eq!(texts(&back), ["marker"]);
    assert!(other.reserve(&[queue], 3, 0).is_empty());
    // Another loss begins another grace, for both: whenever the server noticed the first loss.
    drop(again);
    let mut back = Vec::new();
    while back.len() < 2 {
        back.extend(other.reserve(&[queue], 2, 600_000));
    }
    let mut came = texts(&back);
    came.sort_unstable();
    assert_eq!(came, ["extended", "kept"]);
    assert!(back.iter().all(|one| one.token.attempt == 2));
}

#[test]
fn the_return_of_another_session_or_of_none_keeps_nothing() {
    let server = start_with(None, short_grace());
    let (mut worker, _) = Peer::with_session(&server, 9);
    let mut nameless = Peer::connect(&server);
    let queue = worker.open("q");
    worker.enqueue(queue, &["one", "two"]);
    worker.reserve(&[queue], 1, 0);
    nameless.reserve(&[queue], 1, 0);
    drop((worker, nameless));
    let mut other = Peer::with_session(&server, 10).0;
    let _none = Peer::connect(&server);
    let mut back = Vec::new();
    while back.len() < 2 {
        back.extend(other.reserve(&[queue], 2, 600_000));
    }
    assert!(back.iter().all(|one| one.token.attempt == 2));
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
