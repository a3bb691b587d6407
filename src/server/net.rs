//! What a reactor asks of the network: which sockets are ready, and new connections.
//!
//! The server runs over [`Sockets`](super::sockets::Sockets); a simulation brings its own. A reactor is compiled for
//! the network that it runs over, so that this seam costs nothing.

use std::io;
use std::time::Duration;

/// What one reactor sees of the network.
pub trait Net: Sized {
    /// A connection.
    type Stream: NetStream;

    /// Waits until something is ready, somebody calls the reactor's [`Wake`], or `timeout` is over (`None`: as long
    /// as it takes).
    ///
    /// # Errors
    /// What the system says; the reactor is of no more use then.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// Tells what the last wait found ready. That is told once, when it becomes so: a stream is then read or written
    /// until it has no more.
    fn each_ready(&mut self, tell: impl FnMut(Ready));

    /// The next connection; `None` when none waits or nobody listens here.
    ///
    /// # Errors
    /// What the system says when it is out of file descriptors or memory: worth another try later.
    fn accept(&mut self) -> io::Result<Option<Self::Stream>>;

    /// Accepts no more connections.
    fn stop_listening(&mut self);

    /// Tells from now on when the stream is ready, under that number.
    ///
    /// # Errors
    /// What the system says when it has no room for it.
    fn watch(&mut self, stream: &mut Self::Stream, number: u32) -> io::Result<()>;

    /// Tells no more about the stream, which is dropped next.
    fn forget(&mut self, stream: &mut Self::Stream);
}

/// One connection, not blocking. Dropping it closes it.
pub trait NetStream: Sized {
    /// Reads once; 0 at the end of the stream.
    ///
    /// # Errors
    /// As a socket does, `WouldBlock` included.
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize>;

    /// Writes once, as much as the connection takes.
    ///
    /// # Errors
    /// As a socket does, `WouldBlock` included.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Tells the peer that nothing more comes.
    fn finish_writing(&self);
}

/// What became ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// Connections may be accepted.
    Accept,
    /// A watched stream.
    Stream {
        /// The number that it is watched under.
        number: u32,
        /// It may have bytes.
        readable: bool,
        /// Its peer has closed its writing side: after the last byte comes the end.
        read_closed: bool,
        /// It may take bytes.
        writable: bool,
    },
}

/// Ends a reactor's wait, from any thread. Called once for each sleep, so a system call behind it outweighs the
/// indirection.
pub type Wake = Box<dyn Fn() + Send + Sync>;
