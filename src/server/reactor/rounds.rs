//! The rounds of a turn: those who wait for the disk, for jobs, for the clock; and the writing.

use super::super::deliver::Offer;
use super::super::hub::Stage;
use super::super::net::Net;
use super::super::peer;
use super::{Reactor, queue, touch};
use std::sync::atomic::Ordering;

/// Offers to waiters in one turn.
const OFFERS_MAX: usize = 256;
/// How long a peer that was sent its last answer may take to close, in milliseconds.
const LINGER_MS: u64 = 2_000;
/// The same while the server stops, in milliseconds.
const LINGER_STOPPING_MS: u64 = 200;

impl<N: Net> Reactor<N> {
    /// Sends on the answers that waited for the disk and need not any more.
    pub(super) fn release_held(&mut self) {
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
    pub(super) fn serve(&mut self) {
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
    pub(super) fn time_out(&mut self) {
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
    pub(super) fn sweep(&mut self) {
        let over = self.desk.now_ms >= self.end_at_ms;
        for number in 0..self.connections.end() {
            if let Some(connection) = self.connections.get_mut(number) {
                connection.look_at_clock(&mut self.desk);
                if over {
                    connection.peer.stage = peer::Stage::Gone;
                }
                touch(&mut self.touched, connection);
            }
        }
    }

    /// Writes what the turn brought, and removes the connections that have ended. First to those that were touched after
    /// the first `ran`, who waited for jobs: a job is delivered before its enqueue is confirmed, as the one
    /// who gets it has to do something with it.
    pub(super) fn flush(&mut self, ran: usize) {
        let now_ms = self.desk.now_ms;
        let linger_ms = if self.stage == Stage::Serving {
            LINGER_MS
        } else {
            LINGER_STOPPING_MS
        };
        let touched = std::mem::take(&mut self.touched);
        let (ran, served) = touched.split_at(ran.min(touched.len()));
        for number in served.iter().chain(ran) {
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
            if connection.peer.stage == peer::Stage::Gone {
                self.close(*number);
            }
        }
        // Nothing was touched meanwhile; the memory is used again.
        self.touched = touched;
        self.touched.clear();
    }

    pub(super) fn close(&mut self, number: u32) {
        let Some(mut connection) = self.connections.remove(number) else {
            return;
        };
        self.net.forget(&mut connection.stream);
        connection.forget_bytes(&self.hub);
        self.desk.forsake(&mut connection.peer);
        if connection.is_counted {
            self.hub.connections.fetch_sub(1, Ordering::Relaxed);
        } else {
            self.turned_away -= 1;
        }
    }
}
