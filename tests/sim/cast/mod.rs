//! The clients of a history: they speak the real protocol over whatever carries bytes, and do everything that a client
//! may do, and much that it should not.

mod choose;
mod compose;
mod drain;
mod link;
mod party;

use crate::rng::Rng;
use crate::oracle::Oracle;
use crate::plan::{PartyPlan, Plan, Role};
use link::Link;
use party::Party;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Somebody at the other end of a connection. It has at most one at a time.
pub trait Actor {
    fn connected(&mut self, now_ms: u64);
    fn receive(&mut self, bytes: &[u8], now_ms: u64);
    /// What it wants to send now.
    fn output(&mut self, now_ms: u64) -> Vec<u8>;
    fn disconnected(&mut self, now_ms: u64);
    /// Whether it wants to be connected: made so, or cut off.
    fn wants_connection(&self) -> bool;
}

/// What everybody is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Make requests.
    Work,
    /// Make no more, and get answers to those that are open.
    Finish,
    /// Only the drainer works.
    Drain,
}

/// What the whole cast shares.
pub struct Stage {
    pub oracle: Rc<RefCell<Oracle>>,
    pub plan: Plan,
    pub mood: Cell<Mood>,
    pub next_stamp: Cell<u64>,
    pub drained: Cell<bool>,
}

/// All clients of a history.
pub struct Cast {
    pub oracle: Rc<RefCell<Oracle>>,
    pub actors: Vec<Box<dyn Actor>>,
    stage: Rc<Stage>,
    parties: Vec<Rc<RefCell<Party>>>,
}

impl Cast {
    pub fn new(plan: &Plan, dice: &mut Rng) -> Self {
        let stage = Rc::new(Stage {
            oracle: Rc::new(RefCell::new(Oracle::new(plan))),
            plan: plan.clone(),
            mood: Cell::new(Mood::Work),
            next_stamp: Cell::new(1),
            drained: Cell::new(false),
        });
        let mut parties = Vec::new();
        let mut actors: Vec<Box<dyn Actor>> = Vec::new();
        let drainer = PartyPlan {
            role: Role::Drainer,
            session: 0,
            links: 1,
            heartbeat_ms: 0,
            in_flight: 1,
            pause_ms: 0,
            requests: u32::MAX,
        };
        for plan in plan.parties.iter().chain([&drainer]) {
            let party = Rc::new(RefCell::new(Party::new(plan.clone(), stage.clone(), Rng::new(dice.next(), "client"))));
            for _ in 0..plan.links {
                actors.push(Box::new(Link::new(party.clone(), stage.clone(), Rng::new(dice.next(), "client"))));
            }
            parties.push(party);
        }
        Self {
            oracle: stage.oracle.clone(),
            actors,
            stage,
            parties,
        }
    }

    /// Whether everybody has made all requests that they were to make.
    pub fn is_worked(&self) -> bool {
        self.workers().all(|party| party.borrow().is_worked())
    }

    /// From now on open requests are only finished.
    pub fn finish(&self) {
        self.stage.mood.set(Mood::Finish);
    }

    /// Whether no request is open.
    pub fn is_finished(&self) -> bool {
        self.workers().all(|party| party.borrow().is_finished())
    }

    /// From now on the drainer takes out everything that is there; the others hang up.
    pub fn drain(&self) {
        self.stage.mood.set(Mood::Drain);
    }

    /// Whether it is done.
    pub fn is_drained(&self) -> bool {
        self.stage.drained.get()
    }

    fn workers(&self) -> impl Iterator<Item = &Rc<RefCell<Party>>> {
        self.parties
            .iter()
            .filter(|party| party.borrow().plan.role != Role::Drainer)
    }
}
