//! What each frame from the server means for the calls and subscriptions that wait.

use crate::base::code::{Class, ErrorCode};
use crate::client::call::{Answer, Call, Kind};
use crate::client::delivery::Batch;
use crate::client::error::ClientError;
use crate::client::keeper::{RETRY_PAUSE, Retries};
use crate::client::shared::{KEEPER_CORRELATION, Shared, State};
use crate::wire::error::class_number;
use crate::wire::response::decode_handle;
use crate::wire::{ErrorReply, Frame, Header, Op};
use std::sync::Arc;
use std::time::Instant;
use zerocopy::IntoBytes;

/// The connection is of no more use, for this reason.
pub(crate) struct Lost(pub(crate) String);

/// Takes one frame in. Returns the call that it completes, if it does; the caller hands the answer over when it has
/// let go of the state.
pub(crate) fn on_frame(
    shared: &Shared,
    state: &mut State,
    frame: &Frame<'_>,
    retries: &mut Retries,
) -> Result<Option<(Arc<Call>, Answer)>, Lost> {
    let header = frame.header;
    if header.words != Header::WORDS {
        return Err(Lost("a header of another length".to_owned()));
    }
    if header.is_push() {
        on_push(shared, state, frame);
        return Ok(None);
    }
    let correlation = header.correlation.get();
    let error = if header.is_error() {
        Some(read_error(frame.body)?)
    } else {
        None
    };
    if header.answered_op().is_none() {
        // An error that belongs to no request, before the server closes.
        return Err(Lost(
            error.map_or("an answer to nothing".to_owned(), |error| error.text),
        ));
    }
    if correlation >= KEEPER_CORRELATION {
        return Ok(None);
    }
    if let Some(error) = error {
        return on_error(shared, state, correlation, error, retries);
    }
    let Some(call) = state.remove(correlation) else {
        on_late_answer(shared, state, frame);
        return Ok(None);
    };
    if header.answered_op() != Some(call.op) {
        return Err(Lost("an answer to another kind of request".to_owned()));
    }
    let answer = on_success(shared, state, &call, frame.body);
    Ok(Some((call, answer)))
}

/// Its caller has given up: what it brings is handed back.
fn on_late_answer(shared: &Shared, state: &mut State, frame: &Frame<'_>) {
    match (frame.header.answered_op(), decode_handle(frame.body)) {
        (Some(Op::Reserve), _) => {
            shared.release_in(
                state,
                Batch {
                    body: frame.body.to_vec(),
                    names: Vec::new(),
                },
            );
        }
        (Some(Op::Subscribe), Ok(id)) => shared.send_unsubscribe(state, id),
        _ => {}
    }
}

fn read_error(body: &[u8]) -> Result<ErrorReply, Lost> {
    ErrorReply::decode(body).map_err(|refusal| Lost(refusal.text))
}

fn on_success(shared: &Shared, state: &mut State, call: &Call, body: &[u8]) -> Answer {
    match &call.kind {
        Kind::Plain => {
            // The first byte of an outcome is the durability reached: from then on the session is on record.
            state.session_in_use |= call.op.is_numbered() && body.first().is_some_and(|level| *level > 0);
            Answer::Body(body.to_vec())
        }
        Kind::Open(index) => match decode_handle(body) {
            Ok(handle) => {
                state.queues.set(*index, Some(handle));
                Answer::Body(body.to_vec())
            }
            Err(refusal) => Answer::Failed(ClientError::Protocol(refusal.text)),
        },
        Kind::Reserve => {
            let batch = Batch {
                body: body.to_vec(),
                names: state.queues.names(&call.queues),
            };
            if call.lock().abandoned {
                shared.release_in(state, batch);
                return Answer::Failed(ClientError::Closed);
            }
            Answer::Deliveries(batch)
        }
        Kind::Subscribe(feed) => match decode_handle(body) {
            Ok(id) if feed.is_dropped() => {
                shared.send_unsubscribe(state, id);
                Answer::Failed(ClientError::Closed)
            }
            Ok(id) => {
                state.feed_ids.insert(id, feed.clone());
                if !state.feeds.iter().any(|other| Arc::ptr_eq(other, feed)) {
                    state.feeds.push(feed.clone());
                }
                Answer::Body(body.to_vec())
            }
            Err(refusal) => Answer::Failed(ClientError::Protocol(refusal.text)),
        },
    }
}

/// An error reply, by its class.
fn on_error(
    shared: &Shared,
    state: &mut State,
    correlation: u32,
    error: ErrorReply,
    retries: &mut Retries,
) -> Result<Option<(Arc<Call>, Answer)>, Lost> {
    let is = |class| error.class == class_number(class);
    if is(Class::Reconnect) {
        // The call stays, and is sent again under its number on the next connection.
        return Err(Lost(error.text));
    }
    if is(Class::RetryNow) {
        retries.push((Instant::now() + RETRY_PAUSE, correlation));
        return Ok(None);
    }
    if error.number == ErrorCode::SessionExpired as u16 && reserve_anew(shared, state, correlation) {
        return Ok(None);
    }
    let Some(call) = state.remove(correlation) else {
        return Ok(None);
    };
    let number = call.lock().number;
    let answer = if is(Class::Success) {
        Answer::AlreadyApplied
    } else if is(Class::OutcomeUnknown) {
        Answer::Failed(ClientError::OutcomeUnknown {
            number,
            reason: error.text,
        })
    } else {
        Answer::Failed(match error.refusal() {
            Some(refusal) => ClientError::from_refusal(refusal, number),
            None => ClientError::Protocol(format!("code {}: {}", error.number, error.text)),
        })
    };
    if let (Kind::Subscribe(feed), Answer::Failed(error)) = (&call.kind, &answer) {
        feed.end(error.clone());
        state.feeds.retain(|other| !Arc::ptr_eq(other, feed));
    }
    Ok(Some((call, answer)))
}

/// A reserve waited so long that its number fell out of the window. Reserving again is harmless.
fn reserve_anew(shared: &Shared, state: &mut State, correlation: u32) -> bool {
    let Some(call) = state
        .calls
        .get(&correlation)
        .filter(|call| call.op == Op::Reserve)
        .cloned()
    else {
        return false;
    };
    // Without room for a number it goes unnumbered, which costs no more than the end of a lease.
    let number = if state.numbers.has_room() {
        state.numbers.take(false)
    } else {
        0
    };
    call.lock().set_number(Op::Reserve, number);
    shared.send(state, &call);
    true
}

/// Jobs for a subscription, or its end.
fn on_push(shared: &Shared, state: &mut State, frame: &Frame<'_>) {
    if frame.header.answered_op() != Some(Op::Delivery) {
        return;
    }
    let id = frame.header.aux.get();
    if frame.header.is_error() {
        if let Some(feed) = state.feed_ids.remove(&id) {
            state.feeds.retain(|other| !Arc::ptr_eq(other, &feed));
            let error = read_error(frame.body).ok().and_then(|error| error.refusal());
            // By its class, as for a call: a log that was full for a moment is no reason to give up.
            feed.end(error.map_or(ClientError::Closed, |refusal| {
                ClientError::from_refusal(refusal, 0)
            }));
        }
        return;
    }
    let batch = |names| Batch {
        body: frame.body.as_bytes().to_vec(),
        names,
    };
    let unwanted = match state.feed_ids.get(&id) {
        Some(feed) => feed.offer(batch(state.queues.names(&feed.queues))),
        None => Some(batch(Vec::new())),
    };
    if let Some(batch) = unwanted {
        shared.release_in(state, batch);
    }
}
