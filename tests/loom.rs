//! Models that explore every interleaving (within a bound) of the lock-free code, under loom.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test --release --test loom`. Without the flag there is nothing here.
#![cfg(loom)]
#![allow(
    clippy::unwrap_used,
    reason = "a model that cannot go on should panic where it stands"
)]

#[path = "loom/ring.rs"]
mod ring;
