//! What callers want written. Whoever finds nobody writing writes for all (flat combining, Hendler et al. 2010), so
//! callers that come together share system calls, and a lone caller's bytes take no detour through another thread.

use crate::client::socket::Socket;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Number of the connection that `socket` is; bytes for another one are not taken.
    connection: u64,
    socket: Option<Arc<Socket>>,
    pending: Vec<u8>,
    /// Somebody has taken earlier bytes out and is writing them.
    writing: bool,
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
        std::mem::replace(&mut inner.socket, socket)
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
    }
}
