//! A server that is started for the load, and ended with it.

use super::Bench;
use super::directory::Directory;
use crate::cli::exit::Failure;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Time that it gets to end by itself.
const END: Duration = Duration::from_secs(10);

/// A running `ackring serve` on a free port.
pub(super) struct Child {
    process: std::process::Child,
    /// Where it listens.
    pub(super) address: String,
    // Behind the process, which must be gone first.
    _directory: Directory,
}

impl Child {
    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// It does not start; it has said why on standard error.
    pub(super) fn start(bench: &Bench) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| Failure::refused(format!("cannot start a server: {error}"));
        let directory = Directory::make(bench.data.as_deref())?;
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--log-level",
                "error",
                "--data",
            ])
            .arg(directory.path().join("data"))
            .args(bench.busy_poll.then_some("--busy-poll"))
            .env_remove("ACKRING_SERVER")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut process = command.spawn().map_err(failed)?;
        let address = process.stdout.take().and_then(|stdout| {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            let mut places = lines.filter_map(|line| line.strip_prefix("listening on ").map(str::to_owned));
            places.next()
        });
        let mut child = Self {
            process,
            address: String::new(),
            _directory: directory,
        };
        child.address =
            address.ok_or_else(|| Failure::refused("the server that was started ended at once"))?;
        Ok(child)
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // One that has ended already hears nothing.
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
        let since = Instant::now();
        while since.elapsed() < END {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
