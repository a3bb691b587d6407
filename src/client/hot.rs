//! The client's calls on the way of every job.

use crate::base::batch::{EnqueueBuilder, JobOptions, SettleBuilder};
use crate::base::job::{JobId, Token};
use crate::base::limits;
use crate::base::queue::Durability;
use crate::client::Client;
use crate::client::call::{Answer, Kind, NewCall};
use crate::client::delivery::Delivery;
use crate::client::error::ClientError;
use crate::client::pending::{Applied, Pending, applied, body};
use crate::client::queue::QueueHandle;
use crate::client::shared::KEEPER_CORRELATION;
use crate::client::subscription::{Feed, Subscription, Window};
use crate::wire::{Op, compose};
use std::sync::Arc;
use std::time::{Duration, Instant};

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

    /// The work on all of these is done, and nobody waits to hear that the server knows: less work and less latency
    /// for both sides than [`ack`](Self::ack). Whoever may not lose an ack uses that. These are lost without a word
    /// where a lease had ended, where the log has no room, and where the connection breaks, or the client is dropped,
    /// before the server has dealt with them; their jobs are then handed out again, if they may be. When a
    /// [`ping`](Self::ping) behind them was answered over the same connection they are dealt with, and as safe as
    /// durability *written* at most.
    ///
    /// ```no_run
    /// # use ackring::client::{Client, ClientConfig, Window};
    /// # use std::time::Duration;
    /// # let client = Client::connect(ClientConfig::to("127.0.0.1:7257")?)?;
    /// # let queue = client.queue("mail")?;
    /// let subscription = client.subscribe(&[&queue], Window::default())?;
    /// while let Some(jobs) = subscription.next(Duration::from_secs(1))? {
    ///     let tokens: Vec<_> = jobs.iter().map(|job| job.token()).collect();
    ///     client.ack_quietly(&tokens)?;
    /// }
    /// # Ok::<(), ackring::client::ClientError>(())
    /// ```
    ///
    /// # Errors
    /// `NoConnection` while there is none, so that nothing was sent; `Timeout` when the server has not read within the
    /// request timeout what others sent before, so that nothing was; `Closed`.
    pub fn ack_quietly(&self, tokens: &[Token]) -> Result<(), ClientError> {
        let mut frames = Vec::new();
        for tokens in tokens.chunks(limits::BATCH_JOBS_MAX) {
            compose::ack_quietly(&mut frames, KEEPER_CORRELATION, tokens);
        }
        let deadline = Instant::now() + self.shared.config.request_timeout;
        self.shared.send_unanswered(&frames, deadline)
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
    /// the order of the groups, and `items` lists those whose keys were known.
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
}
