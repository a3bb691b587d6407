//! A server, or a worker, that stands still for longer than the leases it holds: leases end by the clock on the wall,
//! whoever sleeps, and tokens from before the sleep settle nothing.

use super::cli::{Home, eventually, lines};
use ackring::client::{Client, ClientConfig, Delivery, QueueHandle, Reserve};
use ackring::{Backoff, EnqueueBuilder, ErrorCode, JobOptions, JobState, QueueOptions};
use rustix::process::{Signal, WaitId, WaitIdOptions, waitid};
use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

const LEASE_MS: u32 = 200;

fn connect(home: &Home) -> (Client, QueueHandle) {
    let client = Client::connect(ClientConfig::to(&home.address()).unwrap()).unwrap();
    let options = QueueOptions {
        lease_ms: LEASE_MS,
        backoff: Backoff::List(vec![0]),
        ..QueueOptions::default()
    };
    let queue = client.create_queue("q", &options).unwrap();
    (client, queue)
}

fn reserve(client: &Client, queue: &QueueHandle, max_jobs: u32) -> Vec<Delivery> {
    let reserve = Reserve {
        max_jobs,
        wait: Duration::from_secs(30),
        ..Reserve::default()
    };
    client.reserve(&[queue], reserve).unwrap()
}

/// All of them, though they come back one after the other.
fn reserve_all(client: &Client, queue: &QueueHandle, count: usize) -> Vec<Delivery> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(reserve(client, queue, count as u32));
    }
    all
}

fn now_ms() -> u64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    since.as_millis() as u64
}

#[test]
fn leases_run_out_while_the_server_is_stopped_and_no_token_is_delivered_twice() {
    const JOBS: usize = 50;
    let home = Home::new();
    let server = home.serve();
    let (client, queue) = connect(&home);
    let mut batch = EnqueueBuilder::new();
    (0..JOBS).for_each(|number| batch.push(&[number as u8], &JobOptions::default()));
    client.enqueue(&queue, &batch, None).unwrap();
    let before = reserve_all(&client, &queue, JOBS);
    let deadline_ms = client.job(before[0].id()).unwrap().at_ms;

    server.signal(Signal::STOP);
    waitid(
        WaitId::Pid(server.pid()),
        WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT,
    )
    .unwrap();
    // Sent to a server that does not move: acks of leases that end before it reads them.
    let mut acks = ackring::SettleBuilder::new();
    before
        .iter()
        .take(10)
        .for_each(|delivery| acks.ack(delivery.token(), None));
    let late = client.settle_start(&acks).unwrap();
    eventually("the end of the leases", || {
        (now_ms() > deadline_ms + 50).then_some(())
    });
    server.signal(Signal::CONT);

    // Whether the acks or the timer came first is open; that both did not, is not.
    let late = late.wait().unwrap();
    let lost = |code: &ErrorCode| *code == ErrorCode::LeaseLost;
    assert!(late.items.iter().all(|item| lost(&item.code)), "{late:?}");
    let acked: BTreeSet<usize> = (0..10)
        .filter(|position| !late.items.iter().any(|item| item.position as usize == *position))
        .collect();
    let again = reserve_all(&client, &queue, JOBS - acked.len());
    let tokens: HashSet<_> = before
        .iter()
        .chain(&again)
        .map(|delivery| delivery.token())
        .collect();
    assert_eq!(tokens.len(), before.len() + again.len(), "a token came twice");
    let jobs: BTreeSet<_> = again.iter().map(Delivery::id).collect();
    assert_eq!(jobs.len(), again.len(), "a job came twice");
    for (position, delivery) in before.iter().enumerate() {
        assert_eq!(jobs.contains(&delivery.id()), !acked.contains(&position));
        if !acked.contains(&position) {
            let refused = client.ack(delivery.token(), None).unwrap_err();
            assert_eq!(refused.code(), Some(ErrorCode::LeaseLost));
        }
    }
}

#[test]
fn a_worker_that_is_stopped_loses_its_jobs_to_another_one() {
    let home = Home::new();
    let _server = home.serve();
    let (client, queue) = connect(&home);
    let job = client.enqueue_one(&queue, b"x", &JobOptions::default()).unwrap();
    // It says which attempt it has, and waits for a word. Its leases are extended by the process that is stopped.
    let script = "echo $ACKRING_ATTEMPT >> attempts; until [ -e go ]; do sleep 0.01; done";
    let worker = home.spawn(&["work", "q", "--max-jobs", "1", "-q", "--", "sh", "-c", script]);
    let attempts = || lines(&home.path("attempts"));
    eventually("the first attempt", || (attempts() == ["1"]).then_some(()));
    worker.signal(Signal::STOP);
    let second = reserve(&client, &queue, 1);
    assert_eq!((second[0].id(), second[0].attempt()), (job, 2));
    worker.signal(Signal::CONT);
    std::fs::write(home.path("go"), "").unwrap();
    // Its ack comes too late, or it has stopped the work on hearing that the lease is lost.
    worker.finish();
    let status = client.job(job).unwrap();
    assert!(status.state != JobState::Done, "{status:?}");
    assert_eq!(attempts(), ["1"]);
    let last = if client.extend(second[0].token(), LEASE_MS).is_ok() {
        second[0].token()
    } else {
        reserve(&client, &queue, 1)[0].token()
    };
    client.ack(last, None).unwrap();
    assert_eq!(client.job(job).unwrap().state, JobState::Done);
}
