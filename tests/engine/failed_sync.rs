//! A sync that failed, and a process that is killed before, while or after it says so beside its log.

use crate::disk::{Rng, SimDisk, SimOptions};
use crate::world::World;
use ackring::engine::RequestId;
use ackring::{JobId, JobOptions, QueueOptions};

/// For each job whether it is there.
fn are_there(world: &World, ids: &[JobId]) -> Vec<bool> {
    ids.iter().map(|id| world.engine().job(*id).is_ok()).collect()
}

/// Jobs come and go, and are synced; more come; then a sync fails, and the process is killed at the call to the disk
/// that is `calls` behind it. Says whether the rest that is left is all that came before some point.
fn killed_behind_a_failed_sync(seed: u64, calls: u64) -> bool {
    let mut dice = Rng(seed);
    let disk = SimDisk::new(seed, SimOptions::default());
    let mut world = World::with(|config| config.disk = disk.handle());
    let options = QueueOptions {
        keep_finished: 0,
        ..QueueOptions::default()
    };
    let queue = world.create("q", options);
    let push = |world: &World, dice: &mut Rng, number: u64| {
        let payload = vec![7; dice.below(2_000) as usize];
        let request = RequestId { session: 9, number };
        let pushed = world.push_as(queue, &[(&payload, JobOptions::default())], request);
        JobId(pushed.unwrap().ids[0])
    };
    let mut kept: Vec<JobId> = (1..=20).map(|number| push(&world, &mut dice, number)).collect();
    let acked: Vec<JobId> = (0..dice.below(8))
        .map(|_| {
            let job = world.reserve_one(queue);
            assert_eq!(world.ack(job.token), None);
            job.token.id
        })
        .collect();
    kept.retain(|id| !acked.contains(id));
    world.engine().sync().unwrap();
    let rest: Vec<JobId> = (21..=60).map(|number| push(&world, &mut dice, number)).collect();
    disk.fail_sync_in(0);
    disk.die_in(1 + calls);
    assert!(
        world.engine().sync().is_err(),
        "seed {seed}: a failed sync is none"
    );
    let refused = world.try_push(queue, &[(b"more", JobOptions::default())]);
    assert!(refused.is_err(), "seed {seed}: confirmed behind a failed sync");
    let mut left = None;
    for start in 1..=3 {
        world.crash_with(|| disk.crash_kill());
        let say = format!("seed {seed}, {calls} calls behind the failed sync, start {start}");
        assert!(
            are_there(&world, &kept).iter().all(|is_there| *is_there),
            "{say}: lost"
        );
        assert!(
            !are_there(&world, &acked).contains(&true),
            "{say}: back after its ack"
        );
        let now = are_there(&world, &rest);
        assert!(
            *left.get_or_insert_with(|| now.clone()) == now,
            "{say}: others are left"
        );
        let counts = world.engine().queue_stats(world.queue("q")).unwrap().counts;
        let there = kept.len() + now.iter().filter(|is_there| **is_there).count();
        assert_eq!(counts.ready, there as u64, "{say}");
    }
    left.is_some_and(|left| left.is_sorted_by(|before, after| before >= after))
}

/// The process that saw the sync fail notes that nobody vouches for what it wrote. One that is killed before it can leaves
/// gaps that look like those of a killed writer; what was synced is there in either case, and every start finds the same.
#[test]
fn a_kill_around_the_note_of_a_failed_sync_takes_nothing_that_was_synced() {
    for calls in 0..5 {
        for seed in 0..40 {
            let is_prefix = killed_behind_a_failed_sync(seed, calls);
            // The note is the first call.
            assert!(
                is_prefix || calls < 2,
                "seed {seed}: a gap that was noted, {calls} calls behind"
            );
        }
    }
}
