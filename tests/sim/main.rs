//! The simulation: everything on one thread, over a disk, a network and a clock that follow from a seed.
#![cfg(all(feature = "engine", not(loom)))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

mod disk;
mod engine_symptoms;
mod log_damage;
mod log_exhaustive;
mod log_random;
mod log_symptoms;
mod log_world;
mod runs;

// The server's part.
#[cfg(feature = "server")]
mod actor;
#[cfg(feature = "server")]
mod cast;
#[cfg(feature = "server")]
mod life;
#[cfg(feature = "server")]
mod net;
#[cfg(feature = "server")]
mod oracle;
#[cfg(feature = "server")]
mod plain;
#[cfg(feature = "server")]
mod plan;
#[cfg(feature = "server")]
mod preempt;
#[cfg(feature = "server")]
mod rng;
#[cfg(feature = "server")]
mod run;
#[cfg(feature = "server")]
mod smoke;
#[cfg(feature = "server")]
mod tally;
#[cfg(feature = "server")]
mod trace;
#[cfg(feature = "server")]
mod trouble;
#[cfg(feature = "server")]
mod users;
#[cfg(feature = "server")]
mod weather;
#[cfg(feature = "server")]
mod world;
