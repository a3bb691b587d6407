//! A server without threads: its agents as objects that the owner steps, in any order, over any network and any
//! clock. [`Server`](super::Server) gives each a thread; a simulation runs all of them on one, and the thread's one
//! belonging, which reactor runs on it, is set anew before each step.

pub use super::net::{Net, NetStream, Ready, Wake};

use super::agents::{Flusher, Keeper, Timekeeper};
use super::config::{ServeError, ServerConfig};
use super::doors::Doors;
use super::entrance::Entrance;
use super::hub::Hub;
use super::mailbox::Mailbox;
use super::reactor::Reactor;
use crate::engine::{Engine, QueueId};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// See the [module](self).
pub struct Machine<N: Net> {
    pub(super) hub: Arc<Hub>,
    pub(super) reactors: Vec<Reactor<N>>,
    pub(super) flusher: Flusher,
    pub(super) timekeeper: Timekeeper,
    pub(super) keeper: Keeper,
}

impl<N: Net> Machine<N> {
    /// Serves an engine that is open, with a reactor for each network. `boot` differs from start to start. The
    /// machine is the engine's only owner as to agents: it calls the timer and the log step, and sets the waker.
    pub fn new(engine: Arc<Engine>, config: ServerConfig, boot: u64, nets: Vec<(N, Wake)>) -> Self {
        let (nets, wakes): (Vec<N>, Vec<Wake>) = nets.into_iter().unzip();
        let doors = Doors::new(wakes.into_iter().map(Mailbox::new).collect());
        let hub = Arc::new(Hub::new(engine, config, boot, doors));
        set_waker(&hub);
        let entrances: Arc<[_]> = nets.iter().map(|_| Entrance::default()).collect();
        let reactor = |(index, net)| Reactor::new(hub.clone(), index, net, entrances.clone());
        Self {
            reactors: nets.into_iter().enumerate().map(reactor).collect(),
            flusher: Flusher::new(hub.clone()),
            timekeeper: Timekeeper::new(hub.clone()),
            keeper: Keeper::new(hub.clone()),
            hub,
        }
    }

    /// The engine that it serves.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.hub.engine
    }

    /// Has a reactor prepare to wait: says for how long it has nothing to do unless its network has something or
    /// its wake is called. To be called after each [`step`](Self::step).
    pub fn doze(&mut self, reactor: usize, now_ms: u64) -> Duration {
        Doors::enter(reactor);
        self.reactors[reactor].doze(now_ms)
    }

    /// Has a reactor look at its network, waiting there for at most `idle`.
    ///
    /// # Errors
    /// What the network says; the server has failed then.
    pub fn wait(&mut self, reactor: usize, idle: Duration) -> io::Result<()> {
        Doors::enter(reactor);
        self.reactors[reactor].wait(idle)
    }

    /// A reactor's turn: about `budget` connections' worth; says how many it ran.
    pub fn step(&mut self, reactor: usize, now_ms: u64, budget: usize) -> usize {
        Doors::enter(reactor);
        self.reactors[reactor].step(now_ms, budget)
    }

    /// Has a reactor give half of its connections to another one, whatever their loads; says how many.
    pub fn hand_half(&mut self, from: usize, to: usize) -> usize {
        Doors::enter(from);
        self.reactors[from].hand_half(to, 0)
    }

    /// Whether others have told a reactor something that it has not looked at; one that sleeps has been woken then.
    pub fn has_messages(&self, reactor: usize) -> bool {
        self.reactors[reactor].has_messages()
    }

    /// A queue with ready jobs for which somebody waits. When every reactor sleeps there is none.
    pub fn overlooked(&self) -> Option<QueueId> {
        self.reactors.iter().find_map(Reactor::overlooked)
    }

    /// Whether somebody rang for the flusher since this was last asked.
    pub fn is_flush_wanted(&self) -> bool {
        self.hub.flush_bell.take()
    }

    /// The flusher's turn: syncs, and says how many reactors waited for that. More than 0: to be called again.
    pub fn flush(&mut self) -> usize {
        Doors::leave();
        self.flusher.step()
    }

    /// The timekeeper's turn; to be called every tick, and again while it says that there was something.
    pub fn keep_time(&mut self, now_ms: u64, budget: usize) -> usize {
        Doors::leave();
        self.timekeeper.step(now_ms, budget)
    }

    /// The log keeper's turn; to be called several times a second, and again while it says that there was something.
    pub fn keep_log(&mut self, now_ms: u64, budget: usize) -> usize {
        Doors::leave();
        self.keeper.step(now_ms, budget)
    }

    /// Begins a stop in good order.
    pub fn stop(&self) {
        self.hub.stop();
    }

    /// Whether it has stopped or failed and every connection of that reactor has ended: it is not stepped again.
    pub fn is_done(&self, reactor: usize) -> bool {
        self.reactors[reactor].is_done()
    }

    /// Why it stopped by itself, if it did.
    pub fn failure(&self) -> Option<ServeError> {
        self.hub.failure()
    }

    /// The last act of a stop in good order, when every reactor is done.
    ///
    /// # Errors
    /// [`ServeError`]: why it stopped by itself, or that the last sync failed.
    pub fn close(&self, now_ms: u64) -> Result<(), ServeError> {
        self.hub.close(now_ms)
    }
}

/// Has the engine tell the reactors when jobs become ready. The engine keeps the waker, so the waker must not
/// keep the engine.
fn set_waker(hub: &Hub) {
    let engine = Arc::downgrade(&hub.engine);
    let doors = hub.doors.clone();
    hub.engine.set_waker(Arc::new(move |queue: QueueId, bits, jobs| {
        if let Some(engine) = engine.upgrade() {
            doors.published(&engine, queue, bits, jobs);
        }
    }));
}
