//! The thread behind a client: reads what the server sends, connects again when the connection is lost, sends again
//! what is unanswered, and shows signs of life.

use crate::client::answer::{Lost, on_frame};
use crate::client::call::{Answer, Call, Kind};
use crate::client::error::ClientError;
use crate::client::link::{Link, NoLink};
use crate::client::shared::{KEEPER_CORRELATION, Phase, Shared, State, window};
use crate::wire::{Op, compose};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// The longest that the reader sleeps, so that nothing left in the outbox and no deadline waits for long.
const TICK: Duration = Duration::from_millis(250);
/// Pause before a request that is being applied elsewhere is sent again.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(2);
/// A connection that stood this long makes the next pause a short one again.
const STABLE: Duration = Duration::from_secs(5);

/// Runs until the client is closed. `link` is the first connection.
pub(crate) fn run(shared: &Shared, mut link: Link) {
    let mut failures = 0;
    loop {
        let since = Instant::now();
        let lost = match install(shared, &mut link) {
            Ok(()) => serve(shared, &mut link),
            Err(NoLink::Later(reason)) => reason,
            Err(NoLink::Never(error)) => error.to_string(),
        };
        link.socket.shutdown();
        if since.elapsed() >= STABLE {
            failures = 0;
        }
        disconnected(shared, lost);
        // A connection that was lost at once is a failure too, or two sides that disagree would spin.
        loop {
            if failures > 0 && !pause(shared, failures) || is_closed(shared) {
                return;
            }
            failures += 1;
            match Link::open(&shared.config, shared.session) {
                Ok(next) => {
                    link = next;
                    break;
                }
                Err(NoLink::Later(reason)) => disconnected(shared, reason),
                Err(NoLink::Never(error @ ClientError::Refused(_))) => return shared.close(error),
                // Nonsense, but at this address there was an ackring server before, and may be again.
                Err(NoLink::Never(error)) => disconnected(shared, error.to_string()),
            }
        }
    }
}

fn is_closed(shared: &Shared) -> bool {
    matches!(shared.lock().phase, Phase::Closed(_))
}

fn disconnected(shared: &Shared, reason: String) {
    let mut state = shared.lock();
    shared.outbox.reset(state.connection, None);
    if !matches!(state.phase, Phase::Closed(_)) {
        state.phase = Phase::Connecting(reason);
    }
}

/// Waits before the next attempt; `false` when the client was closed.
fn pause(shared: &Shared, failures: u32) -> bool {
    let mut random = [0; 4];
    // Without randomness the pause is still a pause.
    let _ = getrandom::fill(&mut random);
    let until = Instant::now()
        + shared
            .config
            .reconnect
            .pause(failures, u32::from_le_bytes(random));
    let mut state = shared.lock();
    while !matches!(state.phase, Phase::Closed(_)) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        state = shared
            .changed
            .wait_timeout(state, left)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
    }
    false
}

/// Puts a fresh connection to use: handles first, then everything that is unanswered, in its order.
fn install(shared: &Shared, link: &mut Link) -> Result<(), NoLink> {
    let new_boot = {
        let state = shared.lock();
        (state.connection == 0 || state.welcome.boot != link.welcome.boot).then(|| state.queues.open())
    };
    // Nobody opens a queue meanwhile: that takes an answer, and there is no other connection.
    let opened = new_boot.unwrap_or_default();
    let names: Vec<_> = opened.iter().map(|(_, name)| name.clone()).collect();
    let handles = link.open_queues(&names, Instant::now() + shared.config.connect_timeout)?;

    let mut state = shared.lock();
    if matches!(state.phase, Phase::Closed(_)) {
        return Err(NoLink::Later("closed".to_owned()));
    }
    for ((index, _), handle) in opened.iter().zip(handles) {
        state.queues.set(*index, handle);
    }
    state.connection += 1;
    state.phase = Phase::Connected;
    state.numbers.set_window(window(&link.welcome));
    state.feed_ids.clear();
    shared.outbox.reset(state.connection, Some(link.socket.clone()));
    if !link.welcome.session_known && state.session_in_use {
        state.session_in_use = false;
        fail_what_is_in_doubt(&mut state, "the server no longer knows the session");
    }
    state.welcome = link.welcome.clone();
    let mut calls: Vec<Arc<Call>> = state.calls.values().cloned().collect();
    calls.sort_by_key(|call| call.sequence);
    calls.iter().for_each(|call| shared.send(&state, call));
    subscribe_again(shared, &mut state, &calls);
    drop(state);
    shared.changed.notify_all();
    Ok(())
}

fn fail_what_is_in_doubt(state: &mut State, reason: &str) {
    let doubtful: Vec<_> = state
        .calls
        .values()
        .filter(|call| call.is_in_doubt())
        .map(|call| call.correlation)
        .collect();
    for call in doubtful
        .into_iter()
        .filter_map(|correlation| state.remove(correlation))
    {
        let number = call.lock().number;
        let reason = reason.to_owned();
        call.complete(Answer::Failed(ClientError::OutcomeUnknown { number, reason }));
    }
}

/// Subscriptions end with their connection; those that are wanted and not being made already are made again.
fn subscribe_again(shared: &Shared, state: &mut State, calls: &[Arc<Call>]) {
    for feed in state.feeds.clone() {
        let under_way = calls
            .iter()
            .any(|call| matches!(&call.kind, Kind::Subscribe(f) if Arc::ptr_eq(f, &feed)));
        if !under_way {
            let mut frame = Vec::new();
            let handles = vec![0; feed.queues.len()];
            let window = feed.window;
            compose::subscribe(
                &mut frame,
                0,
                window.jobs,
                window.bytes,
                window.lease_ms,
                &handles,
            );
            let queues = feed.queues.clone();
            shared.start_unattended(
                state,
                shared.request(Op::Subscribe, Kind::Subscribe(feed), queues, frame),
            );
        }
    }
}

/// Reads until the connection is lost or the client closed, and returns why.
fn serve(shared: &Shared, link: &mut Link) -> String {
    let heartbeat = Duration::from_millis(u64::from(link.welcome.heartbeat_ms));
    let tick = TICK.min(heartbeat_tick(heartbeat));
    let mut heard = Instant::now();
    let mut pinged = heard;
    let mut ticked = heard;
    let mut retries = Vec::new();
    let mut timeout = Duration::ZERO;
    // What came right behind the answer to HELLO is in the decoder already.
    if let Err(Lost(reason)) = take_frames(shared, link, &mut retries) {
        return reason;
    }
    loop {
        let now = Instant::now();
        if !heartbeat.is_zero() && now.duration_since(heard) > heartbeat * 3 {
            return format!(
                "the server was silent for {} ms",
                now.duration_since(heard).as_millis()
            );
        }
        if !heartbeat.is_zero() && now.duration_since(pinged) > heartbeat / 2 {
            pinged = now;
            ping(shared);
        }
        if now.duration_since(ticked) >= tick {
            ticked = now;
            forget_abandoned(shared, now);
        }
        let pause = send_again(shared, &mut retries, now).unwrap_or(tick);
        shared.outbox.flush(now);
        if pause != timeout {
            timeout = pause;
            if let Err(error) = link.socket.set_read_timeout(timeout) {
                return error.to_string();
            }
        }
        match link.socket.read_some(link.decoder.space()) {
            Ok(Some(count)) => {
                heard = Instant::now();
                link.decoder.filled(count);
                if let Err(Lost(reason)) = take_frames(shared, link, &mut retries) {
                    return reason;
                }
            }
            Ok(None) => {}
            Err(error) => return error.to_string(),
        }
    }
}

fn ping(shared: &Shared) {
    let mut ping = Vec::new();
    compose::ping(&mut ping, KEEPER_CORRELATION);
    let connection = shared.lock().connection;
    shared.outbox.append(connection, &ping);
}

fn heartbeat_tick(heartbeat: Duration) -> Duration {
    if heartbeat.is_zero() { TICK } else { heartbeat / 4 }
}

/// Hands out every whole frame that the last read brought.
fn take_frames(shared: &Shared, link: &mut Link, retries: &mut Retries) -> Result<(), Lost> {
    let mut answered: Vec<(Arc<Call>, Answer)> = Vec::new();
    let mut result = Ok(());
    let mut state = shared.lock();
    for frame in link.decoder.frames() {
        let outcome = match frame {
            Ok(frame) => on_frame(shared, &mut state, &frame, retries),
            Err(bad) => Err(Lost(bad.to_string())),
        };
        match outcome {
            Ok(Some(done)) => answered.push(done),
            Ok(None) => {}
            Err(lost) => {
                result = Err(lost);
                break;
            }
        }
    }
    drop(state);
    // Outside the lock, since each wakes a thread that may want it.
    let room = !answered.is_empty();
    answered
        .into_iter()
        .for_each(|(call, answer)| call.complete(answer));
    if room {
        shared.changed.notify_all();
    }
    result
}

/// Requests that the server asked to send again at once, each with the time to do so.
pub(crate) type Retries = Vec<(Instant, u32)>;

/// Sends again what is due; returns how long the rest has to wait, `None` when there is none.
fn send_again(shared: &Shared, retries: &mut Retries, now: Instant) -> Option<Duration> {
    if retries.is_empty() {
        return None;
    }
    let state = shared.lock();
    retries.retain(|(due, correlation)| {
        if *due > now {
            return true;
        }
        if let Some(call) = state.calls.get(correlation) {
            shared.send(&state, call);
        }
        false
    });
    retries.iter().map(|(due, _)| due.duration_since(now)).min()
}

/// Calls whose deadline passed with nobody to notice.
fn forget_abandoned(shared: &Shared, now: Instant) {
    let mut state = shared.lock();
    let stale = |call: &&Arc<Call>| call.deadline < now && call.lock().abandoned;
    let stale: Vec<_> = state
        .calls
        .values()
        .filter(stale)
        .map(|call| call.correlation)
        .collect();
    for correlation in stale {
        state.remove(correlation);
    }
}
