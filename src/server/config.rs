//! What a server is started with, why it did not start, and why it stopped.

use crate::base::limits;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Which reactor a connection gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Spread {
    /// All go to one reactor as long as that has time for them, then to others as well; they move as the load does.
    #[default]
    AsNeeded,
    /// Each in its turn to the next reactor, where it stays.
    InTurn,
}

/// How to serve. `Default` listens on the default port of the loopback address, with a reactor for each core.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// TCP address to listen on; port 0 takes a free one. `None`: no TCP.
    pub listen: Option<SocketAddr>,
    /// Path of a Unix socket to listen on; removed at the end. `None`: no Unix socket.
    pub unix: Option<PathBuf>,
    /// Reactors, each a thread; 0 for one a core. At most `limits::REACTORS_MAX` are started.
    pub threads: usize,
    /// Which reactor a connection gets.
    pub spread: Spread,
    /// How long a reactor with connections looks for more work again and again before it sleeps, in milliseconds; 0
    /// for not at all. Costs a core for each reactor that serves, and spares the time that waking it takes.
    pub busy_poll_ms: u32,
    /// How long leases of a connection that ended are kept, in milliseconds.
    pub grace_ms: u32,
    /// Connections at once; further ones are told `TOO_MANY_CONNECTIONS`.
    pub connections_max: usize,
    /// Time for a new connection to say HELLO, in milliseconds.
    pub hello_timeout_ms: u64,
    /// A connection that takes none of its answers for this long, or leaves off for this long in the middle of a
    /// request, is closed, in milliseconds.
    pub stall_timeout_ms: u64,
    /// Memory for requests that have not wholly come, over all connections and beyond what each has to itself, in
    /// bytes; further large ones are told `LIMIT_REACHED`.
    pub receive_bytes_max: usize,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, limits::PORT_DEFAULT))),
            unix: None,
            threads: 0,
            spread: Spread::AsNeeded,
            busy_poll_ms: 0,
            grace_ms: limits::DISCONNECT_GRACE_MS_DEFAULT,
            connections_max: limits::CONNECTIONS_DEFAULT,
            hello_timeout_ms: limits::HELLO_TIMEOUT_MS,
            stall_timeout_ms: STALL_TIMEOUT_MS,
            receive_bytes_max: limits::RECEIVE_BYTES_DEFAULT,
        }
    }
}

impl ServerConfig {
    /// Whether connections are together as long as one reactor has time for them.
    pub(super) fn is_gathered(&self) -> bool {
        self.spread == Spread::AsNeeded
    }

    /// How many reactors to start.
    pub(super) fn reactors(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let wanted = if self.threads == 0 { cores() } else { self.threads };
        wanted.clamp(1, limits::REACTORS_MAX)
    }
}

/// Time after which a connection that reads nothing is closed unless configured otherwise, in milliseconds.
const STALL_TIMEOUT_MS: u64 = 60_000;

/// Why a server did not start. Nothing was changed on disk then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Neither an address nor a path to listen on.
    #[error("there is nothing to listen on; give an address or the path of a Unix socket")]
    NoListener,
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; is another server running there?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The Unix socket cannot be made.
    #[error("cannot listen on {}: {source}", path.display())]
    ListenUnix {
        /// Its path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The system gave no poll, waker or thread.
    #[error("the system refused what the server needs to run: {0}")]
    System(#[from] io::Error),
    /// The engine did not open.
    #[error(transparent)]
    Engine(#[from] crate::log::OpenError),
}

/// Why a server stopped by itself. What it had not confirmed may or may not be there after the next start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServeError {
    /// A write or a sync of the log failed, so nothing can be confirmed any more.
    #[error("the log failed, so the server stopped: {0}")]
    Log(String),
    /// A thread of the server ended by a panic: a bug.
    #[error("a thread of the server panicked, so the server stopped; this is a bug")]
    Panic,
    /// The system failed a reactor.
    #[error("the server stopped: {0}")]
    System(String),
}
