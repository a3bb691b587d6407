//! The bare connection against a scripted server: what it sends, what it hands over, how it ends.
#![cfg(feature = "client")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

mod client_fake;

use ackring::client::{ClientConfig, ClientError, Connection, Event, Reading, Reserve, Window};
use ackring::wire::Request;
use ackring::{ErrorCode, ItemError, JobId, Token, limits};
use client_fake::{Fake, Peer};
use std::thread;
use std::time::Duration;

const TURN: Duration = Duration::from_secs(20);

/// A connection with one queue, handle 5, and the server's end of it.
fn connect(fake: &Fake, reading: Reading) -> (Connection, Peer) {
    connect_as(fake, fake.config(), reading)
}

fn connect_as(fake: &Fake, config: ClientConfig, reading: Reading) -> (Connection, Peer) {
    thread::scope(|scope| {
        let connection = scope.spawn(|| Connection::open(config, &["mail"], reading).unwrap());
        let mut peer = fake.accept();
        peer.open_queue("mail", 5);
        (connection.join().unwrap(), peer)
    })
}

/// Turns until something has come; says what, in words.
fn turn(connection: &mut Connection) -> Vec<String> {
    let mut seen = Vec::new();
    while seen.is_empty() {
        let events = connection.turn(TURN, |event, _| {
            seen.push(match event {
                Event::Applied { request, outcome } => {
                    let ids: Vec<u64> = outcome.ids().map(|id| id.0).collect();
                    format!("applied {request} {ids:?}")
                }
                Event::NotAcked {
                    request,
                    outcome: Ok(outcome),
                } => {
                    let items = outcome.items().map(|item| (item.position, item.code));
                    format!("not acked {request} {:?}", items.collect::<Vec<_>>())
                }
                Event::NotAcked {
                    request,
                    outcome: Err(error),
                } => format!("not acked {request} {:?}", error.code()),
                Event::Delivered { request, jobs } => {
                    let payloads = jobs
                        .items()
                        .map(|job| String::from_utf8_lossy(job.payload()).into_owned());
                    format!("delivered {request:?} {}", payloads.collect::<Vec<_>>().join(" "))
                }
                Event::Done { request } => format!("done {request}"),
                Event::Refused { request, error } => format!("refused {request:?} {:?}", error.code()),
            });
            Ok(())
        });
        assert!(events.unwrap() > 0 || seen.is_empty());
    }
    seen
}

/// Turns until so much has come.
fn turns(connection: &mut Connection, events: usize) -> Vec<String> {
    let mut seen = Vec::new();
    while seen.len() < events {
        seen.extend(turn(connection));
    }
    seen
}

#[test]
fn requests_are_encoded_in_place_and_answers_find_them() {
    for reading in [Reading::Sleeping, Reading::Polling] {
        let fake = Fake::new();
        let (mut connection, mut peer) = connect(&fake, reading);
        let requests = connection.requests();
        let payloads = ["", "seven..", "eight...", "more than eight"];
        let enqueue = requests
            .enqueue_with(0, 4, None, |place, out| {
                out.extend_from_slice(payloads[place].as_bytes())
            })
            .unwrap();
        let tokens = [1, 2].map(|id| Token {
            id: JobId(id),
            attempt: 3,
        });
        let settle = requests.ack_all(&tokens).unwrap();
        let ping = requests.ping().unwrap();
        assert_eq!((requests.in_flight(), enqueue, settle, ping), (3, 1, 2, 3));
        let answered = thread::scope(|scope| {
            scope.spawn(|| {
                let got = [peer.request(), peer.request(), peer.request()];
                let Request::Enqueue {
                    number: 1,
                    queue: 5,
                    durability: None,
                    batch,
                } = got[0].decode()
                else {
                    panic!("the first request")
                };
                let sent: Vec<_> = batch.items().map(|item| item.payload().to_vec()).collect();
                assert_eq!(sent, payloads.map(|payload| payload.as_bytes().to_vec()));
                let Request::Settle { number: 2, batch, .. } = got[1].decode() else {
                    panic!("the second request")
                };
                assert!(batch.items().map(|item| item.token).eq(tokens));
                assert!(matches!(got[2].decode(), Request::Ping));
                // In any order.
                peer.answer(&got[2], |reply, out| reply.empty(out));
                peer.refuse(&got[1], ErrorCode::LogFull);
                peer.outcome(&got[0], &[9, 8, 7, 6], &[]);
            });
            turns(&mut connection, 3)
        });
        assert_eq!(
            answered,
            [
                "done 3",
                "refused Some(2) Some(LogFull)",
                "applied 1 [9, 8, 7, 6]"
            ]
        );
        assert_eq!(connection.requests().in_flight(), 0);
        let (sent, received) = connection.bytes();
        assert!(sent > 0 && received > 0);
    }
}

#[test]
fn quiet_acks_are_nothing_to_wait_for_and_what_failed_of_them_is_told() {
    let fake = Fake::new();
    let (mut connection, mut peer) = connect(&fake, Reading::Sleeping);
    let tokens = [1, 2].map(|id| Token {
        id: JobId(id),
        attempt: 3,
    });
    let requests = connection.requests();
    assert_eq!(requests.ack_quietly(&tokens).unwrap(), 1);
    assert_eq!(requests.ack_quietly(&tokens[1..]).unwrap(), 2);
    assert_eq!(requests.in_flight(), 0);
    assert_eq!(requests.ping().unwrap(), 1);
    for many in [0, limits::BATCH_JOBS_MAX + 1] {
        let error = requests.ack_quietly(&vec![tokens[0]; many]).unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::BatchTooLarge));
    }
    let seen = thread::scope(|scope| {
        scope.spawn(|| {
            let got = [peer.request(), peer.request(), peer.request()];
            for (one, sent) in got.iter().zip([&tokens[..], &tokens[1..]]) {
                let Request::Settle {
                    number: 0,
                    quiet: true,
                    batch,
                } = one.decode()
                else {
                    panic!("a quiet settlement")
                };
                assert!(batch.items().map(|item| item.token).eq(sent.iter().copied()));
            }
            let lost = ItemError {
                position: 1,
                code: ErrorCode::LeaseLost,
            };
            peer.outcome(&got[0], &[], &[lost]);
            peer.refuse(&got[1], ErrorCode::LogFull);
            peer.answer(&got[2], |reply, out| reply.empty(out));
        });
        turns(&mut connection, 3)
    });
    assert_eq!(
        seen,
        [
            "not acked 1 [(1, LeaseLost)]",
            "not acked 2 Some(LogFull)",
            "done 1"
        ]
    );
}

#[test]
fn a_refused_request_that_came_after_four_thousand_million_was_told_as_nobodys() {
    let fake = Fake::new();
    // Numbers that look alike in the bits that a correlation has.
    for first in [u64::from(u32::MAX), (1 << 31) - 1] {
        let config = ClientConfig {
            first_number: first,
            ..fake.config()
        };
        let (mut connection, mut peer) = connect_as(&fake, config, Reading::Sleeping);
        let numbers = [(); 3].map(|()| connection.requests().ping().unwrap());
        assert_eq!(numbers, [first, first + 1, first + 2]);
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..3 {
                    let got = peer.request();
                    peer.refuse(&got, ErrorCode::LogFull);
                }
            });
            let seen = turns(&mut connection, 3);
            let expected = numbers.map(|number| format!("refused Some({number}) Some(LogFull)"));
            assert_eq!(seen, expected);
        });
        assert_eq!(connection.requests().in_flight(), 0);
    }
}

#[test]
fn jobs_come_by_reserve_and_by_subscription() {
    let fake = Fake::new();
    let (mut connection, mut peer) = connect(&fake, Reading::Sleeping);
    let reserve = Reserve {
        max_jobs: 9,
        wait: Duration::from_millis(70),
        ..Reserve::default()
    };
    connection.requests().reserve(&[0], reserve).unwrap();
    connection.requests().subscribe(&[0], Window::default()).unwrap();
    let seen = thread::scope(|scope| {
        scope.spawn(|| {
            let got = peer.request();
            let Request::Reserve(asked) = got.decode() else {
                panic!("a reserve")
            };
            assert_eq!((asked.max_jobs, asked.wait_ms, asked.queues[0].get()), (9, 70, 5));
            let subscribe = peer.request();
            assert!(matches!(subscribe.decode(), Request::Subscribe(_)));
            peer.answer(&subscribe, |reply, out| reply.handle(out, 4));
            peer.push(4, 5, &[b"pushed", b"twice"]);
            peer.deliver(&got, 5, &[b"asked-for"]);
        });
        turns(&mut connection, 3)
    });
    assert_eq!(
        seen,
        [
            "done 2",
            "delivered None pushed twice",
            "delivered Some(1) asked-for"
        ]
    );
}

#[test]
fn no_more_requests_than_the_server_remembers() {
    let mut fake = Fake::new();
    fake.session_window = 4;
    let (mut connection, mut peer) = connect(&fake, Reading::Sleeping);
    while connection.requests().has_room() {
        connection.requests().ping().unwrap();
    }
    assert_eq!(connection.requests().in_flight(), 3);
    let error = connection.requests().ping().unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::LimitReached));
    let too_long = |out: &mut Vec<u8>| out.resize(out.len() + (21 << 20), 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let got = [peer.request(), peer.request(), peer.request()];
            // The oldest one holds the numbers.
            peer.answer(&got[1], |reply, out| reply.empty(out));
            peer.answer(&got[2], |reply, out| reply.empty(out));
            peer.answer(&got[0], |reply, out| reply.empty(out));
        });
        let mut seen = 0;
        while seen < 3 {
            seen += turn(&mut connection).len();
        }
    });
    let error = connection
        .requests()
        .enqueue_with(0, 1, None, |_, out| too_long(out));
    assert_eq!(error.unwrap_err().code(), Some(ErrorCode::BatchTooLarge));
    let error = connection.requests().enqueue_with(1, 1, None, |_, _| ());
    assert_eq!(error.unwrap_err().code(), Some(ErrorCode::InvalidArgument));
    assert_eq!(
        connection.requests().in_flight(),
        0,
        "what was refused here is not under way"
    );
}

#[test]
fn a_turn_without_news_ends_in_time_and_a_broken_connection_is_told() {
    for reading in [Reading::Sleeping, Reading::Polling] {
        let fake = Fake::new();
        let (mut connection, peer) = connect(&fake, reading);
        let nothing = connection.turn(Duration::from_millis(5), |_, _| panic!("nothing has come"));
        assert_eq!(nothing.unwrap(), 0);
        peer.hang_up();
        let error = connection.turn(TURN, |_, _| Ok(())).unwrap_err();
        assert!(matches!(error, ClientError::NoConnection { .. }), "{error}");
    }
    let fake = Fake::new();
    let (mut connection, mut peer) = connect(&fake, Reading::Sleeping);
    peer.send(&[1, 0, 0, 0, 0, 0, 0, 0]);
    let error = connection.turn(TURN, |_, _| Ok(())).unwrap_err();
    assert!(matches!(error, ClientError::Protocol(_)), "{error}");
}

#[test]
fn a_name_that_is_none_is_refused_before_anything_is_sent() {
    let fake = Fake::new();
    let error = Connection::open(fake.config(), &["not a name"], Reading::Sleeping).unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::InvalidArgument));
}
