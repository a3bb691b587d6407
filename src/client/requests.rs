//! What goes out over a bare connection: requests, encoded straight into the buffer that they are sent from.

use crate::base::batch::{EnqueueBuilder, SettleBuilder};
use crate::base::code::{ErrorCode, Refusal};
use crate::base::job::Token;
use crate::base::limits;
use crate::base::queue::Durability;
use crate::client::error::ClientError;
use crate::client::hot::Reserve;
use crate::client::numbers::Numbers;
use crate::client::shared::window;
use crate::client::socket::Socket;
use crate::client::subscription::Window;
use crate::wire::{Welcome, compose};
use std::io;
use std::time::Instant;

/// Set in the correlations of quiet requests. What is below it is a number, cut to so many bits; far fewer than they can
/// tell apart are under way.
const QUIET: u32 = 1 << 31;

/// The requests of a [`Connection`](crate::client::Connection). Each function appends one, and returns the number
/// under which its [`Event`](crate::client::Event) comes; nothing is sent before the connection's next turn.
#[derive(Debug)]
pub struct Requests {
    bytes: Vec<u8>,
    /// So much of `bytes` is sent.
    sent: usize,
    numbers: Numbers,
    /// The number given out last.
    last: u64,
    /// The same of quiet ones.
    last_quiet: u64,
    in_flight: usize,
    in_flight_max: usize,
    frame_bytes_max: usize,
    handles: Vec<u32>,
    bytes_sent: u64,
}

impl Requests {
    pub(super) fn new(first: u64, welcome: &Welcome, handles: Vec<u32>) -> Self {
        let window = window(welcome);
        Self {
            bytes: Vec::new(),
            sent: 0,
            numbers: Numbers::new(first, window),
            last: first.max(1) - 1,
            last_quiet: 0,
            in_flight: 0,
            in_flight_max: window.max(2) as usize - 1,
            frame_bytes_max: welcome.frame_bytes_max as usize,
            handles,
            bytes_sent: 0,
        }
    }

    /// Whether one more request may be under way: the server remembers a limited number of a session's requests, and
    /// what is unanswered must be among them.
    pub fn has_room(&self) -> bool {
        self.in_flight < self.in_flight_max && self.numbers.has_room()
    }

    /// Requests that are not answered yet.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Enqueues a batch in the queue of that place among the connection's queues.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for a place that is none, for a batch that is longer than a frame, and without
    /// [room](Self::has_room). The same for the others.
    pub fn enqueue(
        &mut self,
        queue: usize,
        batch: &EnqueueBuilder,
        durability: Option<Durability>,
    ) -> Result<u64, ClientError> {
        let handle = self.handle(queue)?;
        self.request(true, |out, number| {
            compose::enqueue(out, correlation(number), number, handle, durability, batch);
        })
    }

    /// Enqueues `count` jobs without options. `fill` is called with each position and appends that job's payload to
    /// the buffer that is sent; it must only append.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue).
    pub fn enqueue_with(
        &mut self,
        queue: usize,
        count: usize,
        durability: Option<Durability>,
        fill: impl FnMut(usize, &mut Vec<u8>),
    ) -> Result<u64, ClientError> {
        let handle = self.handle(queue)?;
        self.request(true, |out, number| {
            compose::enqueue_with(out, correlation(number), number, handle, durability, count, fill);
        })
    }

    /// Takes jobs from the queues of these places.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue).
    pub fn reserve(&mut self, queues: &[usize], reserve: Reserve) -> Result<u64, ClientError> {
        let handles = self.handles(queues)?;
        let wait_ms = u32::try_from(reserve.wait.as_millis()).unwrap_or(u32::MAX);
        let wait_ms = wait_ms.min(limits::WAIT_MS_MAX);
        // A wait must not keep the window of the others; without its number it would cost no more than a lease.
        self.request(wait_ms == 0, |out, number| {
            let fields = compose::ReserveFields {
                number,
                max_jobs: reserve.max_jobs,
                wait_ms,
                max_bytes: reserve.max_bytes,
                lease_ms: reserve.lease_ms,
            };
            compose::reserve(out, correlation(number), &fields, &handles);
        })
    }

    /// Settles deliveries.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue).
    pub fn settle(&mut self, batch: &SettleBuilder) -> Result<u64, ClientError> {
        self.request(true, |out, number| {
            compose::settle(out, correlation(number), number, batch)
        })
    }

    /// Acks deliveries, without results.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue).
    pub fn ack_all(&mut self, tokens: &[Token]) -> Result<u64, ClientError> {
        self.request(true, |out, number| {
            compose::ack_all(out, correlation(number), number, tokens)
        })
    }

    /// Acks deliveries, without results, and is answered only where some could not be: it does not count as under way,
    /// and a worker is not woken to hear that all went well. Returns the number under which
    /// [`Event::NotAcked`](crate::client::Event::NotAcked) would name it; such numbers are of a kind of their own.
    ///
    /// An answer to any later request, a [`ping`](Self::ping) say, means that the server has dealt with these acks;
    /// they then are as safe as jobs of durability *written*, at most. Before a connection is given up, ping and wait
    /// for the answer: acks that the server had not dealt with when it ended are lost, and so their jobs are handed
    /// out again, if they may be.
    ///
    /// # Errors
    /// `Refused` for none, or for more than 16384.
    pub fn ack_quietly(&mut self, tokens: &[Token]) -> Result<u64, ClientError> {
        if tokens.is_empty() || tokens.len() > limits::BATCH_JOBS_MAX {
            return Err(refused(
                ErrorCode::BatchTooLarge,
                "a request has 1 to 16384 settlements",
            ));
        }
        self.last_quiet += 1;
        compose::ack_quietly(&mut self.bytes, QUIET | correlation(self.last_quiet), tokens);
        Ok(self.last_quiet)
    }

    /// Has jobs of these queues pushed as they come.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue).
    pub fn subscribe(&mut self, queues: &[usize], window: Window) -> Result<u64, ClientError> {
        let handles = self.handles(queues)?;
        self.request(true, |out, number| {
            let Window {
                jobs,
                bytes,
                lease_ms,
            } = window;
            compose::subscribe(out, correlation(number), jobs, bytes, lease_ms, &handles);
        })
    }

    /// Asks the server for a sign of life.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue).
    pub fn ping(&mut self) -> Result<u64, ClientError> {
        self.request(true, |out, number| compose::ping(out, correlation(number)))
    }

    fn handle(&self, queue: usize) -> Result<u32, ClientError> {
        let handle = self.handles.get(queue).copied();
        handle.ok_or_else(|| {
            refused(
                ErrorCode::InvalidArgument,
                "the connection has no queue at that place",
            )
        })
    }

    fn handles(&self, queues: &[usize]) -> Result<Vec<u32>, ClientError> {
        queues.iter().map(|queue| self.handle(*queue)).collect()
    }

    fn request(&mut self, held: bool, put: impl FnOnce(&mut Vec<u8>, u64)) -> Result<u64, ClientError> {
        if !self.has_room() {
            return Err(refused(
                ErrorCode::LimitReached,
                "too many requests under way; wait for answers",
            ));
        }
        let start = self.bytes.len();
        put(&mut self.bytes, self.last + 1);
        if self.bytes.len() - start > self.frame_bytes_max {
            self.bytes.truncate(start);
            return Err(refused(
                ErrorCode::BatchTooLarge,
                "the request is longer than a frame may be",
            ));
        }
        self.last = self.numbers.take(held);
        self.in_flight += 1;
        Ok(self.last)
    }

    /// The request that an answer belongs to, `None` where it can be none.
    pub(super) fn answered(&mut self, correlation: u32) -> Option<u64> {
        let number = (correlation & QUIET == 0).then(|| numbered(self.last, correlation))??;
        self.in_flight = self.in_flight.checked_sub(1)?;
        self.numbers.answered(number);
        Some(number)
    }

    /// The quiet request of that correlation; `None` where it is none.
    pub(super) fn quiet(&self, correlation: u32) -> Option<u64> {
        (correlation & QUIET != 0).then(|| numbered(self.last_quiet, correlation))?
    }

    /// Whether everything is sent.
    pub(super) fn is_sent(&self) -> bool {
        self.sent == self.bytes.len()
    }

    pub(super) fn bytes_sent(&self) -> u64 {
        self.bytes_sent
    }

    /// Sends what the socket takes now.
    pub(super) fn send(&mut self, socket: &Socket, now: Instant) -> io::Result<()> {
        if self.is_sent() {
            return Ok(());
        }
        let written = socket.write_until(&self.bytes[self.sent..], now)?;
        self.sent += written;
        self.bytes_sent += written as u64;
        if self.is_sent() {
            self.bytes.clear();
            self.sent = 0;
        } else if self.sent > self.bytes.len() / 2 {
            // Quiet acks may come faster than all of it is ever sent.
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        Ok(())
    }
}

/// The correlation of a request.
fn correlation(number: u64) -> u32 {
    number as u32 & !QUIET
}

/// The number, up to the `last` one, that has this correlation.
fn numbered(last: u64, of: u32) -> Option<u64> {
    let behind = (last as u32).wrapping_sub(of) & !QUIET;
    last.checked_sub(u64::from(behind)).filter(|number| *number > 0)
}

fn refused(code: ErrorCode, text: &str) -> ClientError {
    ClientError::Refused(Refusal::new(code, text))
}
