//! Who is woken when jobs become ready.
//!
//! A reactor with waiters announces itself at the queue (a bit in the queue's mask), looks a last time, and
//! sleeps. Whoever publishes jobs finds the mask, takes bits out of it and hands a *baton* for the queue to their
//! reactors: to as many as there are jobs, and first to its own reactor, which costs no system call. The first
//! baton names those who were not woken. A reactor that is done with a queue and has not found it empty passes the
//! baton on, so no job lies while somebody waits for it, and nobody is woken for nothing to find.

use super::mailbox::{Baton, Mailbox};
use crate::base::wake::Turns;
use crate::engine::{Engine, QueueId};
use std::cell::Cell;

thread_local! {
    /// The bit of the reactor that runs on this thread; 0 where none does.
    static OWN: Cell<u64> = const { Cell::new(0) };
}

/// The doors of all reactors of a server.
pub(super) struct Doors {
    mailboxes: Box<[Mailbox]>,
    turns: Turns,
}

impl Doors {
    pub(super) fn new(mailboxes: Vec<Mailbox>) -> Self {
        Self {
            mailboxes: mailboxes.into(),
            turns: Turns::default(),
        }
    }

    /// All of them, by reactor number.
    pub(super) fn all(&self) -> &[Mailbox] {
        &self.mailboxes
    }

    /// The door of one reactor.
    pub(super) fn of(&self, reactor: usize) -> &Mailbox {
        &self.mailboxes[reactor]
    }

    /// Says that reactor `reactor` runs on this thread from now on.
    pub(super) fn enter(reactor: usize) {
        OWN.set(1 << reactor);
    }

    /// Says that no reactor runs on this thread.
    pub(super) fn leave() {
        OWN.set(0);
    }

    /// `jobs` were published in `queue`, for which the reactors in `bits` wait.
    pub(super) fn published(&self, engine: &Engine, queue: QueueId, bits: u64, jobs: usize) {
        self.turns
            .published(bits & self.mask(), OWN.get(), jobs, |reactor, others| {
                self.hand(engine, Baton { queue, others }, reactor);
            });
    }

    /// A reactor is done with a queue and does not know it to be empty: the next of `others` shall look.
    pub(super) fn pass_on(&self, engine: &Engine, queue: QueueId, others: u64) {
        self.turns.pass_on(others & self.mask(), |reactor, others| {
            self.hand(engine, Baton { queue, others }, reactor);
        });
    }

    /// Something about a queue changed that every waiter must hear of: it was deleted.
    pub(super) fn tell_all(&self, queue: QueueId) {
        for mailbox in &self.mailboxes {
            mailbox.batons.push(Baton { queue, others: 0 });
            mailbox.ring();
        }
    }

    fn hand(&self, engine: &Engine, baton: Baton, reactor: u32) {
        // The bit is taken out before the baton is put down: the reactor announces itself again only after it
        // found the baton, so its new bit cannot be taken out by this.
        engine.retire(baton.queue, reactor);
        let mailbox = self.of(reactor as usize);
        mailbox.batons.push(baton);
        // The publisher's own reactor looks at its batons at the end of its turn.
        if OWN.get() != 1 << reactor {
            mailbox.ring();
        }
    }

    fn mask(&self) -> u64 {
        (1 << self.mailboxes.len()) - 1
    }
}
