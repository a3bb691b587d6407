//! The network server: connections in, the engine's answers out.
//!
//! A server is a few agents that share one [engine](crate::engine): reactors, each with a poll and the connections
//! that were given to it; a flusher, which makes the log durable when answers wait for that; a timekeeper and
//! a keeper of the log, which call the engine's own agents. None holds a lock while it works for a job, and a
//! reactor never blocks but in its poll.
//!
//! ```text
//!  socket ─► decoder ─► dispatch ─► engine ─► outbox ─► socket      one write a turn
//!                           │                   ▲
//!                           └─► waiters ─► deliver (subscriptions, waiting reserves)
//! ```
//!
//! The files: `config`; `net` (what a reactor asks of the network), `sockets`, `listen`, `stream` (the real one);
//! `reactor`, `connections`, `conn`, `peer` (connections); `outbox`, `holdings`, `waiters` (what a connection has
//! waiting); `desk`, `dispatch`, `together`, `admin`, `deliver`, `sink` (requests); `doors`, `mailbox`, `entrance`, `hub`
//! (between threads); `agents`; `machine` (all of them, without a thread), `threads`, `polling`.

mod admin;
mod agents;
mod config;
mod conn;
mod connections;
mod deliver;
mod desk;
mod dispatch;
mod doors;
mod entrance;
mod holdings;
mod hub;
mod listen;
#[doc(hidden)]
pub mod machine;
mod mailbox;
mod net;
mod numbers;
mod orphans;
mod outbox;
mod peer;
mod polling;
mod reactor;
mod sink;
mod sockets;
mod stream;
mod threads;
mod together;
mod waiters;

pub use config::{ServeError, ServerConfig, Spread, StartError};
pub use listen::raise_file_limit;

use crate::clock::Clock;
use crate::engine::{Engine, EngineConfig, RecoverySummary};
use hub::Hub;
use listen::Listeners;
use machine::Machine;
use sockets::Sockets;
use std::net::SocketAddr;
use std::sync::Arc;
use threads::Threads;

/// A running server. Dropped, it stops as by [`stop`](Self::stop).
///
/// ```
/// use ackring::engine::EngineConfig;
/// use ackring::server::{Server, ServerConfig};
/// let config = ServerConfig { listen: Some(([127, 0, 0, 1], 0).into()), ..ServerConfig::default() };
/// let (server, _) = Server::open(EngineConfig { slots: 1024, ..EngineConfig::default() }, config)?;
/// assert!(server.local_addr().is_some());
/// server.stop()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Server {
    hub: Arc<Hub>,
    clock: Clock,
    threads: Threads,
    local_addr: Option<SocketAddr>,
}

/// Stops a server from anywhere, a signal's thread for instance.
#[derive(Clone)]
pub struct Stopper(Arc<Hub>);

impl Stopper {
    /// Begins the stop and returns at once; [`Server::wait`] returns when it is over.
    pub fn stop(&self) {
        self.0.stop();
    }
}

impl Server {
    /// Binds the sockets, then opens the engine, then serves: so a port in use leaves the data untouched. Clients
    /// that connect while the log is read wait for their first answer.
    ///
    /// # Errors
    /// [`StartError`], one line each; nothing was changed on disk then.
    pub fn open(engine: EngineConfig, config: ServerConfig) -> Result<(Self, RecoverySummary), StartError> {
        let listeners = Listeners::bind(&config)?;
        let (engine, summary) = Engine::open(engine, Clock::start().now_ms())?;
        let server = Self::begin(Arc::new(engine), config, listeners)?;
        Ok((server, summary))
    }

    /// Serves an engine that is open. The server is its only owner as to agents: it calls the timer and the log
    /// step, and sets the waker.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(engine: Arc<Engine>, config: ServerConfig) -> Result<Self, StartError> {
        let listeners = Listeners::bind(&config)?;
        Self::begin(engine, config, listeners)
    }

    fn begin(engine: Arc<Engine>, config: ServerConfig, listeners: Listeners) -> Result<Self, StartError> {
        let clock = Clock::start().not_before(engine.opened_ms());
        let local_addr = listeners.local_addr();
        let mut listeners = Some(listeners);
        let mut nets = Vec::new();
        for _ in 0..config.reactors() {
            nets.push(Sockets::new(listeners.take())?);
        }
        let machine = Machine::new(engine, config, random_boot()?, nets);
        let mut server = Self {
            hub: machine.hub.clone(),
            clock,
            threads: Threads::default(),
            local_addr,
        };
        // On an error `server` is dropped, which ends the threads that were started.
        server.threads.start(machine, clock)?;
        Ok(server)
    }

    /// The TCP address that it listens on, with the port that was taken.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr
    }

    /// The engine that it serves.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.hub.engine
    }

    /// Something to stop it with.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.hub.clone())
    }

    /// Stops in good order: takes no new requests, sends the answers to those it took (synced ones after the sync),
    /// tells every client `SHUTTING_DOWN`, syncs the log, and returns when all threads are gone.
    ///
    /// # Errors
    /// [`ServeError`] where the server had failed, or the last sync does.
    pub fn stop(self) -> Result<(), ServeError> {
        self.hub.stop();
        self.wait()
    }

    /// Returns when the server has stopped, because of a [`Stopper`] or a failure.
    ///
    /// # Errors
    /// [`ServeError`]: why it stopped by itself, or that the last sync failed.
    pub fn wait(mut self) -> Result<(), ServeError> {
        self.join()
    }

    fn join(&mut self) -> Result<(), ServeError> {
        // A panic was noted by the thread's own guard.
        self.threads
            .reactors
            .drain(..)
            .for_each(|thread| drop(thread.join()));
        self.hub.retire();
        let is_running = !self.threads.background.is_empty();
        self.threads
            .background
            .drain(..)
            .for_each(|thread| drop(thread.join()));
        match self.hub.failure() {
            Some(failure) => Err(failure),
            None if is_running => self.hub.close(self.clock.now_ms()),
            None => Ok(()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.hub.stop();
        // Whoever wants to know how it went calls `wait` or `stop`.
        let _ = self.join();
    }
}

/// A number that differs from start to start.
fn random_boot() -> std::io::Result<u64> {
    getrandom::u64().map_err(|error| std::io::Error::other(error.to_string()))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::code::ErrorCode;
    use crate::wire::{ErrorReply, FrameDecoder, Hello, compose};
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::time::Duration;

    #[test]
    fn a_failed_log_is_told_to_everyone_and_ends_the_server() {
        let config = ServerConfig {
            listen: Some(([127, 0, 0, 1], 0).into()),
            threads: 2,
            ..ServerConfig::default()
        };
        let engine = EngineConfig {
            slots: 1024,
            ..EngineConfig::default()
        };
        let (server, _) = Server::open(engine, config).unwrap();
        let mut hello = Vec::new();
        Hello::new(0, "").encode(&mut hello, 1);
        compose::ping(&mut hello, 2);
        let mut clients: Vec<_> = (0..4)
            .map(|_| {
                let mut stream = TcpStream::connect(server.local_addr().unwrap()).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
                stream.write_all(&hello).unwrap();
                let mut decoder = FrameDecoder::new(4096);
                // The answers to HELLO and PING: the server has it among its connections.
                let mut answers = 0;
                while answers < 2 {
                    let count = stream.read(decoder.space()).unwrap();
                    decoder.filled(count);
                    answers += decoder.frames().count();
                }
                (stream, decoder)
            })
            .collect();
        server.hub.fail(ServeError::Log("the disk is gone".into()));
        for (stream, decoder) in &mut clients {
            loop {
                let count = stream.read(decoder.space()).unwrap();
                decoder.filled(count);
                if count == 0 {
                    break;
                }
            }
            let frame = decoder.next_frame().unwrap().unwrap();
            let error = ErrorReply::decode(frame.body).unwrap();
            assert_eq!(
                (error.number, error.text.as_str()),
                (ErrorCode::LogPoisoned as u16, "the disk is gone")
            );
        }
        assert_eq!(server.wait(), Err(ServeError::Log("the disk is gone".into())));
    }
}
