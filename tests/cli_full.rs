//! Pushing into what is full: it waits and goes on, nothing is lost, nothing comes twice.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

mod cli;

use cli::{Home, eventually, lines};
use rustix::process::Signal;

fn numbers(count: usize) -> Vec<u8> {
    (1..=count)
        .flat_map(|number| format!("{number}\n").into_bytes())
        .collect()
}

#[test]
fn push_waits_for_room_in_a_queue_that_is_smaller_than_its_batches() {
    let home = Home::new();
    let _server = home.serve();
    home.json(&["queue", "create", "q", "--capacity", "30"]);
    let mut push = home.spawn(&["--json", "push", "q", "--batch", "100"]);
    push.write(&numbers(400));
    // Batches of 100 go in by parts, as far as there is room.
    eventually("the queue to be full", || {
        (home.stats("q")["ready"] == 30).then_some(())
    });
    let worker = home.spawn(&["work", "q", "--batch", "10", "-q", "--", "sh", "-c", "cat >> out"]);
    let pushed = push.finish().json();
    assert_eq!(pushed["confirmed"], 400);
    eventually("the last job", || (home.stats("q")["done"] == 400).then_some(()));
    worker.signal(Signal::TERM);
    worker.finish().expect_success();
    let mut worked: Vec<u32> = lines(&home.path("out"))
        .iter()
        .map(|line| line.parse().unwrap())
        .collect();
    worked.sort_unstable();
    assert_eq!(worked, (1..=400).collect::<Vec<_>>());
}

#[test]
fn push_fails_at_once_when_asked_to() {
    let home = Home::new();
    let _server = home.serve();
    home.json(&["queue", "create", "q", "--capacity", "3"]);
    let arguments = ["push", "q", "--batch", "1", "--fail-when-full", "--json"];
    let ran = home.ackring_with_input(&arguments, &numbers(10)).expect(1);
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["confirmed"], 3, "what went in before is told: {ran:?}");
    assert!(
        ran.stderr.contains("QUEUE_FULL") && ran.stderr.contains("job 4 of the input"),
        "{ran:?}"
    );
}

#[test]
fn a_batch_that_no_segment_can_hold_goes_in_by_parts() {
    let home = Home::new();
    let _server = home.serve_with(&["--segment-bytes", "64KiB"]);
    let input: String = (0..2_000).map(|number| format!("{number:0200}\n")).collect();
    let pushed = home.json_with_input(&["push", "q", "--batch", "2000"], input.as_bytes());
    assert_eq!(pushed["confirmed"], 2_000);
    assert_eq!(home.stats("q")["ready"], 2_000);
}

#[test]
fn push_waits_for_room_in_the_log_and_acks_still_fit() {
    let home = Home::new();
    let _server = home.serve_with(&["--segment-bytes", "64KiB", "--log-bytes-max", "1MiB"]);
    let input: String = (0..1_000).map(|number| format!("{number:02000}\n")).collect();
    home.json(&["queue", "create", "q", "--keep-finished", "0"]);
    // Twice as much as the log may take.
    std::fs::write(home.path("input"), input).unwrap();
    let push = home.spawn(&["--json", "push", "q", "input", "--batch", "10"]);
    let full = ["push", "q", "--fail-when-full"];
    let big = vec![b'x'; 30_000];
    eventually("the log to be full", || {
        home.ackring_with_input(&full, &big)
            .stderr
            .contains("LOG_FULL")
            .then_some(())
    });
    let worker = home.spawn(&["work", "q", "--batch", "50", "-q", "--", "true"]);
    assert_eq!(push.finish().json()["confirmed"], 1_000);
    eventually("the last job", || {
        let stats = home.stats("q");
        (stats["ready"] == 0 && stats["leased"] == 0).then_some(())
    });
    assert!(home.stats("q")["done"].as_u64().unwrap() >= 1_000);
    worker.signal(Signal::TERM);
    worker.finish().expect_success();
}

#[test]
fn a_payload_that_the_queue_does_not_take_is_named() {
    let home = Home::new();
    let _server = home.serve();
    home.json(&["queue", "create", "q", "--payload-max", "10"]);
    let ran = home.ackring_with_input(
        &["push", "q", "--batch", "1"],
        b"short\nmuch too long for it\nshort\n",
    );
    let ran = ran.expect(1);
    assert!(
        ran.stderr.contains("job 2 of the input") && ran.stderr.contains("--payload-max"),
        "{ran:?}"
    );
}
