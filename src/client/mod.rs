//! The blocking client: any number of threads share one connection by `&Client`.
//!
//! Each call has a deadline. Within it the client connects again when the connection is lost, with growing pauses, and
//! sends again what was not answered, under the same numbers of the same session, so that the server applies it once.
//! When even that cannot tell what became of a request, the error says so: [`ClientError::OutcomeUnknown`].
//!
//! ```no_run
//! use ackring::client::{Client, ClientConfig, Reserve};
//! use ackring::JobOptions;
//!
//! let client = Client::connect(ClientConfig::to("127.0.0.1:7257")?)?;
//! let mail = client.queue("mail")?;
//! client.enqueue_one(&mail, b"hello", &JobOptions::default())?;
//! for job in client.reserve(&[&mail], Reserve::default())? {
//!     println!("{}", String::from_utf8_lossy(job.payload()));
//!     client.ack(job.token(), None)?;
//! }
//! # Ok::<(), ackring::client::ClientError>(())
//! ```
//!
//! A thread behind the client reads, connects and keeps the connection alive (`keeper`); callers write their requests
//! themselves (`outbox`) and sleep until the keeper brings the answer (`call`).
//!
//! [`Connection`] is for those who need the last of the speed and do the rest themselves: one thread, requests encoded
//! where they are sent from, answers and jobs borrowed from where they were read; nothing is sent again.

#![allow(
    clippy::disallowed_methods,
    reason = "every call has a deadline, and this is where it is looked at"
)]

mod admin;
mod answer;
mod call;
mod config;
mod connection;
mod delivery;
mod error;
mod hot;
mod keeper;
mod link;
mod numbers;
mod outbox;
mod pending;
mod queue;
mod requests;
mod shared;
mod socket;
mod subscription;

pub use admin::JobPage;
pub use config::{ClientConfig, Reconnect, ServerAddress};
pub use connection::{Connection, Event, Reading};
pub use delivery::Delivery;
pub use error::ClientError;
pub use hot::Reserve;
pub use pending::{Applied, Pending};
pub use queue::QueueHandle;
pub use requests::Requests;
pub use subscription::{Subscription, Window};

use crate::base::code::{ErrorCode, Refusal};
use crate::wire::Op;
use call::{Answer, Kind, NewCall};
use link::Link;
use shared::{Phase, Shared};
use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;

/// A connection to a server that mends itself. See the [module](self) for an example.
///
/// Dropping it closes the connection; requests that were started and not waited for may be lost with it.
pub struct Client {
    pub(crate) shared: Arc<Shared>,
    keeper: Option<JoinHandle<()>>,
}

impl Client {
    /// Connects, once: whether the server is there is known when this returns.
    ///
    /// # Errors
    /// [`ClientError::NoConnection`] when it cannot be reached within the connect timeout,
    /// [`ClientError::Refused`] or [`ClientError::Protocol`] when the two do not fit together.
    pub fn connect(config: ClientConfig) -> Result<Self, ClientError> {
        let session = Self::session_of(&config)?;
        let link = Link::open(&config, session).map_err(|no_link| no_link.into_error(&config))?;
        let shared = Arc::new(Shared::new(config, session, link.welcome.clone()));
        let (sharing, no_thread) = (shared.clone(), |error: std::io::Error| {
            ClientError::NoConnection {
                server: "a thread".to_owned(),
                reason: error.to_string(),
            }
        });
        let keeper = std::thread::Builder::new()
            .name("ackring-client".to_owned())
            .spawn(move || keeper::run(&sharing, link))
            .map_err(no_thread)?;
        Ok(Self {
            shared,
            keeper: Some(keeper),
        })
    }

    /// The session that the configuration names, or a new one.
    pub(crate) fn session_of(config: &ClientConfig) -> Result<u128, ClientError> {
        config.session.map_or_else(random_session, Ok)
    }

    /// The session under which requests are numbered.
    pub fn session(&self) -> u128 {
        self.shared.session
    }

    /// The server's name and version, as it gave them at the last connection.
    pub fn server_name(&self) -> String {
        self.shared.lock().welcome.name.clone()
    }

    /// Whether there is a connection at this moment. Calls work without one, as long as it comes back in time.
    pub fn is_connected(&self) -> bool {
        matches!(self.shared.lock().phase, Phase::Connected)
    }

    /// How many connections there have been. When it rises, leases taken before are on the server's grace time:
    /// a worker that goes on with such jobs extends them now.
    pub fn connections(&self) -> u64 {
        self.shared.lock().connection
    }

    pub(crate) fn start<T>(
        &self,
        op: Op,
        kind: Kind,
        queues: Vec<u32>,
        frame: Vec<u8>,
        read: fn(Answer) -> Result<T, ClientError>,
    ) -> Result<Pending<T>, ClientError> {
        self.started(self.shared.request(op, kind, queues, frame), read)
    }

    fn started<T>(
        &self,
        request: NewCall,
        read: fn(Answer) -> Result<T, ClientError>,
    ) -> Result<Pending<T>, ClientError> {
        Ok(Pending::new(
            self.shared.clone(),
            self.shared.start(request)?,
            read,
        ))
    }

    /// The queues' places in this client's table.
    fn places(&self, queues: &[&QueueHandle]) -> Result<Vec<u32>, ClientError> {
        if queues.iter().any(|queue| queue.owner != self.shared.session) {
            let text = "a queue handle of another client";
            return Err(ClientError::Refused(Refusal::new(
                ErrorCode::InvalidArgument,
                text,
            )));
        }
        Ok(queues.iter().map(|queue| queue.index).collect())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let connected = self.is_connected();
        self.shared.close(ClientError::Closed);
        // While it connects it may sleep in a system call for as long as the connect timeout; it ends by itself.
        if let Some(keeper) = self.keeper.take().filter(|_| connected) {
            // It has nothing to tell, and a panic of its own was printed already.
            let _ = keeper.join();
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("server", &self.shared.config.server)
            .finish_non_exhaustive()
    }
}

/// 128 random bits, never zero: zero would say that there is no session.
fn random_session() -> Result<u128, ClientError> {
    let mut bytes = [0; 16];
    let no_randomness =
        |error: getrandom::Error| ClientError::Protocol(format!("no randomness here: {error}"));
    getrandom::fill(&mut bytes).map_err(no_randomness)?;
    Ok(u128::from_le_bytes(bytes) | 1)
}
