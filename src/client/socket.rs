//! One connected socket, TCP or Unix; the only place that opens one.

use crate::client::config::ServerAddress;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A write that gets no further returns after this, so that its thread can look at its deadline.
const WRITE_SLICE: Duration = Duration::from_millis(50);

/// Shared by the thread that reads and those that write; `&Socket` does both.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Connects before `deadline`, trying every address that the name resolves to.
    pub(crate) fn connect(server: &ServerAddress, deadline: Instant) -> io::Result<Self> {
        let socket = match server {
            ServerAddress::Tcp(address) => {
                let stream = connect_tcp(address, deadline)?;
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(WRITE_SLICE))?;
                Self::Tcp(stream)
            }
            ServerAddress::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_write_timeout(Some(WRITE_SLICE))?;
                Self::Unix(stream)
            }
        };
        Ok(socket)
    }

    /// The longest that one read blocks; never zero.
    pub(crate) fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        let timeout = Some(timeout.max(Duration::from_millis(1)));
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(timeout),
            Self::Unix(stream) => stream.set_read_timeout(timeout),
        }
    }

    /// Whether reads and writes return at once instead of blocking.
    pub(crate) fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nonblocking(nonblocking),
            Self::Unix(stream) => stream.set_nonblocking(nonblocking),
        }
    }

    /// For whoever polls it.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }

    /// Ends both directions, which wakes whoever reads or writes.
    pub(crate) fn shutdown(&self) {
        // An error says that it is disconnected already.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    /// Reads some bytes; `Ok(None)` when none came within the read timeout.
    pub(crate) fn read_some(&self, space: &mut [u8]) -> io::Result<Option<usize>> {
        let result = match self {
            Self::Tcp(stream) => (&mut &*stream).read(space),
            Self::Unix(stream) => (&mut &*stream).read(space),
        };
        match result {
            Ok(0) => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the server closed the connection",
            )),
            Ok(count) => Ok(Some(count)),
            Err(error) if is_pause(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes until all is written or `deadline` has passed; returns how much was.
    pub(crate) fn write_until(&self, bytes: &[u8], deadline: Instant) -> io::Result<usize> {
        let mut written = 0;
        while written < bytes.len() {
            let result = match self {
                Self::Tcp(stream) => (&mut &*stream).write(&bytes[written..]),
                Self::Unix(stream) => (&mut &*stream).write(&bytes[written..]),
            };
            match result {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => written += count,
                Err(error) if is_pause(&error) => {
                    if Instant::now() >= deadline {
                        break;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }
}

/// The timeout of a blocking socket passed, or a signal came: nothing is wrong with it.
fn is_pause(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

fn connect_tcp(address: &str, deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name resolves to no address");
    for address in address.to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
