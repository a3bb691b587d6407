//! Where to connect, and how long to wait for what.

use crate::base::limits;
use crate::client::error::ClientError;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Where a server listens.
///
/// ```
/// use ackring::client::ServerAddress;
/// let tcp: ServerAddress = "127.0.0.1:7257".parse()?;
/// let unix: ServerAddress = "unix:/run/ackring.sock".parse()?;
/// assert_eq!(tcp.to_string(), "127.0.0.1:7257");
/// assert_eq!(unix.to_string(), "unix:/run/ackring.sock");
/// # Ok::<(), ackring::client::ClientError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerAddress {
    /// `HOST:PORT`, resolved anew at every attempt to connect.
    Tcp(String),
    /// `unix:PATH`.
    Unix(PathBuf),
}

impl FromStr for ServerAddress {
    type Err = ClientError;

    fn from_str(text: &str) -> Result<Self, ClientError> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err(ClientError::Address(format!("`{text}` names no socket")));
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let port = text.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        match port {
            Some(Ok(_)) => Ok(Self::Tcp(text.to_owned())),
            Some(Err(_)) => Err(ClientError::Address(format!(
                "`{text}` does not end in a port number"
            ))),
            None if text.is_empty() => Err(ClientError::Address("an empty address".to_owned())),
            None => Ok(Self::Tcp(format!("{text}:{}", limits::PORT_DEFAULT))),
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Pauses between attempts to reconnect: doubling from the first to the longest, each drawn from its upper half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reconnect {
    /// Pause after the first failed attempt.
    pub pause_min: Duration,
    /// No pause is longer.
    pub pause_max: Duration,
}

impl Reconnect {
    /// The pause after `failures` failed attempts in a row (at least 1); `random` decides within its range.
    pub(crate) fn pause(&self, failures: u32, random: u32) -> Duration {
        let doubled = self
            .pause_min
            .saturating_mul(1 << (failures - 1).min(20))
            .min(self.pause_max);
        doubled / 2 + (doubled / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

/// How a client behaves.
///
/// ```
/// use ackring::client::ClientConfig;
/// use std::time::Duration;
/// let config = ClientConfig { request_timeout: Duration::from_secs(5), ..ClientConfig::to("127.0.0.1:7257")? };
/// # let _ = config;
/// # Ok::<(), ackring::client::ClientError>(())
/// ```
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// The server.
    pub server: ServerAddress,
    /// For people who look at the server's log; at most 256 bytes.
    pub name: String,
    /// Longest time for one attempt to connect, HELLO included.
    pub connect_timeout: Duration,
    /// Deadline of every call: connecting again, sending again and waiting for the answer all happen within it. A
    /// reserve has its own wait on top.
    pub request_timeout: Duration,
    /// Pauses between attempts to reconnect.
    pub reconnect: Reconnect,
    /// How often to show a sign of life; zero for never.
    pub heartbeat: Duration,
    /// The session, for a program that goes on under an earlier one; `None` draws a new one. A session must not be
    /// used by two clients at once.
    pub session: Option<u128>,
    /// First request number to use; above all that the session used before. 1 for a new session.
    pub first_number: u64,
}

impl ClientConfig {
    /// The defaults for that server: 5 s to connect, 30 s a call, heartbeat 10 s, a new session.
    ///
    /// # Errors
    /// [`ClientError::Address`] when it is neither `HOST:PORT` nor `unix:PATH`.
    pub fn to(server: &str) -> Result<Self, ClientError> {
        Ok(Self {
            server: server.parse()?,
            name: concat!("ackring-rust ", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            reconnect: Reconnect {
                pause_min: Duration::from_millis(20),
                pause_max: Duration::from_secs(5),
            },
            heartbeat: Duration::from_secs(10),
            session: None,
            first_number: 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_cap_and_are_never_less_than_half() {
        let policy = Reconnect {
            pause_min: Duration::from_millis(100),
            pause_max: Duration::from_millis(350),
        };
        assert_eq!(policy.pause(1, 0), Duration::from_millis(50));
        assert_eq!(policy.pause(1, u32::MAX), Duration::from_millis(100));
        assert_eq!(policy.pause(2, u32::MAX), Duration::from_millis(200));
        assert_eq!(policy.pause(40, u32::MAX), Duration::from_millis(350));
    }

    #[test]
    fn addresses_are_checked_before_anything_is_tried() {
        for wrong in ["", "unix:", "host:", "host:port", "host:70000"] {
            assert!(
                matches!(wrong.parse::<ServerAddress>(), Err(ClientError::Address(_))),
                "{wrong}"
            );
        }
        let address: ServerAddress = "host".parse().unwrap();
        assert_eq!(address.to_string(), "host:7257");
    }
}
