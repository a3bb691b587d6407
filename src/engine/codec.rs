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
    let mut out = Vec::new();
    encode_into(value, &mut out);
    out
}

/// As [`encode`], into `out` in place of what is there.
pub fn encode_into<T: Encode>(value: &T, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&[0; 4]);
    let len = match bincode::encode_into_std_write(value, out, config()) {
        Ok(len) => len,
        Err(error) => unreachable!("encoding into memory does not fail: {error}"),
    };
    let total = pad8(4 + len);
    out[..4].copy_from_slice(&(len as u32).to_le_bytes());
    out.resize(total, 0);
}

/// The number of the queue that a [`QueueRecord`] tells of, and nothing else of it.
pub fn queue_index(body: &[u8]) -> Option<u32> {
    let (bytes, _) = crate::base::batch::split_note(body)?;
    let index = bincode::decode_from_slice(bytes, config());
    index.ok().map(|(index, _)| index)
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
    use crate::base::queue::{Backoff, Durability};
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn options() -> impl Strategy<Value = QueueOptions> {
        let backoff = prop_oneof![
            any::<(u32, u32)>().prop_map(|(base_ms, cap_ms)| Backoff::Exponential { base_ms, cap_ms }),
            vec(any::<u32>(), 0..70).prop_map(Backoff::List),
        ];
        let level = proptest::sample::select(&Durability::ALL);
        (level, backoff, any::<(u32, u16, u64, u64, u32, u64, u32)>()).prop_map(|(durability, backoff, n)| {
            QueueOptions {
                durability,
                backoff,
                lease_ms: n.0,
                max_attempts: n.1,
                capacity_jobs: n.2,
                capacity_bytes: n.3,
                payload_bytes_max: n.4,
                dedupe_window_ms: n.5,
                keep_finished: n.6,
            }
        })
    }

    fn stands<T: Encode + Decode<()> + PartialEq + std::fmt::Debug>(record: T) -> Result<(), TestCaseError> {
        let bytes = encode(&record);
        prop_assert!(bytes.len().is_multiple_of(8));
        prop_assert_eq!(decode::<T>(&bytes), Some(record));
        let cut = bytes.len() - 8;
        prop_assert_eq!(decode::<T>(&bytes[..cut]), None);
        Ok(())
    }

    proptest! {
        #[test]
        fn queues(
            index: u32, name in "[a-z]{1,128}", options in options(), paused: bool, deleted: bool,
            events: Option<[u64; 10]>,
        ) {
            let record = QueueRecord { index, name, options, paused, deleted, events };
            prop_assert_eq!(queue_index(&encode(&record)), Some(index));
            stands(record)?;
        }

        #[test]
        fn sessions(session: u128, applied in vec(any::<u64>(), 0..1024), highest: u64) {
            stands(SessionRecord { session, applied, highest })?;
        }

        #[test]
        fn keys(queue: u32, key in vec(any::<u8>(), 0..128), id: u64, body_hash: u128, expires_ms: u64) {
            stands(KeyRecord { queue, key, id, body_hash, expires_ms })?;
        }

        #[test]
        fn bytes_that_nobody_encoded_are_decoded_or_refused(bytes in vec(any::<u8>(), 0..200)) {
            let mut body = (bytes.len() as u32).to_le_bytes().to_vec();
            body.extend_from_slice(&bytes);
            body.resize(pad8(body.len()), 0);
            // What is decoded is no larger than the bytes allow.
            let session = decode::<SessionRecord>(&body);
            prop_assert!(session.is_none_or(|record| record.applied.len() <= bytes.len()));
            let key = decode::<KeyRecord>(&body);
            prop_assert!(key.is_none_or(|record| record.key.len() <= bytes.len()));
            let queue = decode::<QueueRecord>(&body);
            prop_assert!(queue.is_none_or(|record| record.name.len() <= bytes.len()));
        }
    }

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
