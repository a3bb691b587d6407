//! A session: its numbers, its open requests, the deliveries that its connections hold.

use super::Stage;
use crate::oracle::{ConnRef, RequestRef};
use crate::plan::PartyPlan;
use crate::rng::Rng;
use ackring::{Token, limits};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// A request that is not answered, or was and may be sent again to see what happens.
#[derive(Debug, Clone)]
pub struct Pending {
    pub request: RequestRef,
    pub number: u64,
    /// As composed; handles and correlation are put in when it is sent.
    pub frame: Vec<u8>,
    /// The queues it names, in order.
    pub queues: Vec<usize>,
    /// Where it is under way.
    pub on: Option<ConnRef>,
    pub retry_ms: u64,
    /// It is answered only where something of it was not applied. So it cannot be sent again on another connection.
    pub is_quiet: bool,
}

/// A delivery that a worker works on.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    pub token: Token,
    pub act_ms: u64,
}

/// Answered requests that are kept to be sent again.
const ANSWERED_MAX: usize = 8;

pub struct Party {
    pub plan: PartyPlan,
    pub stage: Rc<Stage>,
    pub dice: Rng,
    pub next_number: u64,
    pub pending: BTreeMap<u64, Pending>,
    pub answered: VecDeque<Pending>,
    pub held: Vec<Held>,
    /// Tokens that it has settled or lost, to be used once more.
    pub stale: VecDeque<Token>,
    next_key: u64,
}

impl Party {
    pub fn new(plan: PartyPlan, stage: Rc<Stage>, dice: Rng) -> Self {
        Self {
            plan,
            stage,
            dice,
            next_number: 1,
            pending: BTreeMap::new(),
            answered: VecDeque::new(),
            held: Vec::new(),
            stale: VecDeque::new(),
            next_key: 0,
        }
    }

    pub fn is_numbered(&self) -> bool {
        self.plan.session != 0
    }

    pub fn is_finished(&self) -> bool {
        self.pending.is_empty()
    }

    /// Its open requests, for people.
    pub fn what_is_open(&self) -> String {
        let open = self.pending.values();
        let text = |one: &Pending| {
            format!(
                "request {} for queues {:?} on {:?}, again at {}",
                one.request, one.queues, one.on, one.retry_ms
            )
        };
        open.map(text).collect::<Vec<_>>().join(", ")
    }

    /// The number of the next request; 0 without a session.
    pub fn number(&mut self) -> u64 {
        if !self.is_numbered() {
            return 0;
        }
        if self.pending.is_empty() && self.dice.per_mille(20) {
            // Numbers may be left out, so the window may move by a lot.
            self.next_number += self.dice.below(limits::SESSION_WINDOW + 5);
        }
        self.next_number += 1;
        self.next_number - 1
    }

    /// Whether another number would push an open one out of the window.
    pub fn is_window_full(&self) -> bool {
        let oldest = self.pending.values().map(|pending| pending.number).min();
        oldest.is_some_and(|oldest| self.next_number >= oldest + limits::SESSION_WINDOW)
    }

    /// Adds an open request; says under which key.
    pub fn open(&mut self, pending: Pending) -> u64 {
        self.next_key += 1;
        self.pending.insert(self.next_key, pending);
        self.next_key
    }

    /// A request is answered for good.
    pub fn close(&mut self, key: u64, is_repeatable: bool) {
        let Some(pending) = self.pending.remove(&key) else {
            return;
        };
        if is_repeatable && self.is_numbered() {
            self.answered.push_back(pending);
            if self.answered.len() > ANSWERED_MAX {
                self.answered.pop_front();
            }
        }
    }

    /// A connection ended.
    pub fn lost(&mut self, conn: ConnRef) {
        let numbered = self.is_numbered();
        let oracle = self.stage.oracle.clone();
        self.pending.retain(|_, pending| {
            if pending.on != Some(conn) {
                return true;
            }
            pending.on = None;
            let is_resent = numbered && !pending.is_quiet;
            if !is_resent {
                oracle.borrow_mut().abandoned(pending.request);
            }
            is_resent
        });
    }

    /// The queue cannot be made again: nobody sends once more what names it, and what was sent may have been applied.
    pub fn give_up(&mut self, queue: usize) {
        let oracle = self.stage.oracle.clone();
        self.pending.retain(|_, pending| {
            let is_idle = pending.on.is_none() && pending.queues.contains(&queue);
            if is_idle {
                oracle.borrow_mut().abandoned(pending.request);
            }
            !is_idle
        });
    }

    /// The server has forgotten the session: nobody knows what became of what was sent.
    pub fn forgotten(&mut self) {
        for pending in self.pending.values() {
            self.stage.oracle.borrow_mut().abandoned(pending.request);
        }
        self.pending.clear();
        self.answered.clear();
    }

    /// Deliveries whose time has come, at most so many.
    pub fn due(&mut self, now_ms: u64, max: usize) -> Vec<Held> {
        let mut due = Vec::new();
        self.held.retain(|held| {
            let is_due = held.act_ms <= now_ms && due.len() < max;
            if is_due {
                due.push(*held);
            }
            !is_due
        });
        due
    }
}
