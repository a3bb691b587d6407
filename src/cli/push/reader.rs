//! Reads the input ahead in a thread of its own, so that batches in flight are looked after while a slow writer
//! keeps this side waiting.

use super::source::{Batch, BatchLimits, Source};
use crate::cli::exit::Failure;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};

/// Batches read and not yet sent.
const BATCHES_AHEAD: usize = 4;

/// The input, a batch at a time.
pub(super) struct Reader {
    full: Receiver<Result<Batch, Failure>>,
    empty: Sender<Batch>,
}

/// What there is to send.
pub(super) enum Next {
    /// A batch.
    Batch(Batch),
    /// Nothing yet.
    Nothing,
    /// Nothing any more.
    End,
}

impl Reader {
    /// Begins to read. The thread ends with the input, or some time after nobody asks any more: it may be waiting
    /// for a writer that has forgotten it.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub(super) fn start(source: Source, limits: BatchLimits) -> Result<Self, Failure> {
        let (full_sender, full) = sync_channel(BATCHES_AHEAD);
        let (empty, empty_receiver) = channel();
        std::thread::Builder::new()
            .name("reader".to_owned())
            .spawn(move || read(source, limits, &full_sender, &empty_receiver))
            .map_err(|error| Failure::refused(format!("cannot start a thread: {error}")))?;
        Ok(Self { full, empty })
    }

    /// The next batch, if it is there already.
    ///
    /// # Errors
    /// What the input could not be read for. Batches read before come first.
    pub(super) fn try_next(&self) -> Result<Next, Failure> {
        match self.full.try_recv() {
            Ok(batch) => batch.map(Next::Batch),
            Err(TryRecvError::Empty) => Ok(Next::Nothing),
            Err(TryRecvError::Disconnected) => Ok(Next::End),
        }
    }

    /// Waits for the next batch.
    ///
    /// # Errors
    /// As [`try_next`](Self::try_next).
    pub(super) fn next(&self) -> Result<Next, Failure> {
        self.full
            .recv()
            .map_or(Ok(Next::End), |batch| batch.map(Next::Batch))
    }

    /// Gives a batch back for its memory.
    pub(super) fn recycle(&self, batch: Batch) {
        // The reader has come to the end: the memory is not needed any more.
        let _ = self.empty.send(batch);
    }
}

fn read(
    mut source: Source,
    limits: BatchLimits,
    full: &SyncSender<Result<Batch, Failure>>,
    empty: &Receiver<Batch>,
) {
    loop {
        let mut batch = empty.try_recv().unwrap_or_default();
        let filled = source.fill(&mut batch, limits);
        let is_end = batch.count() == 0 || filled.is_err();
        // What was read before a failure to read more is sent all the same.
        let sent = batch.count() == 0 || full.send(Ok(batch)).is_ok();
        if let Err(failure) = filled {
            let _ = full.send(Err(failure));
        }
        if is_end || !sent {
            return;
        }
    }
}
