//! A disk that is really full, and one that cannot be written to.

use super::cli::{Home, Server, eventually, run};
use super::mounts::Mount;
use ackring::client::{Client, ClientConfig, ClientError, Delivery, QueueHandle, Reserve};
use ackring::{Durability, EnqueueBuilder, ErrorCode, JobOptions, QueueOptions, SettleBuilder};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, prlimit};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;

const DATA: &str = "disk/data";
const SEGMENTS: [&str; 2] = ["--segment-bytes", "1MiB"];

fn serve(home: &Home) -> Server {
    Server::start(home.serve_command(DATA, &SEGMENTS))
}

fn connect(home: &Home) -> (Client, QueueHandle) {
    let client = Client::connect(ClientConfig::to(&home.address()).unwrap()).unwrap();
    let options = QueueOptions {
        keep_finished: 0,
        durability: Durability::Synced,
        ..QueueOptions::default()
    };
    let queue = client.create_queue("q", &options).unwrap();
    (client, queue)
}

/// One batch of 20 jobs of 5,000 bytes. The numbers are those of the jobs.
fn enqueue(client: &Client, queue: &QueueHandle, next: &mut u32) -> Result<BTreeSet<u32>, ClientError> {
    let numbers: BTreeSet<u32> = (*next..*next + 20).collect();
    let mut batch = EnqueueBuilder::new();
    for number in &numbers {
        let mut payload = number.to_le_bytes().to_vec();
        payload.resize(5_000, 7);
        batch.push(&payload, &JobOptions::default());
    }
    *next += 20;
    client.enqueue(queue, &batch, None).map(|_| numbers)
}

/// Enqueues until the disk is full, and says what was confirmed.
fn fill(client: &Client, queue: &QueueHandle, next: &mut u32) -> BTreeSet<u32> {
    let mut confirmed = BTreeSet::new();
    loop {
        match enqueue(client, queue, next) {
            Ok(numbers) => confirmed.extend(numbers),
            Err(ClientError::RetryLater(refusal)) => {
                assert_eq!(refusal.code, ErrorCode::LogFull, "{refusal}");
                assert!(
                    refusal.retry_ms > 0 && refusal.text.contains("full"),
                    "{refusal:?}"
                );
                return confirmed;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn reserve(client: &Client, queue: &QueueHandle, max_jobs: u32) -> Vec<Delivery> {
    let reserve = Reserve {
        max_jobs,
        ..Reserve::default()
    };
    client.reserve(&[queue], reserve).unwrap()
}

/// Takes and acks up to `count` jobs; says which.
fn work(client: &Client, queue: &QueueHandle, count: usize) -> BTreeSet<u32> {
    let mut done = BTreeSet::new();
    while done.len() < count {
        let jobs = reserve(client, queue, 100);
        if jobs.is_empty() {
            break;
        }
        let mut acks = SettleBuilder::new();
        for job in &jobs {
            acks.ack(job.token(), None);
            let number = u32::from_le_bytes(*job.payload().first_chunk().unwrap());
            assert!(done.insert(number), "job {number} came twice");
        }
        assert_eq!(client.settle(&acks).unwrap().items, []);
    }
    done
}

/// Takes what room there is.
fn take_room(ballast: &Path) {
    let mut file = fs::File::create(ballast).unwrap();
    for piece in [1 << 20, 1 << 16, 1 << 12, 1] {
        while file.write(&vec![1; piece]).is_ok_and(|len| len == piece) {}
    }
    let _ = file.sync_all();
}

fn a_full_disk_refuses_jobs_takes_acks_and_recovers(home: &Home) {
    let (mut next, mut confirmed) = (0, BTreeSet::new());
    fs::write(home.path("disk/ballast"), vec![1; 3 << 20]).unwrap();
    let server = serve(home);
    let (client, queue) = connect(home);

    confirmed.extend(fill(&client, &queue, &mut next));
    assert!(confirmed.len() > 100, "only {} jobs fitted", confirmed.len());
    // Room that comes back is used, without anything having been settled.
    fs::remove_file(home.path("disk/ballast")).unwrap();
    let more = eventually("room on the disk", || enqueue(&client, &queue, &mut next).ok());
    confirmed.extend(more);
    confirmed.extend(fill(&client, &queue, &mut next));
    take_room(&home.path("disk/ballast"));

    // Full to the last byte. Jobs can be handed out and settled, and a kill loses nothing.
    let half = confirmed.len() / 2;
    let mut done = work(&client, &queue, half);
    assert!(done.len() >= half);
    server.kill();
    let server = serve(home);
    let left = confirmed.len() - done.len();
    assert_eq!(home.stats("q")["ready"].as_u64(), Some(left as u64));
    done.extend(work(&client, &queue, left));
    assert_eq!(done, confirmed);
    // What is settled makes room, though the disk is as full as before.
    let more = eventually("room in the log", || enqueue(&client, &queue, &mut next).ok());
    assert_eq!(work(&client, &queue, more.len()), more);
    assert_eq!(server.stop(Signal::TERM).code(), Some(0));

    // A log that has nothing at all needs room to begin.
    let ran = run(home.serve_command("disk/another", &SEGMENTS), b"").expect(1);
    assert!(
        ran.stderr.contains("another") && ran.stderr.contains("space"),
        "{ran:?}"
    );
    fs::remove_file(home.path("disk/ballast")).unwrap();
    assert_eq!(serve(home).stop(Signal::TERM).code(), Some(0));
}

#[test]
fn a_full_tmpfs_refuses_jobs_and_takes_acks() {
    let home = Home::new();
    if let Some(_mount) = Mount::tmpfs(&home.path("disk"), c"size=16m") {
        a_full_disk_refuses_jobs_takes_acks_and_recovers(&home);
    }
}

#[test]
fn a_full_ext4_refuses_jobs_and_takes_acks() {
    let home = Home::new();
    if let Some(_mount) = Mount::ext4(&home.path("disk"), &home.path("image"), 24) {
        a_full_disk_refuses_jobs_takes_acks_and_recovers(&home);
    }
}

#[test]
fn a_log_on_a_disk_that_cannot_be_written_is_refused_and_can_be_read() {
    let home = Home::new();
    let Some(mount) = Mount::tmpfs(&home.path("disk"), c"size=16m") else {
        return;
    };
    let server = serve(&home);
    home.json_with_input(&["push", "q"], b"one\ntwo\n");
    assert_eq!(server.stop(Signal::TERM).code(), Some(0));
    mount.make_read_only();
    let ran = run(home.serve_command(DATA, &SEGMENTS), b"").expect(1);
    assert!(
        ran.stderr.contains("lock") && ran.stderr.contains("Read-only"),
        "{ran:?}"
    );
    let ran = run(home.serve_command("disk/another", &SEGMENTS), b"").expect(1);
    assert!(
        ran.stderr.contains("another") && ran.stderr.contains("Read-only"),
        "{ran:?}"
    );
    home.ackring(&["log", "verify", DATA]).expect(0);
}

#[test]
fn a_directory_that_took_no_new_files_stopped_the_server_for_good() {
    let home = Home::new();
    let Some(_mount) = Mount::ext4(&home.path("disk"), &home.path("image"), 24) else {
        return;
    };
    let server = serve(&home);
    let (client, queue) = connect(&home);
    let mut next = 0;
    let mut confirmed = enqueue(&client, &queue, &mut next).unwrap();
    let data = home.path(DATA);
    // Root may write where modes forbid it; this it may not.
    if let Err(why) = super::mounts::tool("chattr", &["+i", data.to_str().unwrap()]) {
        super::mounts::skipped(&format!("no file can be made immutable here ({why})"));
        return;
    }
    confirmed.extend(fill(&client, &queue, &mut next));
    // What is there can be settled meanwhile.
    let mut done = work(&client, &queue, 20);
    super::mounts::tool("chattr", &["-i", data.to_str().unwrap()]).unwrap();
    let more = eventually("a file more", || enqueue(&client, &queue, &mut next).ok());
    confirmed.extend(more);
    server.kill();
    let _server = serve(&home);
    done.extend(work(&client, &queue, usize::MAX));
    assert_eq!(done, confirmed);
}

#[test]
fn a_server_that_had_too_many_files_open_stopped_for_good() {
    let home = Home::new();
    fs::create_dir(home.path("disk")).unwrap();
    let server = serve(&home);
    let (client, queue) = connect(&home);
    let (mut next, mut confirmed) = (0, BTreeSet::new());
    confirmed.extend(enqueue(&client, &queue, &mut next).unwrap());
    let limit = |open_files| {
        let soft = |limits: Rlimit| Rlimit {
            current: open_files,
            ..limits
        };
        let now = prlimit(
            Some(server.pid()),
            Resource::Nofile,
            soft(getrlimit(Resource::Nofile)),
        );
        now.unwrap().current
    };
    // What is open stays open.
    let usual = limit(Some(1));
    confirmed.extend(fill(&client, &queue, &mut next));
    let refused = enqueue(&client, &queue, &mut next).unwrap_err().to_string();
    assert!(refused.contains("Too many open files"), "{refused}");
    let mut done = work(&client, &queue, 20);
    assert!(done.len() >= 20);
    // Whoever connects meanwhile waits.
    let another = home.spawn(&["stats"]);
    limit(usual);
    another.finish().expect_success();
    confirmed.extend(eventually("a file more", || {
        enqueue(&client, &queue, &mut next).ok()
    }));
    server.kill();
    let _server = serve(&home);
    done.extend(work(&client, &queue, usize::MAX));
    assert_eq!(done, confirmed);
}
