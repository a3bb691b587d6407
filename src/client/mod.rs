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

mod admin;
mod answer;
mod call;
mod config;
mod delivery;
mod error;
mod hot;
mod keeper;
mod link;
mod numbers;
mod outbox;
mod pending;
mod queue;
mod shared;
mod socket;
mod subscription;

pub use admin::JobPage;
pub use config::{ClientConfig, Reconnect, ServerAddress};
pub use delivery::Delivery;
pub use error::ClientError;
pub use hot::{Client, Reserve};
pub use pending::{Applied, Pending};
pub use queue::QueueHandle;
pub use subscription::{Subscription, Window};
