//! What the worker's threads share: which jobs it has, what runs, and whether it should stop.

use super::child::Running;
use super::leases::Leases;
use crate::base::job::Token;
use crate::cli::exit::Failure;
use crate::client::Delivery;
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long the keeper sleeps when there is nothing to keep.
const IDLE: Duration = Duration::from_secs(3_600);

/// Jobs that one run of the command gets: one, or some of them a line each.
#[derive(Debug)]
pub(super) struct Run {
    /// Names the run among this worker's.
    pub(super) id: u64,
    /// Its jobs.
    pub(super) jobs: Vec<Delivery>,
}

/// How far the worker has been told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stop {
    /// Not at all.
    No,
    /// Take nothing more, finish what runs.
    Finish,
    /// Kill what runs.
    Kill,
}

/// What became of the jobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(super) struct Tally {
    /// Deliveries for which the command was run.
    pub(super) attempts: u64,
    /// Done.
    pub(super) acked: u64,
    /// Failed, to be tried again.
    pub(super) nacked: u64,
    /// Failed for good.
    pub(super) rejected: u64,
    /// Given back untouched.
    pub(super) released: u64,
    /// Settled too late: the lease was over.
    pub(super) lost: u64,
}

/// The shared state.
pub(super) struct Board {
    inner: Mutex<Inner>,
    /// A run is waiting, or no more will come.
    for_runners: Condvar,
    /// A run has ended, or the worker stops.
    for_fetcher: Condvar,
    /// Leases were added, or no more will be.
    for_keeper: Condvar,
}

struct Inner {
    waiting: VecDeque<Run>,
    running: usize,
    /// Process groups of what runs.
    groups: HashMap<u64, Pid>,
    leases: Leases,
    next_id: u64,
    /// No more runs will come.
    is_closed: bool,
    stop: Stop,
    failure: Option<Failure>,
    tally: Tally,
}

impl Board {
    /// Nothing waits, nothing runs.
    pub(super) fn new() -> Self {
        Self {
            inner: Mutex::new(Inner {
                waiting: VecDeque::new(),
                running: 0,
                groups: HashMap::new(),
                leases: Leases::default(),
                next_id: 0,
                is_closed: false,
                stop: Stop::No,
                failure: None,
                tally: Tally::default(),
            }),
            for_runners: Condvar::new(),
            for_fetcher: Condvar::new(),
            for_keeper: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic in one of the worker's threads ends the worker; until then the others may settle what they have.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes no more jobs; at the second call, kills what runs.
    pub(super) fn stop(&self, stop: Stop) {
        let mut inner = self.lock();
        inner.stop = inner.stop.max(stop);
        if inner.stop == Stop::Kill {
            inner.groups.values().copied().for_each(kill);
        }
        drop(inner);
        self.for_runners.notify_all();
        self.for_fetcher.notify_all();
    }

    /// Stops because of a failure, which the worker then ends with. The first one counts.
    pub(super) fn fail(&self, failure: Failure) {
        self.lock().failure.get_or_insert(failure);
        self.stop(Stop::Finish);
    }

    /// How far the worker has been told to stop.
    pub(super) fn stopping(&self) -> Stop {
        self.lock().stop
    }

    /// Waits until fewer than `runs_max` runs wait or run; returns how many more there may be, or `None` when the
    /// worker stops.
    pub(super) fn wait_for_room(&self, runs_max: usize) -> Option<usize> {
        let mut inner = self.lock();
        loop {
            if inner.stop != Stop::No {
                return None;
            }
            let held = inner.waiting.len() + inner.running;
            if held < runs_max {
                return Some(runs_max - held);
            }
            inner = self
                .for_fetcher
                .wait(inner)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for `time`, or until the worker stops.
    pub(super) fn pause(&self, time: Duration) {
        let inner = self.lock();
        let is_going = |inner: &mut Inner| inner.stop == Stop::No;
        drop(
            self.for_fetcher
                .wait_timeout_while(inner, time, is_going)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Adds a run, and has its leases of length `lease` kept.
    pub(super) fn add(&self, jobs: Vec<Delivery>, lease: Duration) {
        let mut inner = self.lock();
        let id = inner.next_id;
        inner.next_id += 1;
        let tokens = jobs.iter().map(Delivery::token).collect();
        inner.leases.add(id, tokens, lease, Instant::now());
        inner.waiting.push_back(Run { id, jobs });
        drop(inner);
        self.for_runners.notify_one();
        self.for_keeper.notify_one();
    }

    /// No more runs will come.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.for_runners.notify_all();
    }

    /// The next run to start; `None` when there will be none.
    pub(super) fn next_run(&self) -> Option<Run> {
        let mut inner = self.lock();
        loop {
            if inner.stop != Stop::No {
                return None;
            }
            if let Some(run) = inner.waiting.pop_front() {
                inner.running += 1;
                inner.tally.attempts += run.jobs.len() as u64;
                return Some(run);
            }
            if inner.is_closed {
                return None;
            }
            inner = self
                .for_runners
                .wait(inner)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The run's command has started.
    pub(super) fn started(&self, run: &Run, running: &Running) {
        let mut inner = self.lock();
        if let Some(group) = i32::try_from(running.id()).ok().and_then(Pid::from_raw) {
            inner.groups.insert(run.id, group);
            if inner.stop == Stop::Kill {
                kill(group);
            }
        }
    }

    /// The run's command has ended, and its process id may go to another process.
    pub(super) fn ended(&self, run: &Run) {
        self.lock().groups.remove(&run.id);
    }

    /// The run's command could not be started; its jobs are given back.
    pub(super) fn not_started(&self, run: Run) {
        let mut inner = self.lock();
        inner.tally.attempts -= run.jobs.len() as u64;
        inner.running -= 1;
        inner.waiting.push_front(run);
    }

    /// The run's outcome is about to be sent.
    pub(super) fn settling(&self, run: &Run) {
        self.lock().leases.settling(run.id);
    }

    /// The run is over.
    pub(super) fn finished(&self, run: &Run, tally: impl FnOnce(&mut Tally)) {
        let mut inner = self.lock();
        inner.running -= 1;
        inner.leases.remove(run.id);
        tally(&mut inner.tally);
        drop(inner);
        self.for_fetcher.notify_all();
    }

    /// Jobs that will not be run, to be given back. Their leases are kept no longer.
    pub(super) fn take_waiting(&self) -> Vec<Delivery> {
        let mut inner = self.lock();
        let mut jobs = Vec::new();
        while let Some(run) = inner.waiting.pop_front() {
            inner.leases.remove(run.id);
            jobs.extend(run.jobs);
        }
        jobs
    }

    /// So many jobs were given back.
    pub(super) fn released(&self, jobs: u64) {
        self.lock().tally.released += jobs;
    }

    /// Waits until leases must be extended; returns their tokens, or `None` when `is_over`.
    pub(super) fn wait_for_leases(&self, is_over: impl Fn() -> bool) -> Option<Vec<Token>> {
        let mut inner = self.lock();
        loop {
            if is_over() {
                return None;
            }
            let now = Instant::now();
            let tokens = inner.leases.take_due(now);
            if !tokens.is_empty() {
                return Some(tokens);
            }
            let next = inner.leases.next_due();
            let time = next.map_or(IDLE, |next| next.saturating_duration_since(now));
            inner = self
                .for_keeper
                .wait_timeout(inner, time)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Has the keeper look whether it is over.
    pub(super) fn wake_keeper(&self) {
        // The lock orders this behind a keeper that has looked and not yet gone to sleep.
        let _inner = self.lock();
        self.for_keeper.notify_all();
    }

    /// A lease could not be extended. Returns whether that is worth telling.
    pub(super) fn lost(&self, token: Token) -> bool {
        self.lock().leases.lost(token)
    }

    /// The end: what became of the jobs, and what went wrong.
    pub(super) fn into_result(self) -> (Tally, Option<Failure>) {
        let inner = self.inner.into_inner().unwrap_or_else(PoisonError::into_inner);
        (inner.tally, inner.failure)
    }
}

fn kill(group: Pid) {
    // It has just ended by itself: then there is nothing to kill.
    let _ = kill_process_group(group, Signal::KILL);
}
