//! The sockets that connections come in by.

use super::config::{ServerConfig, StartError};
use super::stream::Stream;
use mio::net::{TcpListener, UnixListener};
use mio::{Interest, Registry, Token};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// The listening sockets of a server. Dropping them closes them and removes the Unix socket's file.
#[derive(Debug)]
pub(super) struct Listeners {
    tcp: Option<TcpListener>,
    unix: Option<UnixListener>,
    unix_path: Option<PathBuf>,
}

impl Listeners {
    /// Binds what the configuration names.
    pub(super) fn bind(config: &ServerConfig) -> Result<Self, StartError> {
        if config.listen.is_none() && config.unix.is_none() {
            return Err(StartError::NoListener);
        }
        let mut listeners = Self {
            tcp: None,
            unix: None,
            unix_path: None,
        };
        if let Some(address) = config.listen {
            let bound = TcpListener::bind(address);
            listeners.tcp = Some(bound.map_err(|source| StartError::Listen { address, source })?);
        }
        if let Some(path) = &config.unix {
            let failed = |source| StartError::ListenUnix {
                path: path.clone(),
                source,
            };
            remove_stale(path).map_err(failed)?;
            listeners.unix = Some(UnixListener::bind(path).map_err(failed)?);
            listeners.unix_path = Some(path.clone());
        }
        Ok(listeners)
    }

    /// The TCP address, with the port that was taken.
    pub(super) fn local_addr(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Has a poll tell when connections wait.
    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        if let Some(listener) = &mut self.tcp {
            registry.register(listener, token, Interest::READABLE)?;
        }
        if let Some(listener) = &mut self.unix {
            registry.register(listener, token, Interest::READABLE)?;
        }
        Ok(())
    }

    /// The next connection; `None` when none waits.
    ///
    /// # Errors
    /// What the system says when it is out of file descriptors or memory: worth another try later.
    pub(super) fn accept(&self) -> io::Result<Option<Stream>> {
        if let Some(listener) = &self.tcp
            && let Some((stream, _)) = accepted(|| listener.accept())?
        {
            // Answers are coalesced here, one write a turn; the kernel must not wait for more.
            let _ = stream.set_nodelay(true);
            return Ok(Some(Stream::Tcp(stream)));
        }
        if let Some(listener) = &self.unix
            && let Some((stream, _)) = accepted(|| listener.accept())?
        {
            return Ok(Some(Stream::Unix(stream)));
        }
        Ok(None)
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        if let Some(path) = &self.unix_path {
            // If it is gone already, all the better.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Raises the process's soft limit on open files to its hard limit, and says how many that is: a connection is
/// one open file, and the usual soft limit is far below what a server can hold. For the program that owns the
/// process, before it starts a server.
///
/// ```
/// assert!(ackring::server::raise_file_limit() > 0);
/// ```
pub fn raise_file_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // Without permission everything stays as it was.
    let reached = if setrlimit(Resource::Nofile, raised).is_ok() {
        limit.maximum
    } else {
        limit.current
    };
    reached.unwrap_or(u64::MAX)
}

/// Calls `accept` until it has a connection or none waits; a connection that broke off meanwhile is passed over.
fn accepted<T>(accept: impl Fn() -> io::Result<T>) -> io::Result<Option<T>> {
    loop {
        match accept() {
            Ok(stream) => return Ok(Some(stream)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => return Ok(None),
                io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => {}
                _ => return Err(error),
            },
        }
    }
}

/// Removes a socket that a killed server left behind; anything else at that path is left alone.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type().is_socket(),
        Err(_) => return Ok(()),
    };
    if !is_socket {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "a file of that name is in the way",
        ));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another server listens there",
        )),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) => Err(error),
    }
}
