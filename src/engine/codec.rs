//! The one place that knows bincode: definitions of queues, sessions and keys in the log. Off the hot path and
//! off the wire.
//!
//! bincode 2 is feature-complete and unmaintained; behind this module it can be replaced by a new record kind
//! without anybody else noticing.

use crate::base::entry::pad8;
use crate::base::queue::QueueOptions;
use bincode::{Decode, Encode};

/// Nothing that is decoded may claim to be larger than this.
const BYTES_MAX: usize = 1 << 20;

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<BYTES_MAX>()
}

/// A queue as it stands.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct QueueRecord {
    /// Its number, as records before and behind this one use it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// How it behaves.
    pub options: QueueOptions,
    /// Whether handing out is paused.
    pub paused: bool,
    /// Whether it was deleted; its jobs went with it.
    pub deleted: bool,
    /// Its event counters when this was written; `None` where only the rest is news.
    pub events: Option<[u64; 10]>,
}

/// A session as it stands.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct SessionRecord {
    /// Its id.
    pub session: u128,
    /// Numbers applied, within the window, in any order.
    pub applied: Vec<u64>,
    /// The highest number applied.
    pub highest: u64,
}

/// An idempotency key as it stands.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct KeyRecord {
    /// Queue number.
    pub queue: u32,
    /// The key.
    pub key: Vec<u8>,
    /// The first job.
    pub id: u64,
    /// Hash of its body.
    pub body_hash: u128,
    /// When the key may be used again.
    pub expires_ms: u64,
}

/// Encodes a record body: `u32 length | bytes`, padded to 8.
pub fn encode<T: Encode>(value: &T) -> Vec<u8> {
    let mut out = vec![0; 4];
    let len = match bincode::encode_into_std_write(value, &mut out, config()) {
        Ok(len) => len,
        Err(error) => unreachable!("encoding into memory does not fail: {error}"),
    };
    let total = pad8(4 + len);
    out[..4].copy_from_slice(&(len as u32).to_le_bytes());
    out.resize(total, 0);
    out
}

/// Decodes what [`encode`] wrote; `None` for anything else.
pub fn decode<T: Decode<()>>(body: &[u8]) -> Option<T> {
    let (bytes, _) = crate::base::batch::split_note(body)?;
    let (value, used) = bincode::decode_from_slice(bytes, config()).ok()?;
    (used == bytes.len()).then_some(value)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_they_were_and_cuts_are_refused() {
        let record = QueueRecord {
            index: 7,
            name: "mail".into(),
            options: QueueOptions::default(),
            paused: true,
            deleted: false,
            events: Some([3; 10]),
        };
        let bytes = encode(&record);
        assert_eq!(bytes.len() % 8, 0);
        assert_eq!(decode::<QueueRecord>(&bytes), Some(record));
        for len in 0..bytes.len() - 8 {
            assert_eq!(decode::<QueueRecord>(&bytes[..len]), None);
        }
    }
}
