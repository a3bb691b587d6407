//! Producers and workers that never give the server rest, and write all they see into the ledger.

mod producers;
mod workers;

use super::ledger::{Ledger, Wrong};
use super::seed::Random;
use ackring::client::{Client, ClientConfig, ClientError, QueueHandle, Reconnect};
use ackring::{Backoff, Durability, ErrorCode, QueueOptions};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Confirmed when written; killed processes lose nothing of it.
pub const WRITTEN: &str = "written";
/// Confirmed when on the disk.
pub const SYNCED: &str = "synced";
/// Not logged: may be lost, and must not be repeated.
pub const MEMORY: &str = "memory";
/// Under idempotency keys, enqueued again and again until confirmed.
pub const KEYED: &str = "keyed";
/// Each job here is acked in a step that enqueues its child.
pub const STEPS: &str = "steps";
/// The children, on the disk when confirmed.
pub const CHILDREN: &str = "children";

const WORKERS: usize = 4;

/// How long leases last here, in milliseconds.
pub const LEASE_MS: u64 = 1_000;

/// Enqueued to be on the disk, but the steps that end them are only written.
pub const LOOSE_STEPS: &str = "loose-steps";
/// Their children.
pub const LOOSE_CHILDREN: &str = "loose-children";

/// All queues, with what a confirmation means there.
pub const QUEUES: [(&str, Durability); 8] = [
    (WRITTEN, Durability::Written),
    (SYNCED, Durability::Synced),
    (MEMORY, Durability::Memory),
    (KEYED, Durability::Synced),
    (STEPS, Durability::Synced),
    (CHILDREN, Durability::Synced),
    (LOOSE_STEPS, Durability::Written),
    (LOOSE_CHILDREN, Durability::Written),
];

/// What a confirmation means in that queue.
pub fn level_of(queue: &str) -> Durability {
    QUEUES
        .iter()
        .find(|(name, _)| *name == queue)
        .map_or(Durability::Memory, |(_, level)| *level)
}

fn options(name: &str) -> QueueOptions {
    QueueOptions {
        durability: level_of(name),
        // Short, so that jobs of workers that vanished come again soon; leases run out under load, too.
        lease_ms: LEASE_MS as u32,
        // Few where jobs are to die now and then; they are redriven.
        max_attempts: if name == WRITTEN { 3 } else { 1_000 },
        backoff: Backoff::List(vec![0, 5, 20]),
        // Small, so that producers meet a full queue all the time and workers keep up.
        capacity_jobs: 2_000,
        keep_finished: 100,
        ..QueueOptions::default()
    }
}

/// What all threads of a load share.
pub struct Shared {
    pub address: String,
    pub ledger: Ledger,
    /// Everybody ends.
    stop: AtomicBool,
    /// Producers pause, and vanishing workers behave.
    quiet: AtomicBool,
    /// Hardly anybody asks for a sync, so that much is only written.
    pub rarely_synced: AtomicBool,
    /// Producers that are in the middle of something.
    busy: AtomicUsize,
    /// How often all was drained.
    drains: AtomicU64,
    /// The last drain after which each worker came back with empty hands.
    idle_since: [AtomicU64; WORKERS],
    seed: u64,
    /// Clients made so far, each with a part of the seed of its own.
    clients: AtomicU64,
}

/// The threads.
pub struct Load {
    pub shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Makes the queues, and starts everybody. The server is running.
    pub fn start(address: String, seed: u64, survives: Durability) -> Self {
        let shared = Arc::new(Shared {
            address,
            ledger: Ledger::new(survives),
            stop: AtomicBool::new(false),
            quiet: AtomicBool::new(false),
            rarely_synced: AtomicBool::new(false),
            busy: AtomicUsize::new(0),
            drains: AtomicU64::new(0),
            idle_since: Default::default(),
            seed,
            clients: AtomicU64::new(0),
        });
        let mut this = Self {
            shared,
            threads: Vec::new(),
        };
        let client = this.shared.client(Duration::from_secs(60));
        for (name, _) in QUEUES {
            client.create_queue(name, &options(name)).unwrap();
        }
        this.spawn("pipeline", producers::pipeline);
        this.spawn("singles", producers::singles);
        this.spawn("keyed", producers::keyed);
        this.spawn("impatient", producers::impatient);
        this.spawn("reserving", workers::reserving);
        this.spawn("subscribed", workers::subscribed);
        this.spawn("stepping", workers::stepping);
        this.spawn("vanishing", workers::vanishing);
        this
    }

    fn spawn(&mut self, name: &str, run: fn(&Shared)) {
        let shared = self.shared.clone();
        let guard = move || {
            run(&shared);
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(guard);
        self.threads.push(thread.unwrap());
    }

    /// Asks producers to pause, and waits until they do.
    pub fn quiet(&self) {
        self.shared.quiet.store(true, Ordering::SeqCst);
        super::cli::eventually("the producers to pause", || {
            self.check_threads();
            (self.shared.busy.load(Ordering::SeqCst) == 0).then_some(())
        });
    }

    /// Goes on after [`quiet`](Self::quiet).
    pub fn resume(&self) {
        self.shared.quiet.store(false, Ordering::SeqCst);
    }

    /// Waits until no job is left that anybody could get, bringing back dead ones. The producers are quiet, and the
    /// server was killed since, so that nothing of theirs is still on its way.
    pub fn drain(&self) {
        let client = self.shared.client(Duration::from_secs(60));
        super::cli::eventually("the queues to be empty", || {
            self.check_threads();
            for (name, _) in QUEUES {
                client.redrive_all(name, 0).unwrap();
            }
            let mut left = 0;
            for (name, _) in QUEUES {
                let counts = client.queue_info(name).unwrap().counts;
                left += counts.ready + counts.scheduled + counts.leased + counts.dead;
            }
            (left == 0).then_some(())
        });
        // A worker may still hold what another one has settled meanwhile, or wait for an answer.
        let drain = self.shared.drains.fetch_add(1, Ordering::SeqCst) + 1;
        super::cli::eventually("the workers' hands to be empty", || {
            self.check_threads();
            let is_idle = |since: &AtomicU64| since.load(Ordering::SeqCst) == drain;
            self.shared.idle_since.iter().all(is_idle).then_some(())
        });
    }

    /// Brings everything to the disk that was confirmed so far, by a job that is confirmed there, and acked there.
    pub fn sync(&self) {
        producers::enqueue_synced(&self.shared);
        self.drain();
    }

    /// A thread that ended has panicked: the load would be less than it seems.
    fn check_threads(&self) {
        for thread in &self.threads {
            assert!(
                !thread.is_finished(),
                "the thread `{}` ended early",
                thread.thread().name().unwrap_or("?")
            );
        }
    }

    /// Ends everybody.
    pub fn stop(mut self) -> Arc<Shared> {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        self.shared.clone()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // A test that fails must not leave threads behind that wait for a server.
        self.shared.stop.store(true, Ordering::SeqCst);
    }
}

impl Shared {
    fn stops(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::SeqCst)
    }

    fn is_rarely_synced(&self) -> bool {
        self.rarely_synced.load(Ordering::SeqCst)
    }

    /// Runs one piece of a producer's work unless all is to be quiet.
    fn produce(&self, work: impl FnOnce()) {
        self.busy.fetch_add(1, Ordering::SeqCst);
        // Counted first: whoever sees the count at 0 knows that all look at the flag before they begin.
        if self.is_quiet() {
            self.busy.fetch_sub(1, Ordering::SeqCst);
            pause(5);
            return;
        }
        work();
        self.busy.fetch_sub(1, Ordering::SeqCst);
    }

    /// To be asked before a worker asks for jobs, and given to [`idle`](Self::idle) if there are none.
    fn drain(&self) -> u64 {
        self.drains.load(Ordering::SeqCst)
    }

    /// A worker has nothing in its hands.
    fn idle(&self, worker: usize, drain: u64) {
        self.idle_since[worker].store(drain, Ordering::SeqCst);
    }

    /// Numbers for one thread.
    fn random(&self) -> Random {
        Random::part(self.seed, self.clients.fetch_add(1, Ordering::Relaxed))
    }

    /// Connects, however long the server is away; a session of its own.
    pub fn client(&self, request_timeout: Duration) -> Client {
        let config = ClientConfig {
            connect_timeout: Duration::from_secs(5),
            request_timeout,
            reconnect: Reconnect {
                pause_min: Duration::from_millis(2),
                pause_max: Duration::from_millis(50),
            },
            ..ClientConfig::to(&self.address).unwrap()
        };
        super::cli::eventually("a connection", || match Client::connect(config.clone()) {
            Ok(client) => Some(client),
            Err(ClientError::NoConnection { .. }) => None,
            Err(error) => panic!("{error}"),
        })
    }

    /// A queue's handle, however long the server is away.
    fn queue(&self, client: &Client, name: &str) -> QueueHandle {
        super::cli::eventually("a queue", || match client.queue(name) {
            Ok(queue) => Some(queue),
            Err(error) => {
                self.expect_absence(&error);
                None
            }
        })
    }

    /// What a client may be told while the server is killed again and again; anything else is a bug.
    fn expect_absence(&self, error: &ClientError) {
        match error {
            ClientError::NoConnection { .. }
            | ClientError::Timeout(_)
            | ClientError::OutcomeUnknown { .. }
            | ClientError::RetryLater(_)
            | ClientError::Closed => {}
            ClientError::Refused(refusal) if refusal.code == ErrorCode::ShuttingDown => {}
            other => self
                .ledger
                .violation(Wrong::Other, format!("an error that nobody expects: {other}")),
        }
    }
}

/// Gives way for a moment, where going on at once would only burn time.
fn pause(ms: u64) {
    thread::sleep(Duration::from_millis(ms));
}
