//! Those who enqueue.

use super::{KEYED, LOOSE_STEPS, MEMORY, STEPS, SYNCED, Shared, WRITTEN, level_of, pause};
use crate::ledger::{Wrong, body};
use crate::seed::Random;
use ackring::client::{Applied, ClientError, QueueHandle};
use ackring::{Durability, EnqueueBuilder, ErrorCode, JobId, JobOptions};
use std::collections::VecDeque;
use std::time::Duration;

/// Long enough for any restart, so that what is sent is sent again until it is answered.
const PATIENT: Duration = Duration::from_secs(60);
/// Requests that the pipelining producer has on their way.
const DEPTH: usize = 16;

/// Many requests at once over one connection, sent again under their numbers after every kill.
pub fn pipeline(shared: &Shared) {
    let mut random = shared.random();
    let client = shared.client(PATIENT);
    let queues = [WRITTEN, MEMORY, LOOSE_STEPS, SYNCED, STEPS].map(|name| shared.queue(&client, name));
    while !shared.stops() {
        shared.produce(|| {
            let mut under_way = VecDeque::new();
            for _ in 0..random.within(1, 64) {
                let rarely = shared.is_rarely_synced();
                let choices = if rarely { 3 } else { 5 };
                let mut queue = &queues[random.below(choices) as usize];
                if rarely && queue.name() == LOOSE_STEPS && random.percent(95) {
                    queue = &queues[0];
                }
                let count = random.within(1, 40);
                let (stamps, batch) = draw(shared, &mut random, queue.name(), count, false);
                let syncs = queue.name() == LOOSE_STEPS || !rarely && random.percent(20);
                let more = syncs.then_some(Durability::Synced);
                match client.enqueue_start(queue, &batch, more) {
                    Ok(pending) => under_way.push_back((queue, stamps, pending)),
                    Err(error) => unanswered(shared, &stamps, &error),
                }
                if under_way.len() >= DEPTH {
                    let (queue, stamps, pending) = under_way.pop_front().unwrap();
                    answered(shared, queue, &stamps, pending.wait());
                }
            }
            for (queue, stamps, pending) in under_way {
                answered(shared, queue, &stamps, pending.wait());
            }
        });
    }
}

/// One job a request, one request at a time.
pub fn singles(shared: &Shared) {
    let mut random = shared.random();
    let client = shared.client(PATIENT);
    let queues = [WRITTEN, SYNCED].map(|name| shared.queue(&client, name));
    while !shared.stops() {
        shared.produce(|| {
            let queue = &queues[if shared.is_rarely_synced() {
                0
            } else {
                random.below(2) as usize
            }];
            let (stamps, batch) = draw(shared, &mut random, queue.name(), 1, false);
            answered(shared, queue, &stamps, client.enqueue(queue, &batch, None));
        });
    }
}

/// Gives up soon, and goes on under another session with other jobs: what became of the former is unknown.
pub fn impatient(shared: &Shared) {
    let mut random = shared.random();
    while !shared.stops() {
        shared.produce(|| {
            let client = shared.client(Duration::from_millis(random.within(5, 200)));
            let queue = shared.queue(
                &client,
                if shared.is_rarely_synced() || random.percent(50) {
                    WRITTEN
                } else {
                    SYNCED
                },
            );
            for _ in 0..random.within(1, 30) {
                let count = random.within(1, 20);
                let (stamps, batch) = draw(shared, &mut random, queue.name(), count, false);
                let outcome = client.enqueue(&queue, &batch, None);
                let is_over = outcome.is_err();
                answered(shared, &queue, &stamps, outcome);
                if is_over {
                    break;
                }
            }
        });
    }
}

/// Gives up soon, too, but enqueues the same jobs under their keys again, in other sessions, until it is told that
/// they are there.
pub fn keyed(shared: &Shared) {
    let mut random = shared.random();
    while !shared.stops() {
        if shared.is_rarely_synced() {
            pause(5);
            continue;
        }
        shared.produce(|| {
            let count = random.within(1, 20);
            let (stamps, batch) = draw(shared, &mut random, KEYED, count, true);
            loop {
                let client = shared.client(Duration::from_millis(random.within(10, 200)));
                let queue = shared.queue(&client, KEYED);
                match client.enqueue(&queue, &batch, None) {
                    Ok(applied) => return applied_to(shared, &queue, &stamps, &applied),
                    Err(error) => shared.expect_absence(&error),
                }
                if shared.stops() {
                    return;
                }
                pause(1);
            }
        });
    }
}

fn draw(
    shared: &Shared,
    random: &mut Random,
    queue: &str,
    count: u64,
    keyed: bool,
) -> (Vec<u64>, EnqueueBuilder) {
    let mut batch = EnqueueBuilder::new();
    let stamps = (0..count)
        .map(|_| {
            let stamp = shared.ledger.attempt(queue, None);
            let key = format!("key of {stamp}");
            let options = JobOptions {
                priority: random.below(8) as u8,
                // A few for so long that they keep segments from being used again, and are copied out of them.
                delay_ms: match random.below(1_000) {
                    0..5 => random.below(2_500),
                    5..50 => random.below(300),
                    _ => 0,
                },
                key: if keyed { key.as_bytes() } else { b"" },
                ..JobOptions::default()
            };
            batch.push(&body(stamp), &options);
            stamp
        })
        .collect();
    (stamps, batch)
}

fn answered(shared: &Shared, queue: &QueueHandle, stamps: &[u64], outcome: Result<Applied, ClientError>) {
    match outcome {
        Ok(applied) => applied_to(shared, queue, stamps, &applied),
        Err(error) => {
            unanswered(shared, stamps, &error);
            if matches!(error, ClientError::RetryLater(_)) {
                pause(2);
            }
        }
    }
}

/// The request did not succeed. Whether that means that nothing was applied, the client's documentation says.
fn unanswered(shared: &Shared, stamps: &[u64], error: &ClientError) {
    shared.expect_absence(error);
    if !matches!(error, ClientError::OutcomeUnknown { .. }) {
        stamps.iter().for_each(|stamp| shared.ledger.refused(*stamp));
    }
}

fn applied_to(shared: &Shared, queue: &QueueHandle, stamps: &[u64], applied: &Applied) {
    // The server only said that it had been applied: then it was in the log that it started with.
    let level = applied
        .level
        .unwrap_or(level_of(queue.name()).min(Durability::Written));
    if applied.level.is_some() && level < level_of(queue.name()) {
        let name = queue.name();
        shared
            .ledger
            .violation(Wrong::Other, format!("queue {name} confirmed at {level} only"));
    }
    let has_ids = !applied.details_lost;
    if has_ids && applied.ids.len() != stamps.len() {
        let (ids, jobs) = (applied.ids.len(), stamps.len());
        shared
            .ledger
            .violation(Wrong::Other, format!("{ids} ids for {jobs} jobs"));
        return;
    }
    let known = |item: &ackring::ItemError| item.code == ErrorCode::Duplicate;
    if !applied.items.iter().all(known) {
        let items = &applied.items;
        shared
            .ledger
            .violation(Wrong::Other, format!("items that nobody expects: {items:?}"));
    }
    for (position, stamp) in stamps.iter().enumerate() {
        let id: Option<JobId> = has_ids.then(|| applied.ids[position]);
        shared.ledger.confirmed(*stamp, id, level);
    }
}

/// One job that is confirmed only when it is on the disk.
pub fn enqueue_synced(shared: &Shared) {
    let mut random = shared.random();
    let client = shared.client(PATIENT);
    let queue = shared.queue(&client, SYNCED);
    let (stamps, batch) = draw(shared, &mut random, SYNCED, 1, false);
    let applied = client.enqueue(&queue, &batch, None).unwrap();
    applied_to(shared, &queue, &stamps, &applied);
}
