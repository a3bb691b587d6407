//! The client itself, and its calls on the way of every job.

use crate::base::batch::{EnqueueBuilder, JobOptions, SettleBuilder};
use crate::base::code::{ErrorCode, Refusal};
use crate::base::job::{JobId, Token};
use crate::base::limits;
use crate::base::queue::Durability;
use crate::client::call::{Answer, Kind, NewCall};
use crate::client::config::ClientConfig;
use crate::client::delivery::Delivery;
use crate::client::error::ClientError;
use crate::client::keeper;
use crate::client::link::Link;
use crate::client::pending::{Applied, Pending, applied, body};
use crate::client::queue::QueueHandle;
use crate::client::shared::{Phase, Shared};
use crate::client::subscription::{Feed, Subscription, Window};
use crate::wire::{Op, compose};
use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A connection to a server that mends itself. See the [module](crate::client) for an example.
///
/// Dropping it closes the connection; requests that were started and not waited for may be lost with it.
pub struct Client {
    pub(crate) shared: Arc<Shared>,
    keeper: Option<JoinHandle<()>>,
}

/// What a reserve asks for. The default: one job, if there is one now.
///
/// ```
/// use ackring::client::Reserve;
/// use std::time::Duration;
/// let many = Reserve { max_jobs: 100, wait: Duration::from_secs(10), ..Reserve::default() };
/// # let _ = many;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserve {
    /// At most so many jobs, 1 to 16384.
    pub max_jobs: u32,
    /// How long to wait for the first one, at most an hour.
    pub wait: Duration,
    /// Lease, in milliseconds; 0 for the job's or queue's own.
    pub lease_ms: u32,
    /// At most so many bytes of metadata and payload, though always one job; 0 for no limit.
    pub max_bytes: u32,
}

impl Default for Reserve {
    fn default() -> Self {
        Self {
            max_jobs: 1,
            wait: Duration::ZERO,
            lease_ms: 0,
            max_bytes: 0,
        }
    }
}

impl Client {
    /// Connects, once: whether the server is there is known when this returns.
    ///
    /// # Errors
    /// [`ClientError::NoConnection`] when it cannot be reached within the connect timeout,
    /// [`ClientError::Refused`] or [`ClientError::Protocol`] when the two do not fit together.
    pub fn connect(config: ClientConfig) -> Result<Self, ClientError> {
        let session = match config.session {
            Some(session) => session,
            None => random_session()?,
        };
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

    /// Enqueues a batch. With a durability it is confirmed at that level at least, otherwise at the queue's.
    ///
    /// Look at `items` for keys that were known. Positions that are not listed there went through.
    ///
    /// # Errors
    /// See [`ClientError`]; a full queue is `RetryLater`. Refused means that no job of the batch was taken.
    pub fn enqueue(
        &self,
        queue: &QueueHandle,
        batch: &EnqueueBuilder,
        durability: Option<Durability>,
    ) -> Result<Applied, ClientError> {
        self.enqueue_start(queue, batch, durability)?.wait()
    }

    /// Starts an enqueue without waiting for its confirmation, so that many can be under way at once.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue). Waits for room when as many requests are under way as the session may have.
    pub fn enqueue_start(
        &self,
        queue: &QueueHandle,
        batch: &EnqueueBuilder,
        durability: Option<Durability>,
    ) -> Result<Pending<Applied>, ClientError> {
        let mut frame = Vec::new();
        compose::enqueue(&mut frame, 0, 0, 0, durability, batch);
        self.start(Op::Enqueue, Kind::Plain, self.places(&[queue])?, frame, applied)
    }

    /// Enqueues one job and returns its id; for a known key with the same body the first job's.
    ///
    /// # Errors
    /// See [`ClientError`]. `OutcomeUnknown` also when an earlier try was applied and its id is no longer known.
    pub fn enqueue_one(
        &self,
        queue: &QueueHandle,
        payload: &[u8],
        options: &JobOptions<'_>,
    ) -> Result<JobId, ClientError> {
        let mut batch = EnqueueBuilder::new();
        batch.push(payload, options);
        let done = self.enqueue(queue, &batch, None)?;
        ClientError::check_single(&done.items)?;
        let lost = || ClientError::OutcomeUnknown {
            number: 0,
            reason: "enqueued; its id is no longer kept".to_owned(),
        };
        done.ids.first().copied().ok_or_else(lost)
    }

    /// Takes jobs under leases from the queues, in their order. Empty when none came within the wait.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn reserve(&self, queues: &[&QueueHandle], reserve: Reserve) -> Result<Vec<Delivery>, ClientError> {
        self.reserve_start(queues, reserve)?.wait()
    }

    /// Starts a reserve without waiting for jobs. Jobs that come after it was dropped are released.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    pub fn reserve_start(
        &self,
        queues: &[&QueueHandle],
        reserve: Reserve,
    ) -> Result<Pending<Vec<Delivery>>, ClientError> {
        let wait_ms = u32::try_from(reserve.wait.as_millis())
            .unwrap_or(u32::MAX)
            .min(limits::WAIT_MS_MAX);
        let fields = compose::ReserveFields {
            number: 0,
            max_jobs: reserve.max_jobs,
            wait_ms,
            max_bytes: reserve.max_bytes,
            lease_ms: reserve.lease_ms,
        };
        let places = self.places(queues)?;
        let mut frame = Vec::new();
        compose::reserve(&mut frame, 0, &fields, &vec![0; places.len()]);
        let wait = Duration::from_millis(u64::from(wait_ms));
        let deadline = Instant::now() + wait + self.shared.config.request_timeout;
        let request = NewCall {
            op: Op::Reserve,
            kind: Kind::Reserve,
            queues: places,
            frame,
            deadline,
        };
        self.started(request, |answer| match answer {
            Answer::Deliveries(batch) => Delivery::all(batch),
            answer => body(answer).map(|_| Vec::new()),
        })
    }

    /// Settles deliveries. Look at `items` for those that were not current any more (`LEASE_LOST`).
    ///
    /// # Errors
    /// See [`ClientError`]; refused means that nothing of the batch was applied.
    pub fn settle(&self, batch: &SettleBuilder) -> Result<Applied, ClientError> {
        self.settle_start(batch)?.wait()
    }

    /// Starts settling without waiting for the confirmation.
    ///
    /// # Errors
    /// As [`settle`](Self::settle).
    pub fn settle_start(&self, batch: &SettleBuilder) -> Result<Pending<Applied>, ClientError> {
        let mut frame = Vec::new();
        compose::settle(&mut frame, 0, 0, batch);
        self.start(Op::Settle, Kind::Plain, Vec::new(), frame, applied)
    }

    /// The work is done; `result` is kept with the finished job.
    ///
    /// # Errors
    /// `Refused` with `LEASE_LOST` when the delivery is not current; see [`ClientError`]. The same for the other
    /// settlements of one job.
    pub fn ack(&self, token: Token, result: Option<&[u8]>) -> Result<(), ClientError> {
        self.settle_one(|batch| batch.ack(token, result))
    }

    /// The work failed: try again after the queue's backoff, or after `delay_ms`.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn nack(&self, token: Token, delay_ms: Option<u32>, error: Option<&[u8]>) -> Result<(), ClientError> {
        self.settle_one(|batch| batch.nack(token, delay_ms, error))
    }

    /// The work failed for good: the job is dead.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn reject(&self, token: Token, error: Option<&[u8]>) -> Result<(), ClientError> {
        self.settle_one(|batch| batch.reject(token, error))
    }

    /// Gives the job back without using an attempt.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn release(&self, token: Token) -> Result<(), ClientError> {
        self.settle_one(|batch| batch.release(token))
    }

    /// Keeps the lease until `lease_ms` from now; 0 for the job's own lease time.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn extend(&self, token: Token, lease_ms: u32) -> Result<(), ClientError> {
        self.settle_one(|batch| batch.extend(token, lease_ms))
    }

    /// Settles and enqueues in one step: all of it, or with `STEP_REFUSED` nothing. `ids` are those of all jobs in
    /// the order of the groups; positions in `items` count the settlements first.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn step(
        &self,
        settlements: &SettleBuilder,
        jobs: &[(&QueueHandle, &EnqueueBuilder)],
    ) -> Result<Applied, ClientError> {
        let queues: Vec<_> = jobs.iter().map(|(queue, _)| *queue).collect();
        let groups: Vec<_> = jobs.iter().map(|(_, batch)| (0, *batch)).collect();
        let mut frame = Vec::new();
        compose::step(&mut frame, 0, 0, settlements, &groups);
        self.start(Op::Step, Kind::Plain, self.places(&queues)?, frame, applied)?
            .wait()
    }

    /// Has jobs of the queues pushed as they come.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn subscribe(&self, queues: &[&QueueHandle], window: Window) -> Result<Subscription, ClientError> {
        let places = self.places(queues)?;
        let mut frame = Vec::new();
        let handles = vec![0; places.len()];
        compose::subscribe(
            &mut frame,
            0,
            window.jobs,
            window.bytes,
            window.lease_ms,
            &handles,
        );
        let feed = Arc::new(Feed::new(places.clone(), window));
        // From here on a drop cleans up, whatever becomes of the request.
        let subscription = Subscription::new(self.shared.clone(), feed.clone());
        self.start(Op::Subscribe, Kind::Subscribe(feed), places, frame, body)?
            .wait()?;
        Ok(subscription)
    }

    /// Asks the server for a sign of life.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn ping(&self) -> Result<(), ClientError> {
        let mut frame = Vec::new();
        compose::ping(&mut frame, 0);
        self.start(Op::Ping, Kind::Plain, Vec::new(), frame, body)?
            .wait()
            .map(drop)
    }

    fn settle_one(&self, fill: impl FnOnce(&mut SettleBuilder)) -> Result<(), ClientError> {
        let mut batch = SettleBuilder::new();
        fill(&mut batch);
        ClientError::check_single(&self.settle(&batch)?.items)
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
