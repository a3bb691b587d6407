//! Error replies: a stable number, and for those who do not know it, class and scope beside it.

use crate::base::code::{Class, ErrorCode, Refusal, Scope};
use crate::wire::fields::Fields;
use crate::wire::frame::FrameWriter;

/// The number of a class on the wire.
pub fn class_number(class: Class) -> u8 {
    match class {
        Class::Success => 0,
        Class::RetryNow => 1,
        Class::RetryLater => 2,
        Class::Reconnect => 3,
        Class::Caller => 4,
        Class::OutcomeUnknown => 5,
    }
}

/// The number of a scope on the wire.
pub fn scope_number(scope: Scope) -> u8 {
    match scope {
        Scope::Item => 1,
        Scope::Request => 2,
        Scope::Connection => 3,
    }
}

/// The scope of an error that is pushed: the subscription that `aux` names has ended.
pub const SCOPE_SUBSCRIPTION: u8 = 4;

/// Longest text of an error, in bytes.
const TEXT_BYTES_MAX: usize = 1_024;

/// An error reply as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorReply {
    /// The stable number.
    pub number: u16,
    /// See [`class_number`].
    pub class: u8,
    /// See [`scope_number`] and [`SCOPE_SUBSCRIPTION`].
    pub scope: u8,
    /// How long to wait before the next try, in milliseconds; 0 where that makes no sense.
    pub retry_ms: u32,
    /// For people.
    pub text: String,
}

impl ErrorReply {
    /// Reads the body of an error reply.
    ///
    /// # Errors
    /// `MALFORMED` when it is no such body.
    pub fn decode(body: &[u8]) -> Result<Self, Refusal> {
        let mut fields = Fields::new(body);
        Ok(Self {
            number: fields.u16()?,
            class: fields.u8()?,
            scope: fields.u8()?,
            retry_ms: fields.u32()?,
            text: String::from_utf8_lossy(fields.blob()?).into_owned(),
        })
    }

    /// As a refusal, `None` when this version does not know the number.
    pub fn refusal(&self) -> Option<Refusal> {
        let code = ErrorCode::from_u16(self.number)?;
        Some(Refusal {
            code,
            retry_ms: self.retry_ms,
            text: self.text.clone(),
        })
    }
}

/// Puts the body of an error reply.
pub(crate) fn put(frame: &mut FrameWriter<'_>, refusal: &Refusal, scope: u8) {
    let text = refusal.text.as_bytes();
    frame.put_u16(refusal.code as u16);
    frame.put_u8(class_number(refusal.code.class()));
    frame.put_u8(scope);
    frame.put_u32(refusal.retry_ms);
    frame.put_blob(&text[..text.len().min(TEXT_BYTES_MAX)]);
}
