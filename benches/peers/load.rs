//! The same work for every peer: threads that produce and work, in a closed loop or at a rate.

use crate::peer::{Event, Peer, Produce};
use hdrhistogram::Histogram;
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::AcqRel, Ordering::Relaxed};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

/// Jobs under way in a closed loop at which producers leave workers time; as `ackring bench` does.
const DEPTH: u64 = 100_000;
/// Longest time that is told apart, in nanoseconds.
const NS_MAX: u64 = 600_000_000_000;

/// A kind of work.
#[derive(Clone, Copy, PartialEq)]
pub struct Work {
    pub name: &'static str,
    /// Jobs in one request.
    pub batch: usize,
    /// Jobs that a worker takes at a time, where the peer lets it.
    pub take: usize,
    /// Requests that a producer has under way.
    pub in_flight: usize,
    pub producers: usize,
    pub workers: usize,
    /// Jobs a second, for an open loop.
    pub rate: Option<u64>,
}

/// Bytes of a job.
pub const PAYLOAD: usize = 64;

/// What a round came to.
pub struct Round {
    pub jobs_per_s: f64,
    /// p50, p99 and p99.9 in microseconds, in an open loop.
    pub latency_us: Option<[f64; 3]>,
}

struct Shared {
    next: AtomicU64,
    confirmed: AtomicU64,
    done: AtomicU64,
    came: AtomicU64,
    ended_ns: AtomicU64,
    producing: AtomicUsize,
    failed: AtomicBool,
    jobs_max: u64,
    until_ns: u64,
    barrier: Barrier,
    start: Mutex<Instant>,
}

/// Puts the work on a peer for so long.
pub fn run(peer: &dyn Peer, address: &str, queue: &str, work: Work, time: Duration) -> io::Result<Round> {
    peer.prepare(address, queue)?;
    let jobs_max = work
        .rate
        .map_or(u64::MAX, |rate| (rate as f64 * time.as_secs_f64()) as u64);
    let shared = Shared {
        next: AtomicU64::new(0),
        confirmed: AtomicU64::new(0),
        done: AtomicU64::new(0),
        came: AtomicU64::new(0),
        ended_ns: AtomicU64::new(0),
        producing: AtomicUsize::new(work.producers),
        failed: AtomicBool::new(false),
        jobs_max,
        until_ns: if work.rate.is_some() {
            u64::MAX
        } else {
            time.as_nanos() as u64
        },
        barrier: Barrier::new(work.producers + work.workers + 1),
        start: Mutex::new(Instant::now()),
    };
    let mut times = Histogram::<u64>::new_with_bounds(1, NS_MAX, 3).map_err(io::Error::other)?;
    let mut failure = None;
    std::thread::scope(|scope| {
        let shared = &shared;
        let workers: Vec<_> = (0..work.workers)
            .map(|_| scope.spawn(move || shared.watched(|| worker(shared, peer, address, queue, work))))
            .collect();
        let producers: Vec<_> = (0..work.producers)
            .map(|_| {
                scope.spawn(move || {
                    let done = shared.watched(|| producer(shared, peer, address, queue, work));
                    shared.producing.fetch_sub(1, AcqRel);
                    done
                })
            })
            .collect();
        shared.barrier.wait();
        *shared.start.lock().unwrap() = Instant::now();
        shared.barrier.wait();
        for thread in producers {
            if let Err(error) = thread.join().unwrap() {
                failure = Some(error);
            }
        }
        for thread in workers {
            match thread.join().unwrap() {
                Ok(one) => times.add(&one).unwrap(),
                Err(error) => failure = Some(error),
            }
        }
    });
    if let Some(error) = failure {
        return Err(error);
    }
    let (came, confirmed) = (shared.came.into_inner(), shared.confirmed.into_inner());
    if came != confirmed {
        return Err(io::Error::other(format!(
            "{confirmed} jobs were confirmed and {came} came"
        )));
    }
    let micros = |quantile: f64| times.value_at_quantile(quantile) as f64 / 1_000.0;
    Ok(Round {
        jobs_per_s: confirmed as f64 * 1e9 / shared.ended_ns.into_inner() as f64,
        latency_us: work.rate.map(|_| [micros(0.5), micros(0.99), micros(0.999)]),
    })
}

impl Shared {
    /// Runs a thread; when it fails the others are to end too.
    fn watched<T>(&self, run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let done = run();
        if done.is_err() {
            self.failed.store(true, Relaxed);
        }
        done
    }

    fn clock(&self) -> Instant {
        self.barrier.wait();
        self.barrier.wait();
        *self.start.lock().unwrap()
    }

    /// The next portion: its first number, and how many.
    fn take(&self, batch: usize, now_ns: u64) -> Option<(u64, usize)> {
        if now_ns >= self.until_ns || self.failed.load(Relaxed) {
            return None;
        }
        let first = self.next.fetch_add(batch as u64, Relaxed);
        let left = self.jobs_max.checked_sub(first).filter(|left| *left > 0)?;
        Some((first, left.min(batch as u64) as usize))
    }

    fn is_deep(&self) -> bool {
        self.next.load(Relaxed).saturating_sub(self.done.load(Relaxed)) >= DEPTH
    }

    fn is_drained(&self) -> bool {
        let produced = self.producing.load(Relaxed) == 0;
        self.failed.load(Relaxed) || produced && self.done.load(Relaxed) >= self.confirmed.load(Relaxed)
    }
}

fn producer(shared: &Shared, peer: &dyn Peer, address: &str, queue: &str, work: Work) -> io::Result<()> {
    let connected = peer.producer(address, queue);
    let start = shared.clock();
    let mut producer = connected?;
    let now_ns = || start.elapsed().as_nanos() as u64;
    let mut payloads = vec![vec![b'.'; PAYLOAD]; work.batch];
    let mut flying: VecDeque<usize> = VecDeque::new();
    loop {
        let mut is_over = false;
        while flying.len() < work.in_flight {
            if work.rate.is_none() && shared.is_deep() {
                if flying.is_empty() {
                    std::thread::sleep(Duration::from_micros(20));
                }
                break;
            }
            let Some((first, count)) = shared.take(work.batch, now_ns()) else {
                is_over = true;
                break;
            };
            let time_ns = match work.rate {
                None => now_ns(),
                Some(rate) => {
                    let due_ns = first * 1_000_000_000 / rate;
                    hear(shared, producer.as_mut(), &mut flying, || {
                        due_ns.saturating_sub(now_ns())
                    })?;
                    due_ns
                }
            };
            for (number, payload) in (first..).zip(&mut payloads[..count]) {
                payload[..8].copy_from_slice(&number.to_le_bytes());
                payload[8..16].copy_from_slice(&time_ns.to_le_bytes());
            }
            producer.put(&payloads[..count]);
            flying.push_back(count);
            if work.rate.is_some() {
                producer.flush()?;
            }
        }
        producer.flush()?;
        if let Some(jobs) = flying.pop_front() {
            confirm(shared, producer.as_mut(), jobs)?;
            // All that one read has brought, so that one write makes up for it.
            while producer.is_buffered()
                && let Some(jobs) = flying.pop_front()
            {
                confirm(shared, producer.as_mut(), jobs)?;
            }
        } else if is_over {
            return Ok(());
        }
    }
}

fn confirm(shared: &Shared, producer: &mut dyn Produce, jobs: usize) -> io::Result<()> {
    producer.confirm(jobs)?;
    shared.confirmed.fetch_add(jobs as u64, Relaxed);
    Ok(())
}

/// Waits until nothing is left of the time, and takes confirmations in that come meanwhile.
fn hear(
    shared: &Shared,
    producer: &mut dyn Produce,
    flying: &mut VecDeque<usize>,
    left_ns: impl Fn() -> u64,
) -> io::Result<()> {
    loop {
        let left_ns = left_ns();
        if left_ns == 0 {
            return Ok(());
        }
        let left = Duration::from_nanos(left_ns);
        match flying.front() {
            None => std::thread::sleep(left),
            Some(jobs) if producer.is_confirmed(left) => {
                let jobs = *jobs;
                flying.pop_front();
                confirm(shared, producer, jobs)?;
            }
            Some(_) => {}
        }
    }
}

fn worker(
    shared: &Shared,
    peer: &dyn Peer,
    address: &str,
    queue: &str,
    work: Work,
) -> io::Result<Histogram<u64>> {
    let connected = peer.worker(address, queue);
    let start = shared.clock();
    let mut worker = connected?;
    let mut times = Histogram::<u64>::new_with_bounds(1, NS_MAX, 3).map_err(io::Error::other)?;
    let take = match work.rate {
        Some(_) => work.take.min(peer.take_max()),
        None => work.take,
    };
    while !shared.is_drained() {
        worker.take(take, work.batch, &mut |event| match event {
            Event::Came(payload) => {
                shared.came.fetch_add(1, Relaxed);
                if work.rate.is_some() {
                    let sent_ns = payload[8..16].try_into().map_or(0, u64::from_le_bytes);
                    let now_ns = start.elapsed().as_nanos() as u64;
                    times.saturating_record(now_ns.saturating_sub(sent_ns).max(1));
                }
            }
            Event::Acked(0) => {}
            Event::Acked(count) => {
                shared
                    .ended_ns
                    .fetch_max(start.elapsed().as_nanos() as u64, Relaxed);
                shared.done.fetch_add(count as u64, Relaxed);
            }
        })?;
    }
    Ok(times)
}
