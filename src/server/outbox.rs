//! What waits to be written to one connection, and the answers that wait for the disk first.

use super::net::NetStream;
use crate::base::limits::OUTBOX_BYTES_MAX;
use crate::log::LogPosition;
use std::collections::VecDeque;
use std::io;

/// What an idle connection keeps of an empty buffer, in bytes.
const KEPT_BYTES_MAX: usize = 1024;

/// How a write went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// Nothing waits any more.
    All,
    /// The socket took a part; it says when it takes more.
    Part,
    /// The socket took nothing.
    Nothing,
}

/// Bytes for one peer, in the order in which they are sent; held answers join at the end once they may.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    /// How many of `bytes` were written.
    head: usize,
    /// Frames that must not be sent before the log is durable up to a position, oldest first.
    held: VecDeque<(LogPosition, usize)>,
    held_bytes: VecDeque<u8>,
}

impl Outbox {
    /// Where answers are appended, frame by frame.
    #[inline]
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// The place behind the last frame, for [`hold_from`](Self::hold_from).
    #[inline]
    pub(super) fn mark(&self) -> usize {
        self.bytes.len()
    }

    /// Holds what was appended since `mark` until the log is durable up to `position`.
    pub(super) fn hold_from(&mut self, mark: usize, position: LogPosition) {
        self.held.push_back((position, self.bytes.len() - mark));
        self.held_bytes.extend(self.bytes.drain(mark..));
    }

    /// What was appended since `mark` must not overtake the answers held so far.
    pub(super) fn put_behind_held(&mut self, mark: usize) {
        if let Some((position, _)) = self.held.back() {
            self.hold_from(mark, *position);
        }
    }

    /// Whether any answer waits for the disk.
    pub(super) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Lets go what may be sent now; says whether that was anything.
    pub(super) fn release(&mut self, durable: LogPosition) -> bool {
        let mut released = 0;
        while let Some((position, len)) = self.held.front()
            && *position <= durable
        {
            released += len;
            self.held.pop_front();
        }
        self.bytes.extend(self.held_bytes.drain(..released));
        released > 0
    }

    /// Forgets the held answers: what they confirm will never be certain.
    pub(super) fn drop_held(&mut self) {
        self.held.clear();
        self.held_bytes.clear();
    }

    /// Whether there is something to write now.
    #[inline]
    pub(super) fn has_output(&self) -> bool {
        self.head < self.bytes.len()
    }

    /// Whether so much waits that no more requests of this peer are read.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() - self.head + self.held_bytes.len() > OUTBOX_BYTES_MAX
    }

    /// Gives large empty buffers back; for connections that are idle.
    pub(super) fn release_memory(&mut self) {
        if self.bytes.is_empty() && self.bytes.capacity() > KEPT_BYTES_MAX {
            self.bytes = Vec::new();
        }
        if self.held_bytes.is_empty() && self.held_bytes.capacity() > KEPT_BYTES_MAX {
            self.held_bytes = VecDeque::new();
        }
    }

    /// Writes once.
    pub(super) fn write_to(&mut self, stream: &mut impl NetStream) -> io::Result<Written> {
        let written = loop {
            match stream.write(&self.bytes[self.head..]) {
                Ok(written) => break written,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(Written::Nothing),
                    io::ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        };
        self.head += written;
        if self.head == self.bytes.len() {
            self.head = 0;
            self.bytes.clear();
            return Ok(Written::All);
        }
        // What was written is cut off once it is the larger part, so that each byte moves at most once.
        if self.head > self.bytes.len() / 2 {
            self.bytes.drain(..self.head);
            self.head = 0;
        }
        Ok(Written::Part)
    }
}

#[cfg(test)]
mod tests {
    use super::super::stream::Stream;
    use super::*;

    fn position(offset: u64) -> LogPosition {
        LogPosition::from_raw(1 << 32 | offset)
    }

    #[test]
    fn held_answers_are_overtaken_and_released_in_order() {
        let mut outbox = Outbox::default();
        for (text, offset) in [(&b"one"[..], 8), (b"two", 16), (b"three", 24)] {
            let mark = outbox.mark();
            outbox.buffer().extend_from_slice(text);
            outbox.hold_from(mark, position(offset));
        }
        outbox.buffer().extend_from_slice(b"first ");
        assert!(!outbox.release(position(0)));
        assert!(outbox.release(position(16)));
        assert_eq!(outbox.buffer(), b"first onetwo");
        let mark = outbox.mark();
        outbox.buffer().extend_from_slice(b"!");
        outbox.put_behind_held(mark);
        assert!(outbox.release(position(99)));
        assert_eq!(outbox.buffer(), b"first onetwothree!");
        assert!(!outbox.holds());
    }

    #[test]
    fn held_answers_count_against_the_bound() {
        let mut outbox = Outbox::default();
        outbox.buffer().resize(OUTBOX_BYTES_MAX + 1, 0);
        outbox.hold_from(0, position(8));
        assert!(outbox.is_full() && !outbox.has_output());
        outbox.drop_held();
        assert!(!outbox.is_full());
    }

    #[test]
    fn a_peer_that_takes_little_at_a_time_gets_everything_in_order() {
        let (mut ours, theirs) = std::os::unix::net::UnixStream::pair()
            .map(|(ours, theirs)| {
                ours.set_nonblocking(true).unwrap();
                (Stream::Unix(mio::net::UnixStream::from_std(ours)), theirs)
            })
            .unwrap();
        let mut theirs = theirs;
        let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        let mut outbox = Outbox::default();
        outbox.buffer().extend_from_slice(&sent);
        let mut received = Vec::new();
        let mut space = vec![0; 100_000];
        while received.len() < sent.len() {
            if outbox.has_output() {
                outbox.write_to(&mut ours).unwrap();
            }
            let count = std::io::Read::read(&mut theirs, &mut space).unwrap();
            received.extend_from_slice(&space[..count]);
        }
        assert!(received == sent && !outbox.has_output());
    }
}
