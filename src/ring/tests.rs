//! What must hold while a thread is paused: at every point in turn one thread is stopped for good, as the
//! operating system might stop it, and the others go on without it.

use crate::ring::pause::{Point, on_this_thread};
use crate::ring::{ChunkPool, Ring, SlotPool};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;

/// Stops the thread that calls this when it comes to `at` for the `nth` time: says so, and waits until the
/// other end of `resume` goes away.
fn pause_once(
    at: Point,
    nth: usize,
    paused: std::sync::mpsc::Sender<()>,
    resume: std::sync::mpsc::Receiver<()>,
) {
    let mut left = nth;
    on_this_thread(move |here| {
        if here == at && left > 0 {
            left -= 1;
            if left == 0 {
                let _ = paused.send(());
                let _ = resume.recv();
            }
        }
    });
}

/// Runs `victim` until it is paused at `at`, then `others` to their end, then lets the victim finish. Returns
/// the victim's result, and whether it came to the point at all.
fn with_a_thread_paused<T: Send>(
    at: Point,
    nth: usize,
    victim: impl FnOnce() -> T + Send,
    others: impl FnOnce(),
) -> (T, bool) {
    let (paused, is_paused) = channel();
    let (resume, resumed) = channel::<()>();
    std::thread::scope(|scope| {
        let victim = scope.spawn(move || {
            pause_once(at, nth, paused.clone(), resumed);
            victim()
        });
        // An error means that the victim ran through without being paused.
        let stopped = is_paused.recv().is_ok();
        others();
        drop(resume);
        (victim.join().unwrap(), stopped)
    })
}

const VICTIM: u32 = 1 << 20;

/// Pushes and pops in a way that comes by every point.
fn busy_victim(ring: &Ring, pool: &ChunkPool) -> Vec<u32> {
    let mut got = Vec::new();
    let mut out = [0; 100];
    let mut next = VICTIM;
    for round in 0..60 {
        for size in [1, 2, 1, 1, 7, 90] {
            let batch: Vec<u32> = (next..next + size).collect();
            ring.push(pool, &batch).unwrap();
            next += size;
        }
        for most in [1, 3, 100, 100] {
            let count = ring.pop(pool, &mut out[..most]);
            got.extend_from_slice(&out[..count]);
        }
        if round % 4 == 0 {
            ring.release_idle(pool);
        }
    }
    got
}

/// Two threads hand 5,000 handles over a ring, in batches of all sizes. Returns what came out.
fn others_hand_over(ring: &Ring, pool: &ChunkPool) -> Vec<u32> {
    const COUNT: usize = 5_000;
    let popped = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let all: Vec<u32> = (0..COUNT as u32).collect();
            let mut rest = &all[..];
            for size in (1..30).cycle() {
                let (batch, behind) = rest.split_at(size.min(rest.len()));
                // A small pool: let the consumer come after.
                while ring.push(pool, batch).is_err() {
                    std::thread::yield_now();
                }
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
        });
        let mut got = Vec::new();
        let mut out = [0; 25];
        while popped.load(Ordering::Relaxed) < COUNT {
            let count = ring.pop(pool, &mut out);
            got.extend_from_slice(&out[..count]);
            let own = out[..count].iter().filter(|handle| **handle < VICTIM).count();
            popped.fetch_add(own, Ordering::Relaxed);
            if count == 0 {
                ring.release_idle(pool);
                std::thread::yield_now();
            }
        }
        got
    })
}

fn is_for_rings(point: &Point) -> bool {
    *point != Point::StackBeforeSwap
}

#[test]
fn a_thread_paused_anywhere_in_a_ring_stops_nobody() {
    for at in Point::ALL.into_iter().filter(is_for_rings) {
        for nth in [1, 2, 5] {
            let pool = ChunkPool::new(200);
            let ring = Ring::new();
            let mut others = Vec::new();
            let (victim, stopped) = with_a_thread_paused(
                at,
                nth,
                || busy_victim(&ring, &pool),
                || others = others_hand_over(&ring, &pool),
            );
            assert!(stopped, "the victim never came to {at:?} number {nth}");
            let mut rest = vec![0; 20_000];
            let count = ring.pop(&pool, &mut rest);
            rest.truncate(count);
            for part in [&victim, &others, &rest] {
                for side in [0..VICTIM, VICTIM..2 * VICTIM] {
                    let handles = part.iter().filter(|handle| side.contains(handle));
                    assert!(
                        handles.is_sorted_by(|a, b| a < b),
                        "order, paused at {at:?} number {nth}"
                    );
                }
            }
            let mut all = [victim, others, rest].concat();
            all.sort_unstable();
            let expected: Vec<u32> = (0..5_000).chain(VICTIM..VICTIM + 60 * 102).collect();
            assert_eq!(all, expected, "paused at {at:?} number {nth}");
            assert!(ring.release_idle(&pool));
            assert_eq!(pool.in_use(), 0, "paused at {at:?} number {nth}");
        }
    }
}

#[test]
fn a_thread_paused_anywhere_in_a_slot_pool_stops_nobody() {
    const SLOTS: u32 = 2_000;
    for at in [Point::ShardHeld, Point::StackBeforeSwap] {
        for nth in [1, 2, 3, 10, 40] {
            let pool = SlotPool::new(SLOTS);
            let churn = |rounds: usize| {
                let mut held = Vec::new();
                let mut out = [0; 150];
                for round in 0..rounds {
                    let count = pool.take(&mut out[..1 + round * 37 % 150]);
                    held.extend_from_slice(&out[..count]);
                    if held.len() > 400 {
                        let back = held.split_off(held.len() - 300);
                        pool.give(&back);
                    }
                }
                held
            };
            let mut others = Vec::new();
            let (victim, stopped) = with_a_thread_paused(
                at,
                nth,
                || churn(300),
                || {
                    others = std::thread::scope(|scope| {
                        let threads = [(); 2].map(|()| scope.spawn(|| churn(300)));
                        threads.map(|thread| thread.join().unwrap()).concat()
                    });
                },
            );
            assert!(stopped, "the victim never came to {at:?} number {nth}");
            let mut rest = vec![0; SLOTS as usize + 1];
            let count = pool.take(&mut rest);
            rest.truncate(count);
            let mut all = [victim, others, rest].concat();
            all.sort_unstable();
            assert_eq!(
                all,
                (0..SLOTS).collect::<Vec<_>>(),
                "paused at {at:?} number {nth}"
            );
        }
    }
}
