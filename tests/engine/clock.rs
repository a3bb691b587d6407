//! Time across restarts.

use crate::world::{START_MS, World};
use ackring::JobState;

#[test]
fn a_lease_ends_in_its_time_though_the_wall_clock_was_set_back_before_a_restart() {
    let mut world = World::logged();
    let queue = world.queue("q");
    let id = world.push(queue, b"job");
    let lease_ms = u64::from(world.reserve_one(queue).lease_ms);
    world.now_ms -= 2 * 3_600_000;
    world.crash();
    assert_eq!(world.engine().opened_ms(), START_MS);
    world.now_ms = world.engine().opened_ms();
    world.pass(lease_ms - 1);
    assert_eq!(world.state(id), JobState::Leased);
    world.pass(20);
    assert_ne!(world.state(id), JobState::Leased);
}
