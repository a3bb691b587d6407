//! What a segment that goes leaves on the disk at each moment, over the simulated one.
#![cfg(all(feature = "engine", not(loom)))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

#[path = "sim/disk.rs"]
#[allow(
    dead_code,
    reason = "written for the whole simulation; this uses a part of it"
)]
mod disk;

use ackring::log::{Log, LogConfig, Room};
use disk::{SimDisk, SimOptions};

const NOW_MS: u64 = 1_700_000_000_000;

fn open(disk: &SimDisk) -> Log {
    let config = LogConfig {
        directory: Some("/simulated".into()),
        segment_bytes: 4096,
        log_bytes_max: 64 * 4096,
        disk: disk.handle(),
        ..LogConfig::default()
    };
    Log::open(config, NOW_MS, &mut |_| {}).unwrap().0
}

/// The sequence number in the header of each file that the disk has, 0 for spares.
fn sequences_on_disk(disk: &SimDisk) -> Vec<u32> {
    let names = disk.names();
    let segments = names.iter().filter(|name| name.ends_with(".segment"));
    segments
        .map(|name| u32::from_le_bytes(disk.bytes(name)[16..20].try_into().unwrap()))
        .collect()
}

/// A record written at that moment told of the segment as durable. Where it reached the disk and the header did not,
/// the next start took the gaps in the segment for corruption.
#[test]
fn a_segment_was_called_durable_before_the_disk_knew_that_it_was_gone() {
    let mut reached_the_end = false;
    for calls in 1..100 {
        let disk = SimDisk::new(calls, SimOptions::default());
        let log = open(&disk);
        log.set_recycles_unsynced(true);
        while log.tail().sequence() < 4 {
            log.claim(1000, Room::Enqueue).unwrap().commit(1, 0, NOW_MS, 0);
        }
        disk.die_in(calls);
        while log.step(NOW_MS, 1) > 0 {}
        disk.stop();
        disk.crash_power_losing_all();
        let durable = log.durable().sequence();
        let oldest = sequences_on_disk(&disk)
            .into_iter()
            .filter(|sequence| *sequence > 0)
            .min();
        assert!(
            durable <= oldest.unwrap(),
            "dead at call {calls}: durable up to {durable}, {oldest:?} is there"
        );
        reached_the_end |= durable == 4;
    }
    assert!(reached_the_end);
}
