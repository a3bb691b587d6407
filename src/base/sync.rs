//! Atomics, locks and friends: the standard library's and parking_lot's, or loom's under `--cfg loom` so that models
//! can explore every interleaving of the very code that ships.

use std::time::Duration;

#[cfg(not(loom))]
mod imp {
    pub(crate) use parking_lot::{Mutex as Lock, MutexGuard as LockGuard};
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

    pub(super) type Condvar = parking_lot::Condvar;

    /// Hint to the processor that this is a spin loop.
    pub(crate) fn spin_hint() {
        std::hint::spin_loop();
    }

    /// Gives the rest of the time slice away.
    pub(crate) fn yield_now() {
        std::thread::yield_now();
    }

    /// Stands between a SeqCst read-modify-write and a SeqCst load, which need no fence: loom takes such accesses for
    /// AcqRel, and knows the one order of all of them as that of fences only.
    #[inline]
    pub(crate) fn model_fence() {}

    /// A small number for each thread, in the order in which they first came here: for what each thread has a place of
    /// its own for.
    #[inline]
    pub(crate) fn thread_index() -> usize {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static INDEX: usize = NEXT.fetch_add(1, Ordering::Relaxed);
        }
        // A thread that is being torn down may have lost its number; any place serves.
        INDEX.try_with(|index| *index).unwrap_or(0)
    }
}

#[cfg(loom)]
mod imp {
    pub(crate) use loom::sync::MutexGuard as LockGuard;
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

    pub(super) type Condvar = loom::sync::Condvar;

    /// Loom's lock with parking_lot's manners.
    #[derive(Debug, Default)]
    pub(crate) struct Lock<T>(loom::sync::Mutex<T>);

    impl<T> Lock<T> {
        pub(crate) fn new(content: T) -> Self {
            Self(loom::sync::Mutex::new(content))
        }

        #[allow(clippy::unwrap_used, reason = "a model does not go on after a panic")]
        pub(crate) fn lock(&self) -> LockGuard<'_, T> {
            self.0.lock().unwrap()
        }
    }

    /// Loom explores other threads here; without it a retry loop would look endless.
    pub(crate) fn spin_hint() {
        loom::thread::yield_now();
    }

    /// As [`spin_hint`]: under loom both hand over to another thread.
    pub(crate) fn yield_now() {
        loom::thread::yield_now();
    }

    /// What two SeqCst accesses are to each other.
    pub(crate) fn model_fence() {
        fence(Ordering::SeqCst);
    }

    /// Models want threads to meet.
    pub(crate) fn thread_index() -> usize {
        0
    }
}

#[allow(unused_imports, reason = "each feature set uses its own subset of the facade")]
pub(crate) use imp::*;

/// What threads sleep on that wait for something under a lock.
#[derive(Debug)]
pub(crate) struct Signal {
    condvar: imp::Condvar,
}

impl Default for Signal {
    fn default() -> Self {
        Self {
            condvar: imp::Condvar::new(),
        }
    }
}

#[allow(dead_code, reason = "each feature set uses its own subset of the facade")]
impl Signal {
    /// Wakes one of those who sleep.
    pub(crate) fn notify_one(&self) {
        self.condvar.notify_one();
    }

    /// Wakes all who sleep.
    pub(crate) fn notify_all(&self) {
        self.condvar.notify_all();
    }

    /// Sleeps for as long as `condition` holds, at most `timeout`; `None` waits for as long as it takes.
    #[cfg(not(loom))]
    pub(crate) fn wait_while<'l, T>(
        &self,
        mut guard: LockGuard<'l, T>,
        timeout: Option<Duration>,
        condition: impl Fn(&T) -> bool,
    ) -> LockGuard<'l, T> {
        match timeout {
            None => self.condvar.wait_while(&mut guard, |content| condition(content)),
            Some(timeout) => {
                let condition = |content: &mut T| condition(content);
                self.condvar.wait_while_for(&mut guard, condition, timeout);
            }
        }
        guard
    }

    /// Models have no time: every wait is without bound.
    #[cfg(loom)]
    #[allow(clippy::unwrap_used, reason = "a model does not go on after a panic")]
    pub(crate) fn wait_while<'l, T>(
        &self,
        mut guard: LockGuard<'l, T>,
        _: Option<Duration>,
        condition: impl Fn(&T) -> bool,
    ) -> LockGuard<'l, T> {
        while condition(&guard) {
            guard = self.condvar.wait(guard).unwrap();
        }
        guard
    }
}

/// A long array of zeroed 64-bit atomics in groups of `GROUP` words, aligned to a cache line when the group is one.
///
/// The memory is asked for zeroed, so the operating system hands out pages only as they are touched: a large
/// capacity costs address space, not memory. (An over-aligned zeroed allocation would be written at once, so
/// the alignment is found inside a slightly larger plain one.)
pub(crate) struct ZeroedWords {
    words: Box<[AtomicU64]>,
    first: usize,
    len: usize,
}

impl ZeroedWords {
    /// `len` zeroed words, the first at a 64-byte boundary.
    pub(crate) fn new(len: usize) -> Self {
        let words = zeroed(len + 7);
        let misaligned = (words.as_ptr() as usize % 64) / 8;
        let first = if misaligned == 0 { 0 } else { 8 - misaligned };
        Self {
            words,
            first: if cfg!(loom) { 0 } else { first },
            len,
        }
    }

    /// The `len` words from `at` on. Panics when they are outside: a handle that was never given out.
    #[inline]
    pub(crate) fn slice(&self, at: usize, len: usize) -> &[AtomicU64] {
        &self.words[self.first + at..self.first + at + len]
    }

    /// The `N` words from `at` on, as a fixed-size group. Panics when they are outside.
    #[inline]
    pub(crate) fn group<const N: usize>(&self, at: usize) -> &[AtomicU64; N] {
        let first = self.first + at;
        match self.words[first..].first_chunk() {
            Some(group) => group,
            None => panic!("word group {at} is outside"),
        }
    }

    /// All words as groups of `N`, the first at a 64-byte boundary. Words behind the last whole group are in none.
    #[inline]
    pub(crate) fn groups<const N: usize>(&self) -> &[[AtomicU64; N]] {
        self.words[self.first..self.first + self.len].as_chunks().0
    }

    /// One word. Panics when it is outside.
    #[inline]
    pub(crate) fn word(&self, at: usize) -> &AtomicU64 {
        &self.words[self.first + at]
    }

    /// How many words there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(not(loom))]
fn zeroed(len: usize) -> Box<[AtomicU64]> {
    use zerocopy::FromZeros;
    match <[AtomicU64]>::new_box_zeroed_with_elems(len) {
        Ok(words) => words,
        Err(_) => std::alloc::handle_alloc_error(
            std::alloc::Layout::array::<AtomicU64>(len).unwrap_or(std::alloc::Layout::new::<AtomicU64>()),
        ),
    }
}

#[cfg(loom)]
fn zeroed(len: usize) -> Box<[AtomicU64]> {
    (0..len).map(|_| AtomicU64::new(0)).collect()
}
