//! Requests that come in one piece: each has its own answer, whatever the server does with them at once.

use crate::peer::{Peer, batch, start, start_in, texts};
use ackring::wire::{Outcome, compose};
use ackring::{ErrorCode, JobOptions, SettleBuilder, Token};

const SESSION: u128 = 77;
const FIRST: u32 = 1_000;

/// Sends an ENQUEUE for each payload in one write, numbered and correlated from `first` on.
fn send_enqueues(peer: &mut Peer, queue: u32, first: u32, payloads: &[String]) {
    let mut bytes = Vec::new();
    for (correlation, payload) in (first..).zip(payloads) {
        let jobs = batch(&[payload.as_str()], &JobOptions::default());
        compose::enqueue(
            &mut bytes,
            correlation,
            u64::from(correlation),
            queue,
            None,
            &jobs,
        );
    }
    peer.send(&bytes);
}

fn send_acks(peer: &mut Peer, first: u32, tokens: &[Token]) {
    let mut bytes = Vec::new();
    for (correlation, token) in (first..).zip(tokens) {
        let mut settles = SettleBuilder::new();
        settles.ack(*token, None);
        compose::settle(&mut bytes, correlation, u64::from(correlation), &settles);
    }
    peer.send(&bytes);
}

fn outcomes(peer: &mut Peer, first: u32, count: usize) -> Vec<Outcome> {
    (first..)
        .take(count)
        .map(|one| peer.answer(one).outcome())
        .collect()
}

fn payloads(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("job {number}")).collect()
}

#[test]
fn hundreds_of_singles_in_one_write_are_answered_one_by_one_and_applied_once() {
    let directory = tempfile::tempdir().unwrap();
    let server = start_in(directory.path());
    let (mut peer, _) = Peer::with_session(&server, SESSION);
    let queue = peer.open("q");
    let sent = payloads(300);
    send_enqueues(&mut peer, queue, FIRST, &sent);
    let first = outcomes(&mut peer, FIRST, sent.len());
    assert!(first.iter().all(|one| one.head.count == 1 && !one.head.replayed));
    // Again, and among new ones.
    send_enqueues(&mut peer, queue, FIRST + 290, &payloads(20));
    let again = outcomes(&mut peer, FIRST + 290, 20);
    let replayed: Vec<bool> = again.iter().map(|one| one.head.replayed).collect();
    assert_eq!(replayed, [[true; 10], [false; 10]].concat());
    assert_eq!(again[0].ids, first[290].ids);

    let held = peer.reserve(&[queue], 400, 0);
    let ids: Vec<_> = held.iter().map(|one| one.token.id).collect();
    let known: Vec<_> = first.iter().chain(&again[10..]).map(|one| one.ids[0]).collect();
    assert_eq!(ids, known, "in the order in which they were sent");
    let tokens: Vec<Token> = held.iter().map(|one| one.token).collect();
    send_acks(&mut peer, 5_000, &tokens);
    assert!(
        outcomes(&mut peer, 5_000, tokens.len())
            .iter()
            .all(|one| one.items.is_empty())
    );
    send_acks(&mut peer, 5_000, &tokens);
    assert!(
        outcomes(&mut peer, 5_000, tokens.len())
            .iter()
            .all(|one| one.head.replayed)
    );
}

#[test]
fn one_that_is_refused_among_many_costs_the_others_nothing() {
    let server = start();
    let (mut peer, _) = Peer::with_session(&server, SESSION);
    let queue = peer.open("q");
    let mut sent = payloads(9);
    sent[4] = "x".repeat(ackring::QueueOptions::default().payload_bytes_max as usize + 1);
    send_enqueues(&mut peer, queue, FIRST, &sent);
    for (index, correlation) in (FIRST..).take(9).enumerate() {
        let answer = peer.answer(correlation);
        match index {
            4 => assert_eq!(answer.code(), ErrorCode::PayloadTooLarge),
            _ => assert_eq!(answer.outcome().ids.len(), 1),
        }
    }
    let held = peer.reserve(&[queue], 100, 0);
    sent.remove(4);
    assert_eq!(texts(&held), sent);
    let mut tokens: Vec<Token> = held.iter().map(|one| one.token).collect();
    tokens[3].attempt = 9;
    send_acks(&mut peer, 5_000, &tokens);
    let items: Vec<usize> = outcomes(&mut peer, 5_000, 8)
        .iter()
        .map(|one| one.items.len())
        .collect();
    assert_eq!(items, [0, 0, 0, 1, 0, 0, 0, 0]);
}

#[test]
fn requests_of_several_kinds_in_one_write_take_effect_in_their_order() {
    let server = start();
    let (mut peer, _) = Peer::with_session(&server, SESSION);
    let (one, two) = (peer.open("one"), peer.open("two"));
    let mut bytes = Vec::new();
    for (correlation, queue) in (FIRST..).zip([one, one, two, one]) {
        let jobs = batch(&["job"], &JobOptions::default());
        compose::enqueue(
            &mut bytes,
            correlation,
            u64::from(correlation),
            queue,
            None,
            &jobs,
        );
    }
    compose::ping(&mut bytes, 1);
    let fields = compose::ReserveFields {
        number: u64::from(FIRST) + 4,
        max_jobs: 10,
        wait_ms: 0,
        max_bytes: 0,
        lease_ms: 0,
    };
    compose::reserve(&mut bytes, 2, &fields, &[one]);
    let jobs = batch(&["late"], &JobOptions::default());
    compose::enqueue(&mut bytes, 3, u64::from(FIRST) + 5, one, None, &jobs);
    peer.send(&bytes);
    assert_eq!(outcomes(&mut peer, FIRST, 4).len(), 4);
    assert_eq!(texts(&peer.answer(2).deliveries()), ["job"; 3]);
    assert_eq!(texts(&peer.reserve(&[one], 10, 0)), ["late"]);
    assert_eq!(texts(&peer.reserve(&[two], 10, 0)), ["job"]);
}
