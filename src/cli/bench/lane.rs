//! A lane: the connections of one thread. Where connections sleep until something comes, each has a lane of its own.
//! Where they poll, a lane has several and does a step of each in turn, none of which waits: were there more threads that
//! poll than cores, what comes to one would wait until the others let go of its core. (Only the first step of a worker behind a
//! backlog does, for its subscription.)

use super::phase::{Phase, Role, Tally};
use super::produce::Producer;
use super::target::Service;
use super::work::Worker;
use crate::cli::exit::Failure;
use crate::client::ClientError;

/// A connection with what it is for.
enum Member<'a> {
    Producer(Producer<'a>),
    Worker(Worker<'a>),
}

impl<'a> Member<'a> {
    fn open(phase: &'a Phase<'a>, service: &Service, role: Role) -> Result<Self, Failure> {
        match role {
            Role::Producer => Producer::open(phase, service).map(Self::Producer),
            Role::Worker(place) => Worker::open(phase, service, place).map(Self::Worker),
        }
    }

    fn step(&mut self) -> Result<bool, ClientError> {
        match self {
            Self::Producer(producer) => producer.step(),
            Self::Worker(worker) => worker.step(),
        }
    }

    fn finish(self) -> Tally {
        match self {
            Self::Producer(producer) => producer.finish(),
            Self::Worker(worker) => worker.finish(),
        }
    }
}

/// Connects, and does the steps of each connection in turn until all have come to their end. One that fails leaves the
/// others to go on.
pub(super) fn run(phase: &Phase<'_>, service: &Service, roles: &[Role]) -> Tally {
    let opened: Vec<_> = roles
        .iter()
        .map(|role| (*role, Member::open(phase, service, *role)))
        .collect();
    phase.ready();
    let mut all = Tally::default();
    let mut end = |role: Role, one: Tally| {
        phase.ended(role, one.failure.is_some());
        all.merge(one);
    };
    let mut members = Vec::with_capacity(opened.len());
    for (role, opened) in opened {
        match opened {
            Ok(member) => members.push((role, member)),
            Err(failure) => end(role, Tally::of_failure(failure)),
        }
    }
    while !members.is_empty() {
        let mut place = 0;
        while let Some((_, member)) = members.get_mut(place) {
            let failure = match member.step() {
                Ok(true) => {
                    place += 1;
                    continue;
                }
                Ok(false) => None,
                Err(error) => Some(error.into()),
            };
            let (role, member) = members.remove(place);
            let mut tally = member.finish();
            tally.failure = failure;
            end(role, tally);
        }
        if phase.plan.busy_poll {
            // Between rounds, not between steps: where the server has to share this core, it answers sooner.
            std::thread::yield_now();
        }
    }
    all
}
