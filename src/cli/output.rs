//! Standard output: JSON on one line, or tables for people. Errors and progress go to standard error instead.

use super::exit::{Done, stdout_result};
use crate::engine::{RecoveredQueue, RecoverySummary};
use serde::Serialize;
use std::io::{self, Write};

/// Prints `value` as one line of JSON.
pub(crate) fn json(value: &impl Serialize) -> Done {
    let mut out = io::stdout().lock();
    let result = serde_json::to_writer(&mut out, value).map_err(io::Error::from);
    stdout_result(
        result
            .and_then(|()| out.write_all(b"\n"))
            .and_then(|()| out.flush()),
    )
}

/// Prints `text` and a line end.
pub(crate) fn line(text: &str) -> Done {
    let mut out = io::stdout().lock();
    stdout_result(
        out.write_all(text.as_bytes())
            .and_then(|()| out.write_all(b"\n"))
            .and_then(|()| out.flush()),
    )
}

/// Says something to people on standard error. That it cannot be said is no reason to stop.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "ackring: {text}");
}

/// What came back from a log, in one line.
pub(crate) fn recovered(summary: &RecoverySummary) -> String {
    let RecoverySummary {
        queues,
        ready,
        scheduled,
        leased,
        dead,
        finished,
        ..
    } = summary;
    format!(
        "{ready} ready, {scheduled} scheduled, {leased} leased, {dead} dead, {finished} finished jobs in {queues} \
         queues"
    )
}

/// A line for each of the queues with most jobs, and one for the rest of them.
pub(crate) fn recovered_queues(summary: &RecoverySummary, shown: usize) -> Vec<String> {
    let queues = &summary.by_queue;
    let (shown, rest) = queues.split_at(queues.len().min(shown));
    let mut lines: Vec<String> = shown
        .iter()
        .map(|queue| {
            let QueueCounts {
                name,
                ready,
                scheduled,
                leased,
                dead,
                finished,
            } = queue.into();
            let counts = [
                (ready, "ready"),
                (scheduled, "scheduled"),
                (leased, "leased"),
                (dead, "dead"),
                (finished, "finished"),
            ];
            let counts = counts.into_iter().filter(|(count, _)| *count > 0);
            let counts: Vec<String> = counts.map(|(count, what)| format!("{count} {what}")).collect();
            format!("  {name}: {}", counts.join(", "))
        })
        .collect();
    if !rest.is_empty() {
        let jobs: u64 = rest.iter().map(RecoveredQueue::jobs).sum();
        lines.push(format!("  {jobs} jobs in {} other queues", rest.len()));
    }
    lines
}

/// What came back of one queue, as JSON.
#[derive(Debug, Serialize)]
pub(crate) struct QueueCounts {
    name: String,
    ready: u64,
    scheduled: u64,
    leased: u64,
    dead: u64,
    finished: u64,
}

impl From<&RecoveredQueue> for QueueCounts {
    fn from(queue: &RecoveredQueue) -> Self {
        Self {
            name: queue.name.clone(),
            ready: queue.ready,
            scheduled: queue.scheduled,
            leased: queue.leased,
            dead: queue.dead,
            finished: queue.finished,
        }
    }
}

/// Where a column's text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table with a head, its columns as wide as their widest cell.
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(columns: &[(&'static str, Align)]) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row of as many cells as there are columns.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    /// Prints it. Without rows it prints `empty` instead.
    pub(crate) fn print(&self, empty: &str) -> Done {
        if self.rows.is_empty() {
            return line(empty);
        }
        let mut out = io::BufWriter::new(io::stdout().lock());
        stdout_result(out.write_all(self.render().as_bytes()).and_then(|()| out.flush()))
    }

    fn render(&self) -> String {
        let width = |index: usize| {
            let cells = self
                .rows
                .iter()
                .filter_map(|row| row.get(index))
                .map(|cell| cell.chars().count());
            cells.chain([self.columns[index].0.len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let head: Vec<String> = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        let mut text = String::new();
        for row in std::iter::once(&head).chain(&self.rows) {
            let mut written = String::new();
            for ((cell, width), (_, align)) in row.iter().zip(&widths).zip(&self.columns) {
                match align {
                    Align::Left => written.push_str(&format!("{cell:<width$}  ")),
                    Align::Right => written.push_str(&format!("{cell:>width$}  ")),
                }
            }
            text.push_str(written.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Bytes from a job as text for a terminal: one line, nothing that moves the cursor, at most `chars_max` long.
pub(crate) fn printable(bytes: &[u8], chars_max: usize) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(chars_max * 4)]);
    let mut shown: String = text
        .trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(chars_max + 1)
        .collect();
    if shown.chars().count() > chars_max {
        shown = shown.chars().take(chars_max.saturating_sub(1)).collect();
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&[("NAME", Align::Left), ("READY", Align::Right)]);
        table.row(vec!["mail".to_owned(), "12".to_owned()]);
        table.row(vec!["x".to_owned(), "1000000".to_owned()]);
        assert_eq!(table.render(), "NAME    READY\nmail       12\nx     1000000\n");
    }

    #[test]
    fn a_payload_cannot_move_the_cursor() {
        assert_eq!(printable(b"a\x1b[2Jb\nc", 20), "a [2Jb c");
        assert_eq!(printable("äöüäöü".as_bytes(), 4), "äöü…");
        assert_eq!(printable(b"\xff", 4), "\u{fffd}");
    }
}
