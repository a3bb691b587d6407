//! Handing jobs out: to a RESERVE that is answered, to those who wait, to subscriptions.

use super::desk::{Desk, queue_ids};
use super::peer::{self, Peer, Subscription};
use super::sink::{FrameSink, Framed, HARD_LIMITS};
use super::waiters::{Waiter, Want};
use crate::base::batch::{SettleBatch, SettleBuilder};
use crate::base::code::{ErrorCode, Refusal};
use crate::base::limits::RESERVE_JOBS_MAX;
use crate::engine::{QueueId, RequestId};
use crate::wire::{DeliveryWriter, Reply, ReserveRequest, SubscribeRequest};

/// Bytes of metadata and payload that one push aims at: enough to pay for its way, not so many that others wait.
const PUSH_BYTES: usize = 1 << 20;

/// How an offer to a waiter went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offer {
    /// It got jobs, or cannot take any now, or is gone: the next one's turn.
    Next,
    /// There is no job, and whoever publishes one will tell this reactor.
    Empty,
}

/// Where deliveries go.
#[derive(Debug, Clone, Copy)]
enum Target {
    Answer(Reply),
    Push(u32),
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default)]
struct Handed {
    /// Jobs handed out.
    jobs: u32,
    /// Whether that is less than was asked for, so that there are probably no more.
    is_all: bool,
}

/// What is asked of the engine.
struct Ask<'a> {
    queues: &'a [QueueId],
    room: (u32, usize),
    lease_ms: u32,
    request: RequestId,
}

impl Desk {
    /// RESERVE: answered at once if there is a job or it does not wait.
    pub(super) fn reserve(
        &mut self,
        peer: &mut Peer,
        reply: Reply,
        request: &ReserveRequest<'_>,
    ) -> Result<(), Refusal> {
        let queues = queue_ids(request.queues);
        let id = self.request(peer, request.number);
        // Whoever came before goes first; then this one looks when its turn comes.
        let in_line = request.wait_ms > 0 && queues.iter().any(|queue| self.waiters.first(*queue).is_some());
        if !in_line {
            let room = (request.max_jobs, bytes_room(request.max_bytes));
            let ask = Ask {
                queues: &queues,
                room,
                lease_ms: request.lease_ms,
                request: id,
            };
            if self.deliver(peer, Target::Answer(reply), &ask)?.jobs > 0 {
                return Ok(());
            }
            if request.wait_ms == 0 {
                DeliveryWriter::reply_to(peer.outbox.buffer(), reply, HARD_LIMITS).finish();
                return Ok(());
            }
            // The last look before it waits, so that its turn need not look again.
            if self.announce(&queues) && self.deliver(peer, Target::Answer(reply), &ask)?.jobs > 0 {
                return Ok(());
            }
        }
        self.check_waiters(peer)?;
        let want = Want::Reserve {
            reply,
            request: id,
            max_jobs: request.max_jobs,
            max_bytes: request.max_bytes,
            lease_ms: request.lease_ms,
            deadline_ms: self.now_ms + u64::from(request.wait_ms),
        };
        if in_line {
            self.look_after(&queues);
        }
        peer.reserves.push(self.wait(peer, want, queues));
        Ok(())
    }

    /// SUBSCRIBE: the pushes begin at the end of the turn, behind the answer.
    pub(super) fn subscribe(
        &mut self,
        peer: &mut Peer,
        reply: Reply,
        request: &SubscribeRequest<'_>,
    ) -> Result<(), Refusal> {
        let queues = queue_ids(request.queues);
        for queue in &queues {
            self.hub.engine.queue_options(*queue)?;
        }
        self.check_waiters(peer)?;
        let id = peer.next_subscription;
        self.look_after(&queues);
        let waiter = self.wait(peer, Want::Subscription(id), queues);
        // Numbers begin anew after four thousand million subscriptions on one connection; 0 stands for none.
        peer.next_subscription = id.checked_add(1).unwrap_or(1);
        peer.subscriptions.push(Subscription {
            id,
            waiter,
            lease_ms: request.lease_ms,
            window_jobs: request.window_jobs,
            window_bytes: request.window_bytes,
            jobs: 0,
            bytes: 0,
        });
        reply.handle(peer.outbox.buffer(), id);
        Ok(())
    }

    /// UNSUBSCRIBE: no push after the answer, so the answer waits behind pushes that wait for the disk.
    pub(super) fn unsubscribe(&mut self, peer: &mut Peer, reply: Reply, id: u32) -> Result<(), Refusal> {
        let Some(at) = peer
            .subscriptions
            .iter()
            .position(|subscription| subscription.id == id)
        else {
            return Err(Refusal::new(
                ErrorCode::InvalidArgument,
                format!("there is no subscription {id} here"),
            ));
        };
        let subscription = peer.subscriptions.swap_remove(at);
        self.waiters.remove(subscription.waiter);
        peer.holdings.detach(id);
        let mark = peer.outbox.mark();
        reply.empty(peer.outbox.buffer());
        peer.outbox.put_behind_held(mark);
        Ok(())
    }

    /// Offers jobs to a waiter whose turn it is. Announces this reactor before it calls a queue empty.
    pub(super) fn offer(&mut self, peer: &mut Peer, key: u64) -> Offer {
        let Some(waiter) = self.waiters.get(key).cloned() else {
            return Offer::Next;
        };
        if peer.outbox.is_full() || !has_room(peer, &waiter.want) {
            self.park(peer, key);
            return Offer::Next;
        }
        let delivered = match self.deliver_to(peer, &waiter) {
            Ok(Handed { jobs: 0, .. }) if self.announce(&waiter.queues) => self.deliver_to(peer, &waiter),
            delivered => delivered,
        };
        match (delivered, waiter.want) {
            (Ok(Handed { jobs: 0, .. }), _) => return Offer::Empty,
            (Ok(_), Want::Reserve { .. }) => self.end_reserve(peer, key),
            (Ok(handed), want @ Want::Subscription(_)) if has_room(peer, &want) => {
                if handed.is_all {
                    // The next look will find nothing, most likely; announced before, it is the last one.
                    self.announce(&waiter.queues);
                }
                self.waiters.line_up(key);
            }
            (Ok(_), Want::Subscription(_)) => self.park(peer, key),
            (Err(refusal), Want::Reserve { reply, .. }) => {
                self.end_reserve(peer, key);
                self.refuse(peer, reply, &refusal);
            }
            (Err(refusal), Want::Subscription(id)) => self.end_subscription(peer, id, &refusal),
        }
        Offer::Next
    }

    /// Nobody here can take a job of that queue now: says so to the queue, and to the next in `others`.
    pub(super) fn leave_queue(&mut self, queue: QueueId, others: u64) {
        if self.waiters.unannounce(queue) {
            self.hub.engine.retire(queue, self.reactor);
        }
        self.hub.doors.pass_on(&self.hub.engine, queue, others);
    }

    /// The time of a waiting reserve is over.
    pub(super) fn time_out(&mut self, peer: &mut Peer, key: u64) {
        if let Some(Waiter {
            want: Want::Reserve { reply, .. },
            ..
        }) = self.waiters.get(key).cloned()
        {
            DeliveryWriter::reply_to(peer.outbox.buffer(), reply, HARD_LIMITS).finish();
        }
        self.end_reserve(peer, key);
    }

    fn park(&mut self, peer: &mut Peer, key: u64) {
        self.waiters.park(key);
        peer.has_parked = true;
    }

    fn end_reserve(&mut self, peer: &mut Peer, key: u64) {
        self.waiters.remove(key);
        peer.reserves.retain(|other| *other != key);
    }

    /// Announces this reactor at the queues; says whether that was news at any of them.
    fn announce(&mut self, queues: &[QueueId]) -> bool {
        let mut news = false;
        for queue in queues {
            if self.waiters.announce(*queue) {
                self.hub.engine.announce(*queue, self.reactor);
                news = true;
            }
        }
        news
    }

    fn deliver_to(&mut self, peer: &mut Peer, waiter: &Waiter) -> Result<Handed, Refusal> {
        match waiter.want {
            Want::Reserve {
                reply,
                request,
                max_jobs,
                max_bytes,
                lease_ms,
                ..
            } => {
                let room = (max_jobs, bytes_room(max_bytes));
                self.deliver(
                    peer,
                    Target::Answer(reply),
                    &Ask {
                        queues: &waiter.queues,
                        room,
                        lease_ms,
                        request,
                    },
                )
            }
            Want::Subscription(id) => {
                let Some(subscription) = peer.subscription(id) else {
                    return Ok(Handed::default());
                };
                let Some((jobs, bytes)) = subscription.room() else {
                    return Ok(Handed::default());
                };
                let (room, lease_ms) = ((jobs, bytes.min(PUSH_BYTES)), subscription.lease_ms);
                let ask = Ask {
                    queues: &waiter.queues,
                    room,
                    lease_ms,
                    request: RequestId::NONE,
                };
                self.deliver(peer, Target::Push(id), &ask)
            }
        }
    }

    /// Reserves and appends one frame if there is any job; says how many.
    fn deliver(&mut self, peer: &mut Peer, target: Target, ask: &Ask<'_>) -> Result<Handed, Refusal> {
        let mark = peer.outbox.mark();
        let (writer, subscription) = match target {
            Target::Answer(reply) => (
                DeliveryWriter::reply_to(peer.outbox.buffer(), reply, HARD_LIMITS),
                0,
            ),
            Target::Push(id) => (DeliveryWriter::push_to(peer.outbox.buffer(), id, HARD_LIMITS), id),
        };
        let mut sink = FrameSink {
            writer,
            holdings: &mut peer.holdings,
            now_ms: self.now_ms,
            subscription,
            room: ask.room,
            unfit: &mut self.unfit,
        };
        let engine = &self.hub.engine;
        let jobs_max = ask.room.0 as usize;
        let confirmed = engine.reserve(
            ask.queues,
            jobs_max,
            ask.lease_ms,
            ask.request,
            self.now_ms,
            &mut sink,
        )?;
        let Framed { count, bytes } = sink.end(confirmed.replayed);
        let subscriptions = &mut peer.subscriptions;
        let free = |freed| peer::free(subscriptions, freed);
        peer.holdings.replace_repeated(confirmed.replayed, free);
        if let Some(subscription) = peer.subscription(subscription) {
            subscription.jobs += count;
            subscription.bytes += bytes as u64;
        }
        let (_, until) = self.promise(&confirmed);
        self.hold(peer, mark, until);
        self.give_back_unfit();
        let jobs_asked = ask.room.0.min(RESERVE_JOBS_MAX as u32);
        Ok(Handed {
            // An answer made again is an answer, even where none of its deliveries is current any more.
            jobs: count.max(u32::from(confirmed.replayed)),
            is_all: count < jobs_asked && bytes < ask.room.1 / 2,
        })
    }

    /// Releases deliveries that did not fit into their frame; they use no attempt.
    fn give_back_unfit(&mut self) {
        if self.unfit.is_empty() {
            return;
        }
        let mut batch = SettleBuilder::new();
        self.unfit.drain(..).for_each(|token| batch.release(token));
        let mut bytes = Vec::new();
        batch.write_to(&mut bytes);
        if let Ok(batch) = SettleBatch::parse(batch.count(), &bytes) {
            // Where even that is refused their leases end by themselves.
            let _ = self
                .hub
                .engine
                .settle(&batch, RequestId::NONE, self.now_ms, &mut self.items);
        }
    }
}

fn has_room(peer: &mut Peer, want: &Want) -> bool {
    match want {
        Want::Reserve { .. } => true,
        Want::Subscription(id) => peer
            .subscription(*id)
            .is_some_and(|subscription| subscription.room().is_some()),
    }
}

fn bytes_room(max_bytes: u32) -> usize {
    if max_bytes == 0 {
        usize::MAX
    } else {
        max_bytes as usize
    }
}
