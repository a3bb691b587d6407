//! The clients of a history: they speak the real protocol over whatever carries bytes, and do everything that a client
//! may do, and much that it should not.

mod choose;
mod compose;
mod drain;
mod link;
mod party;

use crate::actor::{Actor, Cast, Crash, Judge};
use crate::oracle::{Loss, Oracle};
use crate::plan::{PartyPlan, Plan, Role};
use crate::rng::Rng;
use crate::trace::Trace;
use ackring::engine::{Engine, RecoverySummary};
use link::Link;
use party::Party;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

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

/// Who judges: the oracle, and how far everybody is.
struct Bench {
    stage: Rc<Stage>,
    parties: Vec<Rc<RefCell<Party>>>,
}

/// All clients of a history, and its judge.
pub fn cast(plan: &Plan, dice: &mut Rng, trace: &Trace) -> Cast {
    let stage = Rc::new(Stage {
        oracle: Rc::new(RefCell::new(Oracle::new(plan, trace.clone()))),
        plan: plan.clone(),
        mood: Cell::new(Mood::Work),
        next_stamp: Cell::new(1),
        drained: Cell::new(false),
    });
    let mut parties = Vec::new();
    let mut actors: Vec<Box<dyn Actor>> = Vec::new();
    let drainer = PartyPlan {
        role: Role::Drainer,
        session: 1,
        links: 1,
        heartbeat_ms: 1_000,
        in_flight: 1,
        pause_ms: 0,
    };
    for plan in plan.parties.iter().chain([&drainer]) {
        let own = Rng::new(dice.next(), "party");
        let party = Rc::new(RefCell::new(Party::new(plan.clone(), stage.clone(), own)));
        for _ in 0..plan.links {
            let own = Rng::new(dice.next(), "link");
            actors.push(Box::new(Link::new(party.clone(), stage.clone(), own)));
        }
        parties.push(party);
    }
    Cast {
        actors,
        judge: Box::new(Bench { stage, parties }),
    }
}

impl Judge for Bench {
    fn crashed(&mut self, crash: Crash, now_ms: u64) {
        let mut oracle = self.stage.oracle.borrow_mut();
        oracle.clock(now_ms);
        oracle.ended(match crash {
            Crash::Stop => Loss::Orderly,
            Crash::Kill => Loss::Kill,
            Crash::Power | Crash::Failed => Loss::Power,
        });
    }

    fn recovered(&mut self, engine: &Engine, _summary: &RecoverySummary, now_ms: u64) {
        self.stage.oracle.borrow_mut().started(engine, now_ms);
    }

    fn settle(&mut self) {
        self.stage.mood.set(Mood::Finish);
    }

    fn is_settled(&self) -> bool {
        if self.stage.mood.get() == Mood::Finish
            && self.parties.iter().all(|party| party.borrow().is_finished())
        {
            self.stage.mood.set(Mood::Drain);
        }
        self.stage.drained.get()
    }

    fn what_is_open(&self, engine: Option<&Engine>) -> String {
        let mut text = format!("{:?}", self.stage.mood.get());
        for (number, party) in self.parties.iter().enumerate() {
            let party = party.borrow();
            if !party.is_finished() {
                text += &format!(
                    "; party {number}, {:?}: {}",
                    party.plan.role,
                    party.what_is_open()
                );
            }
        }
        for stats in engine
            .map(|engine| engine.queue_list("", 100))
            .unwrap_or_default()
        {
            text += &format!("; queue {}: {:?}", stats.name, stats.counts);
        }
        let segments = engine.map(Engine::segments).unwrap_or_default();
        text += &format!("; segments {segments:?}");
        text
    }

    fn finish(&mut self, engine: &Engine, now_ms: u64) {
        let mut oracle = self.stage.oracle.borrow_mut();
        oracle.clock(now_ms);
        oracle.finished(engine);
    }

    fn counts(&self) -> Vec<(&'static str, u64)> {
        self.stage.oracle.borrow().counts.listed()
    }
}
