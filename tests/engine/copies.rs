//! What is told again before old segments go: it frees them, and nothing is forgotten with them.

use crate::disk::{Rng, SimDisk, SimOptions};
use crate::world::World;
use ackring::engine::{QueueId, RequestId};
use ackring::{Durability, ErrorCode, JobId, JobOptions, JobState, QueueOptions};

fn keeping(keep_finished: u32) -> QueueOptions {
    QueueOptions {
        keep_finished,
        ..QueueOptions::default()
    }
}

/// Jobs that come and go, a segment full of them.
fn churn(world: &mut World, queue: QueueId, segments: u32) {
    for _ in 0..segments {
        for _ in 0..8 {
            world.push(queue, &[7; 8_000]);
        }
        world.drain(queue);
        world.tidy_log();
    }
}

#[test]
fn a_resumed_queue_forgot_its_counts_when_older_segments_went() {
    for more in 0..8 {
        let mut world = World::logged();
        let (quiet, busy) = (
            world.create("quiet", keeping(0)),
            world.create("busy", keeping(0)),
        );
        world.push(quiet, b"x");
        world.drain(quiet);
        churn(&mut world, busy, 3);
        // The counts were told in a segment that is full now, and stays until the next look.
        for _ in 0..8 {
            world.push(busy, &[7; 8_000]);
        }
        world.drain(busy);
        world
            .engine()
            .resume(quiet, RequestId::NONE, world.now_ms)
            .unwrap();
        world.tidy_log();
        churn(&mut world, busy, more);
        world.crash();
        let counts = world.engine().queue_stats(world.queue("quiet")).unwrap().counts;
        assert_eq!((counts.enqueued, counts.done), (1, 1), "{more} segments later");
    }
}

/// A cut is not logged, and a copy tells the job as it stands: the model of the engine, which knew only the first, called
/// the deadline wrong that a copy had brought through a restart.
#[test]
fn a_lease_cut_before_its_job_was_copied_was_said_to_be_whole_after_a_restart() {
    for is_copied in [false, true] {
        let mut world = World::logged();
        let busy = world.create("busy", keeping(0));
        let options = QueueOptions {
            lease_ms: 3_600_000,
            ..keeping(0)
        };
        let queue = world.create("q", options);
        let (id, whole_ms) = (world.push(queue, b"x"), world.now_ms + 3_600_000);
        let token = world.reserve_one(queue).token;
        let cut_ms = world.now_ms + 1_800_000;
        world.engine().shorten_leases([(token, whole_ms)], cut_ms);
        if is_copied {
            churn(&mut world, busy, 10);
        }
        world.crash();
        let told = world.job(id);
        assert_eq!(told.state, JobState::Leased);
        assert_eq!(told.at_ms, if is_copied { cut_ms } else { whole_ms });
        // It ends then, whichever it is, and the job waits for its next attempt.
        world.pass(told.at_ms - world.now_ms - 100);
        assert_eq!(world.state(id), JobState::Leased);
        world.pass(200);
        assert_eq!(
            (world.state(id), world.job(id).expiries),
            (JobState::Scheduled, 1)
        );
    }
}

/// A log of five segments in which everything is over, after a history that was drawn.
fn drawn_out(seed: u64) -> World {
    let mut dice = Rng(seed);
    let mut world = World::with(|config| config.log_bytes_max = 5 * 64 * 1024);
    let kept = 1 + dice.below(40) as u32;
    let queue = world.create("q", keeping(kept));
    for _ in 0..400 {
        match dice.below(4) {
            0 | 1 => {
                let payload = vec![7; dice.below(20_000) as usize];
                let pushed = world.try_push(queue, &[(&payload, JobOptions::default())]);
                let refused = pushed.err().map(|refusal| refusal.code);
                assert!(
                    refused.is_none_or(|code| code == ErrorCode::LogFull),
                    "{refused:?}"
                );
            }
            2 => {
                let mut sink = crate::world::Collect::new();
                let now_ms = world.now_ms;
                let reserved = world
                    .engine()
                    .reserve(&[queue], 2, 0, RequestId::NONE, now_ms, &mut sink);
                if reserved.is_ok() {
                    for job in sink.jobs {
                        let _ = world.settle_as(RequestId::NONE, |batch| batch.ack(job.token, None));
                    }
                }
            }
            _ => {
                world.now_ms += 101;
                world.engine().log_step(world.now_ms, 1);
            }
        }
    }
    for _ in 0..200 {
        world.pass(60_000);
        world.tidy_log();
        let mut sink = crate::world::Collect::new();
        let now_ms = world.now_ms;
        let _ = world
            .engine()
            .reserve(&[queue], 100, 0, RequestId::NONE, now_ms, &mut sink);
        for job in &sink.jobs {
            world.settle(|batch| batch.ack(job.token, None));
        }
        let counts = world.engine().queue_stats(queue).unwrap().counts;
        if counts.ready + counts.scheduled + counts.leased + counts.dead == 0 {
            world.tidy_log();
            return world;
        }
    }
    panic!("seed {seed}: jobs are left");
}

#[test]
fn a_small_log_in_which_all_was_over_took_no_more_jobs() {
    for seed in 0..30 {
        let world = drawn_out(seed);
        let pushed = world.try_push(world.queue("q"), &[(&[7; 100], JobOptions::default())]);
        assert!(
            pushed.is_ok(),
            "seed {seed}: {pushed:?} with {:?}",
            world.engine().segments()[0]
        );
    }
}

/// Ids of all jobs of the queue that are in one of the states.
fn ids_in(world: &World, queue: QueueId, states: &[JobState]) -> Vec<JobId> {
    let page = world.engine().list_jobs(queue, None, 0, 1_000).unwrap();
    let wanted = page.jobs.iter().filter(|job| states.contains(&job.state));
    wanted.map(|job| job.id).collect()
}

/// Jobs wait, die and end in a small log whose segments go round, are copied out of them, and are purged in between; the
/// process is killed and the power cut now and then. What was purged stays so, behind every start.
fn purge_between_copies(seed: u64) {
    let mut dice = Rng(seed);
    let disk = SimDisk::new(seed, SimOptions::default());
    let mut world = World::with(|config| {
        config.log_bytes_max = (5 + dice.below(3)) * 64 * 1024;
        config.disk = disk.handle();
    });
    world.create("q", keeping([0, 3, 100][dice.below(3) as usize]));
    let mut purged: Vec<(JobId, bool)> = Vec::new();
    let (mut purges, mut copied) = (0, 0);
    for _ in 0..600 {
        let queue = world.queue("q");
        match dice.below(20) {
            0..=6 => {
                let payload = vec![7; [100, 3_000, 12_000][dice.below(3) as usize]];
                let delay_ms = [0, 0, 3_600_000][dice.below(3) as usize];
                let options = JobOptions {
                    delay_ms,
                    ..JobOptions::default()
                };
                // A full log may refuse it.
                let _ = world.try_push(queue, &[(&payload, options)]);
            }
            7..=10 => {
                let mut sink = crate::world::Collect::new();
                let now_ms = world.now_ms;
                let _ = world
                    .engine()
                    .reserve(&[queue], 2, 0, RequestId::NONE, now_ms, &mut sink);
                for job in sink.jobs {
                    let _ = world.settle_as(RequestId::NONE, |batch| match dice.below(4) {
                        0 => batch.ack(job.token, None),
                        1 => batch.reject(job.token, Some(b"no")),
                        2 => batch.nack(job.token, Some(5_000), None),
                        _ => batch.extend(job.token, 3_600_000),
                    });
                }
            }
            11..=15 => {
                world.now_ms += 101;
                copied += world.engine().log_step(world.now_ms, 1 + dice.below(3) as usize);
            }
            16 => _ = world.engine().sync().unwrap(),
            17 => {
                let states: &[JobState] = match dice.below(4) {
                    0 => &[JobState::Dead],
                    1 => &[JobState::Scheduled, JobState::Leased],
                    2 => &[JobState::Done, JobState::Cancelled, JobState::Dead],
                    _ => &JobState::ALL,
                };
                let is_all = states == JobState::ALL;
                let there = ids_in(&world, queue, states);
                let done = world.engine().purge(queue, states, RequestId::NONE, world.now_ms);
                if done.is_ok() {
                    purges += 1;
                    purged.extend(there.into_iter().map(|id| (id, is_all)));
                }
            }
            _ if dice.below(4) == 0 => {
                let is_power = dice.below(2) == 0;
                if is_power {
                    world.engine().sync().unwrap();
                }
                // Both, as what the first start makes of the log is read by the second.
                for _ in 0..2 {
                    world.crash_with(|| {
                        if is_power {
                            disk.crash_power();
                        } else {
                            disk.crash_kill();
                        }
                    });
                    for (id, is_all) in &purged {
                        let back = world.engine().job(*id).ok();
                        let back = back.filter(|job| *is_all || !job.state.is_finished());
                        assert!(back.is_none(), "seed {seed}: purged, and there again: {back:?}");
                    }
                }
            }
            _ => world.pass(200),
        }
    }
    assert!(
        purges > 5 && copied > 5,
        "seed {seed}: {purges} purges, {copied} steps"
    );
}

#[test]
fn what_was_purged_does_not_come_back_from_a_copy() {
    for seed in 0..40 {
        purge_between_copies(seed);
    }
}

/// A log in memory that is full of jobs of which every second one is over has room for nearly as many again, also where it
/// began with segments that were left early.
#[test]
fn a_full_log_in_memory_refused_jobs_though_half_of_what_it_held_was_over() {
    const SEGMENT: u32 = 16 * 1024 * 1024;
    let mut world = World::with(|config| {
        config.segment_bytes = SEGMENT;
        config.log_bytes_max = 4 * u64::from(SEGMENT);
        config.memory_bytes_max = 16 * u64::from(SEGMENT);
    });
    let options = QueueOptions {
        durability: Durability::Memory,
        ..keeping(0)
    };
    let queue = world.create("q", options);
    let payload = vec![7; 128 * 1024];
    let fill = |world: &World| {
        let job = [(&payload[..], JobOptions::default())];
        let pushed = (0..10_000).take_while(|_| world.try_push(queue, &job).is_ok());
        pushed.count()
    };
    for round in 0..3 {
        let all = fill(&world);
        let mut jobs = Vec::new();
        while jobs.len() < all {
            let some = world.reserve(queue, all);
            assert!(!some.is_empty(), "round {round}: {} of {all}", jobs.len());
            jobs.extend(some);
        }
        for job in jobs.iter().step_by(2) {
            assert_eq!(world.ack(job.token), None);
        }
        // A refused one comes again later, when the log has made some room.
        let mut more = 0;
        loop {
            world.tidy_log();
            match fill(&world) {
                0 => break,
                some => more += some,
            }
        }
        assert!(more > all / 3, "round {round}: {more} beside {all}");
        for job in jobs.iter().skip(1).step_by(2) {
            assert_eq!(world.ack(job.token), None);
        }
        assert_eq!(world.drain(queue).len(), more);
        world.tidy_log();
    }
}
