//! The marks of queues that have moved: nothing that was counted is missed for good by those who look at marked queues only.

use crate::model;
use ackring::engine::counters::{Counters, Event};
use ackring::engine::moved::{Mark, Moved};
use loom::sync::Arc;
use loom::thread;

const NUMBER: u32 = 3;

struct Shared {
    moved: std::sync::Arc<Moved>,
    counters: Counters,
}

impl Shared {
    fn new() -> Arc<Self> {
        let moved = std::sync::Arc::new(Moved::default());
        let mut counters = Counters::default();
        counters.mark = Mark::new(moved.clone(), NUMBER);
        // As of a queue that has just been made.
        counters.mark.set();
        Arc::new(Self { moved, counters })
    }

    fn sum(&self) -> u64 {
        self.counters.events().iter().sum()
    }

    /// What was counted, if the queue has moved since it was looked at.
    fn look(&self) -> Option<u64> {
        self.moved.take(64).contains(&NUMBER).then(|| self.sum())
    }
}

fn spawn(shared: &Arc<Shared>, body: impl FnOnce(&Shared) + 'static) -> thread::JoinHandle<()> {
    let shared = shared.clone();
    thread::spawn(move || body(&shared))
}

#[test]
fn what_two_threads_count_while_others_look_is_seen_then_or_later() {
    model(3, || {
        let shared = Shared::new();
        let twice = spawn(&shared, |shared| {
            shared.counters.count(Event::Enqueued, 1);
            shared.counters.count(Event::Enqueued, 1);
        });
        let once = spawn(&shared, |shared| shared.counters.count(Event::Delivered, 1));
        let seen = shared.look().unwrap_or(0);
        twice.join().unwrap();
        once.join().unwrap();
        assert_eq!(shared.look().unwrap_or(seen), 3);
    });
}

#[test]
fn what_is_counted_while_one_queue_is_looked_at_is_seen_then_or_later() {
    model(3, || {
        let shared = Shared::new();
        let counting = spawn(&shared, |shared| {
            shared.counters.count(Event::Enqueued, 1);
            shared.counters.count(Event::Enqueued, 1);
        });
        shared.counters.mark.clear();
        let seen = shared.sum();
        counting.join().unwrap();
        assert_eq!(shared.look().unwrap_or(seen), 2);
    });
}
