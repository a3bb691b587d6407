//! Looking at logs offline.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

mod cli;

use cli::{Home, snapshot};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;

/// A log in which three jobs were enqueued one after the other and one of them was done.
fn worked_on() -> Home {
    let home = Home::new();
    let server = home.serve();
    for line in ["first\n", "second\n", "third\n"] {
        home.json_with_input(&["push", "q", "--durability", "synced"], line.as_bytes());
    }
    home.json(&["work", "q", "--max-jobs", "1", "--", "true"]);
    server.stop(Signal::TERM);
    home
}

#[test]
fn a_sound_log_is_sound_and_stays_as_it_is() {
    let home = worked_on();
    let before = snapshot(&home.data());
    let verdict = home.json(&["log", "verify", "data"]);
    assert_eq!(
        (&verdict["ok"], &verdict["corruptions"]),
        (&json!(true), &json!([])),
        "{verdict}"
    );
    assert!(verdict["records"].as_u64().unwrap() >= 6, "{verdict}");
    assert!(
        home.ackring(&["log", "verify", "data"])
            .expect(0)
            .stdout
            .contains("records")
    );

    let dumped = home.ackring(&["log", "dump", "data", "--json"]).expect(0);
    let records: Vec<Value> = dumped
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(records.len() as u64, verdict["records"].as_u64().unwrap());
    let of = |kind: &str| {
        records
            .iter()
            .filter(|record| record["kind"] == kind)
            .collect::<Vec<_>>()
    };
    assert_eq!(of("enqueue").len(), 3);
    let job = &of("enqueue")[0]["jobs"][0];
    let reserved = &of("reserve")[0]["jobs"][0];
    assert_eq!((&reserved["id"], &reserved["attempt"]), (&job["id"], &json!(1)));
    let done = &of("change")[0]["jobs"][0];
    assert_eq!((&done["id"], &done["became"]), (&job["id"], &json!("done")));

    let text = home.ackring(&["log", "dump", "data"]).expect(0).stdout;
    assert_eq!(text.lines().count(), records.len());
    assert_eq!(snapshot(&home.data()), before);
}

#[test]
fn damage_is_found_and_nothing_is_changed() {
    let home = worked_on();
    let segment = snapshot(&home.data())
        .into_iter()
        .find(|(path, _)| path.ends_with("00000001.segment"));
    let (path, mut bytes) = segment.unwrap();
    let at = bytes.windows(5).position(|window| window == b"first").unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
    let before = snapshot(&home.data());
    let ran = home.ackring(&["log", "verify", "data", "--json"]).expect(5);
    let verdict: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(verdict["ok"], false);
    assert_eq!(verdict["corruptions"].as_array().unwrap().len(), 1, "{verdict}");
    assert!(ran.stderr.contains("--salvage"), "{ran:?}");
    // What can be read is shown all the same.
    assert!(
        home.ackring(&["log", "dump", "data"])
            .expect(5)
            .stdout
            .lines()
            .count()
            >= 5
    );
    assert_eq!(snapshot(&home.data()), before);
}

#[test]
fn a_log_in_use_or_none_at_all_is_told() {
    let home = Home::new();
    let _server = home.serve();
    assert!(
        home.ackring(&["log", "verify", "data"])
            .expect(1)
            .stderr
            .contains("in use")
    );
    for command in ["verify", "dump"] {
        home.ackring(&["log", command, "nowhere"]).expect(1);
    }
    assert!(!home.path("nowhere").exists());
}
