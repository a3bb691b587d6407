//! What the callers' threads and the keeper's thread share.
//!
//! One lock guards the table of calls, the numbers and the handles; it is held for a look-up or a copy, never while
//! something blocks. Lock order: state, then call or feed, then outbox.

use crate::base::code::{ErrorCode, Refusal};
use crate::base::limits;
use crate::client::call::{Answer, Call, Kind, NewCall};
use crate::client::config::ClientConfig;
use crate::client::delivery::Batch;
use crate::client::error::ClientError;
use crate::client::numbers::Numbers;
use crate::client::outbox::Outbox;
use crate::client::queue::Queues;
use crate::client::subscription::{Feed, releases};
use crate::wire::{Op, Welcome, compose};
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

pub(crate) struct Shared {
    pub(crate) config: ClientConfig,
    pub(crate) session: u128,
    pub(crate) outbox: Outbox,
    state: Mutex<State>,
    /// A place among the calls became free, or the phase changed.
    pub(crate) changed: Condvar,
}

pub(crate) struct State {
    pub(crate) phase: Phase,
    /// Counts connections, so that bytes for an old one cannot get into a new one.
    pub(crate) connection: u64,
    /// What the server said at the last HELLO.
    pub(crate) welcome: Welcome,
    pub(crate) calls: HashMap<u32, Arc<Call>>,
    pub(crate) numbers: Numbers,
    pub(crate) queues: Queues,
    /// Every subscription that is wanted.
    pub(crate) feeds: Vec<Arc<Feed>>,
    /// Those that the server knows on this connection, by its number.
    pub(crate) feed_ids: HashMap<u32, Arc<Feed>>,
    /// The server has confirmed something under this session, so it is bad news if it does not know it.
    pub(crate) session_in_use: bool,
    correlation: u32,
    sequence: u64,
}

/// Where the connection stands.
pub(crate) enum Phase {
    Connected,
    /// Being connected again; why the last connection or attempt ended.
    Connecting(String),
    /// Given up for good.
    Closed(ClientError),
}

/// Correlations from here on belong to no call: the keeper's pings and what it asks before calls go on, and acks that
/// nobody waits for.
pub(crate) const KEEPER_CORRELATION: u32 = 0xffff_0000;

impl Shared {
    pub(crate) fn new(config: ClientConfig, session: u128, welcome: Welcome) -> Self {
        let numbers = Numbers::new(config.first_number, window(&welcome));
        let state = State {
            phase: Phase::Connecting(String::new()),
            connection: 0,
            welcome,
            calls: HashMap::new(),
            numbers,
            queues: Queues::default(),
            feeds: Vec::new(),
            feed_ids: HashMap::new(),
            session_in_use: false,
            correlation: 0,
            sequence: 0,
        };
        Self {
            config,
            session,
            outbox: Outbox::default(),
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the request its place, waiting for one if need be, and sends it if there is a connection. Without one,
    /// the keeper sends it as soon as there is.
    pub(crate) fn start(&self, request: NewCall) -> Result<Arc<Call>, ClientError> {
        let deadline = request.deadline;
        let mut state = self.with_room_to_send(deadline)?;
        if request.frame.len() > state.welcome.frame_bytes_max as usize {
            let text = format!(
                "the request takes {} bytes, a frame at most {}",
                request.frame.len(),
                state.welcome.frame_bytes_max
            );
            return Err(ClientError::Refused(Refusal::new(ErrorCode::BatchTooLarge, text)));
        }
        while !state.has_room(request.op) {
            if let Phase::Closed(why) = &state.phase {
                return Err(why.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.too_late(&state));
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let call = self.admit(&mut state, request)?;
        drop(state);
        self.outbox.flush(deadline);
        Ok(call)
    }

    /// Sends frames whose answers nobody waits for, if there is a connection.
    pub(crate) fn send_unanswered(&self, frames: &[u8], deadline: Instant) -> Result<(), ClientError> {
        let state = self.with_room_to_send(deadline)?;
        match &state.phase {
            Phase::Connected => self.outbox.append(state.connection, frames),
            Phase::Connecting(_) => return Err(self.too_late(&state)),
            Phase::Closed(why) => return Err(why.clone()),
        }
        drop(state);
        self.outbox.flush(deadline);
        Ok(())
    }

    /// Waits while what is left to be written is too much; that a connection is lost ends it, too.
    fn with_room_to_send(&self, deadline: Instant) -> Result<MutexGuard<'_, State>, ClientError> {
        let has_room = self.outbox.wait_for_room(deadline);
        let state = self.lock();
        if has_room {
            Ok(state)
        } else {
            Err(self.too_late(&state))
        }
    }

    /// As [`start`](Self::start), but never waits and never writes; for the keeper and for drops. The keeper flushes.
    pub(crate) fn start_unattended(&self, state: &mut State, request: NewCall) {
        if state.has_room(request.op)
            && let Ok(call) = self.admit(state, request)
        {
            call.lock().abandoned = true;
        }
    }

    fn admit(&self, state: &mut State, request: NewCall) -> Result<Arc<Call>, ClientError> {
        if let Phase::Closed(why) = &state.phase {
            return Err(why.clone());
        }
        let number = if request.op.is_numbered() {
            state.numbers.take(request.op != Op::Reserve)
        } else {
            0
        };
        state.sequence += 1;
        let call = Arc::new(Call::new(
            request,
            state.free_correlation(),
            state.sequence,
            number,
        ));
        state.calls.insert(call.correlation, call.clone());
        if matches!(state.phase, Phase::Connected) {
            self.send(state, &call);
        }
        Ok(call)
    }

    /// Queues the call's frame for the present connection.
    pub(crate) fn send(&self, state: &State, call: &Call) {
        let handles = state.queues.handles(&call.queues);
        let mut inner = call.lock();
        inner.prepare(
            call.op,
            &handles,
            call.deadline,
            self.config.request_timeout.as_millis() as u64,
        );
        self.outbox.append(state.connection, &inner.frame);
    }

    /// Waits for the call's answer until its deadline.
    pub(crate) fn finish(&self, call: &Call) -> Answer {
        if let Some(answer) = call.wait(Some(call.deadline)) {
            return answer;
        }
        let mut state = self.lock();
        if state.remove(call.correlation).is_none() {
            drop(state);
            // The reader has just taken it out, and hands the answer over next.
            return call.wait(None).unwrap_or(Answer::Failed(ClientError::Closed));
        }
        self.changed.notify_all();
        let number = call.lock().number;
        if call.is_in_doubt() {
            let reason = format!("no answer within {} ms", self.config.request_timeout.as_millis());
            return Answer::Failed(ClientError::OutcomeUnknown { number, reason });
        }
        Answer::Failed(self.too_late(&state))
    }

    /// The error of a deadline that passed before anything was at stake.
    fn too_late(&self, state: &State) -> ClientError {
        match &state.phase {
            Phase::Connecting(reason) => {
                let server = self.config.server.to_string();
                ClientError::NoConnection {
                    server,
                    reason: reason.clone(),
                }
            }
            _ => ClientError::Timeout(self.config.request_timeout.as_millis() as u64),
        }
    }

    /// Gives up for good: every call and every subscription ends.
    pub(crate) fn close(&self, why: ClientError) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Closed(_)) {
            return;
        }
        state.phase = Phase::Closed(why.clone());
        if let Some(socket) = self.outbox.reset(state.connection, None) {
            // Wakes the keeper.
            socket.shutdown();
        }
        let calls: Vec<_> = state.calls.drain().map(|(_, call)| call).collect();
        let feeds = std::mem::take(&mut state.feeds);
        drop(state);
        for call in calls {
            let number = call.lock().number;
            let doubt = call.is_in_doubt();
            let error = if doubt {
                ClientError::OutcomeUnknown {
                    number,
                    reason: why.to_string(),
                }
            } else {
                why.clone()
            };
            call.complete(Answer::Failed(error));
        }
        feeds.iter().for_each(|feed| feed.end(why.clone()));
        self.changed.notify_all();
    }

    /// Ends a subscription without waiting for the answer.
    pub(crate) fn unsubscribe(&self, feed: &Arc<Feed>) {
        let mut state = self.lock();
        state.feeds.retain(|other| !Arc::ptr_eq(other, feed));
        let id = state
            .feed_ids
            .iter()
            .find(|(_, other)| Arc::ptr_eq(other, feed))
            .map(|(id, _)| *id);
        if let Some(id) = id {
            state.feed_ids.remove(&id);
            self.send_unsubscribe(&mut state, id);
            drop(state);
            self.outbox.flush(Instant::now());
        }
    }

    pub(crate) fn send_unsubscribe(&self, state: &mut State, id: u32) {
        let mut frame = Vec::new();
        compose::unsubscribe(&mut frame, 0, id);
        self.start_unattended(
            state,
            self.request(Op::Unsubscribe, Kind::Plain, Vec::new(), frame),
        );
    }

    /// Gives deliveries back that nobody will work on, without waiting for the answer.
    pub(crate) fn release(&self, batch: Batch) {
        self.release_in(&mut self.lock(), batch);
        self.outbox.flush(Instant::now());
    }

    pub(crate) fn release_in(&self, state: &mut State, batch: Batch) {
        if let Some(releases) = releases(batch) {
            let mut frame = Vec::new();
            compose::settle(&mut frame, 0, 0, &releases);
            self.start_unattended(state, self.request(Op::Settle, Kind::Plain, Vec::new(), frame));
        }
    }

    /// A request with the usual deadline.
    pub(crate) fn request(&self, op: Op, kind: Kind, queues: Vec<u32>, frame: Vec<u8>) -> NewCall {
        NewCall {
            op,
            kind,
            queues,
            frame,
            deadline: Instant::now() + self.config.request_timeout,
        }
    }
}

impl State {
    /// Whether one more call may be in flight.
    fn has_room(&self, op: Op) -> bool {
        let calls_max = window(&self.welcome).max(2) - 1;
        (self.calls.len() as u64) < calls_max && (!op.is_numbered() || self.numbers.has_room())
    }

    fn free_correlation(&mut self) -> u32 {
        loop {
            self.correlation = (self.correlation + 1) % KEEPER_CORRELATION;
            if !self.calls.contains_key(&self.correlation) {
                return self.correlation;
            }
        }
    }

    /// Takes a call out of the table; its number no longer holds the window.
    pub(crate) fn remove(&mut self, correlation: u32) -> Option<Arc<Call>> {
        let call = self.calls.remove(&correlation)?;
        let number = call.lock().number;
        self.numbers.answered(number);
        Some(call)
    }
}

/// How many numbers of a session may be in use at a time.
pub(crate) fn window(welcome: &Welcome) -> u64 {
    u64::from(welcome.session_window).clamp(1, limits::SESSION_WINDOW)
}
