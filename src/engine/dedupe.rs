//! Idempotency keys: the same key twice within the queue's window is one job (G5).
//!
//! A set of keys with a time window, not a high-water mark: keys may come in any order. Costs memory a key, so
//! only jobs that have one pay. The table of a queue stays locked from the look-up until the job's record is in
//! the log, so that nobody is told *duplicate* of a job that is then refused.

use crate::base::code::{ErrorCode, Refusal};
use crate::base::job::JobId;
use crate::base::limits::DEDUPE_KEYS_MAX;
use crate::base::sync::{AtomicUsize, Ordering};
use crate::engine::queue::QueueId;
use parking_lot::{Mutex, MutexGuard};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// What stands under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The first job.
    pub id: JobId,
    /// Hash of its metadata and payload.
    pub body_hash: u128,
    /// When the key may be used again.
    pub expires_ms: u64,
    /// Sequence of the log segment that tells of it, 0 for a volatile job.
    pub sequence: u32,
}

/// The keys of one queue.
#[derive(Default)]
pub struct Keys {
    known: HashMap<Arc<[u8]>, Known>,
    /// Keys in the order in which they expire (one window for all keys of a queue).
    order: VecDeque<(u64, Arc<[u8]>)>,
}

/// What a key says about a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not seen within the window.
    Fresh,
    /// Seen with the same body: this is the first job.
    Duplicate {
        /// Its id.
        first: JobId,
        /// Whether it is logged.
        logged: bool,
    },
    /// Seen with another body.
    Conflict,
}

impl Keys {
    /// Looks a key up.
    pub fn verdict(&self, key: &[u8], body_hash: u128, now_ms: u64) -> Verdict {
        match self.known.get(key) {
            Some(known) if known.expires_ms > now_ms => {
                if known.body_hash == body_hash {
                    Verdict::Duplicate {
                        first: known.id,
                        logged: known.sequence != 0,
                    }
                } else {
                    Verdict::Conflict
                }
            }
            _ => Verdict::Fresh,
        }
    }

    fn insert(&mut self, key: &[u8], known: Known) -> bool {
        let key: Arc<[u8]> = key.into();
        self.order.push_back((known.expires_ms, key.clone()));
        self.known.insert(key, known).is_none()
    }

    fn expire(&mut self, now_ms: u64) -> usize {
        let mut gone = 0;
        while self
            .order
            .front()
            .is_some_and(|(expires_ms, _)| *expires_ms <= now_ms)
        {
            let Some((_, key)) = self.order.pop_front() else {
                break;
            };
            // The key may have been used again since, with a later end.
            if let Entry::Occupied(known) = self.known.entry(key)
                && known.get().expires_ms <= now_ms
            {
                known.remove();
                gone += 1;
            }
        }
        gone
    }
}

/// All keys of one engine.
#[derive(Default)]
pub struct Dedupe {
    queues: Mutex<HashMap<QueueId, Arc<Mutex<Keys>>>>,
    len: AtomicUsize,
}

impl Dedupe {
    /// Keys that are remembered.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// The keys of a queue; lock them for as long as the verdicts must hold.
    pub fn keys(&self, queue: QueueId) -> Arc<Mutex<Keys>> {
        self.queues.lock().entry(queue).or_default().clone()
    }

    /// Drops expired keys of a queue and makes sure that `more` fit under the limit.
    pub fn make_room(
        &self,
        keys: &mut MutexGuard<'_, Keys>,
        more: usize,
        now_ms: u64,
    ) -> Result<(), Refusal> {
        self.len.fetch_sub(keys.expire(now_ms), Ordering::Relaxed);
        if self.len.load(Ordering::Relaxed) + more > DEDUPE_KEYS_MAX {
            let text =
                format!("{DEDUPE_KEYS_MAX} idempotency keys are remembered; a shorter window needs fewer");
            return Err(Refusal::new(ErrorCode::LimitReached, text));
        }
        Ok(())
    }

    /// Remembers a key whose job is in the log.
    pub fn insert(&self, keys: &mut Keys, key: &[u8], known: Known) {
        if keys.insert(key, known) {
            self.len.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes a key back whose job, one of `ids`, was not logged after all; a key of another job stays.
    pub fn remove(&self, keys: &mut Keys, key: &[u8], ids: &HashSet<JobId>) {
        if keys.known.get(key).is_some_and(|known| ids.contains(&known.id)) {
            keys.known.remove(key);
            self.len.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Forgets the keys of a deleted queue.
    pub fn forget(&self, queue: QueueId) {
        let keys = self.queues.lock().remove(&queue);
        if let Some(keys) = keys {
            // Emptied, since others may have the table in their hands and would count what expires in it again.
            let keys = std::mem::take(&mut *keys.lock());
            self.len.fetch_sub(keys.known.len(), Ordering::Relaxed);
        }
    }

    /// Drops expired keys of every queue; for the background.
    pub fn expire_all(&self, now_ms: u64) {
        let queues: Vec<_> = self.queues.lock().values().cloned().collect();
        for keys in queues {
            self.len.fetch_sub(keys.lock().expire(now_ms), Ordering::Relaxed);
        }
        // Tables that are empty and in nobody's hands go, among them those made anew by an enqueue that met a
        // deletion. Who wants one comes by the lock that is held here.
        self.queues
            .lock()
            .retain(|_, keys| Arc::strong_count(keys) > 1 || !keys.lock().known.is_empty());
    }

    /// Hands out every unexpired key that only segments up to `sequence` tell of, and counts it from
    /// `logged_from` on as told of there, if `emit` did so.
    ///
    /// # Errors
    /// The first error of `emit`.
    pub fn needing<E>(
        &self,
        sequence: u32,
        logged_from: u32,
        now_ms: u64,
        mut emit: impl FnMut(QueueId, &[u8], &Known) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut queues: Vec<_> = self
            .queues
            .lock()
            .iter()
            .map(|(id, keys)| (*id, keys.clone()))
            .collect();
        // The same log from the same requests, whatever the order in a hash table.
        queues.sort_unstable_by_key(|(id, _)| *id);
        for (queue, keys) in queues {
            let Keys { known, order } = &mut *keys.lock();
            for (_, key) in &*order {
                let Some(known) = known.get_mut(key) else {
                    continue;
                };
                if known.sequence != 0 && known.sequence <= sequence && known.expires_ms > now_ms {
                    emit(queue, key, known)?;
                    known.sequence = logged_from;
                }
            }
        }
        Ok(())
    }
}

/// Hash of a job's metadata and payload, to tell a repeated job from another one under the same key. The same on
/// every machine and in every version, since it is kept in the log: two 64-bit multiply-mix lanes with different
/// seeds. Not meant to resist somebody who builds collisions against their own key.
pub fn body_hash(meta: &[u8], payload: &[u8]) -> u128 {
    let mut lanes = [
        0x9e37_79b9_7f4a_7c15u64 ^ meta.len() as u64,
        0xc2b2_ae3d_27d4_eb4fu64 ^ payload.len() as u64,
    ];
    for part in [meta, payload] {
        let mut mix = |word: [u8; 8]| {
            let word = u64::from_le_bytes(word);
            lanes[0] = fold(lanes[0] ^ word, 0xa076_1d64_78bd_642f);
            lanes[1] = fold(lanes[1] ^ word.rotate_left(29), 0xe703_7ed1_a0b4_28db);
        };
        let (words, rest) = part.as_chunks();
        words.iter().copied().for_each(&mut mix);
        if !rest.is_empty() {
            let mut word = [0u8; 8];
            word[..rest.len()].copy_from_slice(rest);
            mix(word);
        }
    }
    u128::from(fold(lanes[0], 0x8ebc_6af0_9c88_c6e3)) << 64
        | u128::from(fold(lanes[1], 0x5899_65cc_7537_4cc3))
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a | 1) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64 ^ a.rotate_left(23)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn known(id: u64, hash: u128, expires_ms: u64) -> Known {
        Known {
            id: JobId(id),
            body_hash: hash,
            expires_ms,
            sequence: 1,
        }
    }

    #[test]
    fn a_key_holds_for_its_window_and_no_longer() {
        let dedupe = Dedupe::default();
        let keys = dedupe.keys(QueueId(0));
        let mut keys = keys.lock();
        dedupe.insert(&mut keys, b"k", known(5, 77, 100));
        let first = Verdict::Duplicate {
            first: JobId(5),
            logged: true,
        };
        assert_eq!(keys.verdict(b"k", 77, 99), first);
        assert_eq!(keys.verdict(b"k", 78, 99), Verdict::Conflict);
        assert_eq!(keys.verdict(b"k", 77, 100), Verdict::Fresh);
        dedupe.make_room(&mut keys, 1, 100).unwrap();
        assert_eq!((keys.known.len(), dedupe.len.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn a_key_used_again_keeps_its_later_end() {
        let mut keys = Keys::default();
        keys.insert(b"k", known(5, 1, 100));
        keys.insert(b"k", known(6, 2, 200));
        assert_eq!(keys.expire(150), 0);
        let first = Verdict::Duplicate {
            first: JobId(6),
            logged: true,
        };
        assert_eq!(keys.verdict(b"k", 2, 150), first);
    }

    #[test]
    fn keys_were_refused_for_ever_after_a_queue_was_deleted_while_they_expired() {
        let (dedupe, queue) = (Dedupe::default(), QueueId(1));
        let held = dedupe.keys(queue);
        dedupe.insert(&mut held.lock(), b"a", known(1, 10, 100));
        dedupe.forget(queue);
        for _ in 0..2 {
            dedupe.make_room(&mut held.lock(), 1, 200).unwrap();
        }
        drop(held);
        assert_eq!(dedupe.len.load(Ordering::Relaxed), 0);
        let _ = dedupe.keys(queue);
        dedupe.expire_all(0);
        assert_eq!(dedupe.queues.lock().len(), 0);
    }

    #[test]
    fn bodies_that_differ_hash_apart() {
        let mut seen = std::collections::HashSet::new();
        assert!(seen.insert(body_hash(b"", b"")));
        for len in 1..200usize {
            let zeros = vec![0u8; len];
            assert!(seen.insert(body_hash(b"", &zeros)), "zeros {len}");
            assert!(seen.insert(body_hash(&zeros, b"")), "meta {len}");
            for bit in [0, len * 8 / 2, len * 8 - 1] {
                let mut flipped = zeros.clone();
                flipped[bit / 8] |= 1 << (bit % 8);
                assert!(seen.insert(body_hash(b"", &flipped)), "{len} bytes, bit {bit}");
            }
        }
    }
}
