//! What the threads of one server share.

use super::config::{ServeError, ServerConfig};
use super::doors::Doors;
use super::orphans::Orphans;
use crate::base::wake::Bell;
use crate::engine::Engine;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

/// How far a server's life has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Stage {
    /// It serves.
    Serving = 0,
    /// It takes nothing new, confirms what it has taken, and says goodbye.
    Stopping = 1,
    /// Something failed: nothing is confirmed any more.
    Failed = 2,
}

/// See the [module](self).
pub(super) struct Hub {
    pub(super) engine: Arc<Engine>,
    pub(super) config: ServerConfig,
    /// Differs from start to start.
    pub(super) boot: u64,
    pub(super) doors: Arc<Doors>,
    /// Leases of connections that ended.
    pub(super) orphans: Orphans,
    /// Wakes the flusher: an answer waits for the disk.
    pub(super) flush_bell: Bell,
    /// Wakes the timekeeper and the log's keeper, to end them.
    pub(super) background_bells: [Bell; 2],
    /// Connections there are, those of all reactors.
    pub(super) connections: AtomicUsize,
    /// Memory of all connections for requests that have not wholly come, in bytes, beyond what each has to itself.
    pub(super) receiving: AtomicUsize,
    stage: AtomicU8,
    /// Whether the reactors are gone, so that the agents behind them can go as well.
    retired: AtomicBool,
    failure: Mutex<Option<ServeError>>,
}

impl Hub {
    pub(super) fn new(engine: Arc<Engine>, config: ServerConfig, boot: u64, doors: Doors) -> Self {
        Self {
            engine,
            config,
            boot,
            doors: Arc::new(doors),
            orphans: Orphans::default(),
            flush_bell: Bell::default(),
            background_bells: Default::default(),
            connections: AtomicUsize::new(0),
            receiving: AtomicUsize::new(0),
            stage: AtomicU8::new(Stage::Serving as u8),
            retired: AtomicBool::new(false),
            failure: Mutex::new(None),
        }
    }

    /// How far the server's life has come.
    #[inline]
    pub(super) fn stage(&self) -> Stage {
        // Acquire pairs with the release in `advance`: whoever sees Failed finds the failure.
        match self.stage.load(Ordering::Acquire) {
            0 => Stage::Serving,
            1 => Stage::Stopping,
            _ => Stage::Failed,
        }
    }

    /// Begins a stop in good order.
    pub(super) fn stop(&self) {
        self.advance(Stage::Stopping);
    }

    /// Stops because of a failure; the first one counts.
    pub(super) fn fail(&self, failure: ServeError) {
        self.failure.lock().get_or_insert(failure);
        self.advance(Stage::Failed);
    }

    fn advance(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Ordering::AcqRel);
        self.doors.all().iter().for_each(|mailbox| mailbox.ring());
    }

    /// Fails if the log has.
    pub(super) fn check_log(&self) {
        if let Some(reason) = self.engine.poisoned() {
            self.fail(ServeError::Log(reason));
        }
    }

    /// Ends the agents behind the reactors.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.flush_bell.ring();
        self.background_bells.iter().for_each(Bell::ring);
    }

    /// Whether the agents behind the reactors are to end.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// The last act of a stop in good order: nobody uses the engine any more.
    ///
    /// # Errors
    /// [`ServeError`]: why the server stopped by itself, or that the last sync failed.
    pub(super) fn close(&self, now_ms: u64) -> Result<(), ServeError> {
        match self.failure() {
            Some(failure) => Err(failure),
            None => self
                .engine
                .close(now_ms)
                .map_err(|refusal| ServeError::Log(refusal.text)),
        }
    }

    /// Why the server stopped by itself, if it did.
    pub(super) fn failure(&self) -> Option<ServeError> {
        self.failure.lock().clone()
    }
}
