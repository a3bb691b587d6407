//! Many connections, and many queues: what each takes, and what the others feel of them.

use crate::greeting::greeting;
use crate::server::{Server, data_in, life, median};
use crate::{Plan, Row};
use ackring::{EnqueueBuilder, JobOptions, QueueOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const CONNECTIONS: usize = 10_000;
const QUEUES: usize = 100_000;
/// Longer than a connection must have been silent to count as idle.
const PAUSE: Duration = Duration::from_secs(3);

/// Throughput of a server with something many and of a bare one, in turn: the ratio, and the text for it.
fn beside_bare(plan: &Plan, loaded: &Server) -> (f64, String) {
    let data = data_in(plan);
    let bare = Server::start(&data);
    let rounds: Vec<_> = (0..plan.rounds).map(|_| (life(&bare), life(loaded))).collect();
    let bare = median(rounds.iter().map(|round| round.0).collect());
    let with = median(rounds.iter().map(|round| round.1).collect());
    let ratio = with / bare;
    (ratio, format!("{ratio:.2} x the throughput of a bare server"))
}

/// Share of a core that a server takes while nobody asks it for anything.
fn rest_share(server: &Server) -> f64 {
    let before = server.cpu_s();
    std::thread::sleep(PAUSE);
    (server.cpu_s() - before) / PAUSE.as_secs_f64()
}

fn allow_files(count: u64) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum.map_or(Some(count), |most| Some(most.min(count)));
    setrlimit(Resource::Nofile, limit).unwrap();
}

pub fn idle(plan: &Plan) -> Row {
    allow_files(CONNECTIONS as u64 + 1_000);
    let data = data_in(plan);
    let server = Server::start(&data);
    let connect = |session: u128| {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        stream.write_all(&greeting(session, "idle")).unwrap();
        let mut answer = [0; 16];
        stream.read_exact(&mut answer).unwrap();
        stream
    };
    // What the first load makes of memory is not theirs.
    life(&server);
    std::thread::sleep(PAUSE);
    let before = server.memory();
    let connections: Vec<_> = (1..=CONNECTIONS).map(|number| connect(number as u128)).collect();
    std::thread::sleep(PAUSE);
    let each = (server.memory().own - before.own) as f64 / CONNECTIONS as f64;
    let share = rest_share(&server);
    let (ratio, beside) = beside_bare(plan, &server);
    drop(connections);
    Row {
        name: "idle",
        goal: format!("<= 8,192 B each of {CONNECTIONS} idle connections"),
        reached: format!("{each:.0} B, {beside}, {:.1} % of a core at rest", share * 100.0),
        is_met: each <= 8_192.0 && ratio >= 0.95,
        counted: format!(
            "growth of the server's own memory (RssAnon) over {CONNECTIONS} connections that have said HELLO; medians of {} rounds in turn",
            plan.rounds
        ),
    }
}

pub fn queues(plan: &Plan) -> Row {
    let data = data_in(plan);
    let server = Server::start(&data);
    life(&server);
    std::thread::sleep(PAUSE);
    let before = server.memory();
    let client = server.client();
    let mut job = EnqueueBuilder::new();
    job.push(&[7; 64], &JobOptions::default());
    for number in 0..QUEUES {
        let name = format!("queue-{number}");
        let queue = client.create_queue(&name, &QueueOptions::default()).unwrap();
        client.enqueue(&queue, &job, None).unwrap();
    }
    std::thread::sleep(PAUSE);
    let after = server.memory();
    let each = (after.own - before.own) as f64 / QUEUES as f64;
    let all = after.resident.saturating_sub(before.resident) as f64 / QUEUES as f64;
    let share = rest_share(&server);
    let (ratio, beside) = beside_bare(plan, &server);
    Row {
        name: "queues",
        goal: format!("<= 2,048 B each of {QUEUES} queues with a job"),
        reached: format!("{each:.0} B, {beside}, {:.1} % of a core at rest", share * 100.0),
        is_met: each.max(all) <= 2_048.0 && ratio >= 0.95,
        counted: format!(
            "growth of the server's own memory (RssAnon; of VmRSS {all:.0} B), the job's slot included; medians of {} rounds in turn",
            plan.rounds
        ),
    }
}
