//! Short histories of the smallest logs, cut at every call to the disk, with every subset of what was not synced.

use crate::disk::{Fate, Rng, SECTOR, SimOptions, Unsynced};
use crate::log_world::{End, LogWorld};
use crate::runs::{each_seed, number};

/// Sectors of which every subset is tried; a history that leaves more is cut short where it gets there.
const SUBSETS_OF: usize = 8;

/// What was looked at, for the end's summary.
#[derive(Debug, Default)]
struct Tried {
    histories: u64,
    cuts: u64,
    states: u64,
    too_many: u64,
    in_recovery: u64,
}

fn world(seed: u64) -> LogWorld {
    let mut world = LogWorld::new(seed, 4, SimOptions::default());
    let mut draw = Rng(seed);
    world.set_recycles_unsynced(draw.one_in(2));
    world.extra_max = 1 + draw.below(24);
    world.busy_syncs = draw.one_in(2);
    world
}

/// Plays the history of the seed up to a call of the disk, counted from the first one after the first opening.
/// `None` when it ends before.
fn play(seed: u64, ops: u64, call: u64) -> Option<LogWorld> {
    let mut world = world(seed);
    // The second life is what is cut, so that there is something to lose.
    let log = world.open().unwrap();
    let end = world.live(&log, 6, true);
    assert_eq!(end, End::Closed);
    world.crash(Some(log), false);
    world.disk.die_in(call);
    let log = world.open();
    let is_cut = match &log {
        None => true,
        Some(log) => {
            world.live(log, ops, true);
            world.disk.is_off()
        }
    };
    world.disk.stop();
    drop(log);
    is_cut.then_some(world)
}

/// One state that the disk may be in after the power cut, held against what was written.
fn judge(world: &LogWorld, sectors: &[(Unsynced, Fate)], names: &[bool], tried: &mut Tried) {
    tried.states += 1;
    let disk = world.disk.copy();
    disk.crash_power_choosing(sectors, names);
    let mut after = world.fork(disk);
    after.note_power_cut();
    after.note(format!("sectors {sectors:?}, names {names:?}"));
    if tried.states.is_multiple_of(8) {
        // The start that finds this is cut, too.
        tried.in_recovery += 1;
        after.disk.die_in(1 + tried.states / 8 % 50);
        let log = after.open();
        drop(log);
        after.disk.crash_power();
        after.note_power_cut();
    }
    drop(after.open());
    // A sound end is no news.
    after.forget_trail();
}

fn each_subset(world: &LogWorld, tried: &mut Tried) {
    let unsynced = world.disk.unsynced();
    let names = world.disk.unsynced_names();
    if unsynced.len() > SUBSETS_OF {
        tried.too_many += 1;
        return;
    }
    tried.cuts += 1;
    let sectors = 1usize << unsynced.len();
    for subset in 0..sectors << names {
        let kept: Vec<bool> = (0..names)
            .map(|name| subset >> (unsynced.len() + name) & 1 == 1)
            .collect();
        let fate = |index: usize| {
            if subset >> index & 1 == 1 {
                Fate::Kept
            } else {
                Fate::Lost
            }
        };
        let places = unsynced.iter().enumerate();
        let fates: Vec<_> = places
            .map(|(index, place)| (place.clone(), fate(index)))
            .collect();
        judge(world, &fates, &kept, tried);
        // And with each of the lost ones torn instead.
        for (index, place) in unsynced
            .iter()
            .enumerate()
            .filter(|(index, _)| subset >> index & 1 == 0)
        {
            let at = SECTOR / 8 * (1 + (subset + index) % 7);
            for fate in [Fate::NewThenOld(at), Fate::OldThenNew(at)] {
                let mut fates = fates.clone();
                fates[index] = (place.clone(), fate);
                judge(world, &fates, &kept, tried);
            }
        }
    }
}

#[test]
fn every_subset_of_unsynced_sectors_at_every_call_keeps_what_was_durable() {
    let ops = number("ACKRING_OPS").unwrap_or(14);
    let mut tried = Tried::default();
    each_seed("log_exhaustive::every_subset", 4, |seed| {
        tried.histories += 1;
        for call in 1.. {
            let Some(mut world) = play(seed, ops, call) else {
                break;
            };
            each_subset(&world, &mut tried);
            world.forget_trail();
        }
    });
    println!("{tried:?}");
}
