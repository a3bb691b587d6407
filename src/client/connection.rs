//! A bare connection: one thread, nothing behind it, nothing copied that need not be.

use crate::base::code::{Class, ErrorCode, Refusal};
use crate::base::queue::{OptionsError, check_queue_name};
use crate::client::Client;
use crate::client::config::ClientConfig;
use crate::client::error::ClientError;
use crate::client::link::{Link, NoLink};
use crate::client::requests::Requests;
use crate::client::socket::Socket;
use crate::wire::error::class_number;
use crate::wire::{DeliveryBatch, ErrorReply, Frame, FrameDecoder, Header, Op, OutcomeView};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How a [`Connection`] waits for something to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Sleeps in the kernel. Waits end a few milliseconds late when nothing comes.
    Sleeping,
    /// Looks again and again until the time is over: costs a core, and no wake-up. Also for those who sleep by
    /// themselves, on [`Connection::as_fd`](AsFd::as_fd).
    Polling,
}

/// What came over a [`Connection`], borrowed from where it was read.
pub enum Event<'a> {
    /// An ENQUEUE, SETTLE or other change was applied.
    Applied {
        /// The request's number.
        request: u64,
        /// What it did.
        outcome: OutcomeView<'a>,
    },
    /// Deliveries that were [acked quietly](Requests::ack_quietly) in one request are not acked, some of them or all.
    NotAcked {
        /// The number that `ack_quietly` returned.
        request: u64,
        /// Which, by their positions in the request, and why; the others are acked. Or why none is.
        outcome: Result<OutcomeView<'a>, ClientError>,
    },
    /// Jobs: the answer to a reserve, or pushed to a subscription.
    Delivered {
        /// The reserve's number; `None` for a push.
        request: Option<u64>,
        /// The jobs.
        jobs: DeliveryBatch<'a>,
    },
    /// Anything else was done: a ping, a subscription.
    Done {
        /// The request's number.
        request: u64,
    },
    /// The request was refused; nothing of it was applied unless the error says that this cannot be told.
    Refused {
        /// The request's number; `None` when a subscription was ended.
        request: Option<u64>,
        /// Why.
        error: ClientError,
    },
}

/// A connection for one thread, with as many requests under way as the session allows.
///
/// It has no thread behind it, does not connect again and sends nothing twice: when it breaks, what was unanswered
/// has an unknown outcome. Whoever wants better uses [`Client`]. It never shows a sign of life by itself either, so
/// it asks the server not to expect any.
///
/// ```no_run
/// use ackring::client::{ClientConfig, Connection, Event, Reading, Window};
/// use std::time::Duration;
///
/// let config = ClientConfig::to("127.0.0.1:7257")?;
/// let mut connection = Connection::open(config, &["mail"], Reading::Sleeping)?;
/// connection.requests().subscribe(&[0], Window::default())?;
/// connection.requests().enqueue_with(0, 2, None, |_, payload| payload.extend(b"hello"))?;
/// let mut tokens = Vec::new();
/// while tokens.len() < 2 {
///     connection.turn(Duration::from_secs(1), |event, _| {
///         if let Event::Delivered { jobs, .. } = event {
///             tokens.extend(jobs.items().map(|job| job.entry.token()));
///         }
///         Ok(())
///     })?;
/// }
/// connection.requests().ack_all(&tokens)?;
/// # Ok::<(), ackring::client::ClientError>(())
/// ```
pub struct Connection {
    socket: Arc<Socket>,
    decoder: FrameDecoder,
    requests: Requests,
    reading: Reading,
    timeout: Option<Duration>,
    server: String,
    bytes_received: u64,
}

impl Connection {
    /// Connects and opens the queues, which are made when they are missing; requests name them by their places here.
    ///
    /// # Errors
    /// As [`Client::connect`](crate::client::Client::connect); `Refused` for a queue's name that is none.
    pub fn open(config: ClientConfig, queues: &[&str], reading: Reading) -> Result<Self, ClientError> {
        let config = ClientConfig {
            heartbeat: Duration::ZERO,
            ..config
        };
        for name in queues {
            let invalid = |error: OptionsError| Refusal::new(ErrorCode::InvalidArgument, error.to_string());
            check_queue_name(name).map_err(|error| ClientError::Refused(invalid(error)))?;
        }
        let session = Client::session_of(&config)?;
        let failed = |no_link: NoLink| no_link.into_error(&config);
        let mut link = Link::open(&config, session).map_err(failed)?;
        let names: Vec<Arc<str>> = queues.iter().map(|name| (*name).into()).collect();
        let deadline = Instant::now() + config.connect_timeout;
        let handles = link.open_queues(&names, deadline).map_err(failed)?;
        let handles: Option<Vec<u32>> = handles.into_iter().collect();
        let Some(handles) = handles else {
            let text = "the server opens none of the queues";
            return Err(ClientError::Protocol(text.to_owned()));
        };
        let no_connection = |error: std::io::Error| failed(error.into());
        if reading == Reading::Polling {
            link.socket.set_nonblocking(true).map_err(no_connection)?;
        }
        Ok(Self {
            requests: Requests::new(config.first_number, &link.welcome, handles),
            socket: link.socket,
            decoder: link.decoder,
            reading,
            timeout: None,
            server: config.server.to_string(),
            bytes_received: 0,
        })
    }

    /// What to send with the next turn.
    pub fn requests(&mut self) -> &mut Requests {
        &mut self.requests
    }

    /// Bytes sent and received since the queues were opened.
    pub fn bytes(&self) -> (u64, u64) {
        (self.requests.bytes_sent(), self.bytes_received)
    }

    /// Sends what was requested, then waits for up to `timeout` for something to come, and calls `each` with every
    /// event that one read brought; it may make requests, which go out with the next turn. Returns how many events.
    ///
    /// While the server takes nothing, it returns early: what it sends must be read, or both sides stand still.
    ///
    /// # Errors
    /// `NoConnection` when it is broken, `Protocol`, or what `each` returns; the connection is of no more use then.
    pub fn turn(
        &mut self,
        timeout: Duration,
        mut each: impl FnMut(Event<'_>, &mut Requests) -> Result<(), ClientError>,
    ) -> Result<usize, ClientError> {
        let broken = |error: std::io::Error, server: &str| ClientError::NoConnection {
            server: server.to_owned(),
            reason: error.to_string(),
        };
        let now = Instant::now();
        let sent = self.requests.send(&self.socket, now);
        sent.map_err(|error| broken(error, &self.server))?;
        let timeout = if self.requests.is_sent() {
            timeout
        } else {
            Duration::ZERO
        };
        match self.read(now, timeout) {
            Ok(0) => return Ok(0),
            Ok(count) => {
                self.bytes_received += count as u64;
                self.decoder.filled(count);
            }
            Err(error) => return Err(broken(error, &self.server)),
        }
        let mut events = 0;
        for frame in self.decoder.frames() {
            let frame = frame.map_err(|bad| ClientError::Protocol(bad.to_string()))?;
            let event = event_of(&frame, &mut self.requests, &self.server)?;
            each(event, &mut self.requests)?;
            events += 1;
        }
        Ok(events)
    }

    /// Reads once; 0 when nothing came in time.
    fn read(&mut self, since: Instant, timeout: Duration) -> std::io::Result<usize> {
        let space = self.decoder.space();
        match self.reading {
            Reading::Sleeping => {
                if self.timeout != Some(timeout) {
                    self.timeout = Some(timeout);
                    self.socket.set_read_timeout(timeout)?;
                }
                Ok(self.socket.read_some(space)?.unwrap_or(0))
            }
            Reading::Polling => loop {
                match self.socket.read_some(space)? {
                    Some(count) => return Ok(count),
                    None if timeout.is_zero() || since.elapsed() >= timeout => return Ok(0),
                    // Where there are fewer cores than threads that poll, whoever has something to say comes sooner.
                    None => std::thread::yield_now(),
                }
            },
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

/// What a frame from the server says.
fn event_of<'a>(frame: &Frame<'a>, requests: &mut Requests, server: &str) -> Result<Event<'a>, ClientError> {
    let protocol = |text: &str| ClientError::Protocol(text.to_owned());
    let header = frame.header;
    if header.words != Header::WORDS {
        return Err(protocol("a header of another length"));
    }
    if header.is_error() {
        let correlation = header.correlation.get();
        // Neither a subscription's end nor why the server closes answers any request.
        let request = if !header.is_reply() || header.answered_op().is_none() {
            None
        } else if let Some(request) = requests.quiet(correlation) {
            let error = error_of(frame.body, 0, server)?;
            let outcome = Err(error);
            return Ok(Event::NotAcked { request, outcome });
        } else {
            let request = requests.answered(correlation);
            Some(request.ok_or_else(|| protocol("an answer to nothing"))?)
        };
        let error = error_of(frame.body, request.unwrap_or(0), server)?;
        return Ok(Event::Refused { request, error });
    }
    let malformed = |refusal: Refusal| ClientError::Protocol(refusal.text);
    let jobs = |body| DeliveryBatch::parse(body).map_err(malformed);
    if header.is_push() {
        return Ok(Event::Delivered {
            request: None,
            jobs: jobs(frame.body)?,
        });
    }
    if let Some(request) = requests.quiet(header.correlation.get())
        && header.answered_op() == Some(Op::Settle)
    {
        let outcome = Ok(OutcomeView::parse(frame.body).map_err(malformed)?);
        return Ok(Event::NotAcked { request, outcome });
    }
    let request = requests
        .answered(header.correlation.get())
        .ok_or_else(|| protocol("an answer to nothing"))?;
    Ok(match header.answered_op() {
        Some(Op::Reserve) => Event::Delivered {
            request: Some(request),
            jobs: jobs(frame.body)?,
        },
        Some(op) if op.is_numbered() => Event::Applied {
            request,
            outcome: OutcomeView::parse(frame.body).map_err(malformed)?,
        },
        Some(_) => Event::Done { request },
        None => return Err(protocol("an answer to an unknown request")),
    })
}

/// The error in a reply, or as `Err` one that ends the connection.
fn error_of(body: &[u8], request: u64, server: &str) -> Result<ClientError, ClientError> {
    let reply = ErrorReply::decode(body).map_err(|refusal| ClientError::Protocol(refusal.text))?;
    if reply.class == class_number(Class::Reconnect) {
        return Err(ClientError::NoConnection {
            server: server.to_owned(),
            reason: reply.text,
        });
    }
    Ok(match reply.refusal() {
        Some(refusal) => ClientError::from_refusal(refusal, request),
        None => ClientError::Protocol(format!("code {}: {}", reply.number, reply.text)),
    })
}
