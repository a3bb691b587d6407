//! One reactor: its network, its connections, and what they wait for.
//!
//! A turn is `doze`, `wait` and `step`: take the messages of other threads, run the connections that have something to
//! read, serve those who wait for jobs, and write what came of it, one write a connection. Nothing in a step
//! blocks. Which thread calls it, and when, is not the reactor's business.

mod load;
mod moves;
mod reception;
mod rounds;

use super::config::ServeError;
use super::conn::Connection;
use super::connections::Connections;
use super::desk::Desk;
use super::entrance::Entrance;
use super::hub::{Hub, Stage};
use super::net::{Net, NetStream, Ready};
use crate::base::code::{ErrorCode, Refusal};
use crate::engine::QueueId;
use load::Load;
use moves::Mover;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Time between two looks at the connections' own time limits, in milliseconds.
const SWEEP_MS: u64 = 250;
/// How long a stop may take to write answers to peers that do not read them, in milliseconds.
const STOP_MS: u64 = 5_000;

/// See the [module](self).
pub(super) struct Reactor<N: Net> {
    hub: Arc<Hub>,
    index: usize,
    net: N,
    /// Connections to take in, by reactor.
    entrances: Entrances<N::Stream>,
    /// When connections may be accepted; `None` until the network tells of some.
    accept_at_ms: Option<u64>,
    /// The reactor that gets the next connection.
    next_home: usize,
    turned_away: usize,
    connections: Connections<N::Stream>,
    desk: Desk,
    to_run: VecDeque<u32>,
    touched: Vec<u32>,
    holding: Vec<u32>,
    sweep_at_ms: u64,
    stage: Stage,
    end_at_ms: u64,
    load: Load,
    mover: Mover,
    /// When it last had something to do, in milliseconds since the Unix epoch.
    busy_at_ms: u64,
}

/// How connections come to the reactors, by their numbers.
pub(super) type Entrances<S> = Arc<[Entrance<S>]>;

impl<N: Net> Reactor<N> {
    /// Reactor number `index` of the hub.
    pub(super) fn new(hub: Arc<Hub>, index: usize, net: N, entrances: Entrances<N::Stream>) -> Self {
        Self {
            desk: Desk::new(hub.clone(), index),
            hub,
            index,
            net,
            entrances,
            accept_at_ms: None,
            next_home: 0,
            turned_away: 0,
            connections: Connections::default(),
            to_run: VecDeque::new(),
            touched: Vec::new(),
            holding: Vec::new(),
            sweep_at_ms: 0,
            stage: Stage::Serving,
            end_at_ms: u64::MAX,
            load: Load::default(),
            mover: Mover::default(),
            busy_at_ms: 0,
        }
    }

    /// Its number.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// Whether the server stops and every connection has ended.
    pub(super) fn is_done(&self) -> bool {
        self.stage != Stage::Serving && self.connections.is_empty() && self.entrances[self.index].close()
    }

    /// Prepares to wait: says how long it need not wake unless something happens. Whoever has a message for it
    /// wakes it from now on.
    pub(super) fn doze(&mut self, now_ms: u64) -> Duration {
        self.load.rest(now_ms);
        let idle = self.idle_time(now_ms);
        if !idle.is_zero() {
            self.hub.doors.of(self.index).doze();
            // Whoever rang before this found the reactor awake and did not call its wake.
            if self.has_messages() {
                return Duration::ZERO;
            }
        }
        idle
    }

    /// Does not prepare to wait: it will look at its messages at once, and need not be woken.
    pub(super) fn poll(&mut self, now_ms: u64) -> Duration {
        self.load.rest(now_ms);
        Duration::ZERO
    }

    /// Waits until there is something to do, at most for as long as [`doze`](Self::doze) said.
    ///
    /// # Errors
    /// What the network says; the reactor is of no more use then.
    pub(super) fn wait(&mut self, idle: Duration) -> io::Result<()> {
        self.net.wait((idle != Duration::MAX).then_some(idle))?;
        self.hub.doors.of(self.index).wake_up();
        let (connections, to_run, touched) = (&mut self.connections, &mut self.to_run, &mut self.touched);
        let accept_at_ms = &mut self.accept_at_ms;
        self.net.each_ready(|ready| match ready {
            Ready::Accept => *accept_at_ms = Some(0),
            Ready::Stream {
                number,
                readable,
                read_closed,
                writable,
            } => {
                if let Some(connection) = connections.get_mut(number) {
                    connection.ready(readable, read_closed, writable);
                    queue(to_run, connection);
                    touch(touched, connection);
                }
            }
        });
        Ok(())
    }

    /// Does what is to be done, about `budget` connections' worth; says how many it ran.
    pub(super) fn step(&mut self, now_ms: u64, budget: usize) -> usize {
        self.desk.now_ms = now_ms;
        self.load.go_on(now_ms);
        self.follow_stage();
        self.take_in();
        self.accept();
        let runs = self.to_run.len().min(budget);
        for _ in 0..runs {
            let Some(number) = self.to_run.pop_front() else {
                break;
            };
            self.run(number);
        }
        self.release_held();
        let ran = self.touched.len();
        self.serve();
        self.time_out();
        // Before the sweep, which touches all that rest.
        if !self.touched.is_empty() {
            self.busy_at_ms = now_ms;
        }
        if now_ms >= self.sweep_at_ms {
            self.sweep();
            self.sweep_at_ms = now_ms + SWEEP_MS;
        }
        self.flush(ran);
        self.ask_for_disk();
        self.balance();
        runs
    }

    /// Whether it may look again at once instead of preparing to wait: there are connections, and the last work is not
    /// longer ago than the configuration says.
    pub(super) fn may_poll(&self, now_ms: u64) -> bool {
        let poll_ms = u64::from(self.hub.config.busy_poll_ms);
        poll_ms > 0 && !self.connections.is_empty() && now_ms.saturating_sub(self.busy_at_ms) < poll_ms
    }

    /// How long nothing is to be done unless something happens.
    fn idle_time(&self, now_ms: u64) -> Duration {
        if !self.to_run.is_empty() || !self.touched.is_empty() || self.desk.waiters.has_todo() {
            return Duration::ZERO;
        }
        let sweep = (!self.connections.is_empty()).then_some(self.sweep_at_ms);
        [self.desk.waiters.next_deadline_ms(), self.accept_at_ms, sweep]
            .into_iter()
            .flatten()
            .min()
            .map_or(Duration::MAX, |at_ms| {
                Duration::from_millis(at_ms.saturating_sub(now_ms))
            })
    }

    /// Whether others have told it something that it has not looked at.
    pub(super) fn has_messages(&self) -> bool {
        let mailbox = self.hub.doors.of(self.index);
        let disk_is_further = !self.holding.is_empty() && !mailbox.disk.is_asked();
        let is_told = !mailbox.batons.is_empty() || !self.entrances[self.index].is_empty();
        is_told || disk_is_further || self.hub.stage() != self.stage
    }

    /// A queue that has ready jobs although somebody stands in line for them here.
    pub(super) fn overlooked(&self) -> Option<QueueId> {
        let has_jobs = |queue: &QueueId| {
            let stats = self.hub.engine.queue_stats(*queue);
            stats.is_ok_and(|stats| stats.counts.ready > 0 && !stats.paused)
        };
        self.desk.waiters.queues().find(has_jobs)
    }

    /// Begins to end when the server does.
    fn follow_stage(&mut self) {
        let stage = self.hub.stage();
        if stage == self.stage {
            return;
        }
        self.stage = stage;
        self.net.stop_listening();
        self.accept_at_ms = None;
        self.end_at_ms = self.end_at_ms.min(self.desk.now_ms + STOP_MS);
        (0..self.connections.end()).for_each(|number| self.dismiss(number));
    }

    /// Tells a connection that the server ends.
    fn dismiss(&mut self, number: u32) {
        let Some(connection) = self.connections.get_mut(number) else {
            return;
        };
        let refusal = match self.hub.failure() {
            Some(ServeError::Log(reason)) => Refusal::new(ErrorCode::LogPoisoned, reason),
            _ => Refusal::new(ErrorCode::ShuttingDown, "the server stops; connect again later"),
        };
        if self.stage == Stage::Failed {
            connection.peer.lose_held(&refusal);
        }
        connection.peer.dismiss(&refusal);
        self.desk.drop_waiters(&mut connection.peer);
        touch(&mut self.touched, connection);
    }

    fn run(&mut self, number: u32) {
        let Some(connection) = self.connections.get_mut(number) else {
            return;
        };
        connection.is_queued = false;
        if connection.wants_run() {
            connection.run(&mut self.desk);
            touch(&mut self.touched, connection);
        }
    }

    /// Wakes the flusher when answers wait for the disk.
    fn ask_for_disk(&self) {
        let mailbox = self.hub.doors.of(self.index);
        if !self.holding.is_empty() && mailbox.disk.ask() {
            self.hub.flush_bell.ring();
        }
    }
}

fn queue<S: NetStream>(to_run: &mut VecDeque<u32>, connection: &mut Connection<S>) {
    if !std::mem::replace(&mut connection.is_queued, true) {
        to_run.push_back(connection.peer.connection);
    }
}

fn touch<S: NetStream>(touched: &mut Vec<u32>, connection: &mut Connection<S>) {
    if !std::mem::replace(&mut connection.is_touched, true) {
        touched.push(connection.peer.connection);
    }
}
