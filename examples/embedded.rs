//! The engine linked into a program: enqueue, work with several threads, survive a restart.
//!
//! ```sh
//! cargo run --release --example embedded
//! ```
#![allow(clippy::disallowed_methods, reason = "an example may say how long it took")]

use std::error::Error;
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::temp_dir().join(format!("ackring-example-{}", std::process::id()));
    let run = run(&directory);
    std::fs::remove_dir_all(&directory)?;
    run
}

fn run(directory: &std::path::Path) -> Result<(), Box<dyn Error>> {
    // The first life of the process enqueues, and works on a part.
    let engine = ackring::Engine::open(directory)?;
    let numbers = engine.queue("numbers")?;
    for n in 0..1_000u32 {
        numbers.enqueue(&n.to_le_bytes())?;
    }
    for job in numbers.reserve_batch(400, Duration::ZERO)? {
        job.ack()?;
    }
    drop((numbers, engine));

    // The second finds the rest and works on it with two threads.
    let engine = ackring::Engine::open(directory)?;
    println!("after the restart {} jobs are ready", engine.recovered().ready);
    let numbers = engine.queue("numbers")?;
    let started = Instant::now();
    let done: u32 = std::thread::scope(|scope| {
        let workers = [(); 2].map(|()| {
            let numbers = numbers.clone();
            scope.spawn(move || {
                let mut done = 0;
                while let Ok(Some(job)) = numbers.reserve(Duration::from_millis(50)) {
                    done += u32::from(job.ack().is_ok());
                }
                done
            })
        });
        workers.into_iter().map(|worker| worker.join().unwrap_or(0)).sum()
    });
    println!(
        "worked on {done} of them in {:?}, then waited in vain for more",
        started.elapsed()
    );
    println!("{:?}", numbers.stats()?.counts);
    Ok(())
}
