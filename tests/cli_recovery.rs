//! A damaged log, as a person meets it: what `log verify` says, and what `serve --salvage` leaves.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

mod cli;

use cli::{Home, Ran, snapshot};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

/// A log in which four jobs were enqueued one after the other, one of them was done and one failed.
fn worked_on() -> Home {
    let home = Home::new();
    let server = home.serve();
    for line in ["first\n", "second\n", "third\n"] {
        home.json_with_input(&["push", "mail"], line.as_bytes());
    }
    home.json_with_input(&["push", "images"], b"fourth\n");
    home.json(&["work", "mail", "--max-jobs", "1", "--", "true"]);
    home.json(&["work", "mail", "--max-jobs", "1", "--", "false"]);
    server.stop(Signal::TERM);
    home
}

fn dumped(home: &Home) -> Vec<Value> {
    let ran = home.ackring(&["--json", "log", "dump", "data"]).expect(0);
    let records = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap());
    records.collect()
}

/// Where the `index`th record of a kind stands: its file, offset and length.
fn record(home: &Home, kind: &str, index: usize) -> (PathBuf, usize, usize) {
    let record = dumped(home)
        .into_iter()
        .filter(|record| record["kind"] == kind)
        .nth(index);
    let record = record.unwrap();
    let position = record["position"].as_str().unwrap();
    let (sequence, offset) = position.split_once(':').unwrap();
    assert_eq!(sequence, "1");
    let len = 32 + record["bytes"].as_u64().unwrap() as usize;
    (home.data().join("00000001.segment"), offset.parse().unwrap(), len)
}

/// Flips a bit in the last byte of a record.
fn flip(place: &(PathBuf, usize, usize)) {
    let (path, offset, len) = place;
    let mut bytes = fs::read(path).unwrap();
    bytes[offset + len - 1] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn erase(place: &(PathBuf, usize, usize)) {
    let (path, offset, len) = place;
    let mut bytes = fs::read(path).unwrap();
    bytes[*offset..offset + len].fill(0);
    fs::write(path, bytes).unwrap();
}

fn verify(home: &Home, code: i32) -> (Value, Ran) {
    let ran = home.ackring(&["--json", "log", "verify", "data"]).expect(code);
    (
        serde_json::from_str(&ran.stdout).unwrap(),
        home.ackring(&["log", "verify", "data"]).expect(code),
    )
}

/// The one report of a salvage. The server may be making and removing segments beside it.
fn report(home: &Home) -> String {
    let entries = std::fs::read_dir(home.data())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut reports = entries.filter(|path| path.extension().is_some_and(|extension| extension == "txt"));
    let path = reports.next().unwrap();
    assert!(reports.next().is_none());
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn verify_names_the_place_the_damage_and_the_jobs() {
    let home = worked_on();
    let sound = verify(&home, 0).0;
    assert_eq!(
        sound["recovered"]["queues"].as_array().unwrap().len(),
        2,
        "{sound}"
    );
    let place = record(&home, "enqueue", 1);
    let id = dumped(&home)[3]["jobs"][0]["id"].clone();
    flip(&place);
    let (verdict, people) = verify(&home, 5);
    let [damaged] = &verdict["corruptions"].as_array().unwrap()[..] else {
        panic!("{verdict}")
    };
    for (name, expected) in [
        ("damage", json!("bad-checksum")),
        ("offset", json!(place.1)),
        ("sequence", json!(1)),
        ("bytes", json!(place.2)),
        ("records", json!(1)),
        ("enqueued", json!({"mail": 1})),
    ] {
        assert_eq!(damaged[name], expected, "{name} of {damaged}");
    }
    assert!(damaged["written_after_ms"].as_u64().unwrap() > 0);
    // It failed once, which a later record tells: so its body is missed.
    let lost = &verdict["lost"]["jobs"][0];
    assert_eq!(
        (&lost["id"], &lost["queue"]),
        (&damaged["jobs"][0]["id"], &json!("mail")),
        "{verdict} {id}"
    );
    assert_eq!(lost["state"], "scheduled");
    let text = people.stdout;
    for expected in [
        "00000001.segment, segment 1",
        "checksum is wrong",
        "1 jobs enqueued in mail",
        "--salvage",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
}

#[test]
fn an_end_that_a_crash_left_is_told_apart_from_damage() {
    let home = Home::new();
    let server = home.serve();
    home.json_with_input(&["push", "mail"], b"first\n");
    home.json_with_input(&["push", "mail"], b"second\n");
    server.kill();
    let last = record(&home, "enqueue", 1);
    // Nothing behind it knows that it was on the disk, unless the background sync has passed by.
    let is_last = dumped(&home).last().unwrap()["kind"] == "enqueue";
    flip(&last);
    let ran = home.ackring(&["--json", "log", "verify", "data"]);
    let verdict: Value = serde_json::from_str(&ran.stdout).unwrap();
    let code = if verdict["ok"] == true { 4 } else { 5 };
    assert_eq!(ran.code, Some(code), "{ran:?}");
    assert_eq!(verdict["torn_tail"], json!(code == 4 && is_last), "{verdict}");
    assert_eq!(verdict["recovered"]["ready"], 1);
}

#[test]
fn a_salvage_writes_down_what_it_leaves_and_the_next_start_is_content() {
    let home = worked_on();
    let place = record(&home, "enqueue", 1);
    flip(&place);
    let damaged = fs::read(&place.0).unwrap()[place.1..place.1 + place.2].to_vec();
    let before = snapshot(&home.data());
    home.ackring(&[
        "serve",
        "--data",
        "data",
        "--listen",
        "none",
        "--unix",
        "s",
        "--segment-bytes",
        "1MiB",
    ])
    .expect(1);
    assert_eq!(snapshot(&home.data()), before, "a refused start changes nothing");

    let server = home.serve_with(&["--salvage"]);
    let line = server
        .lines
        .iter()
        .find(|line| line.contains("left 1 damaged place"));
    let path = line.unwrap().rsplit(' ').next().unwrap().to_owned();
    assert!(home.path(&path).exists(), "{:?}", server.lines);
    let stats = home.stats("mail");
    assert_eq!(
        (&stats["ready"], &stats["kept"]),
        (&json!(1), &json!(1)),
        "{stats}"
    );
    server.stop(Signal::TERM);
    let text = report(&home);
    for expected in [
        "00000001.segment",
        "mail",
        "Jobs that are lost",
        "scheduled, 1 attempts, mail",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    let files = snapshot(&home.data());
    let kept = files.iter().find(|(path, _)| {
        text.contains(&format!(
            "kept in {}",
            path.strip_prefix(home.path("")).unwrap().display()
        ))
    });
    assert_eq!(kept.unwrap().1, damaged);

    let server = home.serve();
    assert!(
        !server.lines.iter().any(|line| line.contains("damaged")),
        "{:?}",
        server.lines
    );
    assert_eq!(home.stats("mail")["ready"], 1);
    server.stop(Signal::TERM);
    verify(&home, 0);
}

#[test]
fn salvage_of_a_sound_log_changes_nothing_for_anybody() {
    let home = worked_on();
    let server = home.serve_with(&["--salvage", "--json"]);
    let line: Value = serde_json::from_str(&server.lines[0]).unwrap();
    assert_eq!(line["recovered"]["salvaged"], json!([]));
    assert_eq!(line["recovered"]["salvage_report"], Value::Null);
    server.stop(Signal::TERM);
    let names = snapshot(&home.data()).into_iter().map(|(path, _)| path);
    assert!(
        !names
            .into_iter()
            .any(|path| path.to_str().unwrap().contains("salvage"))
    );
}

#[test]
fn jobs_of_a_queue_whose_definition_is_lost_come_back_in_a_queue_that_says_so() {
    let home = worked_on();
    let definitions = dumped(&home)
        .into_iter()
        .filter(|record| record["kind"] == "queue")
        .count();
    assert_eq!(definitions, 2);
    erase(&record(&home, "queue", 1));
    let verdict = verify(&home, 5).0;
    assert_eq!(verdict["lost"]["queues"], json!(["salvaged-1"]), "{verdict}");
    let server = home.serve_with(&["--salvage"]);
    assert_eq!(home.stats("salvaged-1")["ready"], 1);
    assert!(report(&home).contains("salvaged-1"));
    server.stop(Signal::TERM);
    let server = home.serve();
    let worked = home.json(&["work", "salvaged-1", "--max-jobs", "1", "--", "grep", "fourth"]);
    assert_eq!(worked["acked"], 1, "{worked}");
    server.stop(Signal::TERM);
}

#[test]
fn a_start_says_what_came_back_of_which_queue() {
    let home = worked_on();
    let server = home.serve();
    let text = server.lines.join("\n");
    for expected in ["  mail: 1 ready", "1 finished", "  images: 1 ready"] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    server.stop(Signal::TERM);
    let server = home.serve_with(&["--json"]);
    let line: Value = serde_json::from_str(&server.lines[0]).unwrap();
    let queues = &line["recovered"]["by_queue"];
    assert_eq!(
        (&queues[0]["name"], &queues[1]["name"]),
        (&json!("mail"), &json!("images")),
        "{line}"
    );
    assert!(line["recovered"]["bytes"].as_u64().unwrap() > 0);
}
