//! The engine as an embedded user or the server sees it, under a clock that the test turns.
#![cfg(feature = "engine")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

mod clock;
#[path = "../sim/disk.rs"]
mod disk;
mod life;
mod limits;
mod model;
mod recovery;
mod sessions;
mod symptoms;
mod threads;
mod world;
