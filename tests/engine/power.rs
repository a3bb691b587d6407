//! What a power cut must not take, whatever the disk forgets: what was synced, whole steps, and the knowledge of which
//! ids were given out (or a worker's old token would settle another job).

use crate::disk::{SimDisk, SimOptions};
use crate::world::World;
use ackring::engine::{EnqueueReply, QueueId, RequestId};
use ackring::{
    EnqueueBatch, EnqueueBuilder, JobId, JobOptions, QueueOptions, SettleBatch, SettleBuilder, Token,
};
use std::collections::HashSet;

/// Enqueues and finishes some jobs, one at a time, so that one slot is used again and again.
fn use_ids(world: &World, count: usize, seen: &mut HashSet<JobId>) {
    let queue = world.queue("q");
    for turn in 0..count {
        if turn % 100 == 99 {
            // Makes room. The clock stands, so it does not sync.
            world.engine().log_step(world.now_ms, 64);
        }
        let id = world.push_with(queue, b"x", JobOptions::default());
        assert!(seen.insert(id), "{id} was given out before");
        let delivered = world.reserve_one(queue);
        assert_eq!(world.ack(delivered.token), None);
    }
}

#[test]
fn an_id_comes_once_though_power_cuts_take_every_trace_of_its_job() {
    let disk = SimDisk::new(1, SimOptions::default());
    let mut world = World::with(|config| config.disk = disk.handle());
    let mut seen = HashSet::new();
    for _ in 0..3 {
        use_ids(&world, 50, &mut seen);
        world.crash_with(|| disk.crash_power_losing_all());
    }
}

#[test]
fn an_id_comes_once_though_a_power_cut_takes_what_told_of_the_next_generations() {
    let disk = SimDisk::new(2, SimOptions::default());
    let mut world = World::with(|config| {
        config.disk = disk.handle();
        // Segments wait for a sync before they are used again, and here nothing is synced.
        config.log_bytes_max = 1 << 28;
    });
    let mut seen = HashSet::new();
    // Past the generations that the first enqueue told of, with nothing synced since.
    for _ in 0..2 {
        use_ids(&world, (1 << 16) + 100, &mut seen);
        world.crash_with(|| disk.crash_power_losing_all());
    }
}

#[test]
fn a_start_that_gives_out_no_id_uses_up_no_generations() {
    let mut world = World::logged();
    let mut seen = HashSet::new();
    use_ids(&world, 1, &mut seen);
    world.crash();
    use_ids(&world, 1, &mut seen);
    let before = seen.iter().map(|id| id.generation()).max().unwrap();
    for _ in 0..5 {
        world.crash();
        world.tidy_log();
    }
    use_ids(&world, 1, &mut seen);
    let after = seen.iter().map(|id| id.generation()).max().unwrap();
    assert!(after - before <= 1 << 16, "from {before} to {after}");
}

/// Acks a job in a step that enqueues another one.
fn step(world: &World, token: Token, children: QueueId) {
    let (mut settles, mut jobs) = (SettleBuilder::new(), EnqueueBuilder::new());
    settles.ack(token, None);
    jobs.push(b"child", &JobOptions::default());
    let (mut settle_bytes, mut job_bytes) = (Vec::new(), Vec::new());
    settles.write_to(&mut settle_bytes);
    jobs.write_to(&mut job_bytes);
    let settles = SettleBatch::parse(1, &settle_bytes).unwrap();
    let jobs = EnqueueBatch::parse(1, &job_bytes).unwrap();
    let groups = [(children, jobs)];
    let mut reply = EnqueueReply::default();
    let engine = world.engine();
    engine
        .step_atomic(Some(&settles), &groups, RequestId::NONE, world.now_ms, &mut reply)
        .unwrap();
}

#[test]
fn a_step_is_whole_after_a_power_cut_though_the_segment_of_its_job_was_used_again() {
    let disk = SimDisk::new(3, SimOptions::default());
    let mut world = World::with(|config| config.disk = disk.handle());
    let options = QueueOptions {
        keep_finished: 0,
        ..QueueOptions::default()
    };
    let [parents, children, other] =
        ["parents", "children", "other"].map(|name| world.create(name, options.clone()));
    let roll = |world: &World| {
        for _ in 0..400 {
            world.push(other, &[0; 200]);
            assert_eq!(world.ack(world.reserve_one(other).token), None);
        }
    };
    // The clock stands, so nothing is synced in the background.
    let tidy = |world: &World| (0..20).for_each(|_| _ = world.engine().log_step(world.now_ms, 64));
    let clear = |world: &World| {
        tidy(world);
        world.engine().sync().unwrap();
        tidy(world);
    };
    roll(&world);
    world.push(parents, b"parent");
    roll(&world);
    // Keeps the segments behind the parent's from going along with it.
    world.push(world.queue("held"), b"stays");
    roll(&world);
    let parent = world.reserve_one(parents);
    // All that is older goes. What is needed of it is told again, behind the job, and on the disk.
    clear(&world);
    roll(&world);
    step(&world, parent.token, children);
    roll(&world);
    tidy(&world);
    world.crash_with(|| disk.crash_power_losing_all());
    let [parents, children] = ["parents", "children"].map(|name| world.queue(name));
    // The parent's lease ends, then the pause before its next attempt.
    world.pass(60_000);
    world.pass(60_000);
    let left = (world.reserve(parents, 9).len(), world.reserve(children, 9).len());
    assert!(left == (1, 0) || left == (0, 1), "(parents, children): {left:?}");
}
