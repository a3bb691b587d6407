//! The engine as an embedded user or the server sees it, under a clock that the test turns.
#![cfg(feature = "engine")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

mod anchors;
mod clock;
mod copies;
mod cramped;
#[path = "../sim/disk.rs"]
#[allow(
    dead_code,
    reason = "written for the whole simulation; this uses a part of it"
)]
mod disk;
mod edges;
mod failed_sync;
mod life;
mod limits;
mod model;
mod power;
mod recovery;
mod sessions;
mod storm;
mod sweeps;
mod symptoms;
mod threads;
mod together;
mod world;
