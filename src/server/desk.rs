//! Where the requests of one reactor are carried out: the engine, the waiters, and work space that is used again
//! and again, so that no request allocates for its jobs.

use super::hub::Hub;
use super::peer::Peer;
use super::waiters::{Queues, Waiter, Waiters, Want};
use crate::base::code::{ErrorCode, ItemError, Refusal};
use crate::base::job::{JobId, Token};
use crate::base::limits::WAITERS_PER_CONNECTION_MAX;
use crate::base::plant::{Plant, is_planted};
use crate::base::queue::Durability;
use crate::engine::{Confirmed, EnqueueReply, QueueId, RequestId};
use crate::log::LogPosition;
use crate::wire::response;
use std::sync::Arc;
use zerocopy::little_endian::{U32, U64};

/// See the [module](self).
pub(super) struct Desk {
    pub(super) hub: Arc<Hub>,
    /// The reactor's number: its bit in the queues' masks.
    pub(super) reactor: u32,
    /// The time of this turn, in milliseconds since the Unix epoch.
    pub(super) now_ms: u64,
    pub(super) waiters: Waiters,
    pub(super) reply: EnqueueReply,
    /// What became of requests that were carried out together.
    pub(super) confirmed: Vec<Confirmed>,
    pub(super) items: Vec<ItemError>,
    pub(super) ids: Vec<JobId>,
    /// Deliveries that did not fit into their frame after all.
    pub(super) unfit: Vec<Token>,
}

impl Desk {
    pub(super) fn new(hub: Arc<Hub>, reactor: usize) -> Self {
        Self {
            hub,
            reactor: reactor as u32,
            now_ms: 0,
            waiters: Waiters::default(),
            reply: EnqueueReply::default(),
            confirmed: Vec::new(),
            items: Vec::new(),
            ids: Vec::new(),
            unfit: Vec::new(),
        }
    }

    /// The level that an answer may name, and up to where the log must be durable before it is sent.
    ///
    /// An answer that is made again waits for the disk whatever it promised at first: that is rare, and it is
    /// never less than what was asked for.
    pub(super) fn promise(&self, confirmed: &Confirmed) -> (Durability, Option<LogPosition>) {
        let Some(position) = confirmed.position else {
            return (confirmed.level, None);
        };
        let level = if confirmed.replayed {
            Durability::Synced
        } else {
            confirmed.level
        };
        let is_due = !is_planted(Plant::ConfirmBeforeSync);
        let waits = is_due && level == Durability::Synced && self.hub.engine.durable() < position;
        (level, waits.then_some(position))
    }

    /// Holds what was appended to the outbox since `mark`, if it must wait for the disk.
    pub(super) fn hold(&self, peer: &mut Peer, mark: usize, until: Option<LogPosition>) {
        if let Some(position) = until {
            peer.outbox.hold_from(mark, position);
        }
    }

    /// The request's name in its session.
    pub(super) fn request(&self, peer: &Peer, number: u64) -> RequestId {
        RequestId {
            session: peer.session,
            number,
        }
    }

    /// Fills the work space with job ids.
    pub(super) fn take_ids(&mut self, ids: &[U64]) {
        self.ids.clear();
        self.ids.extend(ids.iter().map(|id| JobId(id.get())));
    }

    /// Refuses a further waiter to a connection that has as many as it may.
    pub(super) fn check_waiters(&self, peer: &Peer) -> Result<(), Refusal> {
        if peer.reserves.len() + peer.subscriptions.len() < WAITERS_PER_CONNECTION_MAX {
            return Ok(());
        }
        let text = format!(
            "a connection has at most {WAITERS_PER_CONNECTION_MAX} waiting reserves and subscriptions"
        );
        Err(Refusal::new(ErrorCode::LimitReached, text))
    }

    /// Adds a waiter.
    pub(super) fn wait(&mut self, peer: &Peer, want: Want, queues: Queues) -> u64 {
        self.waiters.add(Waiter {
            connection: peer.connection,
            want,
            queues,
        })
    }

    /// Has those served at the end of the turn who wait at these queues.
    pub(super) fn look_after(&mut self, queues: &[QueueId]) {
        queues.iter().for_each(|queue| self.waiters.look_after(*queue, 0));
    }

    /// Takes the waiters of a connection out, which another reactor gets: its reserves and its subscriptions.
    pub(super) fn pack(&mut self, peer: &Peer) -> (Vec<Waiter>, Vec<Waiter>) {
        let subscriptions = peer.subscriptions.iter().map(|subscription| subscription.waiter);
        let subscriptions: Vec<u64> = subscriptions.collect();
        let mut take = |keys: &[u64]| keys.iter().filter_map(|key| self.waiters.remove(*key)).collect();
        (take(&peer.reserves), take(&subscriptions))
    }

    /// Puts them in line on this reactor, at the end; whoever cannot take a job is found out when its turn comes.
    pub(super) fn unpack(&mut self, peer: &mut Peer, reserves: Vec<Waiter>, subscriptions: Vec<Waiter>) {
        let connection = peer.connection;
        let mut add = |waiter: Waiter| {
            self.look_after(&waiter.queues);
            self.waiters.add(Waiter { connection, ..waiter })
        };
        peer.reserves = reserves.into_iter().map(&mut add).collect();
        for (subscription, waiter) in peer.subscriptions.iter_mut().zip(subscriptions) {
            subscription.waiter = add(waiter);
        }
    }

    /// Puts the waiters of a connection back in line that can take jobs again.
    pub(super) fn line_up_again(&mut self, peer: &mut Peer) {
        if !peer.has_parked || peer.outbox.is_full() {
            return;
        }
        peer.has_parked = false;
        let mut ready: smallvec::SmallVec<[u64; 8]> = smallvec::SmallVec::new();
        ready.extend(
            peer.reserves
                .iter()
                .copied()
                .filter(|key| self.waiters.is_parked(*key)),
        );
        for subscription in &peer.subscriptions {
            if self.waiters.is_parked(subscription.waiter) {
                match subscription.room() {
                    Some(_) => ready.push(subscription.waiter),
                    None => peer.has_parked = true,
                }
            }
        }
        for key in ready {
            self.waiters.line_up(key);
            let queues = self
                .waiters
                .get(key)
                .map(|waiter| waiter.queues.clone())
                .unwrap_or_default();
            queues.iter().for_each(|queue| self.waiters.look_after(*queue, 0));
        }
    }

    /// Removes all waiters of a connection that is no longer served.
    pub(super) fn drop_waiters(&mut self, peer: &mut Peer) {
        for key in peer
            .reserves
            .drain(..)
            .chain(peer.subscriptions.drain(..).map(|s| s.waiter))
        {
            self.waiters.remove(key);
        }
    }

    /// Ends a subscription and tells the client why.
    pub(super) fn end_subscription(&mut self, peer: &mut Peer, id: u32, refusal: &Refusal) {
        if let Some(at) = peer
            .subscriptions
            .iter()
            .position(|subscription| subscription.id == id)
        {
            let subscription = peer.subscriptions.swap_remove(at);
            self.waiters.remove(subscription.waiter);
            peer.holdings.detach(id);
            let mark = peer.outbox.mark();
            response::subscription_ended(peer.outbox.buffer(), id, refusal);
            peer.outbox.put_behind_held(mark);
        }
    }

    /// The connection ended: the leases that it held wait for its session to come back within the grace time.
    pub(super) fn forsake(&mut self, peer: &mut Peer) {
        self.drop_waiters(peer);
        let engine = &self.hub.engine;
        let leases = peer.holdings.leases();
        let leases = leases.filter(|lease| engine.is_current(lease.token)).collect();
        let grace_ms = if is_planted(Plant::SkipGrace) {
            0
        } else {
            self.hub.config.grace_ms
        };
        let due_ms = self.now_ms + u64::from(grace_ms);
        let too_many = self.hub.orphans.leave(peer.session, leases, due_ms);
        let too_many = too_many.into_iter().map(|lease| (lease.token, lease.deadline_ms));
        engine.shorten_leases(too_many, due_ms);
    }

    /// Finds deliveries that ended without this connection's doing, and opens its windows.
    pub(super) fn sweep(&mut self, peer: &mut Peer) {
        if !peer.holdings.wants_sweep() {
            return;
        }
        let mut freed = Vec::new();
        let engine = &self.hub.engine;
        peer.holdings
            .sweep(|token| engine.is_current(token), |one| freed.push(one));
        freed.into_iter().for_each(|one| peer.free(one));
        self.line_up_again(peer);
    }
}

/// Queue handles as the engine takes them.
pub(super) fn queue_ids(handles: &[U32]) -> Queues {
    handles.iter().map(|handle| QueueId(handle.get())).collect()
}
