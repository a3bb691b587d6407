//! The beginning and the end of a server, and what a restart brings back.

use crate::peer::{Peer, batch, config, engine, start, start_in, texts};
use ackring::server::{Server, ServerConfig, StartError};
use ackring::wire::compose::{self, ReserveFields};
use ackring::wire::{FrameDecoder, response};
use ackring::{Durability, ErrorCode, JobOptions, QueueOptions};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

#[test]
fn a_stop_answers_what_was_asked_and_says_goodbye() {
    let directory = tempfile::tempdir().unwrap();
    let server = start_in(directory.path());
    let mut peers: Vec<Peer> = (0..4).map(|_| Peer::connect(&server)).collect();
    let queue = peers[0].open("q");
    let jobs = batch(&["job"; 100], &JobOptions::default());
    let synced = Some(Durability::Synced);
    let asked: Vec<u32> = peers
        .iter_mut()
        .map(|peer| {
            // The PING is answered as soon as both were read; the synced answer may still wait for the disk.
            let asked = peer.ask(|out, c| compose::enqueue(out, c, 0, queue, synced, &jobs));
            peer.ping();
            asked
        })
        .collect();
    let waiting = peers[0].open("empty");
    peers[0].ask_reserve(&[waiting], 1, 600_000);
    peers[0].ping();
    let stopping = std::thread::spawn(move || server.stop());
    for (peer, asked) in peers.iter_mut().zip(asked) {
        let outcome = peer.answer(asked).outcome();
        assert_eq!(
            (outcome.ids.len(), outcome.head.level),
            (100, Some(Durability::Synced))
        );
        assert_eq!(peer.last_words(), Some(ErrorCode::ShuttingDown));
    }
    stopping.join().unwrap().unwrap();

    // The directory is free again, and everything is there.
    let server = start_in(directory.path());
    let mut peer = Peer::connect(&server);
    let queue = peer.open("q");
    let reply = peer.call(|out, c| compose::queue_info(out, c, "q"));
    assert_eq!(response::decode_queue_info(reply.ok()).unwrap().counts.ready, 400);
    assert_eq!(peer.reserve(&[queue], 500, 0).len(), 400);
}

#[test]
fn a_stop_does_not_wait_for_those_who_do_not_read() {
    let server = start();
    let mut silent: Vec<Peer> = (0..3).map(|_| Peer::silent(&server)).collect();
    silent.push(Peer::connect(&server));
    server.stop().unwrap();
    silent.iter_mut().for_each(|peer| {
        peer.last_words();
    });
}

#[test]
fn a_stopper_ends_the_wait() {
    let server = start();
    let stopper = server.stopper();
    let waiting = std::thread::spawn(move || server.wait());
    stopper.stop();
    waiting.join().unwrap().unwrap();
}

#[test]
fn a_dropped_server_gives_its_directory_back() {
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        drop(start_in(directory.path()));
    }
}

#[test]
fn a_second_server_on_the_same_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let server = start_in(directory.path());
    let refused = Server::open(engine(Some(directory.path())), config());
    assert!(matches!(refused, Err(StartError::Engine(_))));
    Peer::connect(&server).ping();
}

#[test]
fn a_port_in_use_is_said_before_the_data_is_touched() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let address = taken.local_addr().unwrap();
    let refused = Server::open(
        engine(Some(&data)),
        ServerConfig {
            listen: Some(address),
            ..config()
        },
    );
    let Err(error @ StartError::Listen { .. }) = refused else {
        panic!("it started")
    };
    assert!(error.to_string().contains(&address.to_string()) && !error.to_string().contains('\n'));
    assert!(!data.exists());
    let nothing = ServerConfig {
        listen: None,
        ..config()
    };
    assert!(matches!(
        Server::open(engine(None), nothing),
        Err(StartError::NoListener)
    ));
}

#[test]
fn a_unix_socket_serves_and_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let config = ServerConfig {
        listen: None,
        unix: Some(path.clone()),
        ..config()
    };
    // One that a killed server left behind is no hindrance.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let (server, _) = Server::open(engine(None), config.clone()).unwrap();
    assert!(server.local_addr().is_none());
    assert!(matches!(
        Server::open(engine(None), config.clone()),
        Err(StartError::ListenUnix { .. })
    ));

    let mut stream = UnixStream::connect(&path).unwrap();
    let mut bytes = Vec::new();
    crate::peer::hello(0).encode(&mut bytes, 1);
    compose::ping(&mut bytes, 2);
    stream.write_all(&bytes).unwrap();
    let mut decoder = FrameDecoder::new(4_096);
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let count = stream.read(decoder.space()).unwrap();
        assert!(count > 0);
        decoder.filled(count);
        seen.extend(
            decoder
                .frames()
                .map(|frame| frame.unwrap().header.correlation.get()),
        );
    }
    assert_eq!(seen, [1, 2]);
    server.stop().unwrap();
    assert!(!path.exists());

    // A file that is no socket is left alone.
    std::fs::write(&path, b"mine").unwrap();
    assert!(matches!(
        Server::open(engine(None), config),
        Err(StartError::ListenUnix { .. })
    ));
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
}

#[test]
fn a_request_sent_again_is_applied_once() {
    let directory = tempfile::tempdir().unwrap();
    let server = start_in(directory.path());
    let (mut peer, welcome) = Peer::with_session(&server, 42);
    assert!(!welcome.session_known);
    let queue = peer.open("q");
    let jobs = batch(&["a", "b", "c"], &JobOptions::default());
    let enqueue = |peer: &mut Peer, queue: u32, number: u64| {
        peer.call(|out, c| compose::enqueue(out, c, number, queue, None, &jobs))
            .outcome()
    };
    let first = enqueue(&mut peer, queue, 1);
    let again = enqueue(&mut peer, queue, 1);
    assert_eq!(
        (first.ids == again.ids, first.head.replayed, again.head.replayed),
        (true, false, true)
    );
    let (mut other, welcome) = Peer::with_session(&server, 42);
    assert!(welcome.session_known);
    assert_eq!(enqueue(&mut other, queue, 1).ids, first.ids);
    let fields = ReserveFields {
        number: 2,
        max_jobs: 2,
        wait_ms: 0,
        max_bytes: 0,
        lease_ms: 3_600_000,
    };
    let reserve = |peer: &mut Peer, queue: u32| {
        peer.call(|out, c| compose::reserve(out, c, &fields, &[queue]))
            .deliveries()
    };
    let taken = reserve(&mut peer, queue);
    assert_eq!(texts(&taken), ["a", "b"]);
    assert_eq!(
        reserve(&mut other, queue)
            .iter()
            .map(|one| one.token)
            .collect::<Vec<_>>(),
        [taken[0].token, taken[1].token]
    );
    let boot = welcome.boot;
    server.stop().unwrap();

    // The same after a restart.
    let server = start_in(directory.path());
    let (mut peer, welcome) = Peer::with_session(&server, 42);
    assert!(welcome.session_known && welcome.boot != boot);
    let queue = peer.open("q");
    let again = enqueue(&mut peer, queue, 1);
    assert_eq!((again.ids == first.ids, again.head.replayed), (true, true));
    assert_eq!(texts(&reserve(&mut peer, queue)), ["a", "b"]);
    // What is waiting is the third job, once; the leases of the others hold through the restart.
    let left = peer.reserve(&[queue], 10, 0);
    assert_eq!(texts(&left), ["c"]);
    peer.ack(&taken);
}

#[test]
fn many_synced_requests_share_the_syncs() {
    let directory = tempfile::tempdir().unwrap();
    let server = start_in(directory.path());
    let options = QueueOptions {
        durability: Durability::Synced,
        ..QueueOptions::default()
    };
    let mut peers: Vec<Peer> = (0..8).map(|_| Peer::connect(&server)).collect();
    peers[0]
        .call(|out, c| compose::queue_create(out, c, 0, "q", &options))
        .ok();
    let queue = peers[0].open("q");
    let jobs = batch(&["job"], &JobOptions::default());
    let mut asked = Vec::new();
    for _ in 0..25 {
        for (n, peer) in peers.iter_mut().enumerate() {
            asked.push((
                n,
                peer.ask(|out, c| compose::enqueue(out, c, 0, queue, None, &jobs)),
            ));
        }
    }
    // Answers that need no disk overtake those that do.
    peers.iter_mut().for_each(Peer::ping);
    for (n, correlation) in asked {
        assert_eq!(
            peers[n].answer(correlation).outcome().head.level,
            Some(Durability::Synced)
        );
    }
}
