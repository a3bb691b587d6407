//! One connection: its socket, its decoder, its peer, and the way to its end.

use super::desk::Desk;
use super::hub::Hub;
use super::net::NetStream;
use super::outbox::Written;
use super::peer::{Peer, Stage};
use crate::base::code::{ErrorCode, Refusal};
use crate::base::limits::{FRAME_BYTES_MAX, RECEIVE_BYTES_EACH};
use crate::wire::hello::HELLO_BYTES_MAX;
use crate::wire::{FrameDecoder, Reply};
use std::cmp::Ordering;
use std::io;
use std::sync::atomic::Ordering::Relaxed;

/// A connection that was silent for this long gives its buffers back, in milliseconds.
const IDLE_MS: u64 = 1_000;
/// A heartbeat may be late by this factor before the connection is given up.
const HEARTBEATS_MISSED_MAX: u64 = 3;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Connection<S> {
    pub(super) stream: S,
    decoder: FrameDecoder,
    pub(super) peer: Peer,
    /// The socket may have bytes.
    readable: bool,
    /// The peer has closed its writing side: after the last byte comes the end.
    read_closed: bool,
    /// The socket may take bytes.
    writable: bool,
    /// Whole frames may wait in the decoder, because the outbox was full.
    has_frames: bool,
    opened_ms: u64,
    heard_ms: u64,
    /// Since when the peer has taken nothing although something waits.
    stalled_ms: Option<u64>,
    /// How much of the decoder's memory the hub was told of, in bytes.
    counted_bytes: usize,
    /// Whether it stands in the reactor's list of connections to run.
    pub(super) is_queued: bool,
    /// Whether it stands in the reactor's list of connections to flush.
    pub(super) is_touched: bool,
    /// Whether it stands in the reactor's list of connections with held answers.
    pub(super) is_holding: bool,
    /// Whether it counts against the limit on connections.
    pub(super) is_counted: bool,
}

impl<S: NetStream> Connection<S> {
    pub(super) fn new(stream: S, number: u32, now_ms: u64) -> Self {
        Self {
            stream,
            decoder: FrameDecoder::new(HELLO_BYTES_MAX),
            peer: Peer::new(number),
            // The first request has mostly come already; to look now saves a turn.
            readable: true,
            read_closed: false,
            writable: true,
            has_frames: false,
            opened_ms: now_ms,
            heard_ms: now_ms,
            stalled_ms: None,
            counted_bytes: 0,
            is_queued: false,
            is_touched: false,
            is_holding: false,
            is_counted: true,
        }
    }

    /// The poll says what the socket is ready for.
    pub(super) fn ready(&mut self, readable: bool, read_closed: bool, writable: bool) {
        self.readable |= readable || read_closed;
        self.read_closed |= read_closed;
        self.writable |= writable;
    }

    /// When something last came, in milliseconds since the Unix epoch.
    pub(super) fn heard_ms(&self) -> u64 {
        self.heard_ms
    }

    /// Whether [`run`](Self::run) would get on now.
    pub(super) fn wants_run(&self) -> bool {
        match self.peer.stage {
            Stage::Greeting | Stage::Open => {
                (self.readable || self.has_frames) && !self.peer.outbox.is_full()
            }
            Stage::Lingering { .. } => self.readable,
            Stage::Leaving { .. } | Stage::Gone => false,
        }
    }

    /// One turn: carries out what waits in the decoder, reads once, carries out what that brought.
    pub(super) fn run(&mut self, desk: &mut Desk) {
        if let Stage::Lingering { .. } = self.peer.stage {
            return self.discard();
        }
        if self.has_frames {
            self.carry_out(desk);
        }
        if self.peer.is_served() && self.readable && !self.has_frames {
            self.read(desk.now_ms);
            self.carry_out(desk);
            self.weigh(desk);
        }
        if !self.peer.is_served() {
            desk.drop_waiters(&mut self.peer);
        }
    }

    /// Gives memory back while all connections together have much: what it does not need right now; and while they have
    /// too much, if it took more just now, that of a request of which a part has come. What every connection has to itself
    /// is left to it.
    fn weigh(&mut self, desk: &mut Desk) {
        let before = self.counted_bytes;
        self.count_bytes(&desk.hub);
        let (limit, all) = (desk.hub.config.receive_bytes_max, &desk.hub.receiving);
        if self.counted_bytes == 0 || all.load(Relaxed) <= limit / 2 {
            return;
        }
        self.decoder.release_memory();
        if self.counted_bytes > before
            && all.load(Relaxed) > limit
            && let Some(header) = self.decoder.give_up_frame()
        {
            let text = "the server has too many bytes of requests that have not wholly come; try again later";
            let refusal = Refusal::new(ErrorCode::LimitReached, text);
            desk.refuse(&mut self.peer, Reply::to(&header), &refusal);
        }
        self.count_bytes(&desk.hub);
    }

    /// Tells the hub how much memory the decoder has. Buffers grow and shrink seldom.
    fn count_bytes(&mut self, hub: &Hub) {
        let bytes = self.decoder.memory().saturating_sub(RECEIVE_BYTES_EACH);
        let before = std::mem::replace(&mut self.counted_bytes, bytes);
        // Relaxed: a count, which nothing else is read by.
        match bytes.cmp(&before) {
            Ordering::Equal => 0,
            Ordering::Greater => hub.receiving.fetch_add(bytes - before, Relaxed),
            Ordering::Less => hub.receiving.fetch_sub(before - bytes, Relaxed),
        };
    }

    /// Its memory goes with it.
    pub(super) fn forget_bytes(&mut self, hub: &Hub) {
        hub.receiving.fetch_sub(self.counted_bytes, Relaxed);
        self.counted_bytes = 0;
    }

    /// Carries out all whole frames, until the outbox is full.
    fn carry_out(&mut self, desk: &mut Desk) {
        self.has_frames = false;
        loop {
            if self.peer.outbox.is_full() {
                self.has_frames = true;
                return;
            }
            if !matches!(self.peer.stage, Stage::Greeting | Stage::Open) {
                return;
            }
            let handled = if self.peer.stage == Stage::Open {
                desk.handle_some(&mut self.peer, &mut self.decoder.frames())
            } else {
                let next = self.decoder.next_frame();
                next.map(|frame| frame.map(|frame| desk.handle(&mut self.peer, frame)).is_some())
            };
            match handled {
                Ok(true) => {}
                Ok(false) => break,
                Err(bad) => return self.peer.dismiss(&Refusal::from(bad)),
            }
            if self.peer.stage == Stage::Open {
                self.decoder.set_len_max(FRAME_BYTES_MAX);
            }
        }
        if self.read_closed && !self.readable {
            // Everything that came was answered; the peer may still be reading.
            self.peer.leave(false);
        }
    }

    fn read(&mut self, now_ms: u64) {
        let space = self.decoder.space();
        let len = space.len();
        match self.stream.read(space) {
            Ok(0) => {
                self.readable = false;
                self.read_closed = true;
            }
            Ok(count) => {
                self.decoder.filled(count);
                self.heard_ms = now_ms;
                // Less than asked for means that nothing is left: the poll tells when more comes. The end of the
                // stream was told of already, so it must be read up to.
                self.readable = count == len || self.read_closed;
            }
            Err(error) => self.read_failed(&error),
        }
    }

    fn read_failed(&mut self, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::WouldBlock => self.readable = false,
            io::ErrorKind::Interrupted => {}
            _ => self.peer.stage = Stage::Gone,
        }
    }

    /// Throws away what a peer still sends that was told goodbye.
    fn discard(&mut self) {
        match self.stream.read(self.decoder.space()) {
            Ok(0) => self.peer.stage = Stage::Gone,
            Ok(_) => {}
            Err(error) => self.read_failed(&error),
        }
    }

    /// Writes once if there is something to write, and goes on towards the end if that was all.
    /// After its last answer the peer has `linger_ms` to close.
    pub(super) fn flush(&mut self, now_ms: u64, linger_ms: u64) {
        if self.peer.outbox.has_output() && self.writable {
            match self.peer.outbox.write_to(&mut self.stream) {
                Ok(Written::All) => self.stalled_ms = None,
                Ok(Written::Part) => {
                    self.writable = false;
                    self.stalled_ms = Some(now_ms);
                }
                Ok(Written::Nothing) => {
                    self.writable = false;
                    self.stalled_ms.get_or_insert(now_ms);
                }
                Err(_) => self.peer.stage = Stage::Gone,
            }
        }
        if let Stage::Leaving { politely } = self.peer.stage
            && !self.peer.outbox.has_output()
            && !self.peer.outbox.holds()
        {
            if politely && !self.read_closed {
                self.stream.finish_writing();
                self.peer.stage = Stage::Lingering {
                    until_ms: now_ms + linger_ms,
                };
            } else {
                self.peer.stage = Stage::Gone;
            }
        }
    }

    /// Ends what has taken too long, and gives back memory that an idle connection does not need.
    pub(super) fn look_at_clock(&mut self, desk: &mut Desk) {
        let (now_ms, config) = (desk.now_ms, &desk.hub.config);
        let silent_ms = now_ms.saturating_sub(self.heard_ms);
        let heartbeat_ms = u64::from(self.peer.heartbeat_ms);
        match self.peer.stage {
            Stage::Greeting if now_ms.saturating_sub(self.opened_ms) >= config.hello_timeout_ms => {
                let text = format!("no HELLO within {} ms", config.hello_timeout_ms);
                self.peer.dismiss(&Refusal::new(ErrorCode::HelloExpected, text));
            }
            Stage::Open if heartbeat_ms > 0 && silent_ms > HEARTBEATS_MISSED_MAX * heartbeat_ms => {
                // Nobody is there to be told.
                self.peer.stage = Stage::Gone;
            }
            Stage::Lingering { until_ms } if until_ms <= now_ms => self.peer.stage = Stage::Gone,
            _ => {}
        }
        if self
            .stalled_ms
            .is_some_and(|since_ms| now_ms.saturating_sub(since_ms) >= config.stall_timeout_ms)
        {
            self.peer.stage = Stage::Gone;
        }
        let is_halfway = self.decoder.pending() > 0 && !self.has_frames && !self.readable;
        if self.peer.is_served() && is_halfway && silent_ms >= config.stall_timeout_ms {
            // Half a request, which may be large. Nobody else than its peer can end it.
            self.peer.stage = Stage::Gone;
        }
        if silent_ms > IDLE_MS {
            self.decoder.release_memory();
            self.peer.outbox.release_memory();
            self.peer.holdings.release_memory();
            self.count_bytes(&desk.hub);
        }
        desk.sweep(&mut self.peer);
    }
}
