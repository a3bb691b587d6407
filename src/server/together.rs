//! Requests of one kind that came together: the engine carries them out at once where they are plain, and each is
//! answered by itself.

use super::desk::Desk;
use super::peer::Peer;
use crate::base::batch::{EnqueueBatch, SettleBatch};
use crate::base::limits::REQUESTS_TOGETHER_MAX;
use crate::base::queue::Durability;
use crate::engine::{Numbered, QueueId, Together};
use crate::wire::{BadFrame, Frames, Op, Reply, Request};
use smallvec::SmallVec;

/// Most jobs of a request that is worth putting with others.
const JOBS_MAX: usize = 16;

/// What the requests of a row have in common.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Enqueue(QueueId, Option<Durability>),
    Settle,
    /// Unnumbered, and only what goes wrong is answered.
    SettleQuietly,
}

/// Requests that may be carried out at once, in the order in which they came, and how to answer them.
#[derive(Default)]
struct Row<'f> {
    kind: Option<Kind>,
    replies: SmallVec<[Reply; REQUESTS_TOGETHER_MAX]>,
    enqueues: SmallVec<[Numbered<EnqueueBatch<'f>>; REQUESTS_TOGETHER_MAX]>,
    settles: SmallVec<[Numbered<SettleBatch<'f>>; REQUESTS_TOGETHER_MAX]>,
}

impl<'f> Row<'f> {
    fn is_full(&self) -> bool {
        self.replies.len() == REQUESTS_TOGETHER_MAX
    }

    /// Adds a request, or gives it back where it does not go with those that are there.
    fn add(&mut self, reply: Reply, request: Request<'f>) -> Result<(), Request<'f>> {
        let kind = match &request {
            Request::Enqueue {
                queue,
                durability,
                batch,
                ..
            } if batch.count() <= JOBS_MAX && !batch.has_keys() => {
                Kind::Enqueue(QueueId(*queue), *durability)
            }
            Request::Settle { quiet, batch, .. } if batch.count() <= JOBS_MAX && !batch.has_notes() => {
                if *quiet {
                    Kind::SettleQuietly
                } else {
                    Kind::Settle
                }
            }
            _ => return Err(request),
        };
        if *self.kind.get_or_insert(kind) != kind {
            return Err(request);
        }
        match request {
            Request::Enqueue { number, batch, .. } => self.enqueues.push((number, batch)),
            Request::Settle { number, batch, .. } => self.settles.push((number, batch)),
            other => return Err(other),
        }
        self.replies.push(reply);
        Ok(())
    }

    fn clear(&mut self) {
        self.kind = None;
        self.replies.clear();
        self.enqueues.clear();
        self.settles.clear();
    }
}

impl Desk {
    /// Carries out some of the frames that have come, in order. Says whether there may be more.
    ///
    /// # Errors
    /// [`BadFrame`]: what stands before it was carried out.
    pub(super) fn handle_some(&mut self, peer: &mut Peer, frames: &mut Frames<'_>) -> Result<bool, BadFrame> {
        let mut row = Row::default();
        while !row.is_full() {
            let Some(frame) = frames.next() else {
                self.carry_out_row(peer, &mut row);
                return Ok(false);
            };
            let frame = match frame {
                Ok(frame) => frame,
                Err(bad) => {
                    self.carry_out_row(peer, &mut row);
                    return Err(bad);
                }
            };
            let op = frame.header.op.get();
            if op != Op::Enqueue as u16 && op != Op::Settle as u16 {
                self.carry_out_row(peer, &mut row);
                if peer.is_served() {
                    self.handle(peer, frame);
                }
                return Ok(true);
            }
            let reply = Reply::to(frame.header);
            let added = Request::decode(frame.header, frame.body).map(|request| {
                row.add(reply, request).or_else(|other| {
                    self.carry_out_row(peer, &mut row);
                    row.add(reply, other)
                })
            });
            let alone = match added {
                Ok(Ok(())) => continue,
                Ok(Err(request)) => Ok(request),
                Err(refusal) => Err(refusal),
            };
            self.carry_out_row(peer, &mut row);
            if peer.is_served() {
                self.answer_request(peer, reply, alone);
            }
            return Ok(true);
        }
        self.carry_out_row(peer, &mut row);
        Ok(true)
    }

    /// Carries out a row at once, or where that is not possible one after the other, and empties it.
    fn carry_out_row(&mut self, peer: &mut Peer, row: &mut Row<'_>) {
        let is_done = row.replies.len() > 1
            && match row.kind {
                Some(Kind::Enqueue(queue, durability)) => self.enqueue_row(peer, queue, durability, row),
                Some(Kind::Settle) => self.settle_row(peer, row),
                Some(Kind::SettleQuietly) => self.settle_row_quietly(peer, row),
                None => true,
            };
        if !is_done {
            self.carry_out_each(peer, row);
        }
        row.clear();
    }

    fn carry_out_each(&mut self, peer: &mut Peer, row: &Row<'_>) {
        // One of the two is empty.
        if let Some(Kind::Enqueue(queue, durability)) = row.kind {
            for (reply, (number, batch)) in row.replies.iter().zip(&row.enqueues) {
                self.answer_next(peer, *reply, |desk, peer| {
                    desk.enqueue(peer, *reply, *number, queue, durability, batch)
                });
            }
        }
        for (reply, (number, batch)) in row.replies.iter().zip(&row.settles) {
            self.answer_next(peer, *reply, |desk, peer| {
                desk.settle(peer, *reply, *number, batch)
            });
        }
    }

    fn enqueue_row(
        &mut self,
        peer: &mut Peer,
        queue: QueueId,
        durability: Option<Durability>,
        row: &Row<'_>,
    ) -> bool {
        let engine = &self.hub.engine;
        let together = Together {
            session: peer.session,
            requests: &row.enqueues,
        };
        let is_done = engine.enqueue_together(
            queue,
            together,
            durability,
            self.now_ms,
            &mut self.reply,
            &mut self.confirmed,
        );
        let mut ids_from = 0;
        let done = self.confirmed.iter().zip(&row.replies).zip(&row.enqueues);
        for ((confirmed, reply), (_, batch)) in done {
            let ids = &self.reply.ids[ids_from..ids_from + batch.count()];
            self.answer_plain(peer, *reply, confirmed, ids, batch.count());
            ids_from += batch.count();
        }
        is_done
    }

    fn settle_row(&mut self, peer: &mut Peer, row: &Row<'_>) -> bool {
        let together = Together {
            session: peer.session,
            requests: &row.settles,
        };
        let engine = &self.hub.engine;
        if !engine.ack_together(together, self.now_ms, &mut self.confirmed) {
            return false;
        }
        self.account_row(peer, row);
        let done = self.confirmed.iter().zip(&row.replies).zip(&row.settles);
        for ((confirmed, reply), (_, batch)) in done {
            self.answer_plain(peer, *reply, confirmed, &[], batch.count());
        }
        true
    }

    fn settle_row_quietly(&mut self, peer: &mut Peer, row: &Row<'_>) -> bool {
        let is_done = self.hub.engine.ack_unnumbered(&row.settles, self.now_ms);
        if is_done {
            self.account_row(peer, row);
        }
        is_done
    }

    /// Takes what a row has settled off the connection's books. Nothing of it was refused.
    fn account_row(&mut self, peer: &mut Peer, row: &Row<'_>) {
        self.reply.clear();
        for (_, batch) in &row.settles {
            self.account(peer, batch, false);
        }
    }
}
