//! Rings as values: where the two words of a ring are.
//!
//! Everything is done through a [`RingRef`]; what stands here only keeps the words. Producers look at the tail and
//! consumers swap the head, so a ring that many threads use wants the two in different cache lines, and one of
//! hundreds of thousands wants to be small.

use crate::base::sync::AtomicU64;
use crate::ring::chained::RingRef;
use crate::ring::{ChunkPool, PoolExhausted};

/// A lock-free FIFO of handles for any number of producers and consumers.
///
/// All calls on one ring must name the same pool. A ring does not know its pool, so dropping one gives
/// nothing back: drain it and call [`release_idle`](Self::release_idle) first, or drop the pool as well.
#[derive(Debug, Default)]
pub struct Ring {
    head: AtomicU64,
    tail: AtomicU64,
}

impl Ring {
    /// A ring that holds nothing, not even a chunk.
    pub fn new() -> Self {
        Self::default()
    }

    /// This ring, to work on.
    #[inline]
    pub fn by_ref(&self) -> RingRef<'_> {
        RingRef {
            head: &self.head,
            tail: &self.tail,
        }
    }

    /// See [`RingRef::push`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn push(&self, pool: &ChunkPool, handles: &[u32]) -> Result<(), PoolExhausted> {
        self.by_ref().push(pool, handles)
    }

    /// See [`RingRef::pop`].
    #[inline]
    pub fn pop(&self, pool: &ChunkPool, out: &mut [u32]) -> usize {
        self.by_ref().pop(pool, out)
    }

    /// See [`RingRef::pop_accepted`].
    #[inline]
    pub fn pop_accepted(
        &self,
        pool: &ChunkPool,
        out: &mut [u32],
        accept: impl FnMut(&[u32]) -> usize,
    ) -> usize {
        self.by_ref().pop_accepted(pool, out, accept)
    }

    /// See [`RingRef::peek`].
    pub fn peek(&self, pool: &ChunkPool, out: &mut [u32]) -> usize {
        self.by_ref().peek(pool, out)
    }

    /// See [`RingRef::is_empty`].
    pub fn is_empty(&self, pool: &ChunkPool) -> bool {
        self.by_ref().is_empty(pool)
    }

    /// See [`RingRef::release_idle`].
    pub fn release_idle(&self, pool: &ChunkPool) -> bool {
        self.by_ref().release_idle(pool)
    }
}

/// `N` rings side by side, their heads in one cache line and their tails in another (while `N` is at most 8): still
/// 16 bytes a ring, and who pushes does not take the line from who pops.
///
/// ```
/// use ackring::ring::{ChunkPool, Rings};
/// let pool = ChunkPool::new(1_000);
/// let levels = Rings::<8>::new();
/// levels.at(3).push(&pool, &[7, 8, 9])?;
/// assert!(levels.at(2).is_empty(&pool));
/// assert_eq!(levels.at(3).pop(&pool, &mut [0; 8]), 3);
/// # Ok::<(), ackring::ring::PoolExhausted>(())
/// ```
#[derive(Debug)]
pub struct Rings<const N: usize> {
    heads: Line<N>,
    tails: Line<N>,
}

#[derive(Debug)]
#[repr(align(64))]
struct Line<const N: usize>([AtomicU64; N]);

impl<const N: usize> Line<N> {
    fn new() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl<const N: usize> Rings<N> {
    /// Rings that hold nothing, not even a chunk.
    pub fn new() -> Self {
        Self {
            heads: Line::new(),
            tails: Line::new(),
        }
    }

    /// One of the rings, by its number below `N`.
    ///
    /// # Panics
    /// When there is no such ring.
    #[inline]
    pub fn at(&self, ring: usize) -> RingRef<'_> {
        RingRef {
            head: &self.heads.0[ring],
            tail: &self.tails.0[ring],
        }
    }
}

impl<const N: usize> Default for Rings<N> {
    fn default() -> Self {
        Self::new()
    }
}
