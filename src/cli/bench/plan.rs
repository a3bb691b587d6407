//! What is to be measured: the arguments, checked against each other.

use super::Bench;
use super::pace::End;
use super::payload::Payload;
use crate::base::limits;
use crate::base::queue::Durability;
use crate::cli::exit::Failure;
use crate::cli::units;
use clap::ValueEnum;
use std::time::Duration;

/// What a load does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Shape {
    /// Producers enqueue; nobody works
    Enqueue,
    /// Workers reserve and ack jobs that were enqueued before
    Reserve,
    /// Producers enqueue, workers get the jobs and ack them
    Life,
    /// A request that does nothing goes there and back
    Echo,
}

impl Shape {
    pub(super) fn name(self) -> &'static str {
        match self {
            Shape::Enqueue => "enqueue",
            Shape::Reserve => "reserve",
            Shape::Life => "life",
            Shape::Echo => "echo",
        }
    }
}

/// How workers get their jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Deliver {
    /// Pushed to a subscription, up to a window of unsettled ones
    Subscribe,
    /// Asked for, a batch at a time
    Reserve,
}

/// What workers hear of their acks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Acks {
    /// Each request is answered
    Answered,
    /// Only what could not be acked is; at the end, a worker asks once whether all before is done
    Quiet,
}

impl Acks {
    pub(super) fn name(self) -> &'static str {
        match self {
            Acks::Answered => "answered",
            Acks::Quiet => "quiet",
        }
    }
}

/// Bounds of the jobs that are under way unless said otherwise, where no rate limits them.
const DEPTHS: (u64, u64) = (10_000, 100_000);
/// Bounds of a producer's pause, in nanoseconds, and how much of it a job under way is worth: a tenth of the time that
/// ten million jobs a second take for it.
const BREATHS_NS: (u64, u64) = (20_000, 1_000_000);
const BREATH_NS_PER_JOB: u64 = 10;
/// Payload bytes that one connection has under way unless said otherwise.
const BYTES_IN_FLIGHT: usize = 64 << 20;
/// Queues of one worker: as many as its subscriptions may name.
const QUEUES_PER_WORKER: usize = limits::QUEUES_PER_REQUEST_MAX * limits::WAITERS_PER_CONNECTION_MAX;

/// A load without contradictions.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub(super) shape: Shape,
    pub(super) end: End,
    pub(super) warmup: Option<End>,
    pub(super) payload: Payload,
    pub(super) batch: usize,
    pub(super) producers: usize,
    pub(super) workers: usize,
    pub(super) queues: usize,
    pub(super) durability: Durability,
    pub(super) backlog: u64,
    pub(super) rate: Option<f64>,
    pub(super) in_flight: usize,
    pub(super) depth: u64,
    pub(super) deliver: Deliver,
    pub(super) acks: Acks,
    pub(super) busy_poll: bool,
    pub(super) embedded: bool,
    /// Without any progress for this long, the load is given up.
    pub(super) patience: Duration,
}

impl Plan {
    /// Checks the arguments.
    ///
    /// # Errors
    /// Usage, naming what does not go together.
    pub(super) fn new(bench: &Bench, patience: Duration) -> Result<Self, Failure> {
        refuse_contradictions(bench)?;
        let shape = bench.shape;
        let batch = bench.batch.unwrap_or(if shape == Shape::Echo { 1 } else { 500 });
        let payload = bench.payload.map_or(64, |bytes| bytes as usize);
        let payload = if shape == Shape::Echo { 0 } else { payload };
        let frame_bytes = 64 + batch * (40 + payload.next_multiple_of(8));
        if frame_bytes > limits::FRAME_BYTES_MAX as usize {
            return Err(Failure::usage(format!(
                "a batch of {batch} payloads of {payload} bytes is longer than a frame ({}); make one of them smaller",
                units::show_bytes(u64::from(limits::FRAME_BYTES_MAX))
            )));
        }
        let produces = shape != Shape::Reserve;
        let works = matches!(shape, Shape::Reserve | Shape::Life);
        let in_flight_default = (BYTES_IN_FLIGHT / frame_bytes).clamp(1, 16);
        let in_flight = bench.in_flight.unwrap_or(in_flight_default);
        // Twice as much as all of them may have under way keeps everybody busy; more only makes for cold memory.
        let depth_default = (2 * batch * in_flight * (bench.producers + bench.workers)) as u64;
        let end = match (bench.jobs, bench.duration) {
            (Some(jobs), _) => End::Jobs(jobs),
            (None, Some(time)) => End::Time(time),
            (None, None) if shape == Shape::Reserve => End::Jobs(1_000_000),
            (None, None) => End::Time(Duration::from_secs(5)),
        };
        let plan = Self {
            shape,
            end,
            warmup: warmup(bench.warmup, end),
            payload: Payload { len: payload },
            batch,
            producers: if produces { bench.producers } else { 0 },
            workers: if works { bench.workers } else { 0 },
            queues: bench.queues,
            durability: bench.durability,
            backlog: bench.backlog,
            rate: bench.rate,
            in_flight,
            depth: if bench.rate.is_some() {
                u64::MAX
            } else {
                match bench.depth.unwrap_or(depth_default.clamp(DEPTHS.0, DEPTHS.1)) {
                    0 => u64::MAX,
                    depth => depth,
                }
            },
            deliver: match (bench.deliver, shape) {
                (Some(deliver), _) => deliver,
                (None, Shape::Reserve) => Deliver::Reserve,
                (None, _) => Deliver::Subscribe,
            },
            acks: bench.acks.unwrap_or(Acks::Answered),
            busy_poll: bench.busy_poll,
            embedded: bench.embedded,
            patience,
        };
        if works && plan.queues.div_ceil(plan.workers) > QUEUES_PER_WORKER {
            return Err(Failure::usage(format!(
                "a worker serves at most {QUEUES_PER_WORKER} queues; give more --workers for {} --queues",
                plan.queues
            )));
        }
        Ok(plan)
    }

    /// Whether latency counts from when a job should have been sent.
    pub(super) fn is_open_loop(&self) -> bool {
        self.rate.is_some()
    }

    /// How long a producer that has to leave the workers time looks away: not so long that they run out of jobs.
    pub(super) fn breath(&self) -> Duration {
        let ns = self.depth.saturating_mul(BREATH_NS_PER_JOB);
        Duration::from_nanos(ns.clamp(BREATHS_NS.0, BREATHS_NS.1))
    }

    /// Threads that the load is put on with: one a connection; where connections poll, no more than half of the cores,
    /// as the server's threads poll too.
    pub(super) fn threads(&self) -> usize {
        let connections = self.producers + self.workers;
        if !self.busy_poll || self.embedded {
            return connections;
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        connections.min((cores / 2).max(1))
    }

    /// Jobs that are put in before the clock starts: what workers of the shape `reserve` find, and the backlog.
    pub(super) fn preload(&self) -> u64 {
        match (self.shape, self.end) {
            (Shape::Reserve, End::Jobs(jobs)) => self.backlog + jobs,
            _ => self.backlog,
        }
    }

    /// Unsettled jobs that a worker's subscription may have.
    pub(super) fn window(&self) -> u32 {
        (self.batch.saturating_mul(self.in_flight)).clamp(1, limits::WINDOW_JOBS_MAX as usize) as u32
    }

    /// The queues that a worker serves, by their places.
    pub(super) fn queues_of(&self, worker: usize) -> Vec<usize> {
        if self.workers >= self.queues {
            return vec![worker % self.queues];
        }
        (worker..self.queues).step_by(self.workers).collect()
    }
}

fn warmup(asked: Option<End>, end: End) -> Option<End> {
    let none = [End::Jobs(0), End::Time(Duration::ZERO)];
    let usual = match end {
        End::Jobs(jobs) => End::Jobs(jobs / 4),
        End::Time(time) => End::Time(time / 4),
    };
    Some(asked.unwrap_or(usual)).filter(|warmup| !none.contains(warmup))
}

/// Arguments that make no sense together.
fn refuse_contradictions(bench: &Bench) -> Result<(), Failure> {
    let echo = bench.shape == Shape::Echo;
    let reserve = bench.shape == Shape::Reserve;
    let works = matches!(bench.shape, Shape::Reserve | Shape::Life);
    let nonsense = [
        (
            echo && bench.embedded,
            "--embedded has nobody to send an echo back",
        ),
        (
            echo && (bench.batch.is_some() || bench.payload.is_some()),
            "an echo has no --batch and no --payload",
        ),
        (
            reserve && bench.rate.is_some(),
            "the shape reserve takes what is there as fast as it can; --rate is for producers",
        ),
        (
            reserve && bench.duration.is_some(),
            "the shape reserve works on jobs that are there already; say how many with --jobs",
        ),
        (
            bench.backlog > 0 && !works,
            "--backlog is for the shapes reserve and life",
        ),
        (
            bench.backlog > 0 && bench.duration.is_some(),
            "--backlog needs --jobs instead of --duration, to know when as many jobs went out as came in",
        ),
        (
            reserve && bench.deliver == Some(Deliver::Subscribe),
            "the shape reserve is about reserves; --deliver subscribe is for the shape life",
        ),
        (
            reserve && matches!(bench.warmup, Some(End::Time(_))),
            "the shape reserve works on jobs that are there already; say in jobs how long --warmup is",
        ),
        (
            bench.deliver.is_some() && !works,
            "--deliver is for the shapes reserve and life",
        ),
        (
            bench.acks.is_some() && (bench.embedded || !works),
            "--acks is for workers of a server, in the shapes reserve and life",
        ),
        (
            bench.acks == Some(Acks::Quiet) && bench.durability == Durability::Synced,
            "quiet acks do not wait for the disk; take another --durability, or have them answered",
        ),
        (
            bench.acks == Some(Acks::Quiet) && bench.backlog > 0,
            "where a --backlog stays behind nobody hears when the load is done; have its acks answered",
        ),
        (
            bench.embedded && bench.spawn,
            "--embedded needs no server, --spawn starts one; take one of them",
        ),
        (
            bench.data.is_some() && !(bench.embedded || bench.spawn),
            "--data is for --spawn and --embedded; a server that runs has its own directory",
        ),
        (
            bench.rate.is_some_and(|rate| !(rate > 0.0 && rate.is_finite())),
            "--rate must be more than 0 jobs a second",
        ),
        (
            bench.rate.is_some() && bench.depth.is_some(),
            "--rate sends on time however much is under way; --depth is for a load without it",
        ),
    ];
    match nonsense.iter().find(|(is_so, _)| *is_so) {
        Some((_, text)) => Err(Failure::usage(format!("{text}; see `ackring bench --help`"))),
        None => Ok(()),
    }
}

/// Reads a number of jobs, or a time.
///
/// # Errors
/// Says what it looks like.
pub(super) fn jobs_or_time(text: &str) -> Result<End, String> {
    match text.parse() {
        Ok(jobs) => Ok(End::Jobs(jobs)),
        Err(_) => units::duration(text).map(End::Time),
    }
}
