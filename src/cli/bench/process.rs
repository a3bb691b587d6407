//! What processes have used, and which one a server is: from `/proc`, and from sockets.

use crate::client::ServerAddress;
use std::fs;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::net::UnixStream;

/// CPU seconds that a process and its threads have used so far, to a hundredth.
pub(super) fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticks = cpu_ticks(&stat)?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The fields `utime` and `stime`, the 14th and 15th; the second, a name in brackets, may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// The process of this machine that listens there; `None` when it is another machine's, or hidden.
pub(super) fn listening_at(address: &ServerAddress) -> Option<u32> {
    let inode = match address {
        ServerAddress::Tcp(text) => {
            let mut addresses = text.to_socket_addrs().ok()?;
            let address = addresses.find(|address| address.ip().is_loopback())?;
            let table = if address.is_ipv4() { "tcp" } else { "tcp6" };
            tcp_inode(&fs::read_to_string(format!("/proc/net/{table}")).ok()?, address)?
        }
        // The other end says who it is.
        ServerAddress::Unix(path) => {
            let stream = UnixStream::connect(path).ok()?;
            let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?;
            return u32::try_from(peer.pid.as_raw_nonzero().get()).ok();
        }
    };
    let socket = format!("socket:[{inode}]");
    let pids = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(|pid: &u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten();
        let mut links = files.filter_map(|file| fs::read_link(file.path()).ok());
        links.any(|link| link.as_os_str() == socket.as_str())
    })
}

/// The inode of the socket that listens on that port, on that address or on all.
fn tcp_inode(table: &str, address: SocketAddr) -> Option<u64> {
    const LISTENING: &str = "0A";
    let port = format!("{:04X}", address.port());
    let mut rows = table
        .lines()
        .skip(1)
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| {
        let is_port = row
            .get(1)
            .and_then(|local| local.rsplit_once(':'))
            .is_some_and(|(_, local)| local == port);
        is_port && row.get(3) == Some(&LISTENING)
    })?;
    row.get(9)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_name_with_brackets_and_blanks_hides_nothing() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 100 0 0 0 12 30 0 0 20 0 1 0";
        assert_eq!(cpu_ticks(stat), Some(42));
        assert!(cpu_seconds(std::process::id()).is_some());
        assert_eq!(cpu_seconds(u32::MAX), None);
    }

    #[test]
    fn whoever_listens_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let found = listening_at(&ServerAddress::Tcp(address));
        assert_eq!(found, Some(std::process::id()));
    }
}
