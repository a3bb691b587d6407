//! Settlements that are answered only where something of them was not applied.

use crate::peer::{Peer, Received, batch, start, start_in};
use ackring::wire::{Op, compose, response};
use ackring::{Durability, ErrorCode, JobOptions, JobState, QueueOptions, SettleBuilder, Token};

/// Enqueues so many jobs and reserves them.
fn held(peer: &mut Peer, queue: u32, jobs: usize) -> Vec<Token> {
    let payloads = vec!["job"; jobs];
    let jobs_of = batch(&payloads, &JobOptions::default());
    peer.call(|out, c| compose::enqueue(out, c, 0, queue, None, &jobs_of))
        .ok();
    let held = peer.reserve(&[queue], jobs as u32, 0);
    assert_eq!(held.len(), jobs);
    held.iter().map(|one| one.token).collect()
}

/// Sends a quiet SETTLE for each token in one write.
fn ack_each(peer: &mut Peer, tokens: &[Token]) {
    let mut bytes = Vec::new();
    for token in tokens {
        compose::ack_quietly(&mut bytes, 99, &[*token]);
    }
    peer.send(&bytes);
}

/// What comes up to the answer to a PING that is sent now.
fn heard(peer: &mut Peer) -> Vec<Received> {
    let last = peer.ask(compose::ping);
    let mut heard = Vec::new();
    loop {
        let frame = peer.next().expect("the connection stands");
        if frame.header.correlation.get() == last {
            return heard;
        }
        heard.push(frame);
    }
}

fn states(peer: &mut Peer, tokens: &[Token]) -> Vec<JobState> {
    let mut state = |token: &Token| {
        let reply = peer.call(|out, c| compose::job_get(out, c, token.id));
        response::decode_job(reply.ok()).unwrap().state
    };
    tokens.iter().map(&mut state).collect()
}

#[test]
fn what_goes_well_is_not_answered_and_is_done_when_a_later_answer_comes() {
    let server = start();
    let mut peer = Peer::connect(&server);
    let queue = peer.open("q");
    let tokens = held(&mut peer, queue, 300);
    for some in [&tokens[..1], &tokens[1..6], &tokens[6..]] {
        ack_each(&mut peer, some);
        assert!(heard(&mut peer).is_empty());
        assert_eq!(states(&mut peer, some), vec![JobState::Done; some.len()]);
    }
    let mut all = SettleBuilder::new();
    let tokens = held(&mut peer, queue, 3);
    all.reject(tokens[0], Some(b"no"));
    all.release(tokens[1]);
    all.ack(tokens[2], Some(b"yes"));
    peer.ask(|out, c| compose::settle_quietly(out, c, &all));
    assert!(heard(&mut peer).is_empty());
    assert_eq!(
        states(&mut peer, &tokens),
        [JobState::Dead, JobState::Ready, JobState::Done]
    );
    // Repeated, an ack is a success, and so not answered either.
    ack_each(&mut peer, &tokens[2..]);
    assert!(heard(&mut peer).is_empty());
}

#[test]
fn what_was_not_applied_is_answered_by_its_position_and_costs_the_others_nothing() {
    let server = start();
    let mut peer = Peer::connect(&server);
    let queue = peer.open("q");
    let mut tokens = held(&mut peer, queue, 8);
    tokens[5].attempt = 7;
    // One by one in a row, and in one request.
    ack_each(&mut peer, &tokens[2..]);
    let quiet = peer.ask(|out, c| compose::ack_quietly(out, c, &[tokens[5], tokens[0], tokens[1]]));
    let answers = heard(&mut peer);
    let told: Vec<_> = answers
        .iter()
        .map(|frame| {
            assert_eq!(frame.header.answered_op(), Some(Op::Settle));
            let outcome = frame.outcome();
            let items = outcome.items.iter().map(|item| (item.position, item.code));
            (
                frame.header.correlation.get(),
                outcome.head.count,
                items.collect::<Vec<_>>(),
            )
        })
        .collect();
    let lost = vec![(0, ErrorCode::LeaseLost)];
    assert_eq!(told, [(99, 0, lost.clone()), (quiet, 2, lost)]);
    let mut expected = [JobState::Done; 8];
    expected[5] = JobState::Leased;
    assert_eq!(states(&mut peer, &tokens), expected);
}

#[test]
fn a_failure_waits_for_no_disk_so_that_it_comes_before_later_answers() {
    let directory = tempfile::tempdir().unwrap();
    let server = start_in(directory.path());
    let mut peer = Peer::connect(&server);
    let options = QueueOptions {
        durability: Durability::Synced,
        ..QueueOptions::default()
    };
    peer.call(|out, c| compose::queue_create(out, c, 0, "q", &options))
        .ok();
    let queue = peer.open("q");
    let tokens = held(&mut peer, queue, 60);
    for some in tokens.chunks(6) {
        let mut lost = some[5];
        lost.attempt += 1;
        let mut bytes = Vec::new();
        let mut acks = SettleBuilder::new();
        some[..3].iter().for_each(|token| acks.ack(*token, None));
        compose::settle(&mut bytes, 1_001, 0, &acks);
        compose::ack_quietly(&mut bytes, 1_002, &[some[3], lost, some[4]]);
        compose::ping(&mut bytes, 1_003);
        peer.send(&bytes);
        let came: Vec<Received> = (0..3).map(|_| peer.next().unwrap()).collect();
        let place = |wanted| {
            came.iter()
                .position(|one| one.header.correlation.get() == wanted)
                .unwrap()
        };
        assert!(place(1_002) < place(1_003), "silence would be taken for success");
        let level = |wanted| came[place(wanted)].outcome().head.level;
        assert_eq!(level(1_002), Some(Durability::Written));
        assert_eq!(level(1_001), Some(Durability::Synced));
    }
}

#[test]
fn a_job_that_is_not_there_any_more_is_told() {
    let server = start();
    let mut peer = Peer::connect(&server);
    let queue = peer.open("q");
    let tokens = held(&mut peer, queue, 4);
    peer.call(|out, c| compose::queue_change(out, c, Op::QueueDelete, 0, "q"))
        .ok();
    ack_each(&mut peer, &tokens);
    let codes: Vec<ErrorCode> = heard(&mut peer)
        .iter()
        .map(|one| one.outcome().items[0].code)
        .collect();
    assert_eq!(codes, [ErrorCode::JobNotFound; 4]);
}

#[test]
fn it_has_no_number_and_no_other_flag() {
    let server = start();
    let (mut peer, _) = Peer::with_session(&server, 5);
    let queue = peer.open("q");
    let tokens = held(&mut peer, queue, 1);
    let mut acks = SettleBuilder::new();
    acks.ack(tokens[0], None);
    for (flags, number) in [(1_u8, 4_u64), (2, 0), (3, 0), (0x81, 0)] {
        let reply = peer.call(|out, c| {
            let at = out.len();
            compose::settle(out, c, number, &acks);
            out[at + 6] = flags;
        });
        assert_eq!(
            reply.code(),
            ErrorCode::Malformed,
            "flags {flags}, number {number}"
        );
    }
    assert_eq!(states(&mut peer, &tokens), [JobState::Leased]);
}

#[test]
fn it_opens_the_window_of_a_subscription_and_the_next_jobs_come() {
    let server = start();
    let mut peer = Peer::connect(&server);
    let queue = peer.open("q");
    peer.call(|out, c| compose::subscribe(out, c, 2, 0, 0, &[queue]))
        .ok();
    let payloads: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    let texts: Vec<&str> = payloads.iter().map(String::as_str).collect();
    let jobs = batch(&texts, &JobOptions::default());
    peer.call(|out, c| compose::enqueue(out, c, 0, queue, None, &jobs))
        .ok();
    let mut came = Vec::new();
    while came.len() < payloads.len() {
        let jobs = peer.push().deliveries();
        let tokens: Vec<Token> = jobs.iter().map(|job| job.token).collect();
        came.extend(jobs.iter().map(|job| job.text().to_owned()));
        ack_each(&mut peer, &tokens);
    }
    assert_eq!(came, payloads);
}

#[test]
fn what_was_acked_quietly_stays_done_when_the_server_starts_again() {
    let directory = tempfile::tempdir().unwrap();
    let server = start_in(directory.path());
    let mut peer = Peer::connect(&server);
    let queue = peer.open("q");
    let tokens = held(&mut peer, queue, 100);
    ack_each(&mut peer, &tokens[..40]);
    for some in tokens[40..90].chunks(10) {
        peer.ask(|out, c| compose::ack_quietly(out, c, some));
    }
    assert!(heard(&mut peer).is_empty());
    server.stop().unwrap();
    let server = start_in(directory.path());
    let mut peer = Peer::connect(&server);
    assert_eq!(
        states(&mut peer, &tokens),
        [[JobState::Done; 90].as_slice(), &[JobState::Leased; 10]].concat()
    );
}
