//! What a history has to live through, drawn from its seed: which things go wrong at all, and how often whose turn
//! it is. Histories differ more when each leaves something out (swarm testing, Groce and others, ISSTA 2012).

use crate::rng::Rng;

/// Weights of whose turn it is; and of what goes wrong, of a hundred thousand turns.
#[derive(Debug, Clone)]
pub struct Weather {
    pub reactors: usize,
    /// Of a thousand turns: before how many a writer begins a record that it is long in getting done with, or gets done.
    #[cfg_attr(not(planted), allow(dead_code, reason = "there is nothing that stalls"))]
    pub stall_per_mille: u64,
    /// Of a hundred turns of a reactor: before how many it gives connections to another one.
    pub move_percent: u64,
    /// Connections that the server takes at once.
    pub connections_max: usize,
    pub hello_timeout_ms: u64,
    pub stall_timeout_ms: u64,

    pub reactor: u64,
    pub flusher: u64,
    pub timekeeper: u64,
    pub keeper: u64,
    pub network: u64,
    pub actor: u64,
    pub time: u64,

    /// Connections that are cut, lost, stalled.
    pub harm: u64,
    /// Clients that give their connection up.
    pub leave: u64,
    pub crash: u64,
    /// Of a hundred crashes: how many are power cuts, and how many stops in good order.
    pub power_percent: u64,
    pub stop_percent: u64,
    /// Of a hundred starts: how many are interrupted.
    pub start_crash_percent: u64,
    pub failed_sync: u64,
    pub full_disk: u64,
    /// Steps of the wall clock.
    pub wall_step: u64,
    /// The largest usual step of time, in milliseconds.
    pub time_step_ms: u64,
    /// One call of the disk in so many has the kernel write back something by itself; 0 for never.
    pub writeback_one_in: u64,
}

impl Weather {
    pub fn draw(seed: u64) -> Self {
        let mut rng = Rng::new(seed, "weather");
        let rng = &mut rng;
        let mut often = |usual: u64| usual * rng.pick(&[1, 4, 4, 4, 12]) / 4;
        let (reactor, flusher, timekeeper, keeper) = (often(280), often(80), often(40), often(40));
        let (network, actor, time) = (often(280), often(240), often(60));
        let mut rarely = |usual: u64, without: u64| {
            if rng.below(100) < without {
                0
            } else {
                usual * rng.pick(&[1, 4, 4, 16]) / 4
            }
        };
        Self {
            // Of its own, so that the rest of the weather is as it was.
            stall_per_mille: Rng::new(seed, "stall").pick(&[0, 0, 0, 5, 30]),
            move_percent: Rng::new(seed, "move").pick(&[0, 0, 2, 30]),
            reactor,
            flusher,
            timekeeper,
            keeper,
            network,
            actor,
            time,
            harm: rarely(500, 25),
            leave: rarely(100, 40),
            crash: rarely(120, 15),
            failed_sync: rarely(25, 50),
            full_disk: rarely(40, 50),
            wall_step: rarely(40, 40),
            power_percent: rng.pick(&[0, 40, 40, 100]),
            stop_percent: rng.pick(&[0, 10, 30]),
            start_crash_percent: rng.pick(&[0, 20, 60]),
            reactors: rng.range(1, 3) as usize,
            connections_max: rng.pick(&[3, 6, 100, 100, 100]),
            hello_timeout_ms: rng.pick(&[60, 2_000, 10_000]),
            stall_timeout_ms: rng.pick(&[100, 2_000, 60_000]),
            time_step_ms: rng.pick(&[2, 8, 40]),
            writeback_one_in: rng.pick(&[0, 5, 50]),
        }
    }
}
