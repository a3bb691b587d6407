//! The client when connections break and servers restart: nothing is lost, nothing is applied twice by its doing.
#![cfg(feature = "client")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

mod client_fake;

use ackring::client::{Client, ClientConfig, ClientError, Reserve, Window};
use ackring::wire::{OutcomeHead, Request, response};
use ackring::{Durability, EnqueueBuilder, ErrorCode, JobId, JobOptions, Refusal, SettleBuilder, Token};
use client_fake::{Fake, Peer};
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::Duration;

fn job(payload: &[u8]) -> EnqueueBuilder {
    let mut batch = EnqueueBuilder::new();
    batch.push(payload, &JobOptions::default());
    batch
}

const TOKEN: Token = Token {
    id: JobId(7),
    attempt: 2,
};
const TIME: Duration = Duration::from_secs(20);

/// Opens `mail` as handle 5 and confirms one enqueue, so that the session is on record.
fn warm_up(fake: &Fake, config: ClientConfig) -> (Client, Peer, ackring::client::QueueHandle) {
    let (client, mut peer) = fake.connect(config);
    let mail = thread::scope(|scope| {
        scope.spawn(|| {
            peer.open_queue("mail", 5);
            let first = peer.request();
            peer.outcome(&first, &[1], &[]);
        });
        let mail = client.queue("mail").unwrap();
        client.enqueue(&mail, &job(b"first"), None).unwrap();
        mail
    });
    (client, peer, mail)
}

#[test]
fn a_lost_answer_is_asked_for_again_under_the_same_number() {
    let mut fake = Fake::new();
    let (client, mut peer, mail) = warm_up(&fake, fake.config());
    fake.session_known = true;
    thread::scope(|scope| {
        let call = scope.spawn(|| client.enqueue(&mail, &job(b"once"), None));
        let sent = peer.request();
        assert_eq!(sent.number(), 2);
        peer.hang_up();
        let mut again = fake.accept();
        assert_eq!(again.session, peer.session);
        let resent = again.request();
        assert_eq!(resent.body, sent.body, "the same number and the same jobs");
        let head = OutcomeHead {
            level: Some(Durability::Written),
            replayed: true,
            count: 1,
        };
        again.answer(&resent, |reply, out| reply.outcome(out, head, &[42], &[]));
        let done = call.join().unwrap().unwrap();
        assert!(done.replayed && done.ids == [JobId(42)]);
    });
}

#[test]
fn after_a_restart_requests_go_out_again_in_order_with_new_handles() {
    let mut fake = Fake::new();
    let (client, mut peer, mail) = warm_up(&fake, fake.config());
    thread::scope(|scope| {
        let calls = scope.spawn(|| {
            let mut settle = SettleBuilder::new();
            settle.ack(TOKEN, None);
            let enqueues: Vec<_> = (0..3)
                .map(|n| client.enqueue_start(&mail, &job(&[n]), None).unwrap())
                .collect();
            let reserve = client
                .reserve_start(
                    &[&mail],
                    Reserve {
                        wait: TIME,
                        ..Reserve::default()
                    },
                )
                .unwrap();
            client.step(&settle, &[(&mail, &job(b"next"))]).unwrap();
            enqueues
                .into_iter()
                .for_each(|enqueue| drop(enqueue.wait().unwrap()));
            assert_eq!(reserve.wait().unwrap()[0].queue(), "mail");
        });
        let sent: Vec<_> = (0..5).map(|_| peer.request().number()).collect();
        peer.hang_up();
        (fake.boot, fake.session_known) = (2, true);
        let mut again = fake.accept();
        again.open_queue("mail", 77);
        let resent: Vec<_> = (0..5).map(|_| again.request()).collect();
        assert_eq!(
            resent.iter().map(|request| request.number()).collect::<Vec<_>>(),
            sent
        );
        for request in &resent {
            match request.decode() {
                Request::Enqueue { queue, .. } => assert_eq!(queue, 77),
                Request::Step { groups, .. } => assert_eq!(groups[0].0, 77),
                Request::Reserve(fields) => {
                    assert_eq!(fields.queues[0].get(), 77);
                    assert!(fields.wait_ms <= TIME.as_millis() as u32);
                    again.deliver(request, 77, &[b"job"]);
                    continue;
                }
                other => panic!("{other:?}"),
            }
            again.outcome(request, &[1], &[]);
        }
        calls.join().unwrap();
    });
}

#[test]
fn a_shutdown_is_followed_by_a_reconnect() {
    let mut fake = Fake::new();
    let (client, mut peer, _) = warm_up(&fake, fake.config());
    fake.session_known = true;
    thread::scope(|scope| {
        let call = scope.spawn(|| client.ack(TOKEN, None));
        let sent = peer.request();
        peer.refuse(&sent, ErrorCode::ShuttingDown);
        let mut again = fake.accept();
        let resent = again.request();
        assert_eq!(resent.body, sent.body);
        again.outcome(&resent, &[], &[]);
        call.join().unwrap().unwrap();
        assert_eq!(client.connections(), 2);
    });
}

#[test]
fn a_forgotten_session_leaves_the_outcome_unknown_but_goes_on() {
    let fake = Fake::new();
    let (client, mut peer, mail) = warm_up(&fake, fake.config());
    thread::scope(|scope| {
        let call = scope.spawn(|| client.enqueue(&mail, &job(b"?"), None));
        let reserve = client
            .reserve_start(
                &[&mail],
                Reserve {
                    wait: TIME,
                    ..Reserve::default()
                },
            )
            .unwrap();
        let info = scope.spawn(|| client.queue_list("", 1));
        (0..3).for_each(|_| drop(peer.request()));
        peer.hang_up();
        // The session is not known any more: a confirmed one, so what is unanswered is in doubt.
        let mut again = fake.accept();
        let error = call.join().unwrap().unwrap_err();
        assert!(matches!(error, ClientError::OutcomeUnknown { .. }), "{error}");
        // What changes nothing, and what at worst costs the end of a lease, is asked again.
        for _ in 0..2 {
            let request = again.request();
            match request.decode() {
                Request::Reserve(_) => again.deliver(&request, 5, &[b"job"]),
                Request::QueueList { .. } => {
                    again.answer(&request, |reply, out| reply.queue_list(out, &[], false))
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(reserve.wait().unwrap().len(), 1);
        info.join().unwrap().unwrap();
    });
}

#[test]
fn a_first_request_is_resent_although_the_session_is_new() {
    let fake = Fake::new();
    let (client, mut peer) = fake.connect(fake.config());
    thread::scope(|scope| {
        let call = scope.spawn(|| client.ack(TOKEN, None));
        drop(peer.request());
        peer.hang_up();
        let mut again = fake.accept();
        let resent = again.request();
        again.outcome(&resent, &[], &[]);
        call.join().unwrap().unwrap();
    });
}

#[test]
fn a_reserve_whose_number_grew_too_old_is_made_anew() {
    let fake = Fake::new();
    let (client, mut peer, mail) = warm_up(&fake, fake.config());
    thread::scope(|scope| {
        let call = scope.spawn(|| {
            client.reserve(
                &[&mail],
                Reserve {
                    wait: TIME,
                    ..Reserve::default()
                },
            )
        });
        let sent = peer.request();
        peer.refuse(&sent, ErrorCode::SessionExpired);
        let anew = peer.request();
        assert!(anew.number() > sent.number());
        peer.deliver(&anew, 5, &[b"job"]);
        assert_eq!(call.join().unwrap().unwrap().len(), 1);
    });
}

#[test]
fn subscriptions_are_made_again() {
    let mut fake = Fake::new();
    let (client, mut peer, mail) = warm_up(&fake, fake.config());
    fake.session_known = true;
    let subscription = thread::scope(|scope| {
        let call = scope.spawn(|| client.subscribe(&[&mail], Window::default()));
        let request = peer.request();
        peer.answer(&request, |reply, out| reply.handle(out, 1));
        peer.push(1, 5, &[b"before"]);
        call.join().unwrap().unwrap()
    });
    assert_eq!(subscription.next(TIME).unwrap().unwrap()[0].payload(), b"before");
    peer.hang_up();
    fake.boot = 2;
    let mut again = fake.accept();
    again.open_queue("mail", 6);
    let request = again.request();
    assert!(matches!(request.decode(), Request::Subscribe(fields) if fields.queues[0].get() == 6));
    again.answer(&request, |reply, out| reply.handle(out, 3));
    again.push(3, 6, &[b"after"]);
    let jobs = subscription.next(TIME).unwrap().unwrap();
    assert_eq!((jobs[0].payload(), jobs[0].queue()), (&b"after"[..], "mail"));
    drop(client);
    assert!(matches!(subscription.next(TIME), Err(ClientError::Closed)));
}

#[test]
fn a_silent_server_is_given_up_and_a_living_one_is_pinged() {
    let mut fake = Fake::new();
    fake.heartbeat_ms = 60;
    let (client, mut peer) = fake.connect(fake.config());
    let ping = peer.request();
    assert!(matches!(ping.decode(), Request::Ping));
    peer.answer(&ping, |reply, out| reply.empty(out));
    // From here on it says nothing, and the client comes back by itself.
    let again = fake.accept();
    assert_eq!(again.session, client.session());
}

#[test]
fn broken_framing_and_connection_errors_cost_the_connection_only() {
    let fake = Fake::new();
    let (client, mut peer) = fake.connect(fake.config());
    let mut reason = Vec::new();
    response::connection_error(
        &mut reason,
        &Refusal::new(ErrorCode::BadFrame, "as the script says"),
    );
    for bytes in [vec![0xff; 64], vec![3, 0, 0, 0, 0, 0, 0, 0], reason] {
        peer.send(&bytes);
        peer = fake.accept();
    }
    thread::scope(|scope| {
        let call = scope.spawn(|| client.ping());
        let request = peer.request();
        peer.answer(&request, |reply, out| reply.empty(out));
        call.join().unwrap().unwrap();
    });
}

#[test]
fn without_a_server_there_is_no_connection_and_nothing_in_doubt() {
    let config = ClientConfig::to("127.0.0.1:1").unwrap();
    assert!(matches!(
        Client::connect(config),
        Err(ClientError::NoConnection { .. })
    ));

    let fake = Fake::new();
    let config = ClientConfig {
        request_timeout: Duration::from_millis(100),
        ..fake.config()
    };
    let (client, peer) = fake.connect(config);
    drop(fake);
    drop(peer);
    // The first call may still be written into the dying connection; what follows is not.
    let _ = client.ack(TOKEN, None);
    let error = client.ack(TOKEN, None).unwrap_err();
    assert!(matches!(error, ClientError::NoConnection { .. }), "{error}");
    assert!(!client.is_connected());
}

#[test]
fn a_refused_hello_is_final() {
    let fake = Fake::new();
    thread::scope(|scope| {
        let call = scope.spawn(|| Client::connect(fake.config()));
        let mut peer = fake.accept_raw();
        let hello = peer.request();
        peer.refuse(&hello, ErrorCode::VersionMismatch);
        let error = call.join().unwrap().unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::VersionMismatch));
    });
}

#[test]
fn closing_the_client_ends_what_others_wait_for() {
    let fake = Fake::new();
    let (client, mut peer, mail) = warm_up(&fake, fake.config());
    let enqueue = client.enqueue_start(&mail, &job(b"x"), None).unwrap();
    let reserve = client
        .reserve_start(
            &[&mail],
            Reserve {
                wait: TIME,
                ..Reserve::default()
            },
        )
        .unwrap();
    (0..2).for_each(|_| drop(peer.request()));
    drop(client);
    assert!(matches!(
        enqueue.wait(),
        Err(ClientError::OutcomeUnknown { number: 2, .. })
    ));
    assert!(matches!(reserve.wait(), Err(ClientError::Closed)));
}

#[test]
fn a_unix_socket_does_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ackring.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let config = ClientConfig::to(&format!("unix:{}", path.display())).unwrap();
    thread::scope(|scope| {
        let call = scope.spawn(|| Client::connect(config));
        let (mut stream, _) = listener.accept().unwrap();
        let mut hello = [0; 64];
        std::io::Read::read(&mut stream, &mut hello).unwrap();
        // The answer to HELLO, from the golden bytes, with the correlation that was asked with.
        let golden = include_str!("vectors/hello_reply.hex");
        let mut answer: Vec<u8> = golden
            .lines()
            .skip(1)
            .flat_map(|line| line.split_whitespace())
            .map(|byte| u8::from_str_radix(byte, 16).unwrap())
            .collect();
        answer[8..12].copy_from_slice(&hello[8..12]);
        std::io::Write::write_all(&mut stream, &answer).unwrap();
        assert_eq!(call.join().unwrap().unwrap().server_name(), "ackring 0.1.0");
    });
}
