//! A disk whose syncs fail: what they should have kept is lost, though it can still be read for a while.

use super::disk::{Disk, Mood};
use super::fuse::Mounted;
use super::{mount, serve};
use crate::cli::{Home, Server, eventually};
use crate::seed::Random;
use ackring::client::{Client, ClientConfig, ClientError, QueueHandle, Reserve};
use ackring::{Durability, EnqueueBuilder, JobOptions};
use std::collections::BTreeSet;
use std::time::Duration;

fn connect(home: &Home) -> (Client, QueueHandle) {
    let config = ClientConfig {
        request_timeout: Duration::from_secs(5),
        ..ClientConfig::to(&home.address()).unwrap()
    };
    let client = Client::connect(config).unwrap();
    let queue = client.queue("q").unwrap();
    (client, queue)
}

fn enqueue(client: &Client, queue: &QueueHandle, number: u32, level: Durability) -> Result<(), ClientError> {
    let mut batch = EnqueueBuilder::new();
    batch.push(&number.to_le_bytes(), &JobOptions::default());
    client.enqueue(queue, &batch, Some(level)).map(drop)
}

fn all(client: &Client, queue: &QueueHandle) -> BTreeSet<u32> {
    let reserve = Reserve {
        max_jobs: 1_000,
        ..Reserve::default()
    };
    let jobs = client.reserve(&[queue], reserve).unwrap();
    let number = |payload: &[u8]| u32::from_le_bytes(payload.try_into().unwrap());
    jobs.iter().map(|job| number(job.payload())).collect()
}

/// What the disk has when nothing more is written back.
fn after_cut(home: &Home, mounted: Mounted) -> (Mounted, Server) {
    let disk = mounted.take_out().after_power_cut(&mut Random::part(1, 1));
    let mounted = Mounted::at(&home.path("disk"), disk).unwrap();
    let server = serve(home);
    (mounted, server)
}

#[test]
fn a_sync_that_fails_ends_the_server_and_confirms_nothing() {
    let home = Home::new();
    let Some(mounted) = mount(&home.path("disk"), Disk::new()) else {
        return;
    };
    let server = serve(&home);
    let (client, queue) = connect(&home);
    let (second, second_queue) = connect(&home);
    for number in 0..20 {
        enqueue(&client, &queue, number, Durability::Synced).unwrap();
    }
    mounted.disk(|disk| disk.mood = Mood::FailsSyncs);
    // All who wait for the disk are told; nobody is told that it went well.
    std::thread::scope(|scope| {
        let clients = [(&client, &queue), (&second, &second_queue)];
        let waiting = clients
            .map(|(client, queue)| scope.spawn(move || enqueue(client, queue, 100, Durability::Synced)));
        for waiting in waiting {
            let told = waiting.join().unwrap().unwrap_err();
            assert!(
                matches!(
                    told,
                    ClientError::OutcomeUnknown { .. } | ClientError::NoConnection { .. }
                ),
                "{told}"
            );
        }
    });
    assert_eq!(server.ended().code(), Some(1));
    // The sync failed once. What a later one would have said does not matter any more.
    mounted.disk(|disk| disk.mood = Mood::Sound);
    let (_mounted, _server) = after_cut(&home, mounted);
    let (client, queue) = connect(&home);
    let there = all(&client, &queue);
    assert!(there.is_superset(&(0..20).collect()), "{there:?}");
}

#[test]
fn a_background_sync_that_fails_ends_the_server_too() {
    let home = Home::new();
    let Some(mounted) = mount(&home.path("disk"), Disk::new()) else {
        return;
    };
    let server = serve(&home);
    let (client, queue) = connect(&home);
    enqueue(&client, &queue, 1, Durability::Synced).unwrap();
    // Until the server has all that it prepares at its start.
    let marker = b"written, and on the disk by and by";
    client
        .enqueue_one(&queue, marker, &JobOptions::default())
        .unwrap();
    eventually("the background sync", || {
        mounted.disk(|disk| disk.has_synced(marker).then_some(()))
    });
    mounted.disk(|disk| disk.mood = Mood::FailsSyncs);
    // Confirmed as written, which it is; but nobody is to believe for long that it will be on the disk.
    enqueue(&client, &queue, 2, Durability::Written).unwrap();
    assert_eq!(server.ended().code(), Some(1));
    // The failed sync has left pages in the cache that look as if they were written. A start must not believe them.
    mounted.disk(|disk| disk.mood = Mood::Sound);
    let server = serve(&home);
    let there = home.stats("q")["ready"].as_u64().unwrap();
    assert!(there >= 2, "{there} of the two jobs that were on the disk");
    server.kill();
    let (_mounted, _server) = after_cut(&home, mounted);
    assert!(
        home.stats("q")["ready"].as_u64().unwrap() >= there,
        "what a start recovers, the disk has"
    );
}

#[test]
fn what_is_written_comes_to_the_disk_by_itself() {
    let home = Home::new();
    let Some(mounted) = mount(&home.path("disk"), Disk::new()) else {
        return;
    };
    let server = serve(&home);
    let (client, queue) = connect(&home);
    let payload = b"nobody asks for a sync of this";
    let mut batch = EnqueueBuilder::new();
    batch.push(payload, &JobOptions::default());
    client.enqueue(&queue, &batch, Some(Durability::Written)).unwrap();
    let begin = std::time::Instant::now();
    eventually("the background sync", || {
        mounted.disk(|disk| disk.has_synced(payload).then_some(()))
    });
    println!(
        "a written job was on the disk after {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    mounted.cut_power();
    server.kill();
    let (_mounted, _server) = after_cut(&home, mounted);
    assert_eq!(home.stats("q")["ready"], 1);
}
