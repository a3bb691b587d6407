//! The Rust client and the stranger's Python client against a real server, over real sockets.
#![cfg(all(feature = "client", feature = "server"))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

use ackring::client::{Client, ClientConfig, Reserve, Window};
use ackring::server::{Server, ServerConfig};
use ackring::{EngineConfig, EnqueueBuilder, JobOptions, JobState, SettleBuilder};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Long enough that only a hang ever takes it.
const HANG: Duration = Duration::from_secs(60);

fn serve(directory: &Path, listen: Option<SocketAddr>) -> Server {
    let engine = EngineConfig {
        directory: Some(directory.to_owned()),
        slots: 100_000,
        segment_bytes: 1 << 20,
        ..EngineConfig::default()
    };
    let free: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let config = ServerConfig {
        listen: listen.or(Some(free)),
        threads: 2,
        ..ServerConfig::default()
    };
    Server::open(engine, config).unwrap().0
}

fn connect(server: &Server) -> Client {
    Client::connect(ClientConfig::to(&server.local_addr().unwrap().to_string()).unwrap()).unwrap()
}

fn batch(payloads: impl IntoIterator<Item = u32>) -> EnqueueBuilder {
    let mut jobs = EnqueueBuilder::new();
    for payload in payloads {
        jobs.push(&payload.to_le_bytes(), &JobOptions::default());
    }
    jobs
}

fn number(payload: &[u8]) -> u32 {
    u32::from_le_bytes(payload.try_into().unwrap())
}

#[test]
fn producers_and_subscribers_on_many_connections_lose_and_repeat_nothing() {
    const PRODUCERS: u32 = 4;
    const EACH: u32 = 5_000;
    let directory = tempfile::tempdir().unwrap();
    let server = serve(directory.path(), None);
    let seen: Vec<u32> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let client = connect(&server);
                scope.spawn(move || {
                    let queue = client.queue("work").unwrap();
                    let window = Window {
                        jobs: 200,
                        ..Window::default()
                    };
                    let subscription = client.subscribe(&[&queue], window).unwrap();
                    let mut seen = Vec::new();
                    loop {
                        let Some(deliveries) = subscription.next(HANG).unwrap() else {
                            panic!("a hang")
                        };
                        let mut settles = SettleBuilder::new();
                        let mut stop = false;
                        for delivery in &deliveries {
                            match number(delivery.payload()) {
                                u32::MAX => stop = true,
                                number => seen.push(number),
                            }
                            settles.ack(delivery.token(), None);
                        }
                        assert_eq!(client.settle(&settles).unwrap().items, []);
                        if stop {
                            return seen;
                        }
                    }
                })
            })
            .collect();
        let producers: Vec<_> = (0..PRODUCERS)
            .map(|producer| {
                let client = connect(&server);
                scope.spawn(move || {
                    let queue = client.queue("work").unwrap();
                    let mut next = producer * EACH;
                    let mut pending = Vec::new();
                    while next < (producer + 1) * EACH {
                        let end = (next + 1 + next % 61).min((producer + 1) * EACH);
                        pending.push(client.enqueue_start(&queue, &batch(next..end), None).unwrap());
                        next = end;
                    }
                    pending
                        .into_iter()
                        .for_each(|pending| _ = pending.wait().unwrap());
                })
            })
            .collect();
        producers
            .into_iter()
            .for_each(|producer| producer.join().unwrap());
        // One mark a worker; each stops at its first, so a window of one job at a time would be needed to be
        // sure that each gets one. Marks are sent until all have stopped.
        let client = connect(&server);
        let queue = client.queue("work").unwrap();
        while !workers.iter().all(|worker| worker.is_finished()) {
            client.enqueue(&queue, &batch([u32::MAX]), None).unwrap();
            std::thread::yield_now();
        }
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect()
    });
    assert_eq!(
        seen.len() as u32,
        PRODUCERS * EACH,
        "handed out twice, or not at all"
    );
    assert_eq!(seen.iter().copied().collect::<BTreeSet<u32>>().len(), seen.len());
    server.stop().unwrap();
}

#[test]
fn a_client_goes_on_where_it_was_when_the_server_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let server = serve(directory.path(), None);
    let address = server.local_addr();
    let client = connect(&server);
    let queue = client.queue("q").unwrap();
    let first = client.enqueue(&queue, &batch(0..3), None).unwrap();
    let held = client
        .reserve(
            &[&queue],
            Reserve {
                max_jobs: 1,
                ..Reserve::default()
            },
        )
        .unwrap();
    server.stop().unwrap();
    let server = serve(directory.path(), address);
    // The handle is another one now, the connection too; neither the caller nor the lease notices.
    let second = client.enqueue(&queue, &batch(3..5), None).unwrap();
    assert!(second.ids.iter().all(|id| !first.ids.contains(id)));
    let mut settles = SettleBuilder::new();
    settles.ack(held[0].token(), Some(b"result"));
    assert_eq!(client.settle(&settles).unwrap().items, []);
    let status = client.job(held[0].token().id).unwrap();
    assert_eq!(
        (status.state, status.result.as_deref()),
        (JobState::Done, Some(&b"result"[..]))
    );
    let rest = client
        .reserve(
            &[&queue],
            Reserve {
                max_jobs: 10,
                ..Reserve::default()
            },
        )
        .unwrap();
    let payloads: Vec<u32> = rest.iter().map(|delivery| number(delivery.payload())).collect();
    assert_eq!(payloads, [1, 2, 3, 4]);
    server.stop().unwrap();
}

#[test]
fn a_strangers_client_talks_to_the_real_server() {
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("no python3 here, so this test has nothing to run");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let server = serve(directory.path(), None);
    let address = server.local_addr().unwrap();
    let output = Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python/ackring_minimal.py"))
        .args([
            address.ip().to_string(),
            address.port().to_string(),
            "mail".into(),
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(said.contains("attempt 1: hello from python"), "{said}");
    let stats = connect(&server).queue_info("mail").unwrap();
    assert_eq!(
        (stats.counts.enqueued, stats.counts.done, stats.counts.ready),
        (1, 1, 0)
    );
    server.stop().unwrap();
}
