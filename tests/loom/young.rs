//! Young leases: a lease that begins while the timer looks is found by this look or by the next.

use crate::model;
use ackring::engine::young::YoungLeases;
use ackring::ring::ChunkPool;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

const LEASED: u64 = 1;
const SETTLED: u64 = 2;

/// Slots of which only the state is there.
struct Shared {
    pool: ChunkPool,
    young: YoungLeases,
    slots: [AtomicU64; 2],
    timed: [AtomicU64; 2],
}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            pool: ChunkPool::new(4),
            young: YoungLeases::new(2),
            slots: [AtomicU64::new(SETTLED), AtomicU64::new(SETTLED)],
            timed: [AtomicU64::new(0), AtomicU64::new(0)],
        })
    }

    /// As a reserve: the state, then the mark.
    fn lease(&self, slot: u32) {
        self.slots[slot as usize].store(LEASED, Ordering::Release);
        self.young.mark(&self.pool, [slot]);
    }

    /// As a tick.
    fn look(&self) {
        self.young.take(&self.pool, |slot| {
            if self.slots[slot as usize].load(Ordering::Acquire) == LEASED {
                self.timed[slot as usize].store(1, Ordering::Relaxed);
            }
        });
    }

    fn is_timed(&self, slot: usize) -> bool {
        self.timed[slot].load(Ordering::Relaxed) == 1
    }
}

fn spawn(shared: &Arc<Shared>, body: impl FnOnce(&Shared) + 'static) -> thread::JoinHandle<()> {
    let shared = shared.clone();
    thread::spawn(move || body(&shared))
}

#[test]
fn a_lease_in_a_slot_that_is_marked_already_is_not_missed() {
    model(3, || {
        let shared = Shared::new();
        // The mark of a job that was here before, and is settled.
        shared.young.mark(&shared.pool, [0]);
        let leasing = spawn(&shared, |shared| shared.lease(0));
        shared.look();
        leasing.join().unwrap();
        shared.look();
        assert!(shared.is_timed(0), "the lease would never end");
    });
}

#[test]
fn leases_of_two_threads_in_one_word_are_both_found() {
    model(2, || {
        let shared = Shared::new();
        let leasing = [0, 1].map(|slot| spawn(&shared, move |shared| shared.lease(slot)));
        shared.look();
        for thread in leasing {
            thread.join().unwrap();
        }
        shared.look();
        assert!(
            shared.is_timed(0) && shared.is_timed(1),
            "a lease would never end"
        );
    });
}
