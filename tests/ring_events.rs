//! Threads that sleep on an eventcount while others push.
#![cfg(all(feature = "engine", not(loom)))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

use ackring::ring::{ChunkPool, EventCount, Ring};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

#[test]
fn consumers_that_sleep_get_every_handle() {
    // A lost wake-up shows as a test that does not end.
    const EACH: usize = 27_000;
    let (pool, ring, events) = (ChunkPool::new(100_000), Ring::new(), EventCount::new());
    let taken = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for number in 0..EACH / 3 {
                    ring.push(&pool, &[1, 2, 3][..1 + number % 3]).unwrap();
                    events.notify(1 + number % 3);
                }
            });
        }
        for _ in 0..3 {
            scope.spawn(|| {
                let mut out = [0; 2];
                while taken.load(Ordering::Relaxed) < 2 * EACH {
                    let count = ring.pop(&pool, &mut out);
                    if count > 0 {
                        if taken.fetch_add(count, Ordering::Relaxed) + count == 2 * EACH {
                            events.notify(usize::MAX);
                        } else if !ring.is_empty(&pool) {
                            events.notify(1);
                        }
                        continue;
                    }
                    let ticket = events.prepare();
                    if ring.is_empty(&pool) && taken.load(Ordering::Relaxed) < 2 * EACH {
                        ticket.wait(None);
                    }
                }
            });
        }
    });
    assert_eq!(taken.into_inner(), 2 * EACH);
    assert_eq!(events.waiters(), 0);
}

#[test]
fn a_wait_without_an_event_ends_at_its_timeout() {
    let events = EventCount::new();
    assert!(!events.prepare().wait(Some(Duration::from_millis(1))));
    assert_eq!(events.waiters(), 0);
}

#[test]
fn an_event_after_the_announcement_ends_the_wait_before_it_begins() {
    let events = EventCount::new();
    let ticket = events.prepare();
    assert_eq!(events.waiters(), 1);
    events.notify(1);
    assert!(ticket.wait(None));
    let ticket = events.prepare();
    ticket.cancel();
    assert_eq!(events.waiters(), 0);
}
