//! Damage at rest: what was durable is refused or whole, never silently cut; salvage gives up no more than it must.

use crate::disk::{SECTOR, SimDisk, SimOptions};
use crate::log_world::{LogWorld, Shown};
use crate::runs::{each_seed, number};
use ackring::log::OpenError;

/// A file that was damaged.
struct Damage {
    text: String,
    name: String,
    /// The segment that stood in it.
    sequence: u32,
}

fn sequence_in(bytes: &[u8]) -> u32 {
    bytes
        .get(16..20)
        .map_or(0, |word| u32::from_le_bytes(word.try_into().unwrap()))
}

fn all_bytes(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    let names = disk.names().into_iter();
    names.map(|name| (name.clone(), disk.bytes(&name))).collect()
}

/// Does one bad thing to a disk. `old`: the same disk as it was some time ago.
fn damage(world: &mut LogWorld, disk: &SimDisk, old: &SimDisk) -> Damage {
    let mut names = disk.names();
    names.retain(|name| name.ends_with(".segment"));
    let rng = &mut world.rng;
    let name = names[rng.below(names.len() as u64) as usize].clone();
    let bytes = disk.bytes(&name);
    let sector = rng.below((bytes.len() / SECTOR) as u64) as usize;
    let range = sector * SECTOR..(sector + 1) * SECTOR;
    let mut changed = bytes.clone();
    let what = match rng.below(10) {
        0..=4 => {
            // Mostly where records are.
            let offset = rng.below(bytes.len() as u64) as usize;
            let mask = 1 << rng.below(8);
            changed[offset] ^= mask;
            disk.replace(&name, changed);
            format!("bit {mask:#x} of byte {offset}")
        }
        5 => {
            changed[range].fill(0);
            disk.replace(&name, changed);
            format!("zeros in sector {sector}")
        }
        6 => {
            changed.truncate(sector * SECTOR);
            disk.replace(&name, changed);
            format!("cut to {sector} sectors")
        }
        7 => {
            disk.make_unreadable(&name, sector);
            format!("sector {sector} cannot be read")
        }
        8 => {
            disk.take_away(&name);
            "taken away".to_owned()
        }
        _ => {
            // Not the header: a segment whose retirement or first use the disk takes back cannot be told from one that
            // was never retired or used.
            if sector > 0 && old.names().contains(&name) {
                changed[range.clone()].copy_from_slice(&old.bytes(&name)[range]);
                disk.replace(&name, changed);
            }
            format!("sector {sector} as it was long ago")
        }
    };
    Damage {
        text: format!("{name}: {what}"),
        sequence: sequence_in(&bytes),
        name,
    }
}

fn check_salvage(world: &LogWorld, disk: &SimDisk, whole: &[Shown], damage: &Damage, was_power_cut: bool) {
    let after = world.fork(disk.copy());
    let salvaged = match after.try_open(true) {
        Ok((_, shown, _)) => shown,
        Err(OpenError::NewerFormat { .. }) => return,
        Err(error) => panic!("not salvaged: {error}"),
    };
    // A file whose header is damaged may have been retired; its old records are shown rather than given up.
    let is_old = |record: &Shown| whole.iter().all(|known| known.sequence() != record.sequence());
    // Nor is a log that has to be salvaged always seen to end at a gap; and an old sector shows what was cut off since.
    let behind_gap = salvaged
        .iter()
        .filter(|record| !whole.contains(record) && !is_old(record));
    let behind_gap: Vec<Shown> = behind_gap.cloned().collect();
    if !damage.text.ends_with("long ago") {
        assert!(
            was_power_cut || behind_gap.is_empty(),
            "never written: {behind_gap:?}"
        );
        world.book().check_known(&behind_gap);
    }
    // After a power cut nobody can tell damage where nothing proves that it was durable from what the cut took: the log
    // ends there.
    let may_end = was_power_cut && damage.sequence >= world.boot_start.sequence();
    for record in whole {
        let is_elsewhere = match may_end {
            true => record.sequence() < damage.sequence,
            false => record.sequence() != damage.sequence,
        };
        assert!(
            !is_elsewhere || salvaged.contains(record),
            "{}: given up without need: {record:?}",
            damage.text
        );
    }
    // What was salvaged is on the disk, and so is that the rest was given up.
    after.disk.stop();
    after.disk.crash_power_losing_all();
    let (_, again, _) = after.try_open(false).unwrap();
    assert_eq!(again, salvaged);
}

fn check_damage(world: &mut LogWorld, whole: &[Shown], old: &SimDisk, was_power_cut: bool) {
    let disk = world.disk.copy();
    let damage = damage(world, &disk, old);
    world.note(format!("damage: {}", damage.text));
    let before = all_bytes(&disk);
    let after = world.fork(disk.copy());
    match after.try_open(false) {
        Ok((log, shown, report)) => {
            drop(log);
            let book = world.book();
            book.check_known(&shown);
            book.check_loss(whole, &shown, world.boot_start);
            assert_eq!(report.salvaged, []);
        }
        Err(error @ (OpenError::Corrupt { .. } | OpenError::NewerFormat { .. })) => {
            world.note(format!("refused: {error}"));
            assert!(
                after.disk.names().iter().all(|name| *name != damage.name)
                    || all_bytes(&after.disk) == before,
                "refused, and changed"
            );
            check_salvage(world, &disk, whole, &damage, was_power_cut);
        }
        Err(error) => panic!("{error}"),
    }
    after.book().trail.clear();
}

#[test]
fn damage_at_rest_is_refused_or_does_no_harm() {
    let ops = number("ACKRING_OPS").unwrap_or(60);
    each_seed("log_damage::damage_at_rest", 40, |seed| {
        let mut world = LogWorld::new(seed, 4 + seed % 6, SimOptions::default());
        world.set_recycles_unsynced(seed.is_multiple_of(2));
        let mut old = world.disk.copy();
        for _ in 0..4 {
            let log = world.open().unwrap();
            let ops = 1 + world.rng.below(ops);
            let closes = world.rng.one_in(2);
            world.live(&log, ops, closes);
            let power = world.rng.one_in(2);
            world.crash(Some(log), power);
            let (log, whole, _) = world.fork(world.disk.copy()).try_open(false).unwrap();
            drop(log);
            for _ in 0..8 {
                check_damage(&mut world, &whole, &old, power);
            }
            old = world.disk.copy();
        }
    });
}
