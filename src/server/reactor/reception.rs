//! How connections come in: accepted by the one reactor that has the listeners, given to one that has time
//! or to all in turn; and from one reactor to another.

use super::super::conn::Connection;
use super::super::hub::Stage;
use super::super::net::Net;
use super::{Reactor, queue, touch};
use crate::base::code::{ErrorCode, Refusal};
use std::sync::atomic::Ordering;

/// Connections accepted in one turn.
const ACCEPTS_MAX: usize = 64;
/// Connections at once that are told that there are too many; further ones are closed without a word.
const TURNED_AWAY_MAX: usize = 256;
/// Pause before connections are accepted again after the system had no room for one, in milliseconds.
const ACCEPT_PAUSE_MS: u64 = 100;

impl<N: Net> Reactor<N> {
    /// Takes in the connections that were given to this reactor.
    pub(super) fn take_in(&mut self) {
        while let Some(stream) = self.entrances[self.index].fresh.pop() {
            self.adopt(stream);
        }
        for moved in self.entrances[self.index].take_moved() {
            self.unpack(moved);
        }
    }

    /// Accepts connections, if some wait.
    pub(super) fn accept(&mut self) {
        if self.accept_at_ms.is_none_or(|at_ms| at_ms > self.desk.now_ms) {
            return;
        }
        for _ in 0..ACCEPTS_MAX {
            match self.net.accept() {
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

    /// Gives a new connection to the reactor that has time for it, or whose turn it is.
    fn place(&mut self, stream: N::Stream) {
        if self.hub.connections.fetch_add(1, Ordering::Relaxed) >= self.hub.config.connections_max {
            self.hub.connections.fetch_sub(1, Ordering::Relaxed);
            return self.turn_away(stream);
        }
        let home = if self.hub.config.is_gathered() {
            self.home()
        } else {
            let home = self.next_home;
            self.next_home = (home + 1) % self.hub.doors.all().len();
            home
        };
        if home == self.index {
            self.adopt(stream);
        } else {
            self.entrances[home].fresh.push(stream);
            self.hub.doors.of(home).ring();
        }
    }

    fn turn_away(&mut self, stream: N::Stream) {
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

    fn adopt(&mut self, stream: N::Stream) {
        if self.stage != Stage::Serving || self.enter(stream).is_none() {
            self.hub.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Registers a connection; one that the system does not let register is closed.
    fn enter(&mut self, stream: N::Stream) -> Option<&mut Connection<N::Stream>> {
        let now_ms = self.desk.now_ms;
        let number = self
            .connections
            .add(|number| Connection::new(stream, number, now_ms));
        let connection = self.connections.get_mut(number)?;
        if self.net.watch(&mut connection.stream, number).is_err() {
            self.connections.remove(number);
            return None;
        }
        let connection = self.connections.get_mut(number)?;
        queue(&mut self.to_run, connection);
        touch(&mut self.touched, connection);
        Some(connection)
    }
}
