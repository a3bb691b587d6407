//! How connections come in: accepted by the one reactor that has the listeners, given to all in turn.

use super::super::conn::Connection;
use super::super::hub::Stage;
use super::super::stream::Stream;
use super::{FIRST_CONNECTION, Reactor, queue, touch};
use crate::base::code::{ErrorCode, Refusal};
use mio::{Interest, Token};
use std::sync::atomic::Ordering;

/// Connections accepted in one turn.
const ACCEPTS_MAX: usize = 64;
/// Connections at once that are told that there are too many; further ones are closed without a word.
const TURNED_AWAY_MAX: usize = 256;
/// Pause before connections are accepted again after the system had no room for one, in milliseconds.
const ACCEPT_PAUSE_MS: u64 = 100;

impl Reactor {
    /// Takes in the connections that were given to this reactor.
    pub(super) fn adopt_all(&mut self) {
        while let Some(stream) = self.hub.doors.of(self.index).streams.pop() {
            self.adopt(stream);
        }
    }

    /// Accepts connections, if some wait.
    pub(super) fn accept(&mut self) {
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
}
