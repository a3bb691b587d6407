//! Long random lives of a log: crashes, power cuts, failed syncs, a full disk, damage at rest.

use crate::disk::SimOptions;
use crate::log_world::{End, LogWorld};
use crate::runs::{each_seed, number};

fn world(seed: u64) -> LogWorld {
    let mut draw = crate::disk::Rng(seed);
    let options = SimOptions {
        writeback_one_in: [0, 3, 10][draw.below(3) as usize],
        names_in_any_order: draw.one_in(2),
        ..SimOptions::default()
    };
    let mut world = LogWorld::new(seed, 4 + draw.below(8), options);
    world.set_recycles_unsynced(draw.one_in(2));
    world.extra_max = [4, 20, 60][draw.below(3) as usize];
    world
}

/// One life: opened (perhaps after crashes in recovery), used, ended.
fn life(world: &mut LogWorld, ops: u64) {
    let mut power = false;
    let log = loop {
        if world.rng.one_in(3) {
            world.disk.die_in(1 + world.rng.below(60));
        }
        if let Some(log) = world.open() {
            break log;
        }
        power = world.rng.one_in(2);
        world.crash(None, power);
    };
    let _ = power;
    match world.rng.below(8) {
        0..=2 => world.disk.die_in(1 + world.rng.below(200)),
        3 => world.disk.fail_sync_in(world.rng.below(20)),
        4 => {
            let used = world.disk.used();
            world.disk.set_capacity(used + world.rng.below(3) * 4096 + 1_000);
        }
        _ => {}
    }
    let ops = 1 + world.rng.below(ops);
    let closes = world.rng.one_in(4);
    let end = world.live(&log, ops, closes);
    world.disk.set_capacity(u64::MAX);
    let power = world.rng.one_in(2);
    if end == End::Closed {
        world.note("closed".to_owned());
    }
    world.crash(Some(log), power);
}

#[test]
fn whatever_was_durable_comes_back_from_a_log_on_a_disk_that_forgets() {
    let ops = number("ACKRING_OPS").unwrap_or(150);
    each_seed("log_random::whatever", 60, |seed| {
        let mut world = world(seed);
        for _ in 0..6 {
            life(&mut world, ops);
        }
    });
}
