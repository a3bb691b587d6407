//! Queues by name.

use crate::peer::{Peer, start, start_in, texts};
use ackring::wire::{Op, compose, response};
use ackring::{ErrorCode, JobOptions, JobState, QueueOptions, QueueStats};

fn info(peer: &mut Peer, name: &str) -> QueueStats {
    let reply = peer.call(|out, c| compose::queue_info(out, c, name));
    response::decode_queue_info(reply.ok()).unwrap()
}

#[test]
fn a_queue_has_the_options_it_was_made_with() {
    let server = start();
    let mut peer = Peer::connect(&server);
    let options = QueueOptions {
        capacity_jobs: 3,
        max_attempts: 4,
        ..QueueOptions::default()
    };
    let mut create =
        |options: &QueueOptions| peer.call(|out, c| compose::queue_create(out, c, 0, "made", options));
    let handle = response::decode_handle(create(&options).ok()).unwrap();
    assert_eq!(response::decode_handle(create(&options).ok()).unwrap(), handle);
    assert_eq!(create(&QueueOptions::default()).code(), ErrorCode::QueueExists);
    assert_eq!(peer.open("made"), handle);
    assert_eq!(info(&mut peer, "made").options, options);

    peer.enqueue(handle, &["1", "2"]);
    let full = peer.enqueue_with(handle, &["3", "4"], &JobOptions::default(), None);
    assert_eq!(full.code(), ErrorCode::QueueFull);
    assert!(full.error().retry_ms > 0);
    let stats = info(&mut peer, "made");
    assert_eq!((stats.counts.ready, stats.counts.enqueued), (2, 2));
}

#[test]
fn a_paused_queue_hands_nothing_out_until_it_is_resumed() {
    let server = start();
    let mut peer = Peer::connect(&server);
    let mut worker = Peer::connect(&server);
    let queue = peer.open("q");
    peer.call(|out, c| compose::queue_change(out, c, Op::QueuePause, 0, "q"))
        .outcome();
    assert!(info(&mut peer, "q").paused);
    peer.enqueue(queue, &["job"]);
    assert!(peer.reserve(&[queue], 1, 0).is_empty());
    let waiting = worker.ask_reserve(&[queue], 1, 600_000);
    worker.ping();
    peer.call(|out, c| compose::queue_change(out, c, Op::QueueResume, 0, "q"))
        .outcome();
    assert_eq!(texts(&worker.answer(waiting).deliveries()), ["job"]);
}

#[test]
fn a_purge_takes_the_states_that_it_names() {
    let server = start();
    let mut peer = Peer::connect(&server);
    let queue = peer.open("q");
    peer.enqueue(queue, &["ready"]);
    let later = JobOptions {
        delay_ms: 3_600_000,
        ..JobOptions::default()
    };
    peer.enqueue_with(queue, &["scheduled"], &later, None).outcome();
    let ready = 1 << JobState::Ready as u32;
    let outcome = peer
        .call(|out, c| compose::queue_purge(out, c, 0, "q", ready))
        .outcome();
    assert_eq!(outcome.head.count, 1);
    let counts = info(&mut peer, "q").counts;
    assert_eq!((counts.ready, counts.scheduled), (0, 1));
}

#[test]
fn a_deleted_queue_is_gone_for_those_who_wait_too() {
    let server = start();
    let mut peer = Peer::connect(&server);
    let mut worker = Peer::connect(&server);
    let queue = peer.open("q");
    let waiting = worker.ask_reserve(&[queue], 1, 600_000);
    let subscription = worker.subscribe(&[queue], 10, 0);
    peer.call(|out, c| compose::queue_change(out, c, Op::QueueDelete, 0, "q"))
        .outcome();
    assert_eq!(worker.answer(waiting).code(), ErrorCode::QueueNotFound);
    let ended = worker.push();
    assert_eq!(
        (ended.header.aux.get(), ended.code()),
        (subscription, ErrorCode::QueueNotFound)
    );
    assert_eq!(ended.error().scope, 4);
    let refused = peer.enqueue_with(queue, &["job"], &JobOptions::default(), None);
    assert_eq!(refused.code(), ErrorCode::QueueNotFound);
    assert_ne!(peer.open("q"), queue);
    worker.ping();
}

#[test]
fn a_deletion_sent_again_is_known_as_applied() {
    let directory = tempfile::tempdir().unwrap();
    let server = start_in(directory.path());
    let (mut peer, _) = Peer::with_session(&server, 42);
    peer.open("q");
    let change =
        |peer: &mut Peer, op, number| peer.call(|out, c| compose::queue_change(out, c, op, number, "q"));
    change(&mut peer, Op::QueuePause, 1).outcome();
    change(&mut peer, Op::QueueDelete, 2).outcome();
    let check = |peer: &mut Peer| {
        assert_eq!(change(peer, Op::QueuePause, 1).code(), ErrorCode::AlreadyApplied);
        assert_eq!(change(peer, Op::QueueDelete, 2).code(), ErrorCode::AlreadyApplied);
        // One that was never applied, and one without a number.
        assert_eq!(change(peer, Op::QueueDelete, 3).code(), ErrorCode::QueueNotFound);
        assert_eq!(change(peer, Op::QueueDelete, 0).code(), ErrorCode::QueueNotFound);
    };
    check(&mut peer);
    server.stop().unwrap();
    let server = start_in(directory.path());
    let (mut peer, welcome) = Peer::with_session(&server, 42);
    assert!(welcome.session_known);
    check(&mut peer);
}

#[test]
fn queues_are_listed_by_pages() {
    let server = start();
    let mut peer = Peer::connect(&server);
    let mut names: Vec<String> = (0..25).map(|n| format!("queue-{n:02}")).collect();
    names.iter().for_each(|name| {
        peer.open(name);
    });
    let (mut listed, mut after) = (Vec::new(), String::new());
    loop {
        let reply = peer.call(|out, c| compose::queue_list(out, c, &after, 10));
        let (page, more) = response::decode_queue_list(reply.ok()).unwrap();
        listed.extend(page.into_iter().map(|stats| stats.name));
        if !more {
            break;
        }
        after = listed.last().unwrap().clone();
    }
    names.sort();
    assert_eq!(listed, names);
}
