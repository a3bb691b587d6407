//! A simple load over TCP: one producer and one worker connection, the full life of 64-byte jobs.
//!
//! ```sh
//! cargo run --release --example load -- [JOBS] [BATCH] [memory|written|synced]
//! ```
//!
//! Client and server share this process and the machine's cores; the bytes go through loopback sockets. Closed loop:
//! at most 16 batches are on their way into the queue and about 64 in it, so it says nothing about latency.
#![allow(clippy::disallowed_methods, reason = "a load measures time")]

use ackring::client::{Client, ClientConfig, Window};
use ackring::server::{Server, ServerConfig};
use ackring::{Durability, EngineConfig, EnqueueBuilder, JobOptions, QueueOptions, SettleBuilder};
use std::collections::VecDeque;
use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Batches that the producer keeps on their way.
const IN_FLIGHT: usize = 16;
/// Batches in the queue at which the producer lets the worker catch up: a queue, not a store.
const BACKLOG: usize = 64;

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut arguments = std::env::args().skip(1);
    let jobs: usize = arguments.next().map_or(Ok(4_000_000), |text| text.parse())?;
    let batch: usize = arguments.next().map_or(Ok(500), |text| text.parse())?;
    let durability: Durability = arguments
        .next()
        .map_or(Ok(Durability::Written), |text| text.parse())?;
    let directory = std::env::temp_dir().join(format!("ackring-load-{}", std::process::id()));
    let engine = EngineConfig {
        directory: Some(directory.clone()),
        ..EngineConfig::default()
    };
    let config = ServerConfig {
        listen: Some("127.0.0.1:0".parse()?),
        ..ServerConfig::default()
    };
    let (server, _) = Server::open(engine, config)?;
    let address = server.local_addr().ok_or("no address")?.to_string();
    let options = QueueOptions {
        durability,
        ..QueueOptions::default()
    };
    Client::connect(ClientConfig::to(&address)?)?.create_queue("load", &options)?;
    // The first round makes and touches segments and slots; the second is what counts.
    for (name, jobs) in [("warm-up", jobs / 4), ("load", jobs)] {
        let seconds = life(&address, jobs, batch)?.as_secs_f64();
        println!(
            "{name}: {jobs} jobs, batches of {batch}, {durability}: {:.3} M jobs/s",
            jobs as f64 / seconds / 1e6
        );
    }
    server.stop()?;
    std::fs::remove_dir_all(directory)?;
    Ok(())
}

/// Enqueues, delivers and acks that many jobs; returns how long that took.
fn life(address: &str, jobs: usize, batch: usize) -> Result<Duration, Box<dyn Error + Send + Sync>> {
    let producer = Client::connect(ClientConfig::to(address)?)?;
    let worker = Client::connect(ClientConfig::to(address)?)?;
    let acked = AtomicUsize::new(0);
    let acked = &acked;
    let started = Instant::now();
    std::thread::scope(|scope| {
        let produced = scope.spawn(move || -> Result<(), Box<dyn Error + Send + Sync>> {
            let queue = producer.queue("load")?;
            let mut on_the_way = VecDeque::new();
            for from in (0..jobs).step_by(batch) {
                while from > acked.load(Ordering::Relaxed) + BACKLOG * batch {
                    std::thread::yield_now();
                }
                let mut builder = EnqueueBuilder::new();
                for _ in from..(from + batch).min(jobs) {
                    builder.push(&[7; 64], &JobOptions::default());
                }
                on_the_way.push_back(producer.enqueue_start(&queue, &builder, None)?);
                if on_the_way.len() == IN_FLIGHT
                    && let Some(oldest) = on_the_way.pop_front()
                {
                    oldest.wait()?;
                }
            }
            on_the_way
                .into_iter()
                .try_for_each(|pending| pending.wait().map(|_| ()))?;
            Ok(())
        });
        let queue = worker.queue("load")?;
        let window = Window {
            jobs: (4 * batch).clamp(64, 8_192) as u32,
            ..Window::default()
        };
        let subscription = worker.subscribe(&[&queue], window)?;
        let (mut done, mut acks) = (0, VecDeque::new());
        while done < jobs {
            let Some(deliveries) = subscription.next(Duration::from_secs(10))? else {
                // A producer that was refused has said why by now, and is to be heard first.
                if produced.is_finished() {
                    break;
                }
                continue;
            };
            let mut settles = SettleBuilder::new();
            deliveries
                .iter()
                .for_each(|delivery| settles.ack(delivery.token(), None));
            done += deliveries.len();
            acked.store(done, Ordering::Relaxed);
            acks.push_back(worker.settle_start(&settles)?);
            if acks.len() == IN_FLIGHT
                && let Some(oldest) = acks.pop_front()
            {
                oldest.wait()?;
            }
        }
        acks.into_iter()
            .try_for_each(|pending| pending.wait().map(|_| ()))?;
        produced.join().map_err(|_| "the producer panicked")??;
        if done < jobs {
            return Err(format!("{} jobs were not delivered", jobs - done).into());
        }
        Ok(started.elapsed())
    })
}
