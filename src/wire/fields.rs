//! Reads a body field by field; every shortage and every reserved field that is not zero is `MALFORMED`.

use crate::base::batch::split_note;
use crate::base::code::{ErrorCode, Refusal};
use crate::base::limits;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

pub(crate) fn malformed(text: impl Into<String>) -> Refusal {
    Refusal::new(ErrorCode::Malformed, text)
}

/// What is left of a body.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    #[inline]
    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        let (front, rest) = self.rest.split_first_chunk::<N>().ok_or_else(too_short)?;
        self.rest = rest;
        Ok(*front)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Refusal> {
        Ok(u8::from_le_bytes(self.chunk()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Refusal> {
        Ok(u16::from_le_bytes(self.chunk()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Refusal> {
        Ok(u32::from_le_bytes(self.chunk()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Refusal> {
        Ok(u64::from_le_bytes(self.chunk()?))
    }

    pub(crate) fn u128(&mut self) -> Result<u128, Refusal> {
        Ok(u128::from_le_bytes(self.chunk()?))
    }

    /// Reserved bytes, which must be zero.
    pub(crate) fn zeros(&mut self, count: usize) -> Result<(), Refusal> {
        if self.bytes(count)?.iter().any(|byte| *byte != 0) {
            return Err(malformed("a reserved field is not zero"));
        }
        Ok(())
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Refusal> {
        let (front, rest) = self.rest.split_at_checked(count).ok_or_else(too_short)?;
        self.rest = rest;
        Ok(front)
    }

    /// `count` fixed entries, in place.
    pub(crate) fn entries<T>(&mut self, count: usize) -> Result<&'a [T], Refusal>
    where
        T: FromBytes + Immutable + KnownLayout + Unaligned,
    {
        let len = count.checked_mul(size_of::<T>()).ok_or_else(too_short)?;
        <[T]>::ref_from_bytes(self.bytes(len)?).map_err(|_| too_short())
    }

    /// As [`entries`](Self::entries) for 4-byte entries, with the padding that an odd number of them needs.
    pub(crate) fn entries_padded<T>(&mut self, count: usize) -> Result<&'a [T], Refusal>
    where
        T: FromBytes + Immutable + KnownLayout + Unaligned,
    {
        let entries = self.entries::<T>(count)?;
        if size_of_val(entries) % 8 != 0 {
            self.zeros(8 - size_of_val(entries) % 8)?;
        }
        Ok(entries)
    }

    /// `u32 length | bytes | padding to 8`.
    pub(crate) fn blob(&mut self) -> Result<&'a [u8], Refusal> {
        let (blob, rest) = split_note(self.rest).ok_or_else(too_short)?;
        self.rest = rest;
        Ok(blob)
    }

    /// A blob that must be UTF-8 of at most `len_max` bytes.
    pub(crate) fn text(&mut self, len_max: usize) -> Result<&'a str, Refusal> {
        let blob = self.blob()?;
        if blob.len() > len_max {
            return Err(Refusal::new(
                ErrorCode::InvalidArgument,
                format!("a text has at most {len_max} bytes"),
            ));
        }
        std::str::from_utf8(blob).map_err(|_| malformed("a text is not UTF-8"))
    }

    /// A queue's name, checked.
    pub(crate) fn queue_name(&mut self) -> Result<&'a str, Refusal> {
        let name = self.text(limits::QUEUE_NAME_BYTES_MAX)?;
        crate::base::queue::check_queue_name(name)
            .map_err(|error| Refusal::new(ErrorCode::InvalidArgument, error.to_string()))?;
        Ok(name)
    }

    /// Everything that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Nothing may be left.
    pub(crate) fn end(&self) -> Result<(), Refusal> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(malformed("the body is longer than its fields"))
        }
    }
}

fn too_short() -> Refusal {
    malformed("the body is shorter than its fields")
}
