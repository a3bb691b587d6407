//! Who waits for jobs on one reactor: reserves that wait and subscriptions, in the order in which they came.
//!
//! A waiter that could take a job now stands in line at each of its queues; one whose window or outbox is full is
//! parked. Served first come, first served at each queue; a subscription that was served goes to the end.

use super::numbers::{NumberMap, NumberSet};
use crate::engine::{QueueId, RequestId};
use crate::wire::Reply;
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The queues of one waiter; most have one.
pub(super) type Queues = SmallVec<[QueueId; 4]>;

/// What a waiter wants.
#[derive(Debug, Clone)]
pub(super) enum Want {
    /// The answer to a RESERVE.
    Reserve {
        reply: Reply,
        request: RequestId,
        max_jobs: u32,
        max_bytes: u32,
        lease_ms: u32,
        /// When it is answered without a job, in milliseconds since the Unix epoch.
        deadline_ms: u64,
    },
    /// A push to the connection's subscription of that number.
    Subscription(u32),
}

/// Somebody who waits.
#[derive(Debug, Clone)]
pub(super) struct Waiter {
    /// The connection's number in the reactor.
    pub(super) connection: u32,
    pub(super) want: Want,
    pub(super) queues: Queues,
}

#[derive(Debug)]
struct Entry {
    waiter: Waiter,
    /// Its place in the lines; `None` while parked.
    place: Option<u64>,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Waiters {
    entries: NumberMap<u64, Entry>,
    /// Keys by queue and place.
    lines: BTreeMap<(QueueId, u64), u64>,
    deadlines: BTreeSet<(u64, u64)>,
    /// Next key or place.
    next: u64,
    /// Queues to look after, and for each who else may be told of it.
    todo: VecDeque<QueueId>,
    todo_others: NumberMap<QueueId, u64>,
    /// Queues at which this reactor has announced itself and of which it has not heard since.
    announced: NumberSet<QueueId>,
}

impl Waiters {
    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Adds a waiter, in line.
    pub(super) fn add(&mut self, waiter: Waiter) -> u64 {
        let key = self.fresh();
        if let Want::Reserve { deadline_ms, .. } = waiter.want {
            self.deadlines.insert((deadline_ms, key));
        }
        self.entries.insert(key, Entry { waiter, place: None });
        self.line_up(key);
        key
    }

    /// The waiter of that key.
    pub(super) fn get(&self, key: u64) -> Option<&Waiter> {
        self.entries.get(&key).map(|entry| &entry.waiter)
    }

    /// Removes a waiter.
    pub(super) fn remove(&mut self, key: u64) -> Option<Waiter> {
        self.park(key);
        let entry = self.entries.remove(&key)?;
        if let Want::Reserve { deadline_ms, .. } = entry.waiter.want {
            self.deadlines.remove(&(deadline_ms, key));
        }
        Some(entry.waiter)
    }

    /// Puts a waiter at the end of the lines; says whether it stood aside before.
    pub(super) fn line_up(&mut self, key: u64) -> bool {
        let was_parked = !self.park(key);
        let place = self.fresh();
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.place = Some(place);
            for queue in &entry.waiter.queues {
                self.lines.insert((*queue, place), key);
            }
        }
        was_parked
    }

    /// Takes a waiter out of the lines; says whether it stood in them.
    pub(super) fn park(&mut self, key: u64) -> bool {
        let Some(entry) = self.entries.get_mut(&key) else {
            return false;
        };
        let Some(place) = entry.place.take() else {
            return false;
        };
        for queue in &entry.waiter.queues {
            self.lines.remove(&(*queue, place));
        }
        true
    }

    /// Whether a waiter stands aside.
    pub(super) fn is_parked(&self, key: u64) -> bool {
        self.entries.get(&key).is_some_and(|entry| entry.place.is_none())
    }

    /// Who is first in line at a queue.
    pub(super) fn first(&self, queue: QueueId) -> Option<u64> {
        let ((found, _), key) = self.lines.range((queue, 0)..).next()?;
        (*found == queue).then_some(*key)
    }

    /// Takes the key of a reserve whose time is over.
    pub(super) fn pop_due(&mut self, now_ms: u64) -> Option<u64> {
        let (deadline_ms, key) = *self.deadlines.first()?;
        (deadline_ms <= now_ms).then_some(key)
    }

    /// When the next reserve's time is over.
    pub(super) fn next_deadline_ms(&self) -> Option<u64> {
        self.deadlines.first().map(|(deadline_ms, _)| *deadline_ms)
    }

    /// The queues at which somebody stands in line.
    pub(super) fn queues(&self) -> impl Iterator<Item = QueueId> + '_ {
        let mut last = None;
        let lines = self.lines.keys().map(|(queue, _)| *queue);
        lines.filter(move |queue| last.replace(*queue) != Some(*queue))
    }

    /// Has a queue looked after, and those in `others` told if this reactor leaves jobs behind.
    pub(super) fn look_after(&mut self, queue: QueueId, others: u64) {
        match self.todo_others.get_mut(&queue) {
            Some(known) => *known |= others,
            None => {
                self.todo_others.insert(queue, others);
                self.todo.push_back(queue);
            }
        }
    }

    /// The next queue to look after.
    pub(super) fn next_todo(&mut self) -> Option<(QueueId, u64)> {
        let queue = self.todo.pop_front()?;
        Some((queue, self.todo_others.remove(&queue).unwrap_or(0)))
    }

    /// Whether a queue is to be looked after.
    pub(super) fn has_todo(&self) -> bool {
        !self.todo.is_empty()
    }

    /// Notes an announcement; says whether it has to be made.
    pub(super) fn announce(&mut self, queue: QueueId) -> bool {
        self.announced.insert(queue)
    }

    /// Notes that the announcement is void: taken back, or answered by a baton. Says whether there was one.
    pub(super) fn unannounce(&mut self, queue: QueueId) -> bool {
        self.announced.remove(&queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: QueueId = QueueId(1);
    const B: QueueId = QueueId(2);

    fn subscription(queues: &[QueueId]) -> Waiter {
        Waiter {
            connection: 0,
            want: Want::Subscription(1),
            queues: Queues::from_slice(queues),
        }
    }

    #[test]
    fn first_come_first_served_at_each_queue() {
        let mut waiters = Waiters::default();
        let one = waiters.add(subscription(&[A, B]));
        let two = waiters.add(subscription(&[B]));
        assert_eq!((waiters.first(A), waiters.first(B)), (Some(one), Some(one)));
        waiters.line_up(one);
        assert_eq!((waiters.first(A), waiters.first(B)), (Some(one), Some(two)));
        waiters.remove(one);
        assert_eq!((waiters.first(A), waiters.first(B)), (None, Some(two)));
    }

    #[test]
    fn a_parked_waiter_is_passed_over_until_it_lines_up_again() {
        let mut waiters = Waiters::default();
        let one = waiters.add(subscription(&[A]));
        assert!(waiters.park(one) && waiters.is_parked(one));
        assert_eq!(waiters.first(A), None);
        assert!(waiters.line_up(one));
        assert!(!waiters.line_up(one));
        assert_eq!(waiters.first(A), Some(one));
    }

    #[test]
    fn a_queue_is_looked_after_once_for_many_wakes() {
        let mut waiters = Waiters::default();
        waiters.look_after(A, 1);
        waiters.look_after(A, 4);
        assert_eq!(waiters.next_todo(), Some((A, 5)));
        assert_eq!(waiters.next_todo(), None);
    }
}
