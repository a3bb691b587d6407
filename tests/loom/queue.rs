//! What a queue's threads share besides its rings: who waits for a job, handles given back, pause, retention.

use crate::model;
use ackring::base::queue::QueueOptions;
use ackring::embedded::wakes::Wakes;
use ackring::engine::QueueId;
use ackring::engine::queue::Queue;
use ackring::ring::ChunkPool;
use loom::sync::Arc;
use loom::sync::atomic::{Ordering, fence};
use loom::thread;
use std::time::Duration;

/// A queue and those who are blocked at it, as in an embedded engine.
struct Shared {
    pool: ChunkPool,
    queue: Queue,
    wakes: Wakes,
}

impl Shared {
    fn new(keep_finished: u32) -> Arc<Self> {
        let options = QueueOptions {
            keep_finished,
            ..QueueOptions::default()
        };
        Arc::new(Self {
            pool: ChunkPool::new(4),
            queue: Queue::new(QueueId(0), "q", options),
            wakes: Wakes::default(),
        })
    }

    /// `Engine::wake` with the waker of an embedded engine.
    fn wake(&self) {
        if self.queue.waiters() != 0 {
            self.wakes.wake();
        }
    }

    fn pop(&self) -> Option<u32> {
        let mut out = [0];
        let is_paused = self.queue.is_paused();
        (!is_paused && self.queue.pop_ready(&self.pool, 0, &mut out) == 1).then_some(out[0])
    }

    /// The loop of `embedded::Queue::reserve_batch`.
    fn blocked_pop(&self) -> u32 {
        loop {
            let seen = self.wakes.seen();
            self.queue.announce(1);
            if let Some(handle) = self.pop() {
                return handle;
            }
            self.wakes.sleep(seen, Duration::MAX);
        }
    }
}

fn spawn<T: 'static>(
    shared: &Arc<Shared>,
    body: impl FnOnce(&Shared) -> T + 'static,
) -> thread::JoinHandle<T> {
    let shared = shared.clone();
    thread::spawn(move || body(&shared))
}

#[test]
fn two_blocked_threads_get_a_job_each_whenever_they_come() {
    model(2, || {
        let shared = Shared::new(0);
        let blocked = [(); 2].map(|()| spawn(&shared, Shared::blocked_pop));
        for handle in [1, 2] {
            shared.queue.push_ready(&shared.pool, 0, &[handle]);
            shared.wake();
        }
        let mut got = blocked.map(|thread| thread.join().unwrap());
        got.sort_unstable();
        assert_eq!(got, [1, 2]);
    });
}

#[test]
fn a_handle_that_is_given_back_is_found_by_who_is_blocked() {
    model(3, || {
        let shared = Shared::new(0);
        shared.queue.push_ready(&shared.pool, 0, &[1]);
        let blocked = spawn(&shared, Shared::blocked_pop);
        // As a reserve that the log refuses.
        if let Some(handle) = shared.pop() {
            shared.queue.put_front(0, handle);
            shared.wake();
        }
        assert_eq!(blocked.join().unwrap(), 1);
        assert!(shared.queue.looks_empty(&shared.pool));
    });
}

#[test]
fn who_is_blocked_at_a_paused_queue_goes_on_when_it_is_resumed() {
    model(3, || {
        let shared = Shared::new(0);
        shared.queue.push_ready(&shared.pool, 0, &[1]);
        shared.queue.set_paused(true);
        let blocked = spawn(&shared, Shared::blocked_pop);
        shared.queue.set_paused(false);
        shared.wake();
        assert_eq!(blocked.join().unwrap(), 1);
    });
}

/// As `Engine::retain_finished`.
fn finish(shared: &Shared, handles: &[u32]) -> Vec<u32> {
    let mut excess = [0; 4];
    let taken = shared.queue.keep_finished(&shared.pool, handles, &mut excess);
    let mut gone = excess[..taken].to_vec();
    if shared.queue.is_deleted() {
        gone.extend(forget_all(shared));
    }
    gone
}

/// As `Engine::trim_finished` down to nothing.
fn forget_all(shared: &Shared) -> Vec<u32> {
    let mut excess = [0; 4];
    let taken = shared.queue.trim_finished(&shared.pool, 0, &mut excess);
    excess[..taken].to_vec()
}

#[test]
fn the_retention_keeps_as_many_as_it_should_and_lets_each_other_go_once() {
    model(3, || {
        let shared = Shared::new(1);
        let other = spawn(&shared, |shared| finish(shared, &[1, 2]));
        let mut gone = finish(&shared, &[3, 4]);
        gone.extend(other.join().unwrap());
        assert_eq!(gone.len(), 3, "one is kept");
        gone.extend(forget_all(&shared));
        gone.sort_unstable();
        assert_eq!(gone, [1, 2, 3, 4]);
    });
}

#[test]
fn a_job_that_ends_while_its_queue_is_deleted_is_not_kept() {
    model(4, || {
        let shared = Shared::new(3);
        let finisher = spawn(&shared, |shared| finish(shared, &[1]));
        // As `Engine::delete` and `Engine::drop_jobs`.
        shared.queue.set_deleted();
        let mut gone = forget_all(&shared);
        gone.extend(finisher.join().unwrap());
        assert_eq!(gone, [1]);
    });
}

#[test]
fn a_handle_that_comes_while_its_queue_is_deleted_is_dropped() {
    model(4, || {
        let shared = Shared::new(3);
        let drop_stale = |shared: &Shared| {
            let mut out = [0; 2];
            let taken = shared.queue.pop_while(&shared.pool, 0, &mut out, |_| true);
            out[..taken].to_vec()
        };
        let pusher = spawn(&shared, move |shared| {
            // As `Engine::push_due`: pushed, waiters told, and then a look whether it was in vain.
            shared.queue.push_ready(&shared.pool, 0, &[1]);
            shared.wake();
            match shared.queue.is_deleted() {
                true => drop_stale(shared),
                false => Vec::new(),
            }
        });
        shared.queue.set_deleted();
        // As in `Engine::drop_jobs`.
        fence(Ordering::SeqCst);
        let mut dropped = drop_stale(&shared);
        dropped.extend(pusher.join().unwrap());
        assert_eq!(dropped, [1]);
    });
}
