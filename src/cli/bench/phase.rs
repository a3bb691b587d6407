//! One run of the load, warm-up or the one that counts: what its threads share, and how it ends.

use super::latency::Latency;
use super::ledger::Ledger;
use super::pace::{End, Pace};
use super::plan::{Plan, Shape};
use super::progress::Progress;
use crate::cli::exit::Failure;
use crossbeam_utils::CachePadded;
use std::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed,
};
use std::sync::{Barrier, OnceLock};
use std::time::{Duration, Instant};

/// The longest that a thread waits for something to read before it looks whether the load is over.
pub(super) const LOOK: Duration = Duration::from_millis(100);
/// How often the progress bar moves.
const WATCH: Duration = Duration::from_millis(50);

/// Which jobs were confirmed, and which were delivered.
pub(super) struct Books {
    pub(super) sent: Ledger,
    pub(super) came: Ledger,
}

impl Books {
    pub(super) fn new() -> Self {
        Self {
            sent: Ledger::new(),
            came: Ledger::new(),
        }
    }
}

/// What one thread has done.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Jobs in requests that were refused or not answered.
    pub(super) errors: u64,
    /// Jobs that came more than once.
    pub(super) repeated: u64,
    /// Jobs that were acked quietly, of which no answer has told.
    pub(super) unheard: u64,
    /// Jobs that came.
    pub(super) delivered: u64,
    /// Bytes sent and received.
    pub(super) bytes: (u64, u64),
    /// From when it was sent, or should have been, to the delivery; or for shapes without one, to the answer.
    pub(super) latency: Latency,
    /// To the confirmation of an enqueue, where that is not the latency.
    pub(super) confirm: Latency,
    /// Why the thread gave up.
    pub(super) failure: Option<Failure>,
}

impl Tally {
    /// Of who gave up before anything.
    pub(super) fn of_failure(failure: Failure) -> Self {
        Self {
            failure: Some(failure),
            ..Self::default()
        }
    }

    pub(super) fn merge(&mut self, other: Tally) {
        self.errors += other.errors;
        self.repeated += other.repeated;
        self.unheard += other.unheard;
        self.delivered += other.delivered;
        self.bytes.0 += other.bytes.0;
        self.bytes.1 += other.bytes.1;
        self.latency.merge(other.latency);
        self.confirm.merge(other.confirm);
        self.failure = self.failure.take().or(other.failure);
    }
}

/// What the threads of a run share.
pub(super) struct Phase<'a> {
    pub(super) plan: &'a Plan,
    pub(super) books: &'a Books,
    pub(super) pace: CachePadded<Pace>,
    /// Ends it early, on a signal for instance.
    pub(super) abort: &'a AtomicBool,
    /// Jobs that were in the queues before it began.
    preloaded: u64,
    /// Whether jobs are stamped with the time; those from before the start carry none that means anything.
    pub(super) stamps: bool,
    // What producers write, what workers write and what all read stand in cache lines of their own, or the tool would
    // measure itself.
    accepted: CachePadded<AtomicU64>,
    /// `acked` when a producer last looked: less than it is, maybe, never more.
    acked_seen: CachePadded<AtomicU64>,
    acked: CachePadded<AtomicU64>,
    producing: AtomicUsize,
    working: AtomicUsize,
    /// When the last job that counts was done, in nanoseconds from the start.
    ended_ns: CachePadded<AtomicU64>,
    /// Called then, maybe more than once, where what goes on behind it is known not to count.
    pub(super) at_end: Option<&'a (dyn Fn() + Sync)>,
    start: OnceLock<Instant>,
    /// Who shares a thread with whom.
    lanes: Vec<Vec<Role>>,
    barrier: Barrier,
}

/// What a run came to.
pub(super) struct Ran {
    pub(super) tally: Tally,
    pub(super) seconds: f64,
    pub(super) accepted: u64,
    pub(super) acked: u64,
    /// Jobs that producers were told to send.
    pub(super) target: u64,
    /// The threads got to the end instead of giving up.
    pub(super) is_whole: bool,
}

/// What somebody in a run is there for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Role {
    Producer,
    Worker(usize),
}

impl<'a> Phase<'a> {
    /// A run of the plan's shape over jobs from `preloaded` on.
    pub(super) fn new(
        plan: &'a Plan,
        books: &'a Books,
        end: End,
        preloaded: u64,
        abort: &'a AtomicBool,
    ) -> Self {
        let batch = if plan.shape == Shape::Echo { 1 } else { plan.batch };
        let lanes = lanes(plan);
        Self {
            plan,
            books,
            pace: CachePadded::new(Pace::new(preloaded, end, batch, plan.rate)),
            abort,
            preloaded,
            stamps: true,
            accepted: CachePadded::default(),
            acked_seen: CachePadded::default(),
            acked: CachePadded::default(),
            producing: AtomicUsize::new(plan.producers),
            working: AtomicUsize::new(plan.workers),
            ended_ns: CachePadded::default(),
            at_end: None,
            start: OnceLock::new(),
            barrier: Barrier::new(lanes.len() + 1),
            lanes,
        }
    }

    /// Waits until all threads are connected and the clock starts.
    pub(super) fn ready(&self) {
        self.barrier.wait();
        self.barrier.wait();
    }

    /// Nanoseconds since the start.
    #[inline]
    pub(super) fn now_ns(&self) -> u64 {
        let start = self.start.get();
        start.map_or(0, |start| start.elapsed().as_nanos() as u64)
    }

    /// Jobs were confirmed.
    pub(super) fn accept(&self, count: u64) {
        self.accepted.fetch_add(count, Relaxed);
    }

    /// Acks of jobs were confirmed, or, where they are quiet, are on their way.
    pub(super) fn ack(&self, count: u64, now_ns: u64) {
        let before = self.acked.fetch_add(count, AcqRel);
        // What drains a backlog afterwards no longer counts.
        if before < self.counted().unwrap_or(u64::MAX) {
            self.ended_ns.fetch_max(now_ns, Relaxed);
            self.look_for_end(before + count);
        }
    }

    /// Tells that all jobs that count are done, if so many acks are the last of them and no producer is at work.
    fn look_for_end(&self, acked: u64) {
        let is_end = self.counted().is_some_and(|counted| acked >= counted);
        if is_end && self.producing.load(Acquire) == 0 {
            self.at_end.inspect(|at_end| at_end());
        }
    }

    /// A worker has heard that all that it acked quietly is done.
    pub(super) fn settled(&self, now_ns: u64) {
        self.ended_ns.fetch_max(now_ns, Relaxed);
    }

    /// So many of the jobs that were acked quietly are not.
    pub(super) fn take_back(&self, count: u64) {
        self.acked.fetch_sub(count, AcqRel);
    }

    /// How many jobs are to be done, if that is known beforehand.
    fn counted(&self) -> Option<u64> {
        match (self.plan.shape, self.plan.end) {
            (Shape::Reserve, _) => Some(self.preloaded - self.plan.backlog),
            _ => self.pace.jobs(),
        }
    }

    /// Whether more is under way than a closed loop may have.
    pub(super) fn is_deep(&self) -> bool {
        if self.plan.workers == 0 {
            return false;
        }
        let taken = self.pace.taken();
        let is_deep = |acked: u64| taken.saturating_sub(acked) >= self.plan.depth;
        if !is_deep(self.acked_seen.load(Relaxed)) {
            return false;
        }
        let acked = self.acked.load(Relaxed);
        self.acked_seen.store(acked, Relaxed);
        is_deep(acked)
    }

    /// Whether the threads are to stop where they are.
    pub(super) fn is_aborted(&self) -> bool {
        self.abort.load(Relaxed)
    }

    /// Whether workers have nothing more to wait for.
    pub(super) fn is_drained(&self) -> bool {
        let produced = self.producing.load(Acquire) == 0;
        produced && self.acked.load(Relaxed) >= self.preloaded + self.accepted.load(Relaxed)
    }

    /// Somebody has done what they were there for, or failed at it.
    pub(super) fn ended(&self, role: Role, failed: bool) {
        match role {
            Role::Producer => {
                if !failed {
                    self.ended_ns.fetch_max(self.now_ns(), Relaxed);
                }
                self.producing.fetch_sub(1, AcqRel);
                self.look_for_end(self.acked.load(Acquire));
            }
            Role::Worker(_) => {
                // Nobody is left to make room in the queues.
                if self.working.fetch_sub(1, AcqRel) == 1 && failed {
                    self.abort.store(true, Relaxed);
                }
            }
        }
    }

    /// Runs the threads to their end. `run` is what each of them does for those who share it; `at_start` is called as
    /// the clock starts.
    pub(super) fn run(
        &self,
        run: impl Fn(&Self, &[Role]) -> Tally + Sync,
        progress: &Progress,
        at_start: impl FnOnce(),
    ) -> Ran {
        let mut tally = Tally::default();
        std::thread::scope(|scope| {
            let run = &run;
            let threads: Vec<_> = self
                .lanes
                .iter()
                .map(|lane| scope.spawn(move || run(self, lane)))
                .collect();
            self.barrier.wait();
            at_start();
            let start = *self.start.get_or_init(Instant::now);
            self.barrier.wait();
            let stalled = self.watch(start, progress, || {
                threads.iter().all(std::thread::ScopedJoinHandle::is_finished)
            });
            tally.failure = stalled;
            for thread in threads {
                match thread.join() {
                    Ok(one) => tally.merge(one),
                    Err(_) => {
                        tally.failure = Some(Failure::refused("a thread of the load panicked; this is a bug"))
                    }
                }
            }
        });
        Ran {
            is_whole: tally.failure.is_none() && !self.is_aborted(),
            tally,
            seconds: self.ended_ns.load(Relaxed) as f64 / 1e9,
            accepted: self.accepted.load(Relaxed),
            acked: self.acked.load(Relaxed),
            target: self.pace.jobs().unwrap_or(self.pace.taken()),
        }
    }

    /// Looks after the threads until they have ended. Gives up when nothing goes on.
    fn watch(&self, start: Instant, progress: &Progress, is_over: impl Fn() -> bool) -> Option<Failure> {
        let (mut last, mut moved) = ((0, 0), Instant::now());
        let patience = self.patience();
        let mut failure = None;
        while !is_over() {
            std::thread::sleep(WATCH.min(LOOK));
            let done = (self.accepted.load(Relaxed), self.acked.load(Relaxed));
            if done != last {
                (last, moved) = (done, Instant::now());
            }
            if moved.elapsed() >= patience && failure.is_none() {
                let text = format!(
                    "nothing has come back for {} s, so the load was given up",
                    patience.as_secs()
                );
                failure = Some(Failure::no_connection(text));
                self.abort.store(true, Relaxed);
            }
            let jobs = if self.plan.workers > 0 { done.1 } else { done.0 };
            progress.update(jobs, start.elapsed());
        }
        failure
    }

    /// How long nothing may come back: at a low rate that is nothing to worry about.
    fn patience(&self) -> Duration {
        let pause = self
            .plan
            .rate
            .map_or(0.0, |rate| 2.0 * self.plan.batch as f64 / rate);
        let pause = Duration::try_from_secs_f64(pause).unwrap_or(Duration::MAX);
        self.plan.patience.saturating_add(pause)
    }
}

/// Deals those whom a load needs out to its threads.
fn lanes(plan: &Plan) -> Vec<Vec<Role>> {
    let workers = (0..plan.workers).map(Role::Worker);
    let producers = (0..plan.producers).map(|_| Role::Producer);
    let threads = plan.threads();
    let mut lanes = vec![Vec::new(); threads];
    for (place, role) in workers.chain(producers).enumerate() {
        lanes[place % threads].push(role);
    }
    lanes
}
