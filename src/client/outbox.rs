//! What callers want written. Whoever finds nobody writing writes for all (flat combining, Hendler et al. 2010), so
//! callers that come together share system calls, and a lone caller's bytes take no detour through another thread.

use crate::base::limits::UNSENT_BYTES_MAX;
use crate::client::socket::Socket;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    inner: Mutex<Inner>,
    /// What was pending is taken out or forgotten, or whoever wrote leaves the rest to others.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    /// Number of the connection that `socket` is; bytes for another one are not taken.
    connection: u64,
    socket: Option<Arc<Socket>>,
    pending: Vec<u8>,
    /// Somebody has taken earlier bytes out and is writing them.
    writing: bool,
    /// Threads that wait for less to be pending.
    waiting: usize,
    /// Emptied buffer, kept for its memory.
    spare: Vec<u8>,
}

/// A spare buffer larger than this is given back, in bytes.
const SPARE_BYTES_MAX: usize = 1024 * 1024;

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics while the lock is held, so the state behind a poisoned lock is whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts over with another socket; what was pending for the one before is forgotten.
    /// Returns the socket before.
    pub(crate) fn reset(&self, connection: u64, socket: Option<Arc<Socket>>) -> Option<Arc<Socket>> {
        let mut inner = self.lock();
        // Whoever is writing for the socket before finds it replaced and keeps out.
        inner.connection = connection;
        inner.pending.clear();
        inner.writing = false;
        self.wake(&inner);
        std::mem::replace(&mut inner.socket, socket)
    }

    /// Waits while more is pending than may be: whoever has more to say than the server reads comes no further, instead
    /// of filling the memory. Writes itself where nobody does. `false`: nothing has changed until `deadline`.
    pub(crate) fn wait_for_room(&self, deadline: Instant) -> bool {
        let mut inner = self.lock();
        while inner.is_full() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            if inner.writing {
                inner.waiting += 1;
                let waited = self.changed.wait_timeout(inner, left);
                inner = waited.unwrap_or_else(PoisonError::into_inner).0;
                inner.waiting -= 1;
            } else {
                drop(inner);
                self.flush(deadline);
                inner = self.lock();
            }
        }
        true
    }

    /// Queues bytes for that connection; without effect when it is over. They are written by the next
    /// [`flush`](Self::flush).
    pub(crate) fn append(&self, connection: u64, bytes: &[u8]) {
        let mut inner = self.lock();
        if inner.connection == connection && inner.socket.is_some() {
            inner.pending.extend_from_slice(bytes);
        }
    }

    /// Writes what is pending, unless somebody is at it already. After `deadline` the rest is left to the next one:
    /// the connection's reader comes by regularly.
    pub(crate) fn flush(&self, deadline: Instant) {
        let mut inner = self.lock();
        if inner.writing || inner.pending.is_empty() {
            return;
        }
        let Some(socket) = inner.socket.clone() else {
            return;
        };
        inner.writing = true;
        loop {
            let spare = std::mem::take(&mut inner.spare);
            let mut bytes = std::mem::replace(&mut inner.pending, spare);
            self.wake(&inner);
            drop(inner);
            let result = socket.write_until(&bytes, deadline);
            inner = self.lock();
            if !inner
                .socket
                .as_ref()
                .is_some_and(|present| Arc::ptr_eq(present, &socket))
            {
                return;
            }
            match result {
                Ok(written) if written < bytes.len() => {
                    bytes.drain(..written);
                    bytes.extend_from_slice(&inner.pending);
                    inner.pending = bytes;
                    break;
                }
                Ok(_) => {}
                Err(_) => {
                    // The reader finds the socket shut, connects again and sends again what is unanswered.
                    socket.shutdown();
                    inner.socket = None;
                    inner.pending.clear();
                    break;
                }
            }
            if bytes.capacity() <= SPARE_BYTES_MAX {
                bytes.clear();
                inner.spare = bytes;
            }
            if inner.pending.is_empty() {
                break;
            }
        }
        inner.writing = false;
        self.wake(&inner);
    }

    /// Lets those who wait look again. A wake-up costs a system call, so not where there are none.
    fn wake(&self, inner: &Inner) {
        if inner.waiting > 0 {
            self.changed.notify_all();
        }
    }
}

impl Inner {
    fn is_full(&self) -> bool {
        self.pending.len() > UNSENT_BYTES_MAX
    }
}
