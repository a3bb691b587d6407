//! Segments that are used again before the disk has what they told: a power cut takes nothing of it all the same, and
//! nothing that is lost is said to have happened.

use crate::disk::{SimDisk, SimOptions};
use crate::world::World;
use ackring::engine::{Engine, EngineConfig, RequestId};
use ackring::{ErrorCode, JobOptions, QueueOptions};

const ANCHOR: &str = "anchor";

fn request(number: u64) -> RequestId {
    RequestId { session: 77, number }
}

fn options() -> QueueOptions {
    QueueOptions {
        keep_finished: 0,
        max_attempts: 7,
        ..QueueOptions::default()
    }
}

fn on(disk: &SimDisk) -> World {
    World::with(|config| config.disk = disk.handle())
}

/// Fills segments with jobs that are over, and lets those go that may, by a clock that stands: nothing is synced in the
/// background.
fn go_round(world: &World) {
    for _ in 0..30 {
        fill(world, 50);
        let_go(world);
    }
}

/// So many jobs come and are over.
fn fill(world: &World, jobs: u32) {
    let queue = world.queue("busy");
    for _ in 0..jobs {
        world.push(queue, &[0; 200]);
        assert_eq!(world.ack(world.reserve_one(queue).token), None);
    }
}

fn let_go(world: &World) {
    (0..4).for_each(|_| _ = world.engine().log_step(world.now_ms, 64));
}

fn first_segment(world: &World) -> u32 {
    world.engine().segments()[0].first().unwrap().sequence
}

fn jobs(payload: &[u8]) -> [(&[u8], JobOptions<'_>); 1] {
    [(payload, JobOptions::default())]
}

fn keyed() -> JobOptions<'static> {
    JobOptions {
        key: b"key",
        ..JobOptions::default()
    }
}

/// A world with a queue, a numbered request and a key that only segments which are gone told of.
fn gone_round(disk: &SimDisk) -> World {
    let world = on(disk);
    world.create("busy", options());
    let queue = world.create("q", options());
    world.push_as(queue, &jobs(b"numbered"), request(1)).unwrap();
    world.push_with(queue, b"keyed", keyed());
    assert_eq!(world.drain(queue).len(), 2);
    world.engine().sync().unwrap();
    let before = first_segment(&world);
    go_round(&world);
    assert!(first_segment(&world) > before + 2, "nothing went round");
    assert!(disk.names().iter().any(|name| name == ANCHOR));
    world
}

fn is_as_it_was(world: &World) {
    let queue = world.engine().find_queue("q").unwrap();
    let (_, same) = world
        .engine()
        .create_queue("q", &options(), RequestId::NONE, world.now_ms)
        .unwrap();
    assert!(same.position.is_none(), "the queue was made anew");
    let again = world.push_as(queue, &jobs(b"numbered"), request(1)).unwrap_err();
    assert_eq!(again.code, ErrorCode::AlreadyApplied);
    let reply = world.try_push(queue, &[(b"keyed", keyed())]).unwrap();
    assert_eq!(reply.items.len(), 1, "the key was forgotten");
    assert!(world.reserve(queue, 1).is_empty());
}

#[test]
fn a_few_segments_go_round_without_the_disk_and_a_power_cut_takes_nothing_that_they_told() {
    let disk = SimDisk::new(1, SimOptions::default());
    let mut world = gone_round(&disk);
    for _ in 0..3 {
        world.crash_with(|| disk.crash_power_losing_all());
        is_as_it_was(&world);
    }
    go_round(&world);
    world.crash_with(|| disk.crash_power_losing_all());
    is_as_it_was(&world);
}

#[test]
fn a_killed_process_leaves_the_same_as_a_power_cut_of_what_segments_told_that_are_gone() {
    let disk = SimDisk::new(2, SimOptions::default());
    let mut world = gone_round(&disk);
    world.crash_with(|| disk.crash_kill());
    is_as_it_was(&world);
    world.crash_with(|| disk.crash_power_losing_all());
    is_as_it_was(&world);
}

#[test]
fn a_request_whose_record_a_power_cut_takes_is_not_said_to_have_been_applied_by_what_outlives_it() {
    let disk = SimDisk::new(3, SimOptions::default());
    let mut world = gone_round(&disk);
    // Its job keeps its segment, and those behind, while the ones before it go.
    fill(&world, 500);
    let queue = world.queue("q");
    world.push_as(queue, &jobs(b"later"), request(2)).unwrap();
    world
        .engine()
        .pause(queue, RequestId::NONE, world.now_ms)
        .unwrap();
    let before = first_segment(&world);
    let_go(&world);
    assert!(first_segment(&world) > before, "nothing went");
    world.crash_with(|| disk.crash_power_losing_all());
    let queue = world.queue("q");
    world.push_as(queue, &jobs(b"later"), request(2)).unwrap();
    // The pause is lost with all that came before it.
    assert_eq!(world.drain(queue), [b"later".to_vec()]);
    is_as_it_was(&world);
}

/// Few enough to be told by an anchor, and more than that.
#[test]
fn queues_that_stand_still_outlive_the_segments_that_told_of_them() {
    for queues in [40, 3_000] {
        let disk = SimDisk::new(8, SimOptions::default());
        let mut world = on(&disk);
        world.create("busy", options());
        let name = |number: u32| format!("{number:0100}");
        for number in 0..queues {
            let queue = world.create(&name(number), options());
            if number % 7 == 0 {
                world
                    .engine()
                    .pause(queue, RequestId::NONE, world.now_ms)
                    .unwrap();
            }
        }
        world.engine().sync().unwrap();
        for round in 0..4 {
            let before = first_segment(&world);
            go_round(&world);
            // What an anchor does not take waits for the disk.
            world.engine().sync().unwrap();
            go_round(&world);
            assert!(
                first_segment(&world) > before + 2,
                "{queues}: nothing went in round {round}"
            );
            world.crash_with(|| disk.crash_power_losing_all());
            for number in 0..queues {
                let queue = world.engine().find_queue(&name(number)).unwrap();
                let stats = world.engine().queue_stats(queue).unwrap();
                assert_eq!(
                    stats.paused,
                    number % 7 == 0,
                    "{queues}: queue {number} in round {round}"
                );
                assert_eq!(
                    stats.options.max_attempts, 7,
                    "{queues}: queue {number} in round {round}"
                );
            }
        }
    }
}

#[test]
fn counts_of_a_queue_never_exceed_what_happened_though_what_told_of_them_went_unsynced() {
    for (seed, keeps) in [(4, false), (5, true)] {
        let disk = SimDisk::new(seed, SimOptions::default());
        let mut world = gone_round(&disk);
        let events = |world: &World| {
            let queue = world.engine().find_queue("busy").unwrap();
            let info = world.engine().queue_stats(queue).unwrap().counts;
            (info.enqueued, info.done)
        };
        let before = events(&world);
        world.crash_with(|| match keeps {
            true => disk.crash_kill(),
            false => disk.crash_power_losing_all(),
        });
        let after = events(&world);
        assert!(
            after.0 <= before.0 && after.1 <= before.1,
            "{after:?} of {before:?}"
        );
        assert!(!keeps || after == before, "{after:?} of {before:?}");
    }
}

/// What happens to a disk at rest.
type Harm = fn(&SimDisk);

#[test]
fn an_anchor_that_the_log_relies_on_is_refused_when_damaged_or_gone_and_given_up_by_a_salvage() {
    let cases: [(&str, Harm); 3] = [
        ("damaged", |disk| {
            // Both slots, as only one of them counts.
            let slot_bytes = disk.bytes(ANCHOR).len() / 2;
            (0..2).for_each(|slot| disk.damage(ANCHOR, slot * slot_bytes + 60, |byte| *byte ^= 4));
        }),
        ("cut", |disk| disk.replace(ANCHOR, Vec::new())),
        ("gone", |disk| disk.take_away(ANCHOR)),
    ];
    for (case, harm) in cases {
        let disk = SimDisk::new(6, SimOptions::default());
        let mut world = gone_round(&disk);
        world.end(|_| disk.crash_power_losing_all());
        harm(&disk);
        let open = |config| Engine::open(config, world.now_ms);
        let refusal = open(world.config.clone()).map(drop).unwrap_err().to_string();
        assert!(refusal.contains(ANCHOR), "{case}: {refusal}");
        let salvage = EngineConfig {
            salvage: true,
            ..world.config.clone()
        };
        let (engine, summary) = open(salvage).unwrap();
        assert_eq!(summary.salvaged.len(), 1, "{case}");
        drop(engine);
        world.begin();
        world.queue("q");
    }
}
