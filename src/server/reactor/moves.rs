//! Connections that change their reactor. While one reactor does all the work at its ease, it has all connections: then
//! a job that one peer enqueues and another waits for wakes no second thread. A reactor that gets no rest gives half of
//! the connections that keep it busy to the one with the least to do; those that came to rest give theirs back.

use super::super::conn::Connection;
use super::super::entrance::Moved;
use super::super::hub::Stage;
use super::super::net::{Net, NetStream};
use super::{Reactor, load, queue, touch};
use std::sync::atomic::Ordering;

/// A reactor that is busy for so much of its time gives connections away, in percent.
const FULL: u64 = 85;
/// One that is busy for less than this takes some, in percent.
const ROOMY: u64 = 50;
/// Two that together are busy for less than this work as one, in percent.
const SPARSE: u64 = 50;
/// Windows in a row that have to speak for a move.
const PATIENCE: u32 = 5;
/// Connections that move at a time.
const MOVES_MAX: usize = 1_024;

/// When connections move.
#[derive(Debug, Default)]
pub(super) struct Mover {
    /// Windows in a row that spoke for a move.
    windows: u32,
}

/// What would be better for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Move {
    /// As it is.
    None,
    /// Half of the active connections go there.
    Half(usize),
    /// All go there.
    All(usize),
}

/// What a reactor does about loads as these.
fn next_move(own: usize, loads: &[u64]) -> Move {
    let to = least(loads);
    if loads[own] >= FULL && loads[to] < ROOMY {
        Move::Half(to)
    } else if own > 0 && loads[own] + loads[0] < SPARSE {
        Move::All(0)
    } else {
        Move::None
    }
}

/// Where a new connection goes: to the one with the least to do, unless that one would give it to the first anyway.
fn home(loads: &[u64]) -> usize {
    let least = least(loads);
    if loads[least] + loads[0] < SPARSE {
        0
    } else {
        least
    }
}

fn least(loads: &[u64]) -> usize {
    (0..loads.len())
        .min_by_key(|reactor| loads[*reactor])
        .unwrap_or(0)
}

impl<N: Net> Reactor<N> {
    /// Once in a window: tells its load, and gives connections away if that is better for all.
    pub(super) fn balance(&mut self) {
        let now_ms = self.desk.now_ms;
        let Some((busy, since_ms)) = self.load.take(now_ms) else {
            return;
        };
        // Relaxed: a hint.
        let own = &self.hub.doors.of(self.index).load;
        own.store(load::told(busy, now_ms), Ordering::Relaxed);
        if !self.hub.config.is_gathered() || self.stage != Stage::Serving {
            return;
        }
        match next_move(self.index, &self.loads()) {
            Move::None => self.mover.windows = 0,
            _ if self.mover.windows < PATIENCE => self.mover.windows += 1,
            Move::Half(to) => {
                self.hand_half(to, since_ms);
            }
            Move::All(to) => {
                self.hand_over(to, |_| true);
            }
        }
    }

    /// The reactor for a new connection.
    pub(super) fn home(&self) -> usize {
        home(&self.loads())
    }

    /// The loads of all reactors, in percent.
    fn loads(&self) -> Vec<u64> {
        let words = self.hub.doors.all().iter();
        words
            .map(|mailbox| load::heard(mailbox.load.load(Ordering::Relaxed), self.desk.now_ms))
            .collect()
    }

    /// Gives every other connection that has sent something since then to another reactor; says how many those are.
    pub(in crate::server) fn hand_half(&mut self, to: usize, since_ms: u64) -> usize {
        let mut place = 0;
        self.hand_over(to, |connection| {
            let is_active = connection.heard_ms() >= since_ms;
            place += usize::from(is_active);
            is_active && place % 2 == 0
        })
    }

    /// Gives connections to another reactor.
    fn hand_over(&mut self, to: usize, mut is_meant: impl FnMut(&Connection<N::Stream>) -> bool) -> usize {
        self.mover.windows = 0;
        let meant: Vec<u32> = (0..self.connections.end())
            .filter(|number| {
                let connection = self.connections.get_mut(*number);
                connection.is_some_and(|connection| connection.may_move() && is_meant(connection))
            })
            .take(MOVES_MAX)
            .collect();
        if meant.is_empty() || to == self.index {
            return 0;
        }
        let entrances = self.entrances.clone();
        let moved = entrances[to].hand(|| meant.iter().filter_map(|number| self.pack(*number)).collect());
        if moved > 0 {
            self.hub.doors.of(to).ring();
        }
        moved
    }

    /// Takes a connection out, with those who wait on it. Whoever tells this reactor of jobs for them meanwhile finds
    /// that nobody waits here, and is sent on; they look for jobs themselves where they arrive.
    fn pack(&mut self, number: u32) -> Option<Moved<N::Stream>> {
        let mut connection = *self.connections.remove(number)?;
        self.net.forget(&mut connection.stream);
        self.to_run.retain(|queued| *queued != number);
        self.touched.retain(|touched| *touched != number);
        self.holding.retain(|holding| *holding != number);
        (connection.is_queued, connection.is_touched, connection.is_holding) = (false, false, false);
        let (reserves, subscriptions) = self.desk.pack(&connection.peer);
        Some(Moved {
            connection,
            reserves,
            subscriptions,
        })
    }

    /// Takes in a connection that another reactor gave.
    pub(super) fn unpack(&mut self, moved: Moved<N::Stream>) {
        let Moved {
            mut connection,
            reserves,
            subscriptions,
        } = moved;
        let number = self.connections.add(|number| {
            connection.peer.connection = number;
            connection
        });
        let Some(connection) = self.connections.get_mut(number) else {
            return;
        };
        self.desk.unpack(&mut connection.peer, reserves, subscriptions);
        if self.net.watch(&mut connection.stream, number).is_err() {
            // The system has no room for it: as if it broke.
            return self.close(number);
        }
        queue(&mut self.to_run, connection);
        touch(&mut self.touched, connection);
        if self.stage != Stage::Serving {
            self.dismiss(number);
        }
    }
}

impl<S: NetStream> Connection<S> {
    /// Whether another reactor may have it: it is served, and counts.
    fn may_move(&self) -> bool {
        self.peer.is_served() && self.is_counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_reactor_works_while_it_has_time_and_hands_on_when_it_has_none() {
        assert_eq!(next_move(0, &[84, 0]), Move::None);
        assert_eq!(next_move(0, &[85, 30, 10]), Move::Half(2));
        assert_eq!(next_move(0, &[99, 60]), Move::None);
        assert_eq!(next_move(1, &[45, 45]), Move::None);
        assert_eq!(next_move(1, &[30, 19]), Move::All(0));
        assert_eq!(next_move(0, &[30, 19]), Move::None);
        assert_eq!(least(&[0, 0, 0]), 0);
    }

    #[test]
    fn a_new_connection_goes_where_it_may_stay() {
        assert_eq!(home(&[49, 0]), 0);
        assert_eq!(home(&[50, 0]), 1);
        assert_eq!(home(&[60, 30, 20]), 2);
    }
}
