//! The simulation: everything on one thread, over a disk, a network and a clock that follow from a seed.
#![cfg(all(feature = "engine", not(loom)))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

mod disk;
mod log_damage;
mod log_exhaustive;
mod log_random;
mod log_symptoms;
mod log_world;
mod runs;
