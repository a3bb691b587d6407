//! A producer: sends jobs (or, for an echo, requests that do nothing) over one connection, and hears of each.

use super::latency::Latency;
use super::ledger::Marker;
use super::pace::Portion;
use super::phase::{LOOK, Phase, Tally};
use super::plan::Shape;
use super::target::Service;
use crate::cli::exit::Failure;
use crate::client::{ClientError, Connection, Event, Reading, Requests};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::time::Duration;

/// A request that is not answered yet.
struct Flying {
    request: u64,
    portion: Portion,
    /// When it was sent, or should have been.
    time_ns: u64,
}

/// A connection that sends.
pub(super) struct Producer<'a> {
    phase: &'a Phase<'a>,
    connection: Connection,
    flying: VecDeque<Flying>,
    /// Taken and not due yet.
    next: Option<Portion>,
    is_done: bool,
    tally: Tally,
}

/// What is left to do before the next answer.
enum Pause {
    /// Wait for an answer.
    Answer,
    /// Wait for an answer, but not beyond the time at which the next portion is due.
    Due(u64),
    /// Leave the workers time.
    Breath,
}

impl<'a> Producer<'a> {
    /// Connects.
    ///
    /// # Errors
    /// The server is gone.
    pub(super) fn open(phase: &'a Phase<'a>, service: &Service) -> Result<Self, Failure> {
        let sleeps = !phase.plan.is_open_loop() && !phase.plan.busy_poll;
        let reading = if sleeps {
            Reading::Sleeping
        } else {
            Reading::Polling
        };
        let queues: Vec<usize> = (0..phase.plan.queues).collect();
        Ok(Self {
            phase,
            connection: service.connect(&queues, reading)?,
            flying: VecDeque::new(),
            next: None,
            is_done: false,
            tally: Tally::default(),
        })
    }

    /// Sends what is due and takes in what comes; says whether there is more to do, which there is until the pace hands
    /// out no more and all is answered. It waits unless the load polls.
    ///
    /// # Errors
    /// The connection is of no more use.
    pub(super) fn step(&mut self) -> Result<bool, ClientError> {
        if self.phase.is_aborted() {
            return Ok(false);
        }
        let pause = self.fill()?;
        if self.is_done && self.flying.is_empty() {
            return Ok(false);
        }
        match pause {
            // With nothing under way nothing can come.
            _ if self.phase.plan.busy_poll && self.flying.is_empty() => {}
            _ if self.phase.plan.busy_poll => {
                self.turn(Duration::ZERO)?;
            }
            Pause::Answer if self.phase.plan.is_open_loop() => self.listen_until(u64::MAX)?,
            Pause::Answer => {
                self.turn(LOOK)?;
            }
            Pause::Due(due_ns) => self.listen_until(due_ns)?,
            Pause::Breath => std::thread::sleep(self.phase.plan.breath()),
        }
        Ok(true)
    }

    /// What it has done.
    pub(super) fn finish(mut self) -> Tally {
        let unanswered: usize = self.flying.iter().map(|flying| flying.portion.count).sum();
        self.tally.errors += unanswered as u64;
        self.tally.bytes = self.connection.bytes();
        self.tally
    }

    /// Makes as many requests as may be under way and are due.
    fn fill(&mut self) -> Result<Pause, ClientError> {
        let phase = self.phase;
        let mut now_ns = phase.now_ns();
        while self.flying.len() < phase.plan.in_flight && self.connection.requests().has_room() {
            if self.next.is_none() && phase.is_deep() {
                return Ok(if self.flying.is_empty() {
                    Pause::Breath
                } else {
                    Pause::Answer
                });
            }
            let Some(portion) = self.next.take().or_else(|| phase.pace.take(now_ns)) else {
                self.is_done = true;
                break;
            };
            let due_ns = phase.pace.due_ns(portion.first);
            if let Some(due_ns) = due_ns.filter(|due_ns| *due_ns > now_ns) {
                now_ns = phase.now_ns();
                if due_ns > now_ns {
                    self.next = Some(portion);
                    return Ok(Pause::Due(due_ns));
                }
            }
            let time_ns = due_ns.unwrap_or(now_ns).max(1);
            let request = request(phase, self.connection.requests(), portion, time_ns)?;
            self.flying.push_back(Flying {
                request,
                portion,
                time_ns,
            });
        }
        Ok(Pause::Answer)
    }

    /// Sends, and takes in what comes until the time is there or something has come.
    fn listen_until(&mut self, due_ns: u64) -> Result<(), ClientError> {
        let events = self.turn(Duration::ZERO)?;
        let left = due_ns.saturating_sub(self.phase.now_ns());
        // What has come may have made room for the next request.
        if events > 0 || left == 0 {
            return Ok(());
        }
        // The timeouts of sockets are too coarse for this.
        let left = Duration::from_nanos(left).min(LOOK);
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: left.as_nanos() as _,
        };
        let mut sockets = [PollFd::new(&self.connection, PollFlags::IN)];
        // Interrupted or not, the next turn finds out what there is.
        let _ = poll(&mut sockets, Some(&timeout));
        Ok(())
    }

    /// Sends, and takes in what has come; says how many answers.
    fn turn(&mut self, timeout: Duration) -> Result<usize, ClientError> {
        let (phase, flying, tally) = (self.phase, &mut self.flying, &mut self.tally);
        let mut now_ns = None;
        // What the threads share is told once a turn and not once an answer.
        let mut sent = Marker::new(&phase.books.sent);
        let mut accepted = 0;
        let turned = self.connection.turn(timeout, |event, _| {
            let now_ns = *now_ns.get_or_insert_with(|| phase.now_ns());
            match event {
                Event::Applied { request, .. } | Event::Done { request } => {
                    if let Some(done) = land(flying, request) {
                        let count = done.portion.count as u64;
                        times_of(phase, tally).add_many(now_ns.saturating_sub(done.time_ns), count);
                        if phase.plan.payload.is_numbered() {
                            sent.add_new(done.portion);
                        }
                        accepted += count;
                    }
                    Ok(())
                }
                Event::Refused { request, error } => {
                    let done = request.and_then(|request| land(flying, request));
                    tally.errors += done.map_or(0, |done| done.portion.count as u64);
                    match error {
                        // The queue or the log is full for now: an error that the report counts.
                        ClientError::RetryLater(_) => Ok(()),
                        error => Err(error),
                    }
                }
                Event::Delivered { .. } | Event::NotAcked { .. } => Ok(()),
            }
        });
        sent.finish();
        phase.accept(accepted);
        turned
    }
}

/// Where the times of confirmations go: they are the latency where nothing is delivered.
fn times_of<'a>(phase: &Phase<'_>, tally: &'a mut Tally) -> &'a mut Latency {
    if phase.plan.workers > 0 {
        &mut tally.confirm
    } else {
        &mut tally.latency
    }
}

fn request(
    phase: &Phase<'_>,
    requests: &mut Requests,
    portion: Portion,
    time_ns: u64,
) -> Result<u64, ClientError> {
    if phase.plan.shape == Shape::Echo {
        return requests.ping();
    }
    let plan = phase.plan;
    let stamp_ns = if phase.stamps { time_ns } else { 0 };
    let queue = (portion.first / plan.batch as u64) as usize % plan.queues;
    requests.enqueue_with(queue, portion.count, None, |position, out| {
        plan.payload.write(out, portion.first + position as u64, stamp_ns);
    })
}

/// Answers come mostly in the order of the requests.
fn land(flying: &mut VecDeque<Flying>, request: u64) -> Option<Flying> {
    let place = flying.iter().position(|flying| flying.request == request)?;
    flying.remove(place)
}
