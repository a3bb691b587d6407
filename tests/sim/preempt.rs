//! Threads that lose their processor in the middle of a record, while another brings the log to the disk, or the
//! machine stops, or everybody else goes on for long. On one thread that needs a place in the log that calls the test, and
//! a record that is begun and left, which only builds with planted bugs have; in others nothing of this happens.

use crate::world::World;

#[cfg(not(planted))]
impl World {
    pub(crate) fn preempt(&mut self) {}

    pub(crate) fn go_on(&mut self) {}

    pub(crate) fn stall(&mut self) {}

    pub(crate) fn end_stall(&mut self) {}
}

#[cfg(planted)]
impl World {
    /// Maybe the reactor that runs now will be preempted in one of its next records.
    pub(crate) fn preempt(&mut self) {
        let Some(life) = &self.life else { return };
        let dice = &mut self.preempts;
        if self.calm || dice.below(4) > 0 {
            return;
        }
        let mut records = 1 + dice.below(3);
        let flushes = dice.below(4) > 0;
        let stops = dice.below(100_000) < 20 * self.weather.crash;
        let mut is_done = false;
        let engine = std::sync::Arc::downgrade(life.machine.engine());
        let (disk, trace) = (self.disk.clone(), self.trace.clone());
        ackring::base::plant::meanwhile(Some(Box::new(move || {
            records = records.saturating_sub(1);
            if records > 0 || std::mem::replace(&mut is_done, true) {
                return;
            }
            let Some(engine) = engine.upgrade() else { return };
            trace.note(format!(
                "in the middle of a record: flushes {flushes}, stops {stops}"
            ));
            if flushes {
                // Whether it fails is for those to say who wait for it.
                let _ = engine.sync();
            }
            if stops {
                disk.stop();
            }
        })));
    }

    /// Maybe somebody stands in the middle of a record from now on, or does no longer.
    pub(crate) fn stall(&mut self) {
        let Some(life) = &self.life else { return };
        let log = life.machine.engine().log_to_stall();
        if self.calm || self.preempts.below(1_000) >= self.weather.stall_per_mille {
            return;
        }
        if self.is_stalled {
            self.end_stall();
            return;
        }
        let body_len = 8 * self.preempts.below(60) as usize;
        self.is_stalled = log.stall(body_len);
        self.trace.note(format!(
            "a record of {body_len} bytes is begun: {}",
            self.is_stalled
        ));
    }

    /// Nobody does.
    pub(crate) fn end_stall(&mut self) {
        if std::mem::take(&mut self.is_stalled)
            && let Some(life) = &self.life
        {
            life.machine.engine().log_to_stall().go_on();
            self.trace.note("the record that was begun is given up".into());
        }
    }

    /// Its turn is over.
    pub(crate) fn go_on(&mut self) {
        ackring::base::plant::meanwhile(None);
    }
}
