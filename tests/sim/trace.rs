//! What happened, line by line: the last lines for people, a hash of all for the test that a seed decides everything.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// Lines kept to be shown.
const KEPT: usize = 60;

#[derive(Debug, Default)]
struct Inner {
    last: VecDeque<String>,
    hash: u64,
    lines: u64,
    prints: bool,
}

/// A record that everybody writes into.
#[derive(Debug, Clone, Default)]
pub struct Trace(Rc<RefCell<Inner>>);

impl Trace {
    /// One that prints every line as it comes, if `prints`.
    pub fn new(prints: bool) -> Self {
        let trace = Self::default();
        trace.0.borrow_mut().prints = prints;
        trace
    }

    /// Notes a line.
    pub fn note(&self, line: String) {
        let mut inner = self.0.borrow_mut();
        let bytes = line.bytes().chain([b'\n']);
        inner.hash = bytes.fold(inner.hash, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        inner.lines += 1;
        if inner.prints {
            println!("{line}");
        }
        if inner.last.len() == KEPT {
            inner.last.pop_front();
        }
        inner.last.push_back(line);
    }

    /// A number that differs when anything differed.
    pub fn hash(&self) -> u64 {
        self.0.borrow().hash
    }

    /// The last lines.
    pub fn last(&self) -> String {
        let inner = self.0.borrow();
        let lines: Vec<&str> = inner.last.iter().map(String::as_str).collect();
        format!(
            "({} lines before)\n{}",
            inner.lines - lines.len() as u64,
            lines.join("\n")
        )
    }
}
