//! SIGTERM and SIGINT: the first one stops the worker, the second one kills what it runs.

use super::board::{Board, Stop};
use crate::cli::exit::Failure;
use crate::cli::output;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use std::thread::Scope;

/// Watches from a thread of its own, until the handle is closed.
///
/// # Errors
/// When the system does not let a signal be handled.
pub(super) fn watch<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    board: &'env Board,
) -> Result<Handle, Failure> {
    let mut signals = Signals::new([SIGTERM, SIGINT])
        .map_err(|error| Failure::refused(format!("cannot watch for signals: {error}")))?;
    let handle = signals.handle();
    scope.spawn(move || {
        for _ in signals.forever() {
            let stop = if board.stopping() == Stop::No {
                Stop::Finish
            } else {
                Stop::Kill
            };
            output::note(match stop {
                Stop::Kill => "killing what runs",
                _ => "finishing what runs; a second signal kills it",
            });
            board.stop(stop);
        }
    });
    Ok(handle)
}
