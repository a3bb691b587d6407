//! The counts that are written down, and how a new one is judged beside them.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::process::Command;

/// How far a count may go up before it is a regression, and down before it is to be written down.
const TOLERANCE: f64 = 0.03;

/// Counts by the name of the path, and the compiler that they hold for.
pub struct Counts {
    compiler: String,
    is_comparable: bool,
    counts: BTreeMap<String, f64>,
}

/// What a new count says.
pub enum Verdict {
    /// Nothing to compare with.
    New,
    /// With the old count, and whether it counts.
    Beside { old: f64, new: f64, is_comparable: bool },
}

impl Verdict {
    pub fn is_regression(&self) -> bool {
        matches!(*self, Self::Beside { old, new, is_comparable: true } if new > old * (1.0 + TOLERANCE))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Beside {
            old,
            new,
            is_comparable,
        } = *self
        else {
            return write!(f, "{:>12}  new", "");
        };
        write!(f, "{old:>12.1}  x {:.3}", new / old)?;
        match (is_comparable, self.is_regression()) {
            (false, _) => write!(f, "  (another compiler; not judged)"),
            (true, true) => write!(f, "  REGRESSION"),
            (true, false) if new < old * (1.0 - TOLERANCE) => {
                write!(f, "  better; write it down with -- --write")
            }
            (true, false) => Ok(()),
        }
    }
}

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/instructions/counts.txt")
}

impl Counts {
    /// None yet, for the compiler in use.
    pub fn of_this_compiler() -> Self {
        let version = Command::new("rustc").arg("--version").output().unwrap();
        let version = String::from_utf8(version.stdout).unwrap();
        Self {
            compiler: version
                .split(' ')
                .take(2)
                .collect::<Vec<_>>()
                .join(" ")
                .trim()
                .to_owned(),
            is_comparable: true,
            counts: BTreeMap::new(),
        }
    }

    /// Those in the file. Its first line names the compiler; each other one is a count and the name of a path.
    pub fn read() -> Self {
        let text = std::fs::read_to_string(file()).unwrap();
        let mut lines = text.lines();
        let compiler = lines.next().unwrap_or_default().to_owned();
        let counts = lines.map(|line| {
            let (count, name) = line.trim().split_once(' ').unwrap();
            (name.trim().to_owned(), count.parse().unwrap())
        });
        Self {
            is_comparable: compiler == Self::of_this_compiler().compiler,
            counts: counts.collect(),
            compiler,
        }
    }

    pub fn put(&mut self, name: &str, count: f64) {
        self.counts.insert(name.to_owned(), count);
    }

    pub fn judge(&self, name: &str, new: f64) -> Verdict {
        self.counts.get(name).map_or(Verdict::New, |old| Verdict::Beside {
            old: *old,
            new,
            is_comparable: self.is_comparable,
        })
    }

    pub fn write(&self) {
        let mut text = format!("{}\n", self.compiler);
        for (name, count) in &self.counts {
            writeln!(text, "{count:>10.1}  {name}").unwrap();
        }
        std::fs::write(file(), text).unwrap();
    }
}
