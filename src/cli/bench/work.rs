//! A worker: takes jobs over one connection, checks them off, and acks them in batches.

use super::ledger::Marker;
use super::payload::Payload;
use super::phase::{Books, LOOK, Phase, Tally};
use super::plan::{Acks, Deliver, Shape};
use super::target::Service;
use crate::base::code::Class;
use crate::base::job::Token;
use crate::base::limits;
use crate::cli::exit::Failure;
use crate::client::{ClientError, Connection, Event, Reading, Requests, Reserve, Window};
use crate::wire::{DeliveryBatch, OutcomeView};
use std::collections::VecDeque;
use std::time::Duration;

/// Most payload bytes that a subscription may have unsettled.
const WINDOW_BYTES: u32 = 256 << 20;
/// Most reserves of a connection that wait at a time.
const RESERVES_MAX: usize = 64;
/// How long a reserve waits for jobs.
const WAIT: Duration = Duration::from_millis(500);

/// Takes note of jobs that came; the same for jobs from a server and from an engine in this process.
pub(super) struct Checker<'a> {
    phase: &'a Phase<'a>,
    marker: Marker<'a>,
    now_ns: u64,
}

impl<'a> Checker<'a> {
    pub(super) fn new(phase: &'a Phase<'a>, now_ns: u64) -> Self {
        let books: &'a Books = phase.books;
        Self {
            phase,
            marker: Marker::new(&books.came),
            now_ns,
        }
    }

    #[inline]
    pub(super) fn take(&mut self, payload: &[u8], tally: &mut Tally) {
        tally.delivered += 1;
        let Some(number) = Payload::number(payload) else {
            return;
        };
        self.marker.add(number);
        if self.phase.plan.shape == Shape::Reserve {
            return;
        }
        let sent_ns = Payload::time_ns(payload).or_else(|| self.phase.pace.due_ns(number));
        // Zero is a job from before the clock started.
        if let Some(sent_ns) = sent_ns.filter(|sent_ns| *sent_ns > 0) {
            tally.latency.add(self.now_ns.saturating_sub(sent_ns));
        }
    }

    pub(super) fn finish(self, tally: &mut Tally) {
        tally.repeated += self.marker.finish();
    }
}

/// A connection that works.
pub(super) struct Worker<'a> {
    phase: &'a Phase<'a>,
    connection: Connection,
    /// Places of its queues, in portions that one request may name.
    queues: Vec<Vec<usize>>,
    /// Whether its subscriptions, if it is to have any, are still to be made.
    must_subscribe: bool,
    /// Came and not acked yet.
    tokens: Vec<Token>,
    /// Reserves under way, and when they were sent.
    reserves: VecDeque<(u64, u64)>,
    turn: usize,
    /// Jobs that were acked quietly, of which no answer has told yet.
    unheard: u64,
    acked_ns: u64,
    /// The request behind them, whose answer tells, and when it was made.
    last: Option<(u64, u64)>,
    tally: Tally,
}

impl<'a> Worker<'a> {
    /// Connects the worker of that number.
    ///
    /// # Errors
    /// The server is gone, or refuses.
    pub(super) fn open(phase: &'a Phase<'a>, service: &Service, place: usize) -> Result<Self, Failure> {
        let reading = if phase.plan.busy_poll {
            Reading::Polling
        } else {
            Reading::Sleeping
        };
        let queues = phase.plan.queues_of(place);
        let places: Vec<usize> = (0..queues.len()).collect();
        let portions = places.chunks(limits::QUEUES_PER_REQUEST_MAX);
        let mut worker = Self {
            phase,
            connection: service.connect(&queues, reading)?,
            queues: portions.map(<[usize]>::to_vec).collect(),
            must_subscribe: phase.plan.deliver == Deliver::Subscribe,
            tokens: Vec::new(),
            reserves: VecDeque::new(),
            turn: 0,
            unheard: 0,
            acked_ns: 0,
            last: None,
            tally: Tally::default(),
        };
        // Jobs that are there already must not come before the clock starts.
        if phase.plan.backlog == 0 {
            worker.subscribe()?;
        }
        Ok(worker)
    }

    fn subscribe(&mut self) -> Result<(), ClientError> {
        if !std::mem::take(&mut self.must_subscribe) {
            return Ok(());
        }
        let window = Window {
            jobs: self.phase.plan.window(),
            bytes: WINDOW_BYTES,
            ..Window::default()
        };
        for queues in &self.queues {
            self.connection.requests().subscribe(queues, window)?;
        }
        while self.connection.requests().in_flight() > 0 && !self.phase.is_aborted() {
            self.turn(LOOK)?;
        }
        Ok(())
    }

    /// Acks what has come and takes in what comes; says whether more may come. It waits unless the load polls.
    ///
    /// # Errors
    /// The connection is of no more use.
    pub(super) fn step(&mut self) -> Result<bool, ClientError> {
        if self.phase.is_aborted() {
            return Ok(false);
        }
        if self.phase.is_drained() {
            return self.end();
        }
        self.subscribe()?;
        if self.phase.plan.deliver == Deliver::Reserve {
            self.reserve()?;
        }
        self.ack()?;
        if self.phase.is_drained() {
            return self.end();
        }
        self.turn(self.wait())?;
        Ok(true)
    }

    fn wait(&self) -> Duration {
        if self.phase.plan.busy_poll {
            Duration::ZERO
        } else {
            LOOK
        }
    }

    /// Hears of what was acked quietly, once; says whether there is something left to hear.
    fn end(&mut self) -> Result<bool, ClientError> {
        if self.unheard == 0 {
            return Ok(false);
        }
        if self.last.is_none() {
            self.last = Some((self.connection.requests().ping()?, self.phase.now_ns()));
        }
        self.turn(self.wait())?;
        Ok(self.unheard > 0)
    }

    /// What it has done.
    pub(super) fn finish(mut self) -> Tally {
        self.tally.bytes = self.connection.bytes();
        self.tally.unheard = self.unheard;
        self.tally
    }

    /// Keeps reserves waiting, for its queues in turn.
    fn reserve(&mut self) -> Result<(), ClientError> {
        let reserves_max = self.phase.plan.in_flight.min(RESERVES_MAX);
        let reserve = Reserve {
            max_jobs: self.phase.plan.batch as u32,
            wait: WAIT,
            ..Reserve::default()
        };
        while self.reserves.len() < reserves_max && self.connection.requests().has_room() {
            let queues = &self.queues[self.turn % self.queues.len()];
            self.turn += 1;
            let request = self.connection.requests().reserve(queues, reserve)?;
            self.reserves.push_back((request, self.phase.now_ns()));
        }
        Ok(())
    }

    /// Acks what has come, so many a request as the batch says; what finds no room waits for more.
    fn ack(&mut self) -> Result<(), ClientError> {
        if self.tokens.is_empty() {
            return Ok(());
        }
        if self.phase.plan.acks == Acks::Quiet {
            for tokens in self.tokens.chunks(self.phase.plan.batch) {
                self.connection.requests().ack_quietly(tokens)?;
            }
            let jobs = self.tokens.len() as u64;
            self.acked_ns = self.phase.now_ns();
            self.unheard += jobs;
            self.phase.ack(jobs, self.acked_ns);
            self.tokens.clear();
            return Ok(());
        }
        let mut acked = 0;
        for tokens in self.tokens.chunks(self.phase.plan.batch) {
            if !self.connection.requests().has_room() {
                break;
            }
            self.connection.requests().ack_all(tokens)?;
            acked += tokens.len();
        }
        self.tokens.drain(..acked);
        Ok(())
    }

    /// Sends, and takes in what comes within that time.
    fn turn(&mut self, wait: Duration) -> Result<(), ClientError> {
        let Self {
            phase,
            connection,
            tokens,
            reserves,
            unheard,
            acked_ns,
            last,
            tally,
            ..
        } = self;
        let mut now_ns = None;
        // What the threads share is told once a turn and not once an answer.
        let mut acked = 0;
        let turned = connection.turn(wait, |event, _: &mut Requests| {
            let now_ns = *now_ns.get_or_insert_with(|| phase.now_ns());
            match event {
                Event::Delivered { request, jobs } => {
                    if let Some(request) = request {
                        reserved(phase, reserves, request, &jobs, now_ns, tally);
                    }
                    let mut checker = Checker::new(phase, now_ns);
                    for job in jobs.items() {
                        checker.take(job.payload(), tally);
                        tokens.push(job.entry.token());
                    }
                    checker.finish(tally);
                }
                Event::Applied { outcome, .. } => {
                    tally.errors += failures(&outcome);
                    acked += u64::from(outcome.head.count);
                }
                Event::NotAcked { outcome, .. } => {
                    let failures = failures(&outcome?);
                    tally.errors += failures;
                    *unheard = unheard.saturating_sub(failures);
                    phase.take_back(failures);
                }
                Event::Done { request } => {
                    if let Some((_, asked_ns)) = last.filter(|(last, _)| *last == request) {
                        *unheard = 0;
                        // Asked behind the last ack, and not when all were known to be on their way, it would have
                        // come that much sooner.
                        phase.settled(*acked_ns + now_ns.saturating_sub(asked_ns));
                    }
                }
                Event::Refused { error, .. } => return Err(error),
            }
            Ok(())
        });
        if acked > 0 {
            phase.ack(acked, now_ns.unwrap_or(0));
        }
        turned.map(drop)
    }
}

/// How many settlements of a request went wrong.
fn failures(outcome: &OutcomeView<'_>) -> u64 {
    let failed = outcome.items().filter(|item| item.code.class() != Class::Success);
    failed.count() as u64
}

/// An answer to a reserve: for the shape that is about them, its latency is that of its jobs.
fn reserved(
    phase: &Phase<'_>,
    reserves: &mut VecDeque<(u64, u64)>,
    request: u64,
    jobs: &DeliveryBatch<'_>,
    now_ns: u64,
    tally: &mut Tally,
) {
    let Some(place) = reserves.iter().position(|(number, _)| *number == request) else {
        return;
    };
    if let Some((_, sent_ns)) = reserves.remove(place)
        && phase.plan.shape == Shape::Reserve
        && jobs.count() > 0
    {
        tally
            .latency
            .add_many(now_ns.saturating_sub(sent_ns), jobs.count() as u64);
    }
}
