//! Many jobs, and large ones.

use crate::server::{Server, bench, data_in, median};
use crate::{Plan, Row};
use ackring::{EnqueueBuilder, JobOptions, QueueOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

const PAYLOAD: usize = 64;
const BATCH: usize = 5_000;

/// The full life of jobs behind a large and behind a small backlog, in turn.
pub fn backlog(plan: &Plan) -> Row {
    let data = plan.data.to_string_lossy();
    let twice = (2 * plan.jobs).to_string();
    let run = |jobs: u64| {
        let jobs = jobs.to_string();
        let report = bench(&[
            "life",
            "--spawn",
            "--data",
            &data,
            // Twice the backlog: at first the log grows, by the attempts and acks that stand between the jobs from then on.
            "--jobs",
            &twice,
            "--backlog",
            &jobs,
        ]);
        report["jobs_per_s"].as_f64().unwrap()
    };
    let rounds: Vec<_> = (0..plan.rounds).map(|_| (run(1_000), run(plan.jobs))).collect();
    let small = median(rounds.iter().map(|round| round.0).collect());
    let large = median(rounds.iter().map(|round| round.1).collect());
    Row {
        name: "backlog",
        goal: format!(">= 0.80 x behind {} jobs", plan.jobs),
        reached: format!(
            "{:.2} x ({:.2} M jobs/s, {:.2} M)",
            large / small,
            large / 1e6,
            small / 1e6
        ),
        is_met: large >= 0.8 * small,
        counted: format!(
            "medians of {} rounds in turn against a backlog of 1,000; life over TCP, written, batches of 500",
            plan.rounds
        ),
    }
}

/// Memory of jobs that wait, and how long a server that was killed takes to have them back.
pub fn pending(plan: &Plan) -> Vec<Row> {
    let data = data_in(plan);
    let first = plan.jobs / 5;
    let (few, many) = {
        let server = Server::start(&data);
        let client = server.client();
        let queue = client.create_queue("pending", &QueueOptions::default()).unwrap();
        let fill = |jobs: u64| {
            let (mut batch, mut left) = (EnqueueBuilder::new(), jobs);
            while left > 0 {
                let count = left.min(BATCH as u64);
                batch.clear();
                (0..count).for_each(|_| batch.push(&[7; PAYLOAD], &JobOptions::default()));
                client.enqueue(&queue, &batch, None).unwrap();
                left -= count;
            }
            server.memory()
        };
        (fill(first), fill(plan.jobs - first))
        // Dropped, and so killed, with the jobs in it.
    };
    let jobs = (plan.jobs - first) as f64;
    let each = (many.resident - few.resident) as f64 / jobs;
    let own = (many.own - few.own) as f64 / jobs;
    let starts = (0..plan.rounds).map(|_| {
        let server = Server::start(&data);
        let stats = server.client().queue_info("pending").unwrap();
        assert_eq!(stats.counts.ready, plan.jobs, "jobs came back");
        server.started_in.as_secs_f64()
    });
    let starts: Vec<f64> = starts.collect();
    let seconds = median(starts.clone());
    vec![
        Row {
            name: "recovery",
            goal: "<= 3.0 s for 10,000,000 pending jobs".to_owned(),
            reached: format!("{seconds:.2} s for {}", plan.jobs),
            is_met: seconds * 1e7 / plan.jobs as f64 <= 3.0,
            counted: format!(
                "after kill -9, from the start of the process to its address on stdout; median of {starts:.2?}"
            ),
        },
        Row {
            name: "memory",
            goal: "<= 180 B a pending 64-byte job".to_owned(),
            reached: format!("{each:.1} B"),
            is_met: each <= 180.0,
            counted: format!(
                "growth of VmRSS, own memory ({own:.1} B) and mapped log pages with the payload, from {first} jobs to {}",
                plan.jobs
            ),
        },
    ]
}

/// Bytes a second through one loopback connection.
fn loopback() -> f64 {
    const CHUNK: usize = 256 * 1024;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut other, _) = listener.accept().unwrap();
    let reader = std::thread::spawn(move || {
        let mut chunk = vec![0; CHUNK];
        while let Ok(1..) = other.read(&mut chunk) {}
    });
    let (start, chunk, mut bytes) = (Instant::now(), vec![1; CHUNK], 0);
    while start.elapsed() < Duration::from_secs(2) {
        one.write_all(&chunk).unwrap();
        bytes += CHUNK;
    }
    drop(one);
    reader.join().unwrap();
    bytes as f64 / start.elapsed().as_secs_f64()
}

/// Payloads of the largest size: into the server and out of it again.
pub fn large(plan: &Plan) -> Row {
    let data = plan.data.to_string_lossy();
    let run = || {
        let report = bench(&[
            "life",
            "--spawn",
            "--data",
            &data,
            "--duration",
            "3s",
            "--payload",
            "16MiB",
            "--batch",
            "1",
            "--in-flight",
            "4",
            "--durability",
            "memory",
        ]);
        let bytes = report["bytes_sent"].as_f64().unwrap() + report["bytes_received"].as_f64().unwrap();
        let cpu_s = report["client_cpu_s"].as_f64().unwrap() + report["server_cpu_s"].as_f64().unwrap();
        (bytes / report["seconds"].as_f64().unwrap(), cpu_s / bytes * 1e9)
    };
    let rounds: Vec<_> = (0..plan.rounds).map(|_| (loopback(), run())).collect();
    let bare = median(rounds.iter().map(|round| round.0).collect());
    let ours = median(rounds.iter().map(|round| round.1.0).collect());
    let cpu_s = median(rounds.iter().map(|round| round.1.1).collect());
    Row {
        name: "large",
        goal: ">= 0.50 x loopback with 16 MiB".to_owned(),
        reached: format!(
            "{:.2} x ({:.2} GB/s, bare {:.2})",
            ours / bare,
            ours / 1e9,
            bare / 1e9
        ),
        is_met: ours >= 0.5 * bare,
        counted: format!(
            "bytes on both ways through the server's sockets; {cpu_s:.2} s of processor a GB, client and server; medians of {} rounds \
             in turn; life over TCP, memory, a connection on each side",
            plan.rounds
        ),
    }
}
