//! Those who reserve, settle, and sometimes do not.

use super::{CHILDREN, KEYED, LOOSE_CHILDREN, LOOSE_STEPS, MEMORY, STEPS, SYNCED, Shared, WRITTEN, pause};
use crate::ledger::{Wrong, body};
use crate::seed::Random;
use ackring::client::{Applied, Client, ClientError, Delivery, QueueHandle, Reserve, Window};
use ackring::{Durability, EnqueueBuilder, ErrorCode, JobOptions, SettleBuilder, Token};
use std::time::Duration;

const PATIENT: Duration = Duration::from_secs(60);

/// The acks of one request: stamp, token, and the last attempt that was known before.
type Acks = Vec<(usize, u64, Token, u16)>;

/// Takes batches, and settles each in one request, in every way there is.
pub fn reserving(shared: &Shared) {
    let mut random = shared.random();
    let client = shared.client(PATIENT);
    let queues =
        [WRITTEN, SYNCED, MEMORY, KEYED, CHILDREN, LOOSE_CHILDREN].map(|name| shared.queue(&client, name));
    while !shared.stops() {
        let drain = shared.drain();
        let mut order: Vec<&QueueHandle> = queues.iter().collect();
        order.rotate_left(random.below(6) as usize);
        let reserve = Reserve {
            max_jobs: random.within(1, 200) as u32,
            wait: Duration::from_millis(20),
            ..Reserve::default()
        };
        match client.reserve(&order, reserve) {
            Ok(deliveries) if deliveries.is_empty() => shared.idle(0, drain),
            Ok(deliveries) => settle(shared, &client, &mut random, &deliveries),
            Err(error) => shared.expect_absence(&error),
        }
    }
}

/// Has jobs pushed to it.
pub fn subscribed(shared: &Shared) {
    let mut random = shared.random();
    while !shared.stops() {
        let client = shared.client(PATIENT);
        let queues =
            [SYNCED, WRITTEN, KEYED, CHILDREN, LOOSE_CHILDREN].map(|name| shared.queue(&client, name));
        let queues: Vec<&QueueHandle> = queues.iter().collect();
        let window = Window {
            jobs: random.within(1, 300) as u32,
            ..Window::default()
        };
        let subscription = match client.subscribe(&queues, window) {
            Ok(subscription) => subscription,
            Err(error) => {
                shared.expect_absence(&error);
                continue;
            }
        };
        // Now and then a new one, so that windows and goodbyes are tried, too.
        for _ in 0..random.within(1, 500) {
            let drain = shared.drain();
            match subscription.next(Duration::from_millis(20)) {
                Ok(Some(deliveries)) => settle(shared, &client, &mut random, &deliveries),
                Ok(None) => shared.idle(1, drain),
                Err(error) => {
                    shared.expect_absence(&error);
                    break;
                }
            }
            if shared.stops() {
                return;
            }
        }
    }
}

/// Acks each job in a step that enqueues its child.
pub fn stepping(shared: &Shared) {
    let mut random = shared.random();
    let mut client = shared.client(PATIENT);
    while !shared.stops() {
        let names = [STEPS, CHILDREN, LOOSE_STEPS, LOOSE_CHILDREN];
        let [steps, children, loose_steps, loose_children] = names.map(|name| shared.queue(&client, name));
        let drain = shared.drain();
        let reserve = Reserve {
            max_jobs: 16,
            wait: Duration::from_millis(20),
            ..Reserve::default()
        };
        match client.reserve(&[&steps, &loose_steps], reserve) {
            Ok(deliveries) if deliveries.is_empty() => shared.idle(2, drain),
            Ok(deliveries) => {
                for delivery in &deliveries {
                    let is_loose = delivery.queue() == LOOSE_STEPS;
                    let children = if is_loose { &loose_children } else { &children };
                    step(shared, &client, children, delivery);
                }
            }
            Err(error) => shared.expect_absence(&error),
        }
        if random.percent(1) {
            client = shared.client(if random.percent(50) {
                PATIENT
            } else {
                Duration::from_millis(random.within(20, 200))
            });
        }
    }
}

/// Takes jobs and is gone, or comes too late.
pub fn vanishing(shared: &Shared) {
    let mut random = shared.random();
    while !shared.stops() {
        shared.idle(3, shared.drain());
        if shared.is_quiet() {
            pause(5);
            continue;
        }
        let client = shared.client(Duration::from_millis(random.within(20, 300)));
        let queues = [WRITTEN, SYNCED, KEYED, MEMORY].map(|name| shared.queue(&client, name));
        let queue = &queues[random.below(4) as usize];
        let reserve = Reserve {
            max_jobs: random.within(1, 20) as u32,
            wait: Duration::from_millis(random.below(20)),
            lease_ms: random.within(1, 100) as u32,
            ..Reserve::default()
        };
        match client.reserve(&[queue], reserve) {
            Ok(deliveries) if random.percent(70) => {
                pause(random.below(120));
                settle(shared, &client, &mut random, &deliveries);
            }
            Ok(deliveries) => {
                for delivery in &deliveries {
                    note(shared, delivery);
                }
            }
            Err(error) => shared.expect_absence(&error),
        }
    }
}

fn note(shared: &Shared, delivery: &Delivery) -> Option<u64> {
    shared
        .ledger
        .delivered(delivery.token(), delivery.queue(), delivery.payload())
}

/// Settles a batch in one request, mostly by acks.
pub fn settle(shared: &Shared, client: &Client, random: &mut Random, deliveries: &[Delivery]) {
    let mut settles = SettleBuilder::new();
    let mut acks = Acks::new();
    for delivery in deliveries {
        let Some(stamp) = note(shared, delivery) else {
            continue;
        };
        let token = delivery.token();
        let draw = random.below(100);
        // While all is drained only acks, so that it comes to an end.
        match if shared.is_quiet() { 99 } else { draw } {
            0..3 => settles.nack(token, Some(random.below(50) as u32), Some(b"drawn by lot")),
            3..5 => settles.nack(token, None, None),
            5..6 => settles.reject(token, Some(b"drawn by lot")),
            6..8 => settles.release(token),
            // The attempt's last settlement in this batch; it comes again when its lease ends.
            8..10 => settles.extend(token, 50),
            draw => {
                acks.push((settles.count(), stamp, token, shared.ledger.acking(stamp)));
                settles.ack(token, (draw < 20).then_some(&b"a result"[..]));
            }
        }
    }
    if settles.is_empty() {
        return;
    }
    match client.settle(&settles) {
        Ok(applied) => settled(shared, &acks, &applied),
        Err(error) => unsettled(shared, &acks, &error),
    }
}

fn settled(shared: &Shared, acks: &Acks, applied: &Applied) {
    if applied.details_lost {
        // It was applied, but which tokens were current is not known any more: the acks stay open.
        return;
    }
    let level = applied.level.unwrap_or(Durability::Memory);
    for (position, stamp, token, last_before) in acks {
        let item = applied
            .items
            .iter()
            .find(|item| item.position as usize == *position);
        match item.map(|item| item.code) {
            None | Some(ErrorCode::AlreadySettled) => {
                shared.ledger.acked(*stamp, *token, *last_before, level);
            }
            Some(ErrorCode::LeaseLost | ErrorCode::JobNotFound) => shared.ledger.not_acked(*stamp),
            Some(code) => shared
                .ledger
                .violation(Wrong::Other, format!("an ack of job {stamp} was answered {code}")),
        }
    }
}

fn unsettled(shared: &Shared, acks: &Acks, error: &ClientError) {
    shared.expect_absence(error);
    if !matches!(error, ClientError::OutcomeUnknown { .. }) {
        acks.iter()
            .for_each(|(_, stamp, ..)| shared.ledger.not_acked(*stamp));
    }
}

fn step(shared: &Shared, client: &Client, children: &QueueHandle, delivery: &Delivery) {
    let Some(stamp) = note(shared, delivery) else {
        return;
    };
    let child = shared.ledger.attempt(children.name(), Some(stamp));
    let (mut settles, mut jobs) = (SettleBuilder::new(), EnqueueBuilder::new());
    settles.ack(delivery.token(), None);
    jobs.push(&body(child), &JobOptions::default());
    let before = shared.ledger.acking(stamp);
    match client.step(&settles, &[(children, &jobs)]) {
        Ok(applied) => {
            let level = applied.level.unwrap_or(Durability::Written);
            shared
                .ledger
                .confirmed(child, applied.ids.first().copied(), level);
            shared.ledger.acked(stamp, delivery.token(), before, level);
        }
        Err(error) => {
            let refused =
                matches!(&error, ClientError::Refused(refusal) if refusal.code == ErrorCode::StepRefused);
            if !refused {
                shared.expect_absence(&error);
            }
            if !matches!(error, ClientError::OutcomeUnknown { .. }) {
                shared.ledger.not_acked(stamp);
                shared.ledger.refused(child);
            }
        }
    }
}
