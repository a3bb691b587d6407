//! One request on its way: what to send (again), and who waits for what comes back.

use crate::client::delivery::Batch;
use crate::client::error::ClientError;
use crate::client::subscription::Feed;
use crate::wire::{Op, compose};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What the reader does with an answer besides handing it over.
pub(crate) enum Kind {
    /// Nothing.
    Plain,
    /// It brings the handle of the queue at that place.
    Open(u32),
    /// It brings deliveries.
    Reserve,
    /// It brings the subscription that feeds this.
    Subscribe(Arc<Feed>),
}

/// What came back.
pub(crate) enum Answer {
    /// The body of a plain answer.
    Body(Vec<u8>),
    /// The answer to a reserve.
    Deliveries(Batch),
    /// The request was applied before, and the server keeps no more than that.
    AlreadyApplied,
    /// It was refused, or nothing came.
    Failed(ClientError),
}

pub(crate) struct Call {
    pub(crate) op: Op,
    pub(crate) kind: Kind,
    /// Which answer is its own. Fixed when it is admitted.
    pub(crate) correlation: u32,
    /// Calls are sent again in the order in which they were made.
    pub(crate) sequence: u64,
    pub(crate) deadline: Instant,
    /// Places of the queues whose handles stand in the frame, in their order.
    pub(crate) queues: Vec<u32>,
    inner: Mutex<Inner>,
    done: Condvar,
}

pub(crate) struct Inner {
    pub(crate) frame: Vec<u8>,
    pub(crate) number: u64,
    /// It was given to a connection, so the server may have it.
    pub(crate) sent: bool,
    /// Nobody waits any more.
    pub(crate) abandoned: bool,
    answer: Option<Answer>,
}

impl Call {
    pub(crate) fn new(request: NewCall, correlation: u32, sequence: u64, number: u64) -> Self {
        let NewCall {
            op,
            kind,
            queues,
            mut frame,
            deadline,
        } = request;
        frame[8..12].copy_from_slice(&correlation.to_le_bytes());
        let inner = Inner {
            frame,
            number: 0,
            sent: false,
            abandoned: false,
            answer: None,
        };
        let call = Self {
            op,
            kind,
            correlation,
            sequence,
            deadline,
            queues,
            inner: Mutex::new(inner),
            done: Condvar::new(),
        };
        call.lock().set_number(op, number);
        call
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands the answer over; the first one counts.
    pub(crate) fn complete(&self, answer: Answer) {
        let mut inner = self.lock();
        if inner.answer.is_none() {
            inner.answer = Some(answer);
            self.done.notify_all();
        }
    }

    /// The answer, if it comes before `until`; with `None` it is certain to come.
    pub(crate) fn wait(&self, until: Option<Instant>) -> Option<Answer> {
        let mut inner = self.lock();
        loop {
            if let Some(answer) = inner.answer.take() {
                return Some(answer);
            }
            inner = match until {
                None => self.done.wait(inner).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    self.done
                        .wait_timeout(inner, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }

    /// Nobody will wait any more. Gives back what came already.
    pub(crate) fn abandon(&self) -> Option<Answer> {
        let mut inner = self.lock();
        inner.abandoned = true;
        inner.answer.take()
    }

    pub(crate) fn is_done(&self) -> bool {
        self.lock().answer.is_some()
    }

    /// Whether the server may have applied something that the caller would have to know about. A reserve is no such
    /// thing: what it took comes back when its lease ends.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.op.is_numbered() && self.op != Op::Reserve && self.lock().sent
    }
}

impl Inner {
    pub(crate) fn set_number(&mut self, op: Op, number: u64) {
        self.number = number;
        if op.is_numbered() {
            self.frame[16..24].copy_from_slice(&number.to_le_bytes());
        }
    }

    /// Makes the frame fit the connection that it is sent on next.
    pub(crate) fn prepare(&mut self, op: Op, handles: &[u32], deadline: Instant, answer_ms: u64) {
        compose::set_queues(&mut self.frame, handles);
        if op == Op::Reserve && self.sent {
            // Part of the wait has passed. What the deadline holds beyond the wait is for the answer's way back.
            let left = deadline.saturating_duration_since(Instant::now()).as_millis() as u64;
            let wait = u32::try_from(left.saturating_sub(answer_ms)).unwrap_or(u32::MAX);
            compose::shorten_wait(&mut self.frame, wait);
        }
        self.sent = true;
    }
}

/// A request before it has its place among the calls.
pub(crate) struct NewCall {
    pub(crate) op: Op,
    pub(crate) kind: Kind,
    pub(crate) queues: Vec<u32>,
    /// As composed, with zeros for correlation, number and handles.
    pub(crate) frame: Vec<u8>,
    pub(crate) deadline: Instant,
}
