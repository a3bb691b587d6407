//! What peers do wrong, by accident or on purpose: each gets the error that the protocol names, and the rest goes on.

use crate::peer::{Peer, batch, config, hello, start, start_with};
use ackring::server::{Server, ServerConfig};
use ackring::wire::compose::{self, ReserveFields};
use ackring::wire::{Header, Hello, Op, Welcome};
use ackring::{ErrorCode, JobOptions, SettleBuilder, limits};
use std::io::Write;
use std::net::Shutdown;

/// The server still serves a whole life of a job.
fn is_alive(server: &Server) {
    let mut peer = Peer::connect(server);
    let queue = peer.open("alive");
    peer.enqueue(queue, &["job"]);
    let deliveries = peer.reserve(&[queue], 1, 0);
    peer.ack(&deliveries);
}

/// A frame with any header.
fn raw(len: u32, op: u16, flags: u8, words: u8, correlation: u32, aux: u32, body: &[u8]) -> Vec<u8> {
    let mut out = len.to_le_bytes().to_vec();
    out.extend_from_slice(&op.to_le_bytes());
    out.extend_from_slice(&[flags, words]);
    out.extend_from_slice(&correlation.to_le_bytes());
    out.extend_from_slice(&aux.to_le_bytes());
    out.extend_from_slice(body);
    out
}

/// A well-formed frame with that op and body.
fn frame(op: u16, correlation: u32, body: &[u8]) -> Vec<u8> {
    raw(
        (Header::LEN + body.len()) as u32,
        op,
        0,
        Header::WORDS,
        correlation,
        0,
        body,
    )
}

#[test]
fn an_unknown_op_is_unsupported_and_the_connection_lives() {
    let server = start();
    let mut peer = Peer::connect(&server);
    for op in [
        0,
        11,
        23,
        37,
        999,
        0x3fff,
        Op::Delivery as u16,
        Op::Ping as u16 | 0x8000,
    ] {
        peer.send(&frame(op, 77, b"whatever"));
        let reply = peer.answer(77);
        assert_eq!(
            (reply.header.op.get(), reply.code()),
            (op | 0x8000, ErrorCode::Unsupported)
        );
    }
    peer.ping();
}

#[test]
fn a_malformed_request_costs_that_request() {
    let server = start();
    let mut peer = Peer::connect(&server);
    let queue = peer.open("q");
    for op in Op::ALL
        .iter()
        .filter(|op| !matches!(op, Op::Hello | Op::Ping | Op::Unsubscribe | Op::Delivery))
    {
        peer.send(&frame(*op as u16, 5, &[]));
        assert_eq!(peer.answer(5).code(), ErrorCode::Malformed, "{}", op.name());
        peer.send(&frame(*op as u16, 6, &[0xff; 64]));
        let code = peer.answer(6).code();
        let is_refused = matches!(
            code,
            ErrorCode::Malformed
                | ErrorCode::InvalidArgument
                | ErrorCode::BatchTooLarge
                | ErrorCode::JobNotFound
        );
        assert!(is_refused, "{}: {code}", op.name());
    }
    peer.ping();
    // Reserved bits of the header.
    let ping = |flags, words, aux| raw(16, Op::Ping as u16, flags, words, 8, aux, &[]);
    for bytes in [
        ping(1, 2, 0),
        ping(0x80, 2, 0),
        ping(0, 3, 0),
        ping(0, 0, 0),
        ping(0, 2, 1),
    ] {
        peer.send(&bytes);
        assert_eq!(peer.answer(8).code(), ErrorCode::Malformed);
    }
    // Truncated bodies of requests that would be fine.
    let mut settle = SettleBuilder::new();
    settle.ack(
        ackring::Token {
            id: ackring::JobId::new(1, 1),
            attempt: 1,
        },
        Some(b"result"),
    );
    let jobs = batch(&["payload", "another"], &JobOptions::default());
    let fields = ReserveFields {
        number: 0,
        max_jobs: 1,
        wait_ms: 0,
        max_bytes: 0,
        lease_ms: 0,
    };
    let mut whole = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
    compose::enqueue(&mut whole[0], 9, 0, queue, None, &jobs);
    compose::settle(&mut whole[1], 9, 0, &settle);
    compose::reserve(&mut whole[2], 9, &fields, &[queue]);
    compose::step(&mut whole[3], 9, 0, &settle, &[(queue, &jobs)]);
    for request in whole {
        for len in (Header::LEN..request.len()).step_by(8) {
            let mut cut = request[..len].to_vec();
            cut[..4].copy_from_slice(&(len as u32).to_le_bytes());
            peer.send(&cut);
            assert_eq!(peer.answer(9).code(), ErrorCode::Malformed, "cut to {len}");
        }
    }
    assert!(peer.reserve(&[queue], 10, 0).is_empty());
}

#[test]
fn lost_framing_closes_the_connection_with_its_name() {
    let server = start();
    for len in [
        0,
        8,
        15,
        17,
        20,
        limits::FRAME_BYTES_MAX + 8,
        u32::MAX - 7,
        u32::MAX,
    ] {
        let mut peer = Peer::connect(&server);
        peer.send(&raw(len, Op::Ping as u16, 0, 2, 1, 0, &[0xaa; 4_096]));
        let error = peer.next().unwrap();
        assert_eq!(
            (error.code(), error.header.op.get()),
            (ErrorCode::BadFrame, 0x8000),
            "length {len}"
        );
        assert_eq!((error.error().scope, error.header.correlation.get()), (3, 0));
        assert!(peer.next().is_none(), "length {len}");
    }
    is_alive(&server);
}

#[test]
fn garbage_is_answered_and_closed() {
    let server = start();
    for seed in 1..=50u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let garbage: Vec<u8> = (0..10_000)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .collect();
        let mut peer = Peer::silent(&server);
        peer.send(&garbage);
        peer.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(peer.last_words(), Some(ErrorCode::BadFrame), "seed {seed}");
    }
    let mut peer = Peer::silent(&server);
    peer.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(peer.last_words(), Some(ErrorCode::BadFrame));
    is_alive(&server);
}

#[test]
fn the_first_frame_is_hello_and_it_comes_once() {
    let server = start();
    let mut peer = Peer::silent(&server);
    peer.ask(compose::ping);
    assert_eq!(peer.last_words(), Some(ErrorCode::HelloExpected));
    let mut peer = Peer::connect(&server);
    peer.ask(|out, c| hello(0).encode(out, c));
    assert_eq!(peer.last_words(), Some(ErrorCode::HelloExpected));
    // A frame longer than a HELLO may be, before HELLO.
    let mut peer = Peer::silent(&server);
    peer.send(&raw(2_048, Op::Enqueue as u16, 0, 2, 1, 0, &[0; 64]));
    assert_eq!(peer.last_words(), Some(ErrorCode::BadFrame));
}

#[test]
fn versions_and_frame_sizes_are_negotiated() {
    let server = start();
    let mut peer = Peer::silent(&server);
    let newer = Hello {
        version_min: 2,
        version_max: 9,
        ..hello(0)
    };
    peer.ask(|out, c| newer.encode(out, c));
    assert_eq!(peer.last_words(), Some(ErrorCode::VersionMismatch));

    let mut peer = Peer::silent(&server);
    let small = Hello {
        frame_bytes_max: 1_000,
        ..hello(0)
    };
    assert_eq!(
        peer.call(|out, c| small.encode(out, c)).code(),
        ErrorCode::InvalidArgument
    );
    // That costs the request only: it may try again.
    let wide = Hello {
        version_max: 9,
        features: u32::MAX,
        frame_bytes_max: u32::MAX,
        ..hello(0)
    };
    let welcome = Welcome::decode(peer.call(|out, c| wide.encode(out, c)).ok()).unwrap();
    assert_eq!((welcome.version, welcome.features), (1, 0));
    assert_eq!(welcome.frame_bytes_max, limits::FRAME_BYTES_MAX);
    peer.ping();
}

#[test]
fn requests_may_follow_hello_without_waiting() {
    let server = start();
    let mut peer = Peer::silent(&server);
    let mut bytes = Vec::new();
    hello(0).encode(&mut bytes, 1);
    compose::queue_open(&mut bytes, 2, "q");
    let jobs = batch(&["x".repeat(4_000).as_str()], &JobOptions::default());
    compose::enqueue(&mut bytes, 3, 0, 0, None, &jobs);
    compose::ping(&mut bytes, 4);
    peer.send(&bytes);
    assert!(!peer.answer(4).header.is_error());
}

#[test]
fn whoever_says_nothing_is_told_so() {
    let server = start_with(
        None,
        ServerConfig {
            hello_timeout_ms: 50,
            ..config()
        },
    );
    let mut peer = Peer::silent(&server);
    assert_eq!(peer.last_words(), Some(ErrorCode::HelloExpected));
    // One that begins and does not go on is no better.
    let mut peer = Peer::silent(&server);
    peer.send(&[0x40, 0, 0]);
    assert_eq!(peer.last_words(), Some(ErrorCode::HelloExpected));
}

#[test]
fn whoever_misses_its_heartbeats_is_closed() {
    let server = start();
    let mut peer = Peer::silent(&server);
    let timed = Hello {
        heartbeat_ms: 20,
        ..hello(0)
    };
    peer.call(|out, c| timed.encode(out, c)).ok();
    assert_eq!(peer.last_words(), None);
    // Without heartbeats silence is no fault.
    is_alive(&server);
}

#[test]
fn bytes_may_come_one_by_one() {
    let server = start();
    let mut peer = Peer::silent(&server);
    let mut bytes = Vec::new();
    hello(0).encode(&mut bytes, 1);
    compose::queue_open(&mut bytes, 2, "q");
    let jobs = batch(&["payload"], &JobOptions::default());
    compose::enqueue(&mut bytes, 3, 0, 0, None, &jobs);
    for byte in bytes {
        peer.send(&[byte]);
    }
    assert_eq!(peer.answer(3).outcome().ids.len(), 1);
}

#[test]
fn whoever_reads_nothing_is_not_read_either_and_stops_nobody() {
    let server = start_with(
        None,
        ServerConfig {
            threads: 1,
            stall_timeout_ms: 300,
            ..config()
        },
    );
    let mut glutton = Peer::connect(&server);
    let queue = glutton.open("q");
    let payload = "x".repeat(100_000);
    glutton.enqueue(queue, &[payload.as_str(); 20]);
    // Each answer is 2 MB and none is read: the server stops reading, so this side's writes stop at some point.
    let mut peeks = Vec::new();
    (0..1_000).for_each(|n| compose::job_peek(&mut peeks, n, "q", 100));
    glutton.stream.set_nonblocking(true).unwrap();
    let mut sent = 0;
    while sent < 500_000_000 {
        match glutton.stream.write(&peeks) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
            // The stall timeout may already have passed on a slow machine.
            Err(_) => break,
        }
    }
    assert!(sent < 500_000_000, "the server read on");
    is_alive(&server);
    // It is closed in the end, however much of its answers the sockets hold.
    while !matches!(glutton.stream.write(&peeks), Err(error) if error.kind() != std::io::ErrorKind::WouldBlock)
    {
        is_alive(&server);
    }
}

/// An enqueue of one job of 900,000 bytes, under that correlation.
fn large(queue: u32, correlation: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let jobs = batch(&["x".repeat(900_000).as_str()], &JobOptions::default());
    compose::enqueue(&mut bytes, correlation, 0, queue, None, &jobs);
    bytes
}

#[test]
fn requests_that_never_wholly_came_took_any_amount_of_memory() {
    let server = start_with(
        None,
        ServerConfig {
            threads: 1,
            receive_bytes_max: 1 << 20,
            ..config()
        },
    );
    let mut slow = Peer::connect(&server);
    let queue = slow.open("q");
    let request = large(queue, 77);
    let (now, later) = request.split_at(600_000);
    slow.send(now);
    let mut other = Peer::connect(&server);
    other.open("q");
    // In each turn of its reactor the server reads from both.
    (0..100).for_each(|_| other.ping());
    other.send(&large(queue, 78));
    let refused = other.answer(78);
    assert_eq!(refused.code(), ErrorCode::LimitReached);
    assert!(refused.error().retry_ms > 0);
    // Its connection is whole, and small requests go through; so does the one that was begun first.
    assert_eq!(other.enqueue(queue, &["small"]).len(), 1);
    slow.send(later);
    assert_eq!(slow.answer(77).outcome().ids.len(), 1);
    drop(slow);
    // What the first one held is free again once it is gone.
    let ids = loop {
        other.send(&large(queue, 79));
        let answer = other.answer(79);
        if !answer.header.is_error() {
            break answer.outcome().ids;
        }
    };
    assert_eq!(ids.len(), 1);
}

#[test]
fn whoever_left_off_in_the_middle_of_a_request_was_waited_for_for_ever() {
    let server = start_with(
        None,
        ServerConfig {
            stall_timeout_ms: 50,
            ..config()
        },
    );
    let mut peer = Peer::connect(&server);
    let queue = peer.open("q");
    peer.send(&large(queue, 77)[..600_000]);
    assert_eq!(peer.last_words(), None);
    is_alive(&server);
}

#[test]
fn a_subscriber_that_reads_nothing_stops_nobody() {
    let server = start_with(
        None,
        ServerConfig {
            threads: 1,
            ..config()
        },
    );
    let mut lazy = Peer::connect(&server);
    let queue = lazy.open("q");
    lazy.subscribe(&[queue], 65_536, 0);
    let mut producer = Peer::connect(&server);
    let payload = "x".repeat(100_000);
    // 40 MB: more than the sockets and the outbox of the subscriber hold.
    for _ in 0..20 {
        producer.enqueue(queue, &[payload.as_str(); 20]);
    }
    // What it was not sent is there for others.
    assert!(!producer.reserve(&[queue], 10, 0).is_empty());
    is_alive(&server);
}

#[test]
fn a_thousand_connections_come_and_go() {
    let server = start();
    for round in 0..1_000 {
        let mut peer = Peer::silent(&server);
        match round % 4 {
            0 => drop(peer),
            1 => peer.send(&[1, 2]),
            2 => {
                peer.hello(0);
            }
            _ => {
                peer.hello(round as u128);
                let queue = peer.open("q");
                peer.ask_reserve(&[queue], 1, 600_000);
                peer.subscribe(&[queue], 5, 0);
            }
        }
    }
    is_alive(&server);
}

#[test]
fn hundreds_of_connections_at_once_are_served() {
    let server = start();
    let mut peers: Vec<Peer> = (0..300).map(|_| Peer::connect(&server)).collect();
    let queue = peers[0].open("q");
    peers.iter_mut().for_each(|peer| {
        peer.enqueue(queue, &["job"]);
    });
    let served: usize = peers
        .iter_mut()
        .map(|peer| peer.reserve(&[queue], 1, 0).len())
        .sum();
    assert_eq!(served, peers.len());
}

#[test]
fn too_many_connections_are_told_so() {
    let server = start_with(
        None,
        ServerConfig {
            connections_max: 3,
            ..config()
        },
    );
    let mut peers: Vec<Peer> = (0..3).map(|_| Peer::connect(&server)).collect();
    let mut fourth = Peer::silent(&server);
    // Even when it is talking already, its own words do not take the answer from it.
    let mut bytes = Vec::new();
    hello(0).encode(&mut bytes, 1);
    fourth.send(&bytes);
    assert_eq!(fourth.last_words(), Some(ErrorCode::TooManyConnections));
    // A place that becomes free is given again.
    drop(peers.pop());
    loop {
        let mut next = Peer::silent(&server);
        next.ask(|out, c| hello(0).encode(out, c));
        if next.next().is_some_and(|frame| !frame.header.is_error()) {
            break;
        }
    }
    peers.iter_mut().for_each(Peer::ping);
}
