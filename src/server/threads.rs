//! Which thread runs which agent. The only place of the server that starts threads.

use super::agents::{Flusher, Keeper, Timekeeper};
use super::config::ServeError;
use super::doors::Doors;
use super::hub::Hub;
use super::machine::Machine;
use super::polling::Polling;
use super::reactor::Reactor;
use super::sockets::Sockets;
use crate::base::limits::TICK_MS;
use crate::clock::Clock;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Connections that a reactor runs between two polls.
const RUN_BUDGET: usize = 1_024;
/// Deadlines that the timekeeper handles at once.
const TIMER_BUDGET: usize = 16 * 1024;
/// Work that the log's keeper does at once.
const LOG_BUDGET: usize = 1_024;
/// Pause of the log's keeper when there was nothing to do, in milliseconds.
const LOG_TICK_MS: u64 = 20;

/// The threads of a server.
#[derive(Debug, Default)]
pub(super) struct Threads {
    /// They end by themselves once the server stops and their connections are gone.
    pub(super) reactors: Vec<JoinHandle<()>>,
    /// They end when the hub is retired.
    pub(super) background: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Starts everything. On an error the threads started so far are in `self`, to be ended.
    pub(super) fn start(&mut self, machine: Machine<Sockets>, clock: Clock) -> io::Result<()> {
        let Machine {
            hub,
            reactors,
            flusher,
            timekeeper,
            keeper,
        } = machine;
        self.background
            .push(start("flusher", &hub, move |hub| flush(hub, flusher))?);
        self.background.push(start("timekeeper", &hub, move |hub| {
            keep_time(hub, timekeeper, clock);
        })?);
        self.background.push(start("log keeper", &hub, move |hub| {
            keep_log(hub, keeper, clock)
        })?);
        for reactor in reactors {
            let name = format!("reactor {}", reactor.index());
            self.reactors
                .push(start(&name, &hub, move |hub| react(hub, reactor, clock))?);
        }
        Ok(())
    }
}

/// Starts a thread that fails the server if it panics.
fn start(name: &str, hub: &Arc<Hub>, run: impl FnOnce(&Hub) + Send + 'static) -> io::Result<JoinHandle<()>> {
    let hub = hub.clone();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let guard = PanicGuard(&hub);
        run(&hub);
        std::mem::forget(guard);
    })
}

struct PanicGuard<'a>(&'a Hub);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        self.0.fail(ServeError::Panic);
    }
}

fn react(hub: &Hub, mut reactor: Reactor<Sockets>, clock: Clock) {
    Doors::enter(reactor.index());
    let (mut ran, mut polling) = (0, Polling::default());
    loop {
        let now_ms = clock.now_ms();
        let polls = reactor.may_poll(now_ms) && (ran > 0 || polling.go_on(&clock, now_ms));
        let idle = if polls {
            reactor.poll(now_ms)
        } else {
            reactor.doze(now_ms)
        };
        if let Err(error) = reactor.wait(idle) {
            return hub.fail(ServeError::System(format!("poll: {error}")));
        }
        ran = reactor.step(clock.now_ms(), RUN_BUDGET);
        if reactor.is_done() {
            return;
        }
    }
}

fn flush(hub: &Hub, mut flusher: Flusher) {
    while !hub.is_retired() {
        if flusher.step() == 0 {
            hub.flush_bell.wait(None);
        }
    }
}

fn keep_time(hub: &Hub, mut timekeeper: Timekeeper, clock: Clock) {
    while !hub.is_retired() {
        if timekeeper.step(clock.now_ms(), TIMER_BUDGET) == 0 {
            hub.background_bells[0].wait(Some(Duration::from_millis(TICK_MS)));
        }
    }
}

fn keep_log(hub: &Hub, mut keeper: Keeper, clock: Clock) {
    while !hub.is_retired() {
        if keeper.step(clock.now_ms(), LOG_BUDGET) == 0 {
            hub.background_bells[1].wait(Some(Duration::from_millis(LOG_TICK_MS)));
        }
    }
}
