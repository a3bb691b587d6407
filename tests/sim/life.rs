//! One life of the server: its engine and its agents, and when each of them would run by itself.

use crate::net::{Ear, SimNet};
use ackring::EngineConfig;
use ackring::engine::{Engine, RecoverySummary};
use ackring::log::OpenError;
use ackring::server::ServerConfig;
use ackring::server::machine::Machine;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// When a reactor runs.
#[derive(Debug)]
struct Sleep {
    /// Set by whoever wakes it.
    woken: Arc<AtomicBool>,
    /// `None` while it is awake.
    until_ms: Option<u64>,
}

/// See the [module](self).
pub struct Life {
    pub machine: Machine<Ear>,
    net: SimNet,
    sleeps: Vec<Sleep>,
    /// The flusher was rung for, or has not finished.
    flush_due: bool,
    pub summary: RecoverySummary,
}

impl Life {
    /// Starts the server: reads the log, then listens.
    pub fn begin(
        engine: EngineConfig,
        server: ServerConfig,
        reactors: usize,
        net: &SimNet,
        boot: u64,
        now_ms: u64,
    ) -> Result<Self, OpenError> {
        let (engine, summary) = Engine::open(engine, now_ms)?;
        let (mut nets, mut sleeps) = (Vec::new(), Vec::new());
        for (ear, wake, woken) in net.serve(reactors) {
            nets.push((ear, wake));
            sleeps.push(Sleep {
                woken,
                until_ms: None,
            });
        }
        Ok(Self {
            machine: Machine::new(Arc::new(engine), server, boot, nets),
            net: net.clone(),
            sleeps,
            flush_due: false,
            summary,
        })
    }

    pub fn reactors(&self) -> usize {
        self.sleeps.len()
    }

    /// Whether a reactor's thread would be running.
    pub fn is_awake(&self, reactor: usize, now_ms: u64) -> bool {
        let sleep = &self.sleeps[reactor];
        !self.machine.is_done(reactor)
            && (sleep.until_ms.is_none_or(|until_ms| until_ms <= now_ms)
                || sleep.woken.load(Ordering::SeqCst)
                || self.net.has_news(reactor))
    }

    /// A reactor's turn: to fall asleep if it is awake, or to wake up and do its work.
    pub fn run(&mut self, reactor: usize, now_ms: u64, budget: usize) -> usize {
        if self.sleeps[reactor].until_ms.is_none() {
            let idle = self.machine.doze(reactor, now_ms);
            if !idle.is_zero() {
                let idle_ms = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
                self.sleeps[reactor].until_ms = Some(now_ms.saturating_add(idle_ms));
                return 0;
            }
        }
        let sleep = &mut self.sleeps[reactor];
        sleep.until_ms = None;
        sleep.woken.store(false, Ordering::SeqCst);
        self.machine.wait(reactor, Duration::ZERO).unwrap();
        self.machine.step(reactor, now_ms, budget)
    }

    /// Nobody sleeps over a message: who has one is awake or was woken. And where all sleep, nobody waits for jobs that
    /// are there.
    pub fn check_sleepers(&self, now_ms: u64) {
        for (reactor, sleep) in self.sleeps.iter().enumerate() {
            let sleeps = sleep.until_ms.is_some() && !sleep.woken.load(Ordering::SeqCst);
            assert!(
                !sleeps || !self.machine.has_messages(reactor),
                "reactor {reactor} sleeps over a message"
            );
        }
        if self.machine.failure().is_none()
            && !(0..self.reactors()).any(|reactor| self.is_awake(reactor, now_ms))
        {
            let overlooked = self.machine.overlooked();
            assert!(
                overlooked.is_none(),
                "all sleep, and somebody waits for jobs of {overlooked:?}"
            );
        }
    }

    /// Whether the flusher's thread would be running.
    pub fn wants_flush(&mut self) -> bool {
        self.flush_due |= self.machine.is_flush_wanted();
        self.flush_due
    }

    /// The flusher's turn.
    pub fn flush(&mut self) -> usize {
        let woken = self.machine.flush();
        self.flush_due = woken > 0;
        woken
    }

    /// Whether the server has stopped or failed, and every connection has ended.
    pub fn is_over(&self) -> bool {
        (0..self.reactors()).all(|reactor| self.machine.is_done(reactor))
    }

    /// The process ends. Nothing of the engine may be left.
    pub fn end(self) {
        let engine = Arc::downgrade(self.machine.engine());
        drop(self.machine);
        assert_eq!(engine.strong_count(), 0, "somebody keeps the engine");
    }
}
