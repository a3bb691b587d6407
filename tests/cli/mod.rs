//! What the tests of the command line share: real processes in a directory of their own.
#![allow(dead_code, reason = "each test crate uses its own part of this")]
#![allow(
    clippy::disallowed_methods,
    reason = "guards against hanging need a clock; no test depends on how long something takes"
)]

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::cell::Cell;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// After so long a test hangs, and fails.
pub const HANG: Duration = Duration::from_secs(120);

/// The binary under test: the one just built, or another that `ACKRING_BINARY` names.
pub fn binary() -> &'static str {
    static OTHER: OnceLock<Option<String>> = OnceLock::new();
    let other = OTHER.get_or_init(|| std::env::var("ACKRING_BINARY").ok());
    other.as_deref().unwrap_or(env!("CARGO_BIN_EXE_ackring"))
}

/// A directory with a data directory and a socket in it, gone when dropped. The socket stays in place over
/// restarts of the server, which a free port would not.
pub struct Home {
    directory: tempfile::TempDir,
}

/// What a finished process left.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Home {
    pub fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// The server's address for `--server`.
    pub fn address(&self) -> String {
        format!("unix:{}", self.path("socket").display())
    }

    /// Starts a server with small segments and waits until it listens.
    pub fn serve(&self) -> Server {
        self.serve_with(&[])
    }

    pub fn serve_with(&self, more: &[&str]) -> Server {
        Server::start(self.serve_command("data", more))
    }

    /// The command that starts a server with that data directory.
    pub fn serve_command(&self, data: &str, more: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.current_dir(self.directory.path());
        command.args(["serve", "--data", data, "--unix", "socket", "--listen", "none"]);
        for small in [
            ["--segment-bytes", "1MiB"],
            ["--slots", "65536"],
            ["--log-level", "off"],
        ] {
            if !more.contains(&small[0]) {
                command.args(small);
            }
        }
        command.args(more);
        command
    }

    /// A command that talks to this home's server.
    pub fn command(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new(binary());
        command
            .current_dir(self.directory.path())
            .env("ACKRING_SERVER", self.address())
            .args(arguments);
        command
    }

    /// Runs a command to its end.
    pub fn ackring(&self, arguments: &[&str]) -> Ran {
        run(self.command(arguments), b"")
    }

    pub fn ackring_with_input(&self, arguments: &[&str], input: &[u8]) -> Ran {
        run(self.command(arguments), input)
    }

    /// Runs a command that must succeed, and reads its JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        self.json_with_input(arguments, b"")
    }

    pub fn json_with_input(&self, arguments: &[&str], input: &[u8]) -> Value {
        // In front: behind the `--` of `work` it would be the command's.
        let arguments: Vec<&str> = ["--json"].iter().chain(arguments).copied().collect();
        run(self.command(arguments), input).json()
    }

    /// One queue's counters.
    pub fn stats(&self, queue: &str) -> Value {
        let stats = self.json(&["stats"]);
        let queues = stats["queues"].as_array().unwrap();
        queues
            .iter()
            .find(|stats| stats["name"] == queue)
            .cloned()
            .unwrap_or(Value::Null)
    }

    /// Starts something that goes on in the background.
    pub fn spawn(&self, arguments: &[&str]) -> Background {
        let mut command = self.command(arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Background {
            child: Some(command.spawn().unwrap()),
        }
    }
}

impl Ran {
    /// The standard output as JSON; the command must have succeeded.
    pub fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// Asserts that it exited with 0, whatever it said on standard error.
    pub fn expect_success(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// Asserts the exit code, and for a failure that one line says why.
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        if code != 0 {
            assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
        }
        self
    }
}

/// Runs a command to its end, feeding it `input`.
pub fn run(mut command: Command, input: &[u8]) -> Ran {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    thread::spawn(move || {
        // A command that refuses its arguments reads nothing.
        let _ = std::io::Write::write_all(&mut stdin, &input);
    });
    finish(child)
}

/// Waits for a process and takes in what it says; one that hangs is killed and fails the test.
fn finish(child: Child) -> Ran {
    let pid = pid(&child);
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output().unwrap()));
    let output = receiver.recv_timeout(HANG).unwrap_or_else(|_| {
        let _ = kill_process(pid, Signal::KILL);
        panic!("a process hangs");
    });
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ran {
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// A process in the background, killed when dropped.
pub struct Background {
    child: Option<Child>,
}

impl Background {
    pub fn signal(&self, signal: Signal) {
        kill_process(pid(self.child.as_ref().unwrap()), signal).unwrap();
    }

    pub fn write(&mut self, bytes: &[u8]) {
        let stdin = self.child.as_mut().unwrap().stdin.as_mut().unwrap();
        std::io::Write::write_all(stdin, bytes).unwrap();
    }

    /// Ends its input and waits for it.
    pub fn finish(mut self) -> Ran {
        finish(self.child.take().unwrap())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A running server.
pub struct Server {
    child: Child,
    /// What it said until it listened.
    pub lines: Vec<String>,
    ended: Cell<bool>,
}

impl Server {
    /// Starts it and waits for the line that says where it listens.
    pub fn start(mut command: Command) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut lines = Vec::new();
            loop {
                let mut line = String::new();
                if stdout.read_line(&mut line).unwrap_or(0) == 0 {
                    return;
                }
                lines.push(line.trim_end().to_owned());
                if line.contains("listening") {
                    let _ = sender.send(lines);
                    // Kept open and read to its end, so that the server can always write.
                    let _ = stdout.read_to_end(&mut Vec::new());
                    return;
                }
            }
        });
        let lines = receiver.recv_timeout(HANG).unwrap_or_else(|_| {
            let _ = child.kill();
            panic!("the server does not listen");
        });
        Self {
            child,
            lines,
            ended: Cell::new(false),
        }
    }

    /// The TCP address, as it stands in the line.
    pub fn tcp_address(&self) -> String {
        let line = self.lines.last().unwrap();
        line.strip_prefix("listening on ")
            .unwrap()
            .split(' ')
            .next()
            .unwrap()
            .to_owned()
    }

    pub fn pid(&self) -> Pid {
        pid(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.ended.set(true);
    }

    /// Asks it to stop, and returns how it ended.
    pub fn stop(self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.ended()
    }

    /// Waits until it ends by itself, and returns how.
    pub fn ended(mut self) -> ExitStatus {
        let status = eventually("the server's end", || self.child.try_wait().unwrap());
        self.ended.set(true);
        status
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.ended.get() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Asks until there is an answer.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + HANG;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Lines of a file, none if it is not there yet.
pub fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Names, sizes and contents of all files in a directory, to tell whether something has changed.
pub fn snapshot(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .map(Result::unwrap)
    {
        let content = std::fs::read(entry.path()).unwrap();
        files.push((entry.path(), content));
    }
    files.sort();
    files
}
