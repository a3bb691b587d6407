//! The header that every frame begins with, and the writer that puts frames together.

use crate::base::entry::pad8;
use crate::wire::op::{Op, PUSH, REPLY};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first 16 bytes of every frame, read in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Length of the whole frame, this header included, in bytes; a multiple of 8.
    pub len: U32,
    /// An [`Op`], with [`REPLY`] or [`PUSH`] where the server sends it.
    pub op: U16,
    /// [`Header::ERROR`] on an answer; a durability level in the low two bits of an ENQUEUE; [`Header::QUIET`] on a
    /// SETTLE; otherwise zero.
    pub flags: u8,
    /// Length of the header in units of 8 bytes: always 2 in this version.
    pub words: u8,
    /// Chosen by the client, copied into the answer.
    pub correlation: U32,
    /// Queue handle of an ENQUEUE, subscription of a DELIVERY or UNSUBSCRIBE; otherwise zero.
    pub aux: U32,
}

impl Header {
    /// Length of the header, in bytes.
    pub const LEN: usize = 16;
    /// What [`words`](Self::words) holds in this version.
    pub const WORDS: u8 = (Self::LEN / 8) as u8;
    /// The answer is an error reply.
    pub const ERROR: u8 = 1 << 7;
    /// The SETTLE is answered only where something of it was not applied.
    pub const QUIET: u8 = 1 << 0;

    /// The operation of an answer or a push, without its direction bits; `None` when it is unknown.
    pub fn answered_op(&self) -> Option<Op> {
        Op::from_u16(self.op.get() & !(REPLY | PUSH))
    }

    /// Whether it is an answer.
    pub fn is_reply(&self) -> bool {
        self.op.get() & REPLY != 0
    }

    /// Whether the server sent it unasked.
    pub fn is_push(&self) -> bool {
        self.op.get() & PUSH != 0
    }

    /// Whether the body is an error.
    pub fn is_error(&self) -> bool {
        self.flags & Self::ERROR != 0
    }
}

/// One whole frame, borrowed from the buffer it was read into.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// Its first 16 bytes.
    pub header: &'a Header,
    /// What follows them.
    pub body: &'a [u8],
}

/// Appends one frame to a buffer: begin, put the body, finish. Dropped unfinished, it takes its bytes back.
///
/// ```
/// use ackring::wire::{FrameWriter, Op};
/// let mut out = Vec::new();
/// FrameWriter::begin(&mut out, Op::Ping as u16, 0, 7, 0).finish();
/// assert_eq!(out.len(), 16);
/// ```
#[derive(Debug)]
pub struct FrameWriter<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    finished: bool,
}

impl<'a> FrameWriter<'a> {
    /// Begins a frame behind what `out` holds.
    pub fn begin(out: &'a mut Vec<u8>, op: u16, flags: u8, correlation: u32, aux: u32) -> Self {
        let start = out.len();
        let header = Header {
            len: U32::new(0),
            op: U16::new(op),
            flags,
            words: Header::WORDS,
            correlation: U32::new(correlation),
            aux: U32::new(aux),
        };
        out.extend_from_slice(header.as_bytes());
        Self {
            out,
            start,
            finished: false,
        }
    }

    /// Appends to the body.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Appends a byte.
    pub fn put_u8(&mut self, value: u8) {
        self.out.push(value);
    }

    /// Appends two bytes, little end first.
    pub fn put_u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }

    /// Appends four bytes, little end first.
    pub fn put_u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    /// Appends eight bytes, little end first.
    pub fn put_u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    /// Appends a blob: length, bytes, padding to 8.
    pub fn put_blob(&mut self, bytes: &[u8]) {
        crate::base::batch::put_note(self.out, bytes);
    }

    /// Appends zeros up to the next multiple of 8 bytes from the frame's start.
    #[inline]
    pub fn pad(&mut self) {
        let padded = pad8(self.len());
        self.out.resize(self.start + padded, 0);
    }

    /// Overwrites four bytes of the body, `at` bytes behind the header. They must have been put before.
    pub fn patch_u32(&mut self, at: usize, value: u32) {
        let at = self.start + Header::LEN + at;
        self.out[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// Length of the frame so far, header included, in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.out.len() - self.start
    }

    /// Whether the body is still empty.
    pub fn is_empty(&self) -> bool {
        self.len() == Header::LEN
    }

    /// The buffer that the frame is appended to, for writers of whole batches.
    pub fn out(&mut self) -> &mut Vec<u8> {
        self.out
    }

    /// Pads the body, writes the length, and returns it.
    pub fn finish(mut self) -> usize {
        self.pad();
        let len = self.len();
        // A frame beyond 4 GiB cannot be said on the wire; every sender bounds its frames far below.
        let field = u32::try_from(len).unwrap_or(u32::MAX);
        self.out[self.start..self.start + 4].copy_from_slice(&field.to_le_bytes());
        self.finished = true;
        len
    }
}

impl Drop for FrameWriter<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.out.truncate(self.start);
        }
    }
}

const _: () = assert!(size_of::<Header>() == Header::LEN);
