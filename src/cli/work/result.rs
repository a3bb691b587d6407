//! What a command says on standard output, kept as the result of its job.

use crate::base::limits::NOTE_BYTES_MAX;
use crate::cli::output;
use std::io::{self, Read};
use std::process::ChildStdout;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// The first bytes that were written, as many as a result may have, and whether more may come.
#[derive(Debug, Clone, Default)]
pub(super) struct Head(Arc<(Mutex<Inner>, Condvar)>);

#[derive(Debug, Default)]
struct Inner {
    bytes: Vec<u8>,
    is_cut: bool,
    is_closed: bool,
}

/// Reads `stdout` to its end in a thread of its own, which nobody needs to wait for.
///
/// # Errors
/// When the system has no thread left.
pub(super) fn gather(mut stdout: ChildStdout) -> io::Result<Head> {
    let head = Head::default();
    let writer = head.clone();
    std::thread::Builder::new()
        .name("stdout".to_owned())
        .spawn(move || {
            let mut buffer = [0; 8 * 1024];
            loop {
                match stdout.read(&mut buffer) {
                    Ok(read) if read > 0 => writer.push(&buffer[..read]),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    _ => break,
                }
            }
            let (inner, closed) = &*writer.0;
            inner.lock().unwrap_or_else(PoisonError::into_inner).is_closed = true;
            closed.notify_all();
        })?;
    Ok(head)
}

impl Head {
    /// Reads on beyond what is kept, so that the command is not held up.
    fn push(&self, bytes: &[u8]) {
        let mut inner = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = NOTE_BYTES_MAX as usize - inner.bytes.len();
        inner.is_cut |= bytes.len() > room;
        inner.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// What was written; waits up to `grace` for the end of it.
    pub(super) fn wait(&self, grace: Duration) -> Vec<u8> {
        let (inner, closed) = &*self.0;
        let inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (inner, _) = closed
            .wait_timeout_while(inner, grace, |inner| !inner.is_closed)
            .unwrap_or_else(PoisonError::into_inner);
        if inner.is_cut {
            output::note(&format!("a result was cut to its first {NOTE_BYTES_MAX} bytes"));
        }
        inner.bytes.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_as_much_is_kept_as_a_result_may_have() {
        let head = Head::default();
        head.push(b"front");
        head.push(&vec![b'x'; NOTE_BYTES_MAX as usize]);
        head.push(b"behind");
        let kept = head.wait(Duration::ZERO);
        assert!(kept.starts_with(b"frontx") && kept.len() == NOTE_BYTES_MAX as usize);
    }
}
