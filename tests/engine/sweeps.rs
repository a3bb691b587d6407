//! Jobs that stand still while a log goes round: they are copied, what is behind them is synced, and the rest goes without the
//! disk. Whatever a power cut finds of that, they are there once, as they stood.

use crate::disk::{SimDisk, SimOptions};
use crate::world::World;
use ackring::engine::RequestId;
use ackring::{ErrorCode, JobId, JobOptions, JobState, QueueOptions};

/// Standing jobs, each in a queue of its own: more than an anchor could tell of.
const QUEUES: u32 = 800;

fn options() -> QueueOptions {
    QueueOptions {
        keep_finished: 0,
        max_attempts: 7,
        ..QueueOptions::default()
    }
}

fn request(number: u64) -> RequestId {
    RequestId { session: 77, number }
}

fn name(number: u32) -> String {
    format!("{number:0100}")
}

/// So many jobs come and are over.
fn fill(world: &World, jobs: u32) {
    let queue = world.queue("busy");
    for _ in 0..jobs {
        world.push(queue, &[0; 200]);
        assert_eq!(world.ack(world.reserve_one(queue).token), None);
    }
}

fn step(world: &World) {
    world.engine().log_step(world.now_ms, 64);
}

fn first_segment(world: &World) -> u32 {
    world.engine().segments()[0].first().unwrap().sequence
}

/// Standing jobs that are durable, and behind them many segments that are over and which nobody has synced. The clock
/// stands, so nothing is synced in the background.
fn outgrown(disk: &SimDisk) -> (World, Vec<JobId>) {
    let world = World::with(|config| {
        config.disk = disk.handle();
        config.slots = 4 * QUEUES;
    });
    world.create("busy", options());
    let mut jobs = Vec::new();
    for number in 0..QUEUES {
        let queue = world.create(&name(number), options());
        let payload = number.to_le_bytes();
        if number % 2 == 0 {
            jobs.push(world.push(queue, &payload));
            continue;
        }
        let batch = [(&payload[..], JobOptions::default())];
        let reply = world.push_as(queue, &batch, request(u64::from(number)));
        jobs.push(JobId(reply.unwrap().ids[0]));
    }
    let tried = world.reserve_one(world.queue(&name(3)));
    let released = world.settle(|batch| batch.nack(tried.token, Some(3_600_000), Some(b"later")));
    assert_eq!(released, []);
    world.engine().sync().unwrap();
    fill(&world, 1_800);
    (world, jobs)
}

fn stand_as_they_stood(world: &World, jobs: &[JobId], say: &str) {
    for (number, id) in (0..QUEUES).zip(jobs) {
        let job = world.job(*id);
        let (state, attempts) = match number {
            3 => (JobState::Scheduled, 1),
            _ => (JobState::Ready, 0),
        };
        assert_eq!(
            (job.state, job.attempts),
            (state, attempts),
            "{say}: job {number}"
        );
        let queue = world.engine().find_queue(&name(number)).unwrap();
        let counts = world.engine().queue_stats(queue).unwrap().counts;
        assert_eq!(counts.enqueued, 1, "{say}: queue {number}");
        assert_eq!(counts.ready + counts.scheduled, 1, "{say}: queue {number}");
    }
    let error = world.job(jobs[3]).last_error;
    assert_eq!(error.as_deref(), Some(&b"later"[..]), "{say}");
    let number = u64::from(QUEUES - 1);
    let queue = world.queue(&name(QUEUES - 1));
    // The same answer while its record is there.
    match world.push_as(queue, &[(b"again", JobOptions::default())], request(number)) {
        Ok(reply) => assert_eq!(reply.ids, [jobs[QUEUES as usize - 1].0], "{say}"),
        Err(refusal) => assert_eq!(refusal.code, ErrorCode::AlreadyApplied, "{say}"),
    }
}

fn are_handed_out_whole(world: &World, say: &str) {
    for number in (0..QUEUES).filter(|number| *number != 3) {
        let job = world.reserve_one(world.queue(&name(number)));
        assert_eq!(job.payload, number.to_le_bytes(), "{say}: job {number}");
    }
}

fn segments_unsynced(disk: &SimDisk) -> usize {
    let unsynced = disk.unsynced();
    unsynced
        .iter()
        .filter(|place| place.name.ends_with(".segment"))
        .count()
}

/// Every job that stood still had the disk write all that had gone round since it was copied last.
#[test]
fn jobs_that_stand_still_had_the_disk_write_all_that_went_round() {
    let disk = SimDisk::new(1, SimOptions::default());
    let (mut world, jobs) = outgrown(&disk);
    let (before, unsynced) = (first_segment(&world), segments_unsynced(&disk));
    (0..30).for_each(|_| step(&world));
    let gone = first_segment(&world) - before;
    assert!(gone > 6, "{gone} segments went");
    let left = segments_unsynced(&disk);
    assert!(
        left > unsynced / 2,
        "{left} sectors of {unsynced} are left unsynced"
    );
    world.crash_with(|| disk.crash_power_losing_all());
    stand_as_they_stood(&world, &jobs, "behind a sweep");
    fill(&world, 1_800);
    (0..30).for_each(|_| step(&world));
    world.crash_with(|| disk.crash_power_losing_all());
    stand_as_they_stood(&world, &jobs, "behind two");
    are_handed_out_whole(&world, "behind two");
}

/// Definitions of queues that stand still are copied from round to round; what changes in between holds all the same.
#[test]
fn a_queue_that_changes_between_rounds_is_as_it_was_made_last() {
    for end in 0..3 {
        let disk = SimDisk::new(1, SimOptions::default());
        let (mut world, jobs) = outgrown(&disk);
        let mut paused = Vec::new();
        for round in 0..6 {
            // One changes before what it told of goes, and one behind that.
            let mut change = |number: u32| {
                let queue = world.queue(&name(number));
                world
                    .engine()
                    .pause(queue, RequestId::NONE, world.now_ms)
                    .unwrap();
                paused.push(number);
            };
            change(10 * round);
            (0..30).for_each(|_| step(&world));
            change(10 * round + 5);
            assert!(world.engine().is_tally_right());
            if round % 2 == 0 {
                world.engine().sync().unwrap();
            }
            fill(&world, 1_800);
            world.now_ms += 1_000;
            if round == 3 {
                world.crash_with(|| disk.crash_kill());
            }
        }
        (0..30).for_each(|_| step(&world));
        world.engine().sync().unwrap();
        let say = format!("end {end}");
        world.crash_with(|| match end {
            0 => disk.crash_power_losing_all(),
            1 => disk.crash_power(),
            _ => disk.crash_kill(),
        });
        stand_as_they_stood(&world, &jobs, &say);
        for number in 0..QUEUES {
            let queue = world.queue(&name(number));
            let is_paused = world.engine().queue_stats(queue).unwrap().paused;
            assert_eq!(is_paused, paused.contains(&number), "{say}: queue {number}");
        }
        let again = world.create(&name(1), options());
        assert_eq!(again, world.queue(&name(1)), "{say}: other options");
    }
}

#[test]
fn a_power_cut_at_any_call_while_a_log_is_swept_leaves_what_stood_still() {
    let mut calls = 1;
    loop {
        let disk = SimDisk::new(calls, SimOptions::default());
        let (mut world, jobs) = outgrown(&disk);
        disk.die_in(calls);
        (0..30).for_each(|_| step(&world));
        if !disk.is_off() {
            break;
        }
        let say = format!("call {calls}");
        world.crash_with(|| match calls % 3 {
            0 => disk.crash_power_losing_all(),
            1 => disk.crash_power(),
            _ => disk.crash_kill(),
        });
        stand_as_they_stood(&world, &jobs, &say);
        world.crash_with(|| disk.crash_power_losing_all());
        stand_as_they_stood(&world, &jobs, &say);
        are_handed_out_whole(&world, &say);
        calls += 1;
    }
    assert!(calls > 20, "the sweep made {calls} calls");
}

#[test]
fn a_log_was_never_cleared_when_more_than_a_thousand_segments_of_it_were_empty() {
    for stands in [false, true] {
        let disk = SimDisk::new(1, SimOptions::default());
        let mut world = World::with(|config| {
            config.disk = disk.handle();
            config.log_bytes_max = 4_000 * 64 * 1024;
        });
        let queue = world.create("busy", options());
        let still = world.create("still", options());
        if stands {
            world.push(still, b"x");
        }
        for _ in 0..1_200 {
            world.push(queue, &[0; 60_000]);
        }
        world.engine().sync().unwrap();
        assert_eq!(world.drain(queue).len(), 1_200);
        let before = first_segment(&world);
        let mut rests = false;
        for _ in 0..400 {
            world.now_ms += 5;
            rests = world.engine().log_step(world.now_ms, 64) == 0;
        }
        let gone = first_segment(&world) - before;
        assert!(gone > 1_100 && rests, "{gone} segments went; at rest: {rests}");
    }
}

#[test]
fn a_log_with_room_refused_jobs_while_it_was_swept() {
    let disk = SimDisk::new(1, SimOptions::default());
    let mut world = World::with(|config| {
        config.disk = disk.handle();
        config.slots = 8_192;
    });
    let still = world.create("still", options());
    let queue = world.create("busy", options());
    for _ in 0..1_100 {
        world.push(still, &[1; 1_000]);
    }
    world.engine().sync().unwrap();
    for turn in 0..20_000 {
        world.now_ms += u64::from(turn % 4 == 0);
        world.push(queue, &[0; 4_000]);
        assert_eq!(world.ack(world.reserve_one(queue).token), None);
        step(&world);
    }
}
