//! HELLO and its answer: the only bytes that no later version may change.

use crate::base::code::Refusal;
use crate::base::limits;
use crate::wire::fields::Fields;
use crate::wire::frame::FrameWriter;
use crate::wire::op::{Op, REPLY};

/// The protocol version that this crate speaks.
pub const VERSION: u16 = 1;
/// Longest frame before HELLO was answered, in bytes.
pub const HELLO_BYTES_MAX: u32 = 1_024;
/// Longest name in HELLO and its answer, in bytes.
pub const PEER_NAME_BYTES_MAX: usize = 256;

/// What a client says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello<'a> {
    /// Lowest version that the client speaks.
    pub version_min: u16,
    /// Highest version that the client speaks.
    pub version_max: u16,
    /// Features that the client would use, a bit each; version 1 has none.
    pub features: u32,
    /// Longest frame that the client takes, in bytes; 0 for the server's own.
    pub frame_bytes_max: u32,
    /// How often the client shows a sign of life, in milliseconds; 0 for never.
    pub heartbeat_ms: u32,
    /// The session under which its requests are numbered; 0 for none.
    pub session: u128,
    /// For people who look at the server's log.
    pub name: &'a str,
}

impl<'a> Hello<'a> {
    /// What a client of this version says that has no wishes and shows no sign of life.
    pub fn new(session: u128, name: &'a str) -> Self {
        Self {
            version_min: VERSION,
            version_max: VERSION,
            features: 0,
            frame_bytes_max: 0,
            heartbeat_ms: 0,
            session,
            name,
        }
    }

    /// Appends the frame to `out`.
    pub fn encode(&self, out: &mut Vec<u8>, correlation: u32) {
        let mut frame = FrameWriter::begin(out, Op::Hello as u16, 0, correlation, 0);
        frame.put_u16(self.version_min);
        frame.put_u16(self.version_max);
        frame.put_u32(self.features);
        frame.put_u32(self.frame_bytes_max);
        frame.put_u32(self.heartbeat_ms);
        frame.put(&self.session.to_le_bytes());
        frame.put_blob(self.name.as_bytes());
        frame.finish();
    }

    pub(crate) fn decode(body: &'a [u8]) -> Result<Self, Refusal> {
        let mut fields = Fields::new(body);
        let hello = Self {
            version_min: fields.u16()?,
            version_max: fields.u16()?,
            features: fields.u32()?,
            frame_bytes_max: fields.u32()?,
            heartbeat_ms: fields.u32()?,
            session: fields.u128()?,
            name: fields.text(PEER_NAME_BYTES_MAX)?,
        };
        // No `end`: a later version may say more behind the name, and this one must still understand it.
        Ok(hello)
    }
}

/// What the server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The version that both speak from here on.
    pub version: u16,
    /// Whether the server remembers requests of this session.
    pub session_known: bool,
    /// The features in force: those asked for that the server has.
    pub features: u32,
    /// Longest frame in either direction, in bytes.
    pub frame_bytes_max: u32,
    /// The heartbeat in force, in milliseconds; 0 for none.
    pub heartbeat_ms: u32,
    /// Differs from one start of the server to the next; queue handles are good for one boot.
    pub boot: u64,
    /// How many of a session's latest numbers the server remembers.
    pub session_window: u32,
    /// The server's name and version, for people.
    pub name: String,
}

impl Welcome {
    /// Appends the answer to `out`.
    pub fn encode(&self, out: &mut Vec<u8>, correlation: u32) {
        let mut frame = FrameWriter::begin(out, Op::Hello as u16 | REPLY, 0, correlation, 0);
        frame.put_u16(self.version);
        frame.put_u16(u16::from(self.session_known));
        frame.put_u32(self.features);
        frame.put_u32(self.frame_bytes_max);
        frame.put_u32(self.heartbeat_ms);
        frame.put_u64(self.boot);
        frame.put_u32(self.session_window);
        frame.put_u32(0);
        frame.put_blob(self.name.as_bytes());
        frame.finish();
    }

    /// Reads the body of an answer.
    ///
    /// # Errors
    /// `MALFORMED` when it is no such body.
    pub fn decode(body: &[u8]) -> Result<Self, Refusal> {
        let mut fields = Fields::new(body);
        let version = fields.u16()?;
        let session_known = fields.u16()? & 1 == 1;
        let features = fields.u32()?;
        let frame_bytes_max = fields.u32()?.min(limits::FRAME_BYTES_MAX);
        let heartbeat_ms = fields.u32()?;
        let boot = fields.u64()?;
        let session_window = fields.u32()?;
        fields.bytes(4)?;
        let name = fields.text(PEER_NAME_BYTES_MAX)?.to_owned();
        Ok(Self {
            version,
            session_known,
            features,
            frame_bytes_max,
            heartbeat_ms,
            boot,
            session_window,
            name,
        })
    }
}
