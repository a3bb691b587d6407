//! One reactor: a poll, its connections, and what they wait for.
//!
//! A turn is `wait` and `step`: take the messages of other threads, run the connections that have something to
//! read, serve those who wait for jobs, and write what came of it, one write a connection. Nothing in a step
//! blocks. Which thread calls it, and when, is not the reactor's business.

mod reception;
mod rounds;

use super::config::ServeError;
use super::conn::Connection;
use super::connections::Connections;
use super::desk::Desk;
use super::hub::{Hub, Stage};
use super::listen::Listeners;
use crate::base::code::{ErrorCode, Refusal};
use mio::{Events, Poll, Token, Waker};
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
/// Time between two looks at the connections' own time limits, in milliseconds.
const SWEEP_MS: u64 = 250;
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
        let refusal = match self.hub.failure() {
            Some(ServeError::Log(reason)) => Refusal::new(ErrorCode::LogPoisoned, reason),
            _ => Refusal::new(ErrorCode::ShuttingDown, "the server stops; connect again later"),
        };
        for number in 0..self.connections.end() {
            if let Some(connection) = self.connections.get_mut(number) {
                if stage == Stage::Failed {
                    connection.peer.lose_held(&refusal);
                }
                connection.peer.dismiss(&refusal);
                self.desk.drop_waiters(&mut connection.peer);
                touch(&mut self.touched, connection);
            }
        }
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
