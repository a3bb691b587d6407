//! Models that explore every interleaving (within a bound) of the lock-free code, under loom.
//!
//! What a model does before it spawns must not yield: loom then lets the first spawned thread go first in
//! *every* execution, and half of the interleavings are never seen.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test --release --test loom`. Without the flag there is nothing
//! here.
#![cfg(loom)]
#![allow(
    clippy::unwrap_used,
    reason = "a model that cannot go on should panic where it stands"
)]

#[path = "loom/eventcount.rs"]
mod eventcount;
#[path = "loom/group.rs"]
mod group;
#[path = "loom/log.rs"]
mod log;
#[path = "loom/moved.rs"]
mod moved;
#[path = "loom/queue.rs"]
mod queue;
#[path = "loom/ring.rs"]
mod ring;
#[path = "loom/slots.rs"]
mod slots;
#[path = "loom/state.rs"]
mod state;
#[path = "loom/wake.rs"]
mod wake;
#[path = "loom/young.rs"]
mod young;

/// Explores `body` with at most that many preemptions, and says how much that was.
fn model(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    let executions = Arc::new(AtomicUsize::new(0));
    let count = executions.clone();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        body();
    });
    let name = std::thread::current().name().unwrap_or("model").to_owned();
    println!("{name}: {} executions", executions.load(Ordering::Relaxed));
}
