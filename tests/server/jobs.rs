//! The life of a job over the wire.

use crate::peer::{Peer, batch, start, start_in, texts};
use ackring::wire::{compose, response};
use ackring::{Durability, ErrorCode, ItemError, JobId, JobOptions, JobState, SettleBuilder, Token};

fn status(peer: &mut Peer, id: JobId) -> ackring::JobStatus {
    let reply = peer.call(|out, correlation| compose::job_get(out, correlation, id));
    response::decode_job(reply.ok()).unwrap()
}

#[test]
fn a_job_is_enqueued_reserved_and_acked() {
    let server = start();
    let mut peer = Peer::connect(&server);
    let queue = peer.open("mail");
    let ids = peer.enqueue(queue, &["hello", "world"]);
    assert_eq!(ids.len(), 2);
    assert_eq!(status(&mut peer, ids[0]).state, JobState::Ready);

    let deliveries = peer.reserve(&[queue], 10, 0);
    assert_eq!(texts(&deliveries), ["hello", "world"]);
    assert_eq!(
        deliveries[0].token,
        Token {
            id: ids[0],
            attempt: 1
        }
    );
    assert!(!deliveries[0].is_repeat && deliveries[0].lease_ms > 0);
    assert_eq!(status(&mut peer, ids[1]).state, JobState::Leased);

    let outcome = peer.settle(|batch| {
        batch.ack(deliveries[0].token, Some(b"sent"));
        batch.ack(deliveries[1].token, None);
    });
    assert_eq!((outcome.head.count, outcome.items.len()), (2, 0));
    let done = status(&mut peer, ids[0]);
    assert_eq!(
        (done.state, done.result.as_deref()),
        (JobState::Done, Some(&b"sent"[..]))
    );
    assert!(peer.reserve(&[queue], 10, 0).is_empty());
}

#[test]
fn an_old_token_is_refused_and_a_repeated_ack_is_a_success() {
    let server = start();
    let mut peer = Peer::connect(&server);
    let queue = peer.open("q");
    let id = peer.enqueue(queue, &["job"])[0];
    let first = peer.reserve(&[queue], 1, 0)[0].token;
    peer.settle(|batch| batch.nack(first, Some(0), Some(b"try again")));
    let second = peer.reserve(&[queue], 1, 20_000);
    assert_eq!(second[0].token, Token { id, attempt: 2 });
    assert!(second[0].is_repeat);

    let outcome = peer.settle(|batch| batch.ack(first, None));
    assert_eq!(
        outcome.items,
        [ItemError {
            position: 0,
            code: ErrorCode::LeaseLost
        }]
    );
    assert_eq!(outcome.head.count, 0);
    peer.ack(&second);
    let outcome = peer.settle(|batch| batch.ack(second[0].token, None));
    assert_eq!(
        outcome.items,
        [ItemError {
            position: 0,
            code: ErrorCode::AlreadySettled
        }]
    );
    assert_eq!(outcome.head.count, 1);
    let missing = Token {
        id: JobId::new(7, 7),
        attempt: 1,
    };
    let outcome = peer.settle(|batch| batch.ack(missing, None));
    assert_eq!(
        outcome.items,
        [ItemError {
            position: 0,
            code: ErrorCode::JobNotFound
        }]
    );
}

#[test]
fn a_lease_may_be_settled_from_another_connection() {
    let server = start();
    let mut one = Peer::connect(&server);
    let mut other = Peer::connect(&server);
    let queue = one.open("q");
    one.enqueue(queue, &["job"]);
    let deliveries = one.reserve(&[queue], 1, 0);
    other.ack(&deliveries);
}

#[test]
fn a_rejected_job_is_dead_and_comes_back_with_its_attempts() {
    let server = start();
    let mut peer = Peer::connect(&server);
    let queue = peer.open("q");
    let id = peer.enqueue(queue, &["job"])[0];
    let token = peer.reserve(&[queue], 1, 0)[0].token;
    peer.settle(|batch| batch.reject(token, Some(b"no such address")));
    let dead = status(&mut peer, id);
    assert_eq!(
        (dead.state, dead.last_error.as_deref()),
        (JobState::Dead, Some(&b"no such address"[..]))
    );

    let redriven = peer
        .call(|out, correlation| compose::job_redrive(out, correlation, 0, "q", &[], 0))
        .outcome();
    assert_eq!(redriven.head.count, 1);
    assert_eq!(peer.reserve(&[queue], 1, 0)[0].token, Token { id, attempt: 2 });
}

#[test]
fn a_released_job_uses_no_attempt() {
    let server = start();
    let mut peer = Peer::connect(&server);
    let queue = peer.open("q");
    peer.enqueue(queue, &["job"]);
    let token = peer.reserve(&[queue], 1, 0)[0].token;
    peer.settle(|batch| batch.release(token));
    let again = peer.reserve(&[queue], 1, 0);
    assert_eq!((again[0].token.attempt, again[0].attempts), (2, 1));
}

#[test]
fn an_extended_lease_stays_on_the_books() {
    let server = start();
    let mut peer = Peer::connect(&server);
    let queue = peer.open("q");
    let id = peer.enqueue(queue, &["job"])[0];
    let token = peer.reserve(&[queue], 1, 0)[0].token;
    let before_ms = status(&mut peer, id).at_ms;
    assert_eq!(peer.settle(|batch| batch.extend(token, 3_600_000)).items, []);
    assert!(status(&mut peer, id).at_ms > before_ms);
    assert_eq!(peer.settle(|batch| batch.ack(token, None)).items, []);
}

#[test]
fn a_step_settles_and_enqueues_or_does_nothing() {
    let server = start();
    let mut peer = Peer::connect(&server);
    let (from, to) = (peer.open("from"), peer.open("to"));
    peer.enqueue(from, &["job"]);
    let token = peer.reserve(&[from], 1, 0)[0].token;
    let mut settles = SettleBuilder::new();
    settles.ack(token, None);
    let next = batch(&["next", "after"], &JobOptions::default());
    let step = |peer: &mut Peer| peer.call(|out, c| compose::step(out, c, 0, &settles, &[(to, &next)]));

    let outcome = step(&mut peer).outcome();
    assert_eq!((outcome.ids.len(), outcome.head.count), (2, 3));
    let refused = step(&mut peer);
    assert_eq!(refused.code(), ErrorCode::StepRefused);
    assert_eq!(texts(&peer.reserve(&[to], 10, 0)), ["next", "after"]);
    assert!(peer.reserve(&[to], 10, 0).is_empty());
}

#[test]
fn the_same_key_makes_one_job() {
    let server = start();
    let mut peer = Peer::connect(&server);
    let queue = peer.open("q");
    let keyed = JobOptions {
        key: b"order-7",
        ..JobOptions::default()
    };
    let first = peer.enqueue_with(queue, &["body"], &keyed, None).outcome();
    let again = peer.enqueue_with(queue, &["body"], &keyed, None).outcome();
    assert_eq!(again.ids, first.ids);
    assert_eq!(
        again.items,
        [ItemError {
            position: 0,
            code: ErrorCode::Duplicate
        }]
    );
    assert_eq!(again.head.count, 1);
    let conflict = peer.enqueue_with(queue, &["other"], &keyed, None).outcome();
    assert_eq!((conflict.ids[0], conflict.head.count), (JobId(0), 0));
    assert_eq!(
        conflict.items,
        [ItemError {
            position: 0,
            code: ErrorCode::KeyConflict
        }]
    );
    assert_eq!(peer.reserve(&[queue], 10, 0).len(), 1);
}

#[test]
fn priorities_go_first_and_order_is_kept_within_one() {
    let server = start();
    let mut peer = Peer::connect(&server);
    let queue = peer.open("q");
    peer.enqueue(queue, &["a", "b"]);
    let urgent = JobOptions {
        priority: 7,
        ..JobOptions::default()
    };
    peer.enqueue_with(queue, &["c", "d"], &urgent, None).outcome();
    assert_eq!(texts(&peer.reserve(&[queue], 10, 0)), ["c", "d", "a", "b"]);
}

#[test]
fn a_reserve_takes_from_several_queues_in_their_order() {
    let server = start();
    let mut peer = Peer::connect(&server);
    let (one, two) = (peer.open("one"), peer.open("two"));
    peer.enqueue(one, &["1"]);
    peer.enqueue(two, &["2"]);
    assert_eq!(texts(&peer.reserve(&[two, one], 10, 0)), ["2", "1"]);
}

#[test]
fn a_byte_limit_lets_one_job_pass_always() {
    let server = start();
    let mut peer = Peer::connect(&server);
    let queue = peer.open("q");
    let long = "x".repeat(1_000);
    peer.enqueue(queue, &[&long, &long, &long]);
    let fields = |max_bytes| compose::ReserveFields {
        number: 0,
        max_jobs: 10,
        wait_ms: 0,
        max_bytes,
        lease_ms: 0,
    };
    let mut reserve = |max_bytes| {
        let reply = peer.call(|out, c| compose::reserve(out, c, &fields(max_bytes), &[queue]));
        reply.deliveries().len()
    };
    assert_eq!((reserve(10), reserve(2_500)), (1, 2));
}

#[test]
fn the_level_that_is_named_was_reached() {
    let directory = tempfile::tempdir().unwrap();
    let server = start_in(directory.path());
    let mut peer = Peer::connect(&server);
    let queue = peer.open("q");
    for level in Durability::ALL {
        let outcome = peer
            .enqueue_with(queue, &["job"], &JobOptions::default(), Some(level))
            .outcome();
        assert_eq!(outcome.head.level, Some(level));
    }
    assert_eq!(
        peer.reserve(&[queue], 10, 0).len() + peer.reserve(&[queue], 10, 0).len(),
        3
    );
}

#[test]
fn large_jobs_pass_whole() {
    let server = start();
    let mut peer = Peer::connect(&server);
    let options = ackring::QueueOptions {
        payload_bytes_max: 3_000_000,
        ..Default::default()
    };
    let reply = peer.call(|out, c| compose::queue_create(out, c, 0, "large", &options));
    let queue = response::decode_handle(reply.ok()).unwrap();
    let payload: String = (0..3_000_000u32)
        .map(|n| char::from(b'a' + (n % 23) as u8))
        .collect();
    peer.enqueue(queue, &[&payload]);
    let delivered = peer.reserve(&[queue], 10, 0);
    assert!(delivered[0].text() == payload);
    let too_large = peer.enqueue_with(queue, &[&(payload + "!")], &JobOptions::default(), None);
    assert_eq!(too_large.code(), ErrorCode::PayloadTooLarge);
}

#[test]
fn jobs_are_looked_at_without_being_taken() {
    let server = start();
    let mut peer = Peer::connect(&server);
    let queue = peer.open("q");
    let ids = peer.enqueue(queue, &["a", "b", "c", "d", "e"]);
    let reply = peer.call(|out, c| compose::job_peek(out, c, "q", 3));
    let (jobs, _) = response::decode_jobs(reply.ok()).unwrap();
    let payloads: Vec<_> = jobs.iter().map(|job| job.payload.as_slice()).collect();
    assert_eq!(payloads, [b"a", b"b", b"c"]);

    let (mut listed, mut cursor) = (Vec::new(), 0);
    loop {
        let reply = peer.call(|out, c| compose::job_list(out, c, "q", Some(JobState::Ready), cursor, 2));
        let (jobs, next) = response::decode_jobs(reply.ok()).unwrap();
        listed.extend(jobs.iter().map(|job| job.id));
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    listed.sort();
    assert_eq!(listed, ids);

    let outcome = peer
        .call(|out, c| compose::job_cancel(out, c, 0, &ids[1..3]))
        .outcome();
    assert_eq!(outcome.head.count, 2);
    assert_eq!(status(&mut peer, ids[1]).state, JobState::Cancelled);
    assert_eq!(texts(&peer.reserve(&[queue], 10, 0)), ["a", "d", "e"]);
    let unknown = peer.call(|out, c| compose::job_get(out, c, JobId(1)));
    assert_eq!(unknown.code(), ErrorCode::JobNotFound);
}
