//! Real server processes that end badly: killed, stopped, without disk, without power.
//!
//! | what | the line that runs it |
//! |---|---|
//! | everything, short | `cargo test --test crash` |
//! | 500 `kill -9` under load | `ACKRING_KILLS=500 cargo test --test crash kill_9 -- --nocapture` |
//! | 200 power cuts | `ACKRING_CUTS=200 cargo test --test crash power_cut_takes -- --nocapture` |
//! | 100 power cuts under ext4 | `ACKRING_CUTS=100 cargo test --test crash power_cut_under_ext4 -- --nocapture` |
//! | the same moments again | the same line, with `ACKRING_SEED=<seed>` in front |
//!
//! The judge is the ledger (`ledger.rs`): every attempt, confirmation, delivery and settlement goes through it, and
//! it compares them as Jepsen's total-queue checker does. The load is in `load/`, what is done to the server in the
//! other files. The seed draws what is enqueued and when the server is killed; how far the server has come by then
//! is up to the machine, so a seed makes a failure likely to come again, not certain.
//!
//! Power cuts take root and `/dev/fuse`, disks that are really full the right to mount, and ext4 its tools. Where they
//! are missing a line says `skipped: …`, and the test passes.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "these tests watch real processes, and report how long things took"
)]

#[path = "../cli/mod.rs"]
mod cli;
mod damage;
mod full;
mod kills;
mod ledger;
mod load;
mod mounts;
mod power;
mod seed;
mod stopped;
mod table;
