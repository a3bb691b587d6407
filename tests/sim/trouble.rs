//! What goes wrong in the world, and how lives of the server begin and end.

use crate::actor::Crash;
use crate::life::Life;
use crate::world::{Ending, World};
use ackring::server::ServeError;
use rustix::io::Errno;

/// What the weights of trouble are relative to.
const TURNS: u64 = 100_000;
/// More connections than there are clients.
const CONNECTIONS_ENOUGH: usize = 100;
/// Starts that may fail one after the other.
const STARTS_MAX: u32 = 40;

impl World {
    /// Maybe something goes wrong.
    pub(crate) fn trouble(&mut self) {
        let draw = self.rng.below(TURNS);
        let mut end = 0;
        let mut is = |weight: u64| {
            end += weight;
            draw < end
        };
        let weather = &self.weather;
        if is(weather.harm) {
            if let Some(what) = self.net.harm() {
                self.trace.note(what);
            }
        } else if is(weather.leave) {
            self.give_up_one();
        } else if is(weather.crash) {
            self.crash();
        } else if is(weather.failed_sync) {
            if self.life.is_some() {
                let passing = self.rng.below(6);
                self.trace
                    .note(format!("the sync after {passing} others will fail"));
                self.disk.fail_sync_in(passing);
            }
        } else if is(weather.full_disk) {
            self.fill_disk();
        } else if is(weather.wall_step) {
            let by_ms = self.rng.pick(&[30, 3_000, 7_200_000]);
            let by_ms = self.rng.range(1, by_ms) as i64;
            let is_back = self.rng.per_mille(600);
            self.wall_step_ms += if is_back { -by_ms } else { by_ms };
            self.trace.note(format!(
                "the wall clock steps, by {} ms in all",
                self.wall_step_ms
            ));
            self.tally.note(if is_back {
                "wall clock steps back"
            } else {
                "wall clock steps forward"
            });
        }
        if self
            .full_until_ms
            .is_some_and(|until_ms| until_ms <= self.elapsed_ms)
        {
            self.free_disk();
        }
    }

    /// From now on nothing goes wrong; what was planned is called off.
    pub(crate) fn calm_down(&mut self) {
        self.trace.note(format!("{}: calm", self.now_ms()));
        self.calm = true;
        self.end_stall();
        self.net.set_faulty(false);
        self.disk.fail_no_sync();
        self.disk.live_on();
        self.free_disk();
        if self.server.connections_max < CONNECTIONS_ENOUGH {
            // A server that takes everybody.
            self.server.connections_max = CONNECTIONS_ENOUGH;
            self.stop();
        } else if self.life.is_some() && self.rng.per_mille(600) {
            // What is drained then is what the log says.
            if self.rng.below(100) < self.weather.stop_percent {
                self.stop();
            } else {
                self.disk.stop();
            }
        }
    }

    fn fill_disk(&mut self) {
        let segments = self.rng.range(0, 2);
        let room = segments * u64::from(self.engine.segment_bytes) + self.rng.below(4_096);
        let for_ms = self.rng.pick(&[20, 400, 4_000]);
        self.full_until_ms = Some(self.elapsed_ms + for_ms);
        if self.rng.per_mille(300) {
            let errno = self
                .rng
                .pick(&[Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::PERM]);
            self.disk.refuse_opens(Some(errno));
            self.trace
                .note(format!("no file can be opened, for {for_ms} ms: {errno}"));
            return;
        }
        self.disk.set_capacity(self.disk.used() + room);
        self.trace
            .note(format!("the disk has room for {room} bytes, for {for_ms} ms"));
    }

    fn free_disk(&mut self) {
        self.full_until_ms = None;
        self.disk.refuse_opens(None);
        self.disk.set_capacity(u64::MAX);
    }

    /// Plans the end of the present life.
    fn crash(&mut self) {
        if self.life.is_none() {
            return;
        }
        if self.rng.below(100) < self.weather.stop_percent {
            return self.stop();
        }
        match self.rng.below(4) {
            0 => self.disk.stop(),
            1 | 2 => {
                let calls = self.rng.range(1, 30);
                self.trace
                    .note(format!("the machine will stop at a call to the disk, in {calls}"));
                self.disk.die_in(calls);
            }
            _ => {
                let writes = self.rng.range(1, 12);
                self.trace.note(format!(
                    "the machine will stop at a write to a client, in {writes}"
                ));
                self.net.die_in(writes);
            }
        }
    }

    /// Tells the server to stop in good order.
    pub(crate) fn stop(&mut self) {
        if let Some(life) = &self.life
            && self.ending == Ending::No
        {
            self.trace.note("the server is told to stop".into());
            self.ending = Ending::Stopping;
            life.machine.stop();
        }
    }

    /// After each turn: whether the life of the server is over, and how.
    pub(crate) fn follow_life(&mut self) {
        if self.disk.is_off() {
            return self.die();
        }
        let now_ms = self.now_ms();
        let Some(life) = &self.life else { return };
        life.check_sleepers(now_ms);
        if life.machine.failure().is_some() && self.ending != Ending::Failing {
            let failure = life.machine.failure();
            self.trace.note(format!("the server fails: {failure:?}"));
            assert!(
                matches!(failure, Some(ServeError::Log(_))) && self.disk.counters().syncs_failed > 0,
                "the server failed though nothing was wrong: {failure:?}"
            );
            self.ending = Ending::Failing;
        }
        if self.ending == Ending::No || !life.is_over() {
            return;
        }
        let closed = life.machine.close(now_ms);
        self.trace.note(format!("the server closes: {closed:?}"));
        if self.disk.is_off() {
            return self.die();
        }
        match closed {
            Ok(()) => {
                assert_eq!(
                    self.ending,
                    Ending::Stopping,
                    "closed in good order after a failure"
                );
                self.end_life(Crash::Stop, false);
                // Everything is on the disk, so the power may go as well.
                if self.rng.per_mille(500) {
                    self.disk.crash_power_losing_all();
                }
            }
            Err(_) => {
                assert!(self.disk.counters().syncs_failed > 0, "{closed:?}");
                self.end_life(Crash::Failed, false);
            }
        }
    }

    /// The machine has stopped in the middle of something.
    fn die(&mut self) {
        let is_power = self.rng.below(100) < self.weather.power_percent;
        self.end_life(if is_power { Crash::Power } else { Crash::Kill }, is_power);
    }

    fn end_life(&mut self, crash: Crash, is_power: bool) {
        if !self.disk.is_off() {
            self.disk.stop();
        }
        self.net.server_died(is_power);
        self.hear_all();
        self.is_stalled = false;
        let was_running = self.life.is_some();
        if let Some(life) = self.life.take() {
            life.end();
        }
        if is_power {
            self.disk.crash_power();
        } else {
            self.disk.crash_kill();
        }
        self.ending = Ending::No;
        if was_running {
            self.tell_crash(crash);
        }
    }

    /// Starts the server, perhaps in several attempts that are interrupted.
    pub(crate) fn start(&mut self) {
        self.clock_ahead_ms = self.clock_ahead_ms.wrapping_add_signed(self.wall_step_ms);
        self.wall_step_ms = 0;
        let mut starts = 0;
        let life = loop {
            starts += 1;
            assert!(starts <= STARTS_MAX, "the server does not start");
            if !self.calm && self.rng.below(100) < self.weather.start_crash_percent {
                let calls = self.rng.range(1, 60);
                self.disk.die_in(calls);
            } else if !self.calm && self.rng.below(1_000) < self.weather.failed_sync {
                let passing = self.rng.below(12);
                self.disk.fail_sync_in(passing);
            }
            if let Some(life) = self.try_start(starts) {
                break life;
            }
        };
        // The wall clock may have been set back; the server's own goes on.
        let behind_ms = life.machine.engine().opened_ms().saturating_sub(self.now_ms());
        self.clock_ahead_ms += behind_ms;
        self.judge.recovered(
            life.machine.engine(),
            &life.summary,
            self.clock_ahead_ms + self.elapsed_ms,
        );
        self.life = Some(life);
        if self.boots == 1 && self.rng.below(400) < self.weather.full_disk {
            // While the log still wants more of it.
            self.fill_disk();
        }
    }

    fn try_start(&mut self, attempt: u32) -> Option<Life> {
        let now_ms = self.now_ms();
        let failed_before = self.disk.counters().syncs_failed;
        self.boots += 1;
        let started = Life::begin(
            self.engine.clone(),
            self.server.clone(),
            self.weather.reactors,
            &self.net,
            self.boots,
            now_ms,
        );
        if self.disk.is_off() {
            self.trace
                .note(format!("the machine stops in attempt {attempt} to start"));
            self.tally.note("crashes in recovery");
            self.life = started.ok();
            self.net.server_died(false);
            if let Some(life) = self.life.take() {
                life.end();
            }
            if self.rng.below(100) < self.weather.power_percent {
                self.tell_crash(Crash::Power);
                self.disk.crash_power();
            } else {
                self.tell_crash(Crash::Kill);
                self.disk.crash_kill();
            }
            return None;
        }
        match started {
            Ok(life) => {
                self.trace.note(format!("{now_ms}: started: {:?}", life.summary));
                self.tally.note("starts");
                Some(life)
            }
            Err(error) => {
                self.trace.note(format!("the server does not start: {error}"));
                let was_planned =
                    self.disk.counters().syncs_failed > failed_before || self.full_until_ms.is_some();
                assert!(was_planned, "the server does not start: {error}");
                self.tally.note("starts that failed");
                if self.disk.counters().syncs_failed > failed_before {
                    self.tell_crash(Crash::Failed);
                }
                self.disk.crash_kill();
                self.free_disk();
                None
            }
        }
    }
}
