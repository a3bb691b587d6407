//! How far a push has come, for somebody who looks at it.

use super::source::is_stdin;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal};
use std::path::PathBuf;

/// A progress bar on standard error when that is a terminal; otherwise nothing.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// A bar as long as the input, or a count where the input's length is not known.
    pub(super) fn new(files: &[PathBuf]) -> Self {
        if !io::stderr().is_terminal() {
            return Self { bar: None };
        }
        let total = input_bytes(files);
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(10));
        let template = if total.is_some() {
            "{bar:30} {binary_bytes}/{binary_total_bytes}  {msg}  {eta} left"
        } else {
            "{spinner} {binary_bytes}  {msg}  {elapsed}"
        };
        // The templates are fixed, and a progress bar is not worth failing for.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar: Some(bar) }
    }

    /// So many bytes were read, so many jobs confirmed.
    pub(super) fn update(&self, bytes: u64, confirmed: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
            bar.set_message(format!("{confirmed} confirmed"));
        }
    }

    /// Something holds the push up.
    pub(super) fn waiting(&self, why: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("waiting: {why}"));
        }
    }

    /// Takes the bar off the screen.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Length of all files together, if all of them are plain files.
fn input_bytes(files: &[PathBuf]) -> Option<u64> {
    let lengths = files.iter().map(|path| {
        let metadata = if is_stdin(path) {
            None
        } else {
            std::fs::metadata(path).ok()
        };
        metadata
            .filter(std::fs::Metadata::is_file)
            .map(|metadata| metadata.len())
    });
    lengths.sum()
}
