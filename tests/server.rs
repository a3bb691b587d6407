//! The server over real sockets: every test starts its own on a free port, and talks to it in frames.
//!
//! No test sleeps to let something happen: it waits for the answer that tells of it. Time limits are there only so
//! that a hang becomes a failure.
#![cfg(feature = "server")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

#[path = "server/bad_input.rs"]
mod bad_input;
#[path = "server/jobs.rs"]
mod jobs;
#[path = "server/leaving.rs"]
mod leaving;
#[path = "server/peer.rs"]
mod peer;
#[path = "server/queues.rs"]
mod queues;
#[path = "server/quiet.rs"]
mod quiet;
#[path = "server/stopping.rs"]
mod stopping;
#[path = "server/stress.rs"]
mod stress;
#[path = "server/subscribing.rs"]
mod subscribing;
#[path = "server/together.rs"]
mod together;
#[path = "server/waiting.rs"]
mod waiting;
