//! What a peer can do, and how its server is started and ended.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A confirmed job survives as much as with the level of the same name here: nothing, the death of the process, a
/// power cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    Memory,
    Written,
    Synced,
}

/// Sends jobs. Confirmations come in the order of the requests.
pub trait Produce {
    /// Puts one request with these payloads into the buffer, or as many as the peer needs for them.
    fn put(&mut self, payloads: &[Vec<u8>]);
    /// Sends what was put.
    fn flush(&mut self) -> io::Result<()>;
    /// Waits for the confirmation of the oldest request of that many jobs.
    fn confirm(&mut self, jobs: usize) -> io::Result<()>;
    /// Whether a confirmation is there, after waiting for it.
    fn is_confirmed(&self, wait: Duration) -> bool;
    /// Whether one was read already, at least in part.
    fn is_buffered(&self) -> bool;
}

/// What a worker meets.
pub enum Event<'a> {
    /// A job.
    Came(&'a [u8]),
    /// So many jobs are done.
    Acked(usize),
}

/// Takes jobs and acks them.
pub trait Work {
    /// Acks what came last, so many a request as `ack_batch` says, and takes up to `jobs_max` jobs in the same
    /// breath; none when none came within some hundred milliseconds. Tells of both as it meets them.
    fn take(&mut self, jobs_max: usize, ack_batch: usize, told: &mut dyn FnMut(Event<'_>)) -> io::Result<()>;
}

/// A kind of peer with its settings.
pub trait Peer: Sync {
    fn name(&self) -> String;
    fn settings(&self) -> String;
    fn class(&self) -> Class;
    /// What is worth knowing about acks.
    fn acks(&self) -> &'static str;
    /// The version, `None` when it is not installed.
    fn version(&self) -> Option<String>;
    /// Jobs that a worker takes at a time when few are there: as many as there are, where the peer answers with those.
    fn take_max(&self) -> usize {
        usize::MAX
    }
    fn start(&self, directory: &Path, port: u16) -> io::Result<Server>;
    /// Makes an empty queue.
    fn prepare(&self, address: &str, queue: &str) -> io::Result<()>;
    fn producer(&self, address: &str, queue: &str) -> io::Result<Box<dyn Produce + Send>>;
    fn worker(&self, address: &str, queue: &str) -> io::Result<Box<dyn Work + Send>>;
}

/// A running server, killed when dropped.
pub struct Server {
    child: Child,
    pub address: String,
}

impl Server {
    /// Starts a program and waits until its port answers.
    pub fn start(mut command: Command, port: u16) -> io::Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let server = Self {
            child: command.spawn()?,
            address: format!("127.0.0.1:{port}"),
        };
        let until = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(&server.address).is_err() {
            if Instant::now() > until {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the server does not listen",
                ));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody uses now.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The first word of what a program says about itself that looks like a version.
pub fn version_of(program: &str, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let mut words = text
        .split_whitespace()
        .map(|word| word.trim_start_matches(['v', '=']).trim_end_matches(','));
    let version = words.find_map(|word| {
        let word = word.trim_start_matches("v=");
        (word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.')).then(|| word.to_owned())
    });
    Some(version.unwrap_or_else(|| "?".to_owned()))
}
