//! How far the reading of a log has come, for somebody who waits for it.

use super::units::show_bytes;
use crate::log::ReadProgress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

/// Time between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// A progress bar on standard error when that is a terminal; otherwise a log line now and then.
pub(super) struct ReadingProgress {
    bar: Option<ProgressBar>,
    last_line: Mutex<Instant>,
}

impl ReadingProgress {
    pub(super) fn new() -> Self {
        let is_terminal = io::stderr().is_terminal();
        Self {
            bar: is_terminal.then(bar),
            last_line: Mutex::new(Instant::now()),
        }
    }

    /// So much was read.
    pub(super) fn update(&self, read: &ReadProgress) {
        if let Some(bar) = &self.bar {
            bar.set_length(read.bytes_total);
            bar.set_position(read.bytes);
            bar.set_message(format!("{} records", read.records));
            if read.bytes >= read.bytes_total {
                bar.finish_and_clear();
            }
            return;
        }
        let mut last_line = self.last_line.lock();
        if last_line.elapsed() >= LINE_EVERY {
            *last_line = Instant::now();
            tracing::info!(
                "read {} of {} of the log, {} records",
                show_bytes(read.bytes),
                show_bytes(read.bytes_total),
                read.records
            );
        }
    }

    /// Takes the bar off the screen, however far it came.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
    // The template is fixed, and a progress bar is not worth failing for.
    if let Ok(style) = ProgressStyle::with_template(
        "reading the log {bar:30} {binary_bytes}/{binary_total_bytes}  {msg}  {eta} left",
    ) {
        bar.set_style(style);
    }
    bar
}
