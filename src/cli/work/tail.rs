//! The end of what a command says on standard error: kept for the job's error text, passed on as it comes.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::process::ChildStderr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How much of the end is kept, in bytes.
const TAIL_BYTES_MAX: usize = 4_096;

/// The last bytes that were written, and whether more may come.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    inner: Mutex<Inner>,
    closed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    bytes: VecDeque<u8>,
    /// Bytes were left out in front.
    cut: bool,
    is_open: bool,
}

/// Reads `stderr` to its end in a thread of its own, which nobody needs to wait for.
///
/// # Errors
/// When the system has no thread left.
pub(super) fn follow(mut stderr: ChildStderr, pass_on: bool) -> io::Result<Tail> {
    let tail = Tail::default();
    tail.lock().is_open = true;
    let writer = tail.clone();
    std::thread::Builder::new()
        .name("stderr".to_owned())
        .spawn(move || {
            let mut buffer = [0; TAIL_BYTES_MAX];
            loop {
                let read = match stderr.read(&mut buffer) {
                    Ok(read) if read > 0 => &buffer[..read],
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    _ => break,
                };
                if pass_on {
                    // Where this process's own standard error goes nowhere, so does the command's.
                    let _ = io::stderr().lock().write_all(read);
                }
                writer.lock().push(read);
            }
            writer.lock().is_open = false;
            writer.0.closed.notify_all();
        })?;
    Ok(tail)
}

impl Tail {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Whoever panicked while holding it left bytes, which is all there is to it.
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was written last, as trimmed text; waits up to `grace` for the end of it.
    pub(super) fn wait(&self, grace: Duration) -> String {
        let inner = self.lock();
        let (inner, _) = self
            .0
            .closed
            .wait_timeout_while(inner, grace, |inner| inner.is_open)
            .unwrap_or_else(PoisonError::into_inner);
        inner.text()
    }
}

impl Inner {
    fn push(&mut self, bytes: &[u8]) {
        let kept = &bytes[bytes.len().saturating_sub(TAIL_BYTES_MAX)..];
        let excess = (self.bytes.len() + kept.len()).saturating_sub(TAIL_BYTES_MAX);
        self.cut |= excess > 0 || kept.len() < bytes.len();
        self.bytes.drain(..excess);
        self.bytes.extend(kept);
    }

    fn text(&self) -> String {
        let bytes: Vec<u8> = self.bytes.iter().copied().collect();
        // A character that was cut in two at the front is left out.
        let is_middle = |byte: &u8| self.cut && *byte & 0xc0 == 0x80;
        let start = bytes.iter().take_while(|byte| is_middle(byte)).count();
        String::from_utf8_lossy(&bytes[start..]).trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_is_kept() {
        let mut inner = Inner::default();
        inner.push(b"  first\n");
        assert_eq!(inner.text(), "first");
        inner.push(&[b'x'; 3 * TAIL_BYTES_MAX]);
        inner.push(b"last\n");
        assert_eq!(inner.bytes.len(), TAIL_BYTES_MAX);
        assert!(inner.text().ends_with("xlast"));
    }

    #[test]
    fn no_half_character_stands_in_front() {
        let mut inner = Inner::default();
        inner.push("ä".repeat(TAIL_BYTES_MAX).as_bytes());
        inner.push(b".");
        assert_eq!(inner.text().chars().next(), Some('ä'));
    }

    #[test]
    fn an_end_that_does_not_come_is_not_waited_for() {
        let tail = Tail::default();
        tail.lock().is_open = true;
        tail.lock().push(b"so far");
        assert_eq!(tail.wait(Duration::ZERO), "so far");
    }
}
