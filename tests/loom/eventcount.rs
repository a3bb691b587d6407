//! The eventcount: loom reports a deadlock where a wake-up is lost.

use crate::model;
use ackring::ring::{ChunkPool, EventCount, Ring};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

struct Shared {
    jobs: AtomicUsize,
    events: EventCount,
}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            jobs: AtomicUsize::new(0),
            events: EventCount::new(),
        })
    }

    fn put(&self, count: usize) {
        self.jobs.fetch_add(count, Ordering::Relaxed);
        self.events.notify(count);
    }

    fn try_take(&self) -> bool {
        let less = |jobs: usize| jobs.checked_sub(1);
        self.jobs
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok()
    }

    fn take(&self) {
        while !self.try_take() {
            let ticket = self.events.prepare();
            if self.try_take() {
                return ticket.cancel();
            }
            ticket.wait(None);
        }
    }
}

fn spawn(shared: &Arc<Shared>, body: impl FnOnce(&Shared) + 'static) -> thread::JoinHandle<()> {
    let shared = shared.clone();
    thread::spawn(move || body(&shared))
}

#[test]
fn a_waiter_is_woken_by_what_comes_while_it_goes_to_sleep() {
    model(3, || {
        let shared = Shared::new();
        let waiter = spawn(&shared, Shared::take);
        shared.put(1);
        waiter.join().unwrap();
        assert_eq!(shared.events.waiters(), 0);
    });
}

#[test]
fn two_waiters_are_woken_by_two_jobs_at_once() {
    model(3, || {
        let shared = Shared::new();
        let waiters = [spawn(&shared, Shared::take), spawn(&shared, Shared::take)];
        shared.put(2);
        for waiter in waiters {
            waiter.join().unwrap();
        }
    });
}

#[test]
fn two_waiters_are_woken_by_two_jobs_one_after_another() {
    model(2, || {
        let shared = Shared::new();
        let waiters = [spawn(&shared, Shared::take), spawn(&shared, Shared::take)];
        shared.put(1);
        shared.put(1);
        for waiter in waiters {
            waiter.join().unwrap();
        }
    });
}

#[test]
fn a_consumer_sleeps_on_a_ring_and_misses_no_push() {
    model(3, || {
        let shared = Arc::new((ChunkPool::new(4), Ring::new(), EventCount::new()));
        let consumer = {
            let shared = shared.clone();
            thread::spawn(move || {
                let (pool, ring, events) = &*shared;
                let mut out = [0; 2];
                loop {
                    if ring.pop(pool, &mut out) > 0 {
                        return out[0];
                    }
                    let ticket = events.prepare();
                    if ring.is_empty(pool) {
                        ticket.wait(None);
                    }
                }
            })
        };
        let (pool, ring, events) = &*shared;
        ring.push(pool, &[7]).unwrap();
        events.notify(1);
        assert_eq!(consumer.join().unwrap(), 7);
    });
}
