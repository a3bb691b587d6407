//! One reactor: a poll, its connections, and what they wait for.
//!
//! A turn is `wait` and `step`: take the messages of other threads, run the connections that have something to
//! read, serve those who wait for jobs, and write what came of it, one write a connection. Nothing in a step
//! blocks. Which thread calls it, and when, is not the reactor's business.

use super::conn::Connection;
use super::connections::Connections;
use super::deliver::Offer;
use super::desk::Desk;
use super::hub::{Hub, Stage};
use super::listen::Listeners;
use super::stream::Stream;
use crate::base::code::{ErrorCode, Refusal};
use mio::{Events, Interest, Poll, Token, Waker};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What the poll calls the waker, the listeners, and the first connection.
const WAKER: Token = Token(0);
const LISTENERS: Token = Token(1);
const FIRST_CONNECTION: usize = 2;

/// Events taken from the poll in one turn.
const EVENTS_MAX: usize = 1_024;
/// Connections accepted in one turn.
const ACCEPTS_MAX: usize = 64;
/// Offers to waiters in one turn.
const OFFERS_MAX: usize = 256;
/// Connections at once that are told that there are too many; further ones are closed without a word.
const TURNED_AWAY_MAX: usize = 256;
/// Time between two looks at the connections' own time limits, in milliseconds.
const SWEEP_MS: u64 = 250;
/// Pause before connections are accepted again after the system had no room for one, in milliseconds.
const ACCEPT_PAUSE_MS: u64 = 100;
/// How long a peer that was sent its last answer may take to close, in milliseconds.
const LINGER_MS: u64 = 2_000;
/// The same while the server stops, in milliseconds.
const LINGER_STOPPING_MS: u64 = 200;
/// How long a stop may take to write answers to peers that do not read them, in milliseconds.
const STOP_MS: u64 = 5_000;

/// See the [module](self).
pub(super) struct Reactor {
    hub: Arc<Hub>,
    index: usize,
    poll: Poll,
    events: Events,
    listeners: Option<Listeners>,
    /// When connections may be accepted; `None` until the poll tells of some.
    accept_at_ms: Option<u64>,
    /// The reactor that gets the next connection.
    next_home: usize,
    turned_away: usize,
    connections: Connections,
    desk: Desk,
    to_run: VecDeque<u32>,
    touched: Vec<u32>,
    holding: Vec<u32>,
    sweep_at_ms: u64,
    stage: Stage,
    end_at_ms: u64,
}

impl Reactor {
    /// A poll, and the waker that ends its wait.
    pub(super) fn poll() -> io::Result<(Poll, Waker)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        Ok((poll, waker))
    }

    /// Reactor number `index` of the hub; only one of them has listeners.
    pub(super) fn new(
        hub: Arc<Hub>,
        index: usize,
        poll: Poll,
        mut listeners: Option<Listeners>,
    ) -> io::Result<Self> {
        if let Some(listeners) = &mut listeners {
            listeners.register(poll.registry(), LISTENERS)?;
        }
        Ok(Self {
            desk: Desk::new(hub.clone(), index),
            hub,
            index,
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            listeners,
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
        })
    }

    /// Its number.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// Whether the server stops and every connection has ended.
    pub(super) fn is_done(&self) -> bool {
        self.stage != Stage::Serving && self.connections.is_empty()
    }

    /// Waits until there is something to do, or at most `timeout`.
    ///
    /// # Errors
    /// What the system's poll says; the reactor is of no more use then.
    pub(super) fn wait(&mut self, now_ms: u64, timeout: Option<Duration>) -> io::Result<()> {
        let hub = self.hub.clone();
        let mailbox = hub.doors.of(self.index);
        let mut timeout = timeout.unwrap_or(Duration::MAX).min(self.idle_time(now_ms));
        if !timeout.is_zero() {
            mailbox.doze();
            // Whoever rang before this found the reactor awake and made no system call.
            if self.has_messages() {
                timeout = Duration::ZERO;
            }
        }
        let timeout = (timeout != Duration::MAX).then_some(timeout);
        if let Err(error) = self.poll.poll(&mut self.events, timeout)
            && error.kind() != io::ErrorKind::Interrupted
        {
            return Err(error);
        }
        mailbox.wake_up();
        let mut listeners_ready = false;
        for event in &self.events {
            match event.token() {
                WAKER => {}
                LISTENERS => listeners_ready = true,
                Token(token) => {
                    let number = (token - FIRST_CONNECTION) as u32;
                    if let Some(connection) = self.connections.get_mut(number) {
                        connection.ready(event.is_readable(), event.is_read_closed(), event.is_writable());
                        queue(&mut self.to_run, connection);
                        touch(&mut self.touched, connection);
                    }
                }
            }
        }
        if listeners_ready {
            self.accept_at_ms = Some(0);
        }
        Ok(())
    }

    /// Does what is to be done, about `budget` connections' worth; says how many it ran.
    pub(super) fn step(&mut self, now_ms: u64, budget: usize) -> usize {
        self.desk.now_ms = now_ms;
        self.follow_stage();
        self.adopt_all();
        self.accept();
        let runs = self.to_run.len().min(budget);
        for _ in 0..runs {
            let Some(number) = self.to_run.pop_front() else {
                break;
            };
            self.run(number);
        }
        self.release_held();
        self.serve();
        self.time_out();
        if now_ms >= self.sweep_at_ms {
            self.sweep();
            self.sweep_at_ms = now_ms + SWEEP_MS;
        }
        self.flush();
        self.ask_for_disk();
        runs
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

    fn has_messages(&self) -> bool {
        let mailbox = self.hub.doors.of(self.index);
        let disk_is_further = !self.holding.is_empty() && !mailbox.waits_for_disk.load(Ordering::Acquire);
        !mailbox.is_empty() || disk_is_further || self.hub.stage() != self.stage
    }

    /// Begins to end when the server does.
    fn follow_stage(&mut self) {
        let stage = self.hub.stage();
        if stage == self.stage {
            return;
        }
        self.stage = stage;
        self.listeners = None;
        self.accept_at_ms = None;
        self.end_at_ms = self.end_at_ms.min(self.desk.now_ms + STOP_MS);
        let refusal = match self.hub.engine.poisoned() {
            Some(reason) if stage == Stage::Failed => Refusal::new(ErrorCode::LogPoisoned, reason),
            _ => Refusal::new(ErrorCode::ShuttingDown, "the server stops; connect again later"),
        };
        for number in 0..self.connections.end() {
            if let Some(connection) = self.connections.get_mut(number) {
                if stage == Stage::Failed {
                    connection.peer.outbox.drop_held();
                }
                connection.peer.dismiss(&refusal);
                self.desk.drop_waiters(&mut connection.peer);
                touch(&mut self.touched, connection);
            }
        }
    }

    fn adopt_all(&mut self) {
        while let Some(stream) = self.hub.doors.of(self.index).streams.pop() {
            self.adopt(stream);
        }
    }

    fn accept(&mut self) {
        if self.accept_at_ms.is_none_or(|at_ms| at_ms > self.desk.now_ms) {
            return;
        }
        for _ in 0..ACCEPTS_MAX {
            let Some(listeners) = &self.listeners else { return };
            match listeners.accept() {
                Ok(Some(stream)) => self.place(stream),
                Ok(None) => {
                    self.accept_at_ms = None;
                    return;
                }
                Err(_) => {
                    // Out of file descriptors, most likely: those who wait stay in the system's queue.
                    self.accept_at_ms = Some(self.desk.now_ms + ACCEPT_PAUSE_MS);
                    return;
                }
            }
        }
    }

    /// Gives a new connection to the reactor whose turn it is.
    fn place(&mut self, stream: Stream) {
        if self.hub.connections.fetch_add(1, Ordering::Relaxed) >= self.hub.config.connections_max {
            self.hub.connections.fetch_sub(1, Ordering::Relaxed);
            return self.turn_away(stream);
        }
        let home = self.next_home;
        self.next_home = (home + 1) % self.hub.doors.all().len();
        if home == self.index {
            self.adopt(stream);
        } else {
            let mailbox = self.hub.doors.of(home);
            mailbox.streams.push(stream);
            mailbox.ring();
        }
    }

    fn turn_away(&mut self, stream: Stream) {
        if self.turned_away >= TURNED_AWAY_MAX {
            return;
        }
        if let Some(connection) = self.enter(stream) {
            connection.is_counted = false;
            let text = "the server has as many connections as it takes; try again later";
            connection
                .peer
                .dismiss(&Refusal::new(ErrorCode::TooManyConnections, text));
            self.turned_away += 1;
        }
    }

    fn adopt(&mut self, stream: Stream) {
        if self.stage != Stage::Serving || self.enter(stream).is_none() {
            self.hub.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Registers a connection; one that the system does not let register is closed.
    fn enter(&mut self, stream: Stream) -> Option<&mut Connection> {
        let now_ms = self.desk.now_ms;
        let number = self
            .connections
            .add(|number| Connection::new(stream, number, now_ms));
        let connection = self.connections.get_mut(number)?;
        let token = Token(FIRST_CONNECTION + number as usize);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if self
            .poll
            .registry()
            .register(&mut connection.stream, token, interest)
            .is_err()
        {
            self.connections.remove(number);
            return None;
        }
        let connection = self.connections.get_mut(number)?;
        queue(&mut self.to_run, connection);
        touch(&mut self.touched, connection);
        Some(connection)
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

    /// Sends on the answers that waited for the disk and need not any more.
    fn release_held(&mut self) {
        if self.holding.is_empty() {
            return;
        }
        let durable = self.hub.engine.durable();
        let (connections, touched) = (&mut self.connections, &mut self.touched);
        self.holding.retain(|number| {
            let Some(connection) = connections.get_mut(*number) else {
                return false;
            };
            if connection.peer.outbox.release(durable) {
                touch(touched, connection);
            }
            connection.is_holding = connection.peer.outbox.holds();
            connection.is_holding
        });
    }

    /// Serves those who wait for jobs, first come, first served.
    fn serve(&mut self) {
        while let Some(baton) = self.hub.doors.of(self.index).batons.pop() {
            self.desk.waiters.unannounce(baton.queue);
            self.desk.waiters.look_after(baton.queue, baton.others);
        }
        let mut offers = OFFERS_MAX;
        while let Some((queue, others)) = self.desk.waiters.next_todo() {
            loop {
                let Some(key) = self.desk.waiters.first(queue) else {
                    self.desk.leave_queue(queue, others);
                    break;
                };
                if offers == 0 {
                    self.desk.waiters.look_after(queue, others);
                    return;
                }
                offers -= 1;
                if self.offer(key) == Offer::Empty {
                    break;
                }
            }
        }
    }

    fn offer(&mut self, key: u64) -> Offer {
        let number = self.desk.waiters.get(key).map(|waiter| waiter.connection);
        match number.and_then(|number| self.connections.get_mut(number)) {
            Some(connection) => {
                touch(&mut self.touched, connection);
                self.desk.offer(&mut connection.peer, key)
            }
            None => unreachable!("a connection takes its waiters with it"),
        }
    }

    /// Answers the reserves whose time is over.
    fn time_out(&mut self) {
        while let Some(key) = self.desk.waiters.pop_due(self.desk.now_ms) {
            let number = self.desk.waiters.get(key).map(|waiter| waiter.connection);
            match number.and_then(|number| self.connections.get_mut(number)) {
                Some(connection) => {
                    self.desk.time_out(&mut connection.peer, key);
                    touch(&mut self.touched, connection);
                }
                None => unreachable!("a connection takes its waiters with it"),
            }
        }
    }

    /// Looks at every connection's time limits and windows.
    fn sweep(&mut self) {
        let over = self.desk.now_ms >= self.end_at_ms;
        for number in 0..self.connections.end() {
            if let Some(connection) = self.connections.get_mut(number) {
                connection.look_at_clock(&mut self.desk);
                if over {
                    connection.peer.stage = super::peer::Stage::Gone;
                }
                touch(&mut self.touched, connection);
            }
        }
    }

    /// Writes what the turn brought, and removes the connections that have ended.
    fn flush(&mut self) {
        let now_ms = self.desk.now_ms;
        let linger_ms = if self.stage == Stage::Serving {
            LINGER_MS
        } else {
            LINGER_STOPPING_MS
        };
        let touched = std::mem::take(&mut self.touched);
        for number in &touched {
            let Some(connection) = self.connections.get_mut(*number) else {
                continue;
            };
            connection.is_touched = false;
            let was_full = connection.peer.outbox.is_full();
            connection.flush(now_ms, linger_ms);
            if was_full {
                self.desk.line_up_again(&mut connection.peer);
            }
            if connection.peer.outbox.holds() && !connection.is_holding {
                connection.is_holding = true;
                self.holding.push(*number);
            }
            if connection.wants_run() {
                queue(&mut self.to_run, connection);
            }
            if connection.peer.stage == super::peer::Stage::Gone {
                self.close(*number);
            }
        }
        // Nothing was touched meanwhile; the memory is used again.
        self.touched = touched;
        self.touched.clear();
    }

    fn close(&mut self, number: u32) {
        let Some(mut connection) = self.connections.remove(number) else {
            return;
        };
        // Closing takes it out of the poll as well, so an error here changes nothing.
        let _ = self.poll.registry().deregister(&mut connection.stream);
        self.desk.forsake(&mut connection.peer);
        if connection.is_counted {
            self.hub.connections.fetch_sub(1, Ordering::Relaxed);
        } else {
            self.turned_away -= 1;
        }
    }

    /// Wakes the flusher when answers wait for the disk.
    fn ask_for_disk(&self) {
        let mailbox = self.hub.doors.of(self.index);
        if !self.holding.is_empty() && !mailbox.waits_for_disk.swap(true, Ordering::AcqRel) {
            self.hub.flush_bell.ring();
        }
    }
}

fn queue(to_run: &mut VecDeque<u32>, connection: &mut Connection) {
    if !std::mem::replace(&mut connection.is_queued, true) {
        to_run.push_back(connection.peer.connection);
    }
}

fn touch(touched: &mut Vec<u32>, connection: &mut Connection) {
    if !std::mem::replace(&mut connection.is_touched, true) {
        touched.push(connection.peer.connection);
    }
}
