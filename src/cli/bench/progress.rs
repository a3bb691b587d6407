//! How far a load has come, for somebody who looks at it.

use super::pace::End;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal};
use std::time::Duration;

/// A progress bar on standard error when that is a terminal; otherwise nothing.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    end: End,
}

impl Progress {
    /// A bar for a run of that name and length.
    pub(super) fn new(name: &'static str, end: End) -> Self {
        let is_terminal = io::stderr().is_terminal();
        Self {
            bar: is_terminal.then(|| bar(name, end)),
            end,
        }
    }

    /// So many jobs are done after this time.
    pub(super) fn update(&self, jobs: u64, time: Duration) {
        let Some(bar) = &self.bar else { return };
        bar.set_position(match self.end {
            End::Jobs(_) => jobs,
            End::Time(_) => time.as_millis() as u64,
        });
        let rate = jobs as f64 / time.as_secs_f64().max(1e-9);
        bar.set_message(format!("{jobs} jobs, {rate:.0}/s"));
    }

    /// Takes the bar off the screen.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(name: &'static str, end: End) -> ProgressBar {
    let length = match end {
        End::Jobs(jobs) => jobs,
        End::Time(time) => time.as_millis() as u64,
    };
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr_with_hz(10));
    // The template is fixed, and a progress bar is not worth failing for.
    if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:30} {percent}%  {msg}  {eta} left") {
        bar.set_style(style);
    }
    bar.set_prefix(name);
    bar
}
