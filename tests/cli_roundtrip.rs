//! Jobs through the built binary: in, out, and looked at in between.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

mod cli;

use cli::{Home, lines};
use serde_json::{Value, json};
use std::fs;

fn numbers(count: usize) -> Vec<u8> {
    (1..=count)
        .flat_map(|number| format!("line {number}\n").into_bytes())
        .collect()
}

#[test]
fn every_line_that_is_pushed_is_worked_once() {
    let home = Home::new();
    let _server = home.serve();
    fs::write(home.path("input"), numbers(300)).unwrap();
    let pushed = home.json(&["push", "lines", "input", "--batch", "7"]);
    assert_eq!(pushed["confirmed"], 300);
    assert!(pushed["jobs_per_s"].as_f64().unwrap() > 0.0);
    assert_eq!(pushed["durability"], "written");
    assert_eq!(home.stats("lines")["ready"], 300);

    let script = "read -r line; echo \"$line\" >> out";
    let worked = home.json(&[
        "work",
        "lines",
        "-j",
        "3",
        "--until-empty",
        "--",
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(worked["acked"], 300, "{worked}");
    let stats = home.stats("lines");
    for (name, count) in [
        ("ready", 0),
        ("scheduled", 0),
        ("leased", 0),
        ("dead", 0),
        ("done", 300),
    ] {
        assert_eq!(stats[name], count, "{name} in {stats}");
    }
    let mut out = lines(&home.path("out"));
    out.sort_by_key(|line| line[5..].parse::<u32>().unwrap());
    assert_eq!(out.join("\n").into_bytes(), numbers(300).trim_ascii_end());
}

#[test]
fn a_payload_is_the_line_byte_for_byte() {
    let home = Home::new();
    let _server = home.serve();
    let input = b"plain\n\n\xff\x00binary\r\nlast without an end";
    let pushed = home.json_with_input(&["push", "bytes", "-"], input);
    assert_eq!(pushed["confirmed"], 4);
    let worked = home.json(&[
        "work",
        "bytes",
        "--until-empty",
        "--",
        "sh",
        "-c",
        "cat >> out; echo '|' >> out",
    ]);
    assert_eq!(worked["acked"], 4);
    let expected = b"plain|\n|\n\xff\x00binary\r|\nlast without an end|\n";
    assert_eq!(fs::read(home.path("out")).unwrap(), expected);
}

#[test]
fn whole_files_are_jobs_with_their_options() {
    let home = Home::new();
    let _server = home.serve();
    fs::write(home.path("a"), "one\ntwo\n").unwrap();
    fs::write(home.path("b"), "").unwrap();
    let arguments = [
        "push",
        "files",
        "--whole",
        "a",
        "b",
        "--priority",
        "5",
        "--meta",
        "note",
        "--max-attempts",
        "3",
    ];
    assert_eq!(home.json(&arguments)["confirmed"], 2);
    let jobs = home.json(&["job", "peek", "files"]);
    let first = &jobs["jobs"][0];
    for (name, value) in [
        ("payload", json!("one\ntwo\n")),
        ("priority", json!(5)),
        ("meta", json!("note")),
        ("max_attempts", json!(3)),
        ("payload_bytes", json!(8)),
    ] {
        assert_eq!(first[name], value, "{name} in {first}");
    }
    assert_eq!(jobs["jobs"][1]["payload"], "");
    let script = "test \"$ACKRING_META\" = note && test \"$ACKRING_QUEUE\" = files";
    assert_eq!(
        home.json(&["work", "files", "--until-empty", "--", "sh", "-c", script])["acked"],
        2
    );
}

#[test]
fn higher_priorities_come_first_and_lines_keep_their_order() {
    let home = Home::new();
    let _server = home.serve();
    home.json_with_input(&["push", "order"], b"low 1\nlow 2\n");
    home.json_with_input(&["push", "order", "--priority", "7"], b"high 1\nhigh 2\n");
    home.json(&[
        "work",
        "order",
        "--until-empty",
        "--",
        "sh",
        "-c",
        "cat >> out; echo >> out",
    ]);
    assert_eq!(lines(&home.path("out")), ["high 1", "high 2", "low 1", "low 2"]);
}

#[test]
fn a_push_under_keys_can_be_repeated() {
    let home = Home::new();
    let _server = home.serve();
    let push =
        |input: &[u8]| home.ackring_with_input(&["push", "keyed", "--json", "--key", "june-{}"], input);
    let first = push(b"a\nb\nc\n").json();
    assert_eq!(
        (&first["confirmed"], &first["duplicates"]),
        (&json!(3), &json!(0))
    );
    let again = push(b"a\nb\nc\nd\n").json();
    assert_eq!(
        (&again["confirmed"], &again["duplicates"]),
        (&json!(4), &json!(3))
    );
    assert_eq!(home.stats("keyed")["ready"], 4);

    let other = push(b"a\nother\n").expect(1);
    let report: Value = serde_json::from_str(&other.stdout).unwrap();
    assert_eq!(
        (&report["confirmed"], &report["conflicts"]),
        (&json!(1), &json!(1))
    );
    assert!(other.stderr.contains("job 2 of the input"), "{}", other.stderr);

    let without_number = home.ackring_with_input(&["push", "keyed", "--key", "x"], b"a\nb\n");
    assert!(without_number.expect(2).stderr.contains("{}"));
    assert_eq!(home.stats("keyed")["ready"], 4);
}

#[test]
fn ids_are_printed_in_the_order_of_the_lines() {
    let home = Home::new();
    let _server = home.serve();
    let pushed = home.ackring_with_input(&["push", "ids", "--ids", "--batch", "2"], b"a\nb\nc\n");
    let ids: Vec<&str> = pushed.stdout.lines().collect();
    assert_eq!(ids.len(), 3, "{pushed:?}");
    let peeked = home.json(&["job", "peek", "ids"]);
    for (at, id) in ids.iter().enumerate() {
        assert_eq!(peeked["jobs"][at]["id"], **id);
    }
    let job = home.json(&["job", "get", ids[1]]);
    for (name, value) in [
        ("id", json!(ids[1])),
        ("queue", json!("ids")),
        ("state", json!("ready")),
        ("attempts", json!(0)),
        ("last_error", Value::Null),
    ] {
        assert_eq!(job[name], value, "{name} in {job}");
    }

    assert_eq!(home.json(&["job", "cancel", ids[0], ids[1]])["cancelled"], 2);
    assert_eq!(home.json(&["job", "get", ids[1]])["state"], "cancelled");
    home.json(&["work", "ids", "--until-empty", "--", "true"]);
    let again = home.ackring(&["job", "cancel", ids[0], ids[2]]).expect(1);
    assert!(again.stderr.contains("WRONG_STATE"), "{}", again.stderr);
}

#[test]
fn long_lists_come_in_parts() {
    let home = Home::new();
    let _server = home.serve();
    home.json_with_input(&["push", "many"], &numbers(250));
    let mut seen = std::collections::BTreeSet::new();
    let mut after = "0".to_owned();
    loop {
        let page = home.json(&["job", "ls", "many", "--limit", "100", "--after", &after]);
        let jobs = page["jobs"].as_array().unwrap();
        assert!(jobs.len() <= 100);
        seen.extend(jobs.iter().map(|job| job["id"].as_str().unwrap().to_owned()));
        match page["next"].as_u64() {
            Some(next) => after = next.to_string(),
            None => break,
        }
    }
    assert_eq!(seen.len(), 250);
    assert_eq!(
        home.json(&["job", "ls", "many", "--state", "dead"])["jobs"],
        json!([])
    );
}

#[test]
fn a_queue_is_what_its_options_say() {
    let home = Home::new();
    let _server = home.serve();
    let create = [
        "queue",
        "create",
        "q",
        "--max-attempts",
        "4",
        "--backoff",
        "10ms",
        "--backoff-cap",
        "1m",
        "--lease",
        "2s",
        "--durability",
        "synced",
        "--capacity",
        "100",
        "--capacity-bytes",
        "1MiB",
        "--payload-max",
        "2KiB",
        "--dedupe-window",
        "10m",
        "--keep-finished",
        "5",
    ];
    home.json(&create);
    home.json(&create);
    let info = home.json(&["queue", "info", "q"]);
    let expected = json!({
        "durability": "synced", "lease_ms": 2_000, "max_attempts": 4,
        "backoff": { "base_ms": 10, "cap_ms": 60_000 },
        "capacity_jobs": 100, "capacity_bytes": 1_048_576, "payload_bytes_max": 2_048,
        "dedupe_window_ms": 600_000, "keep_finished": 5,
    });
    assert_eq!(info["options"], expected);
    let other = home
        .ackring(&["queue", "create", "q", "--max-attempts", "5"])
        .expect(1);
    assert!(other.stderr.contains("QUEUE_EXISTS"), "{}", other.stderr);
    assert_eq!(
        home.json_with_input(&["push", "q"], b"x\n")["durability"],
        "synced"
    );

    home.json(&["queue", "create", "list", "--backoff-list", "1s,5s,1m"]);
    let info = home.json(&["queue", "info", "list"]);
    assert_eq!(
        info["options"]["backoff"],
        json!({ "list_ms": [1_000, 5_000, 60_000] })
    );
    let listed = home.json(&["queue", "ls"]);
    let names: Vec<_> = listed["queues"]
        .as_array()
        .unwrap()
        .iter()
        .map(|queue| &queue["name"])
        .collect();
    assert_eq!(names, ["list", "q"]);
}

#[test]
fn queues_are_paused_purged_and_deleted() {
    let home = Home::new();
    let _server = home.serve();
    home.json_with_input(&["push", "q"], b"a\nb\n");
    home.json(&["queue", "pause", "q"]);
    assert_eq!(home.stats("q")["paused"], true);
    home.json(&["queue", "resume", "q"]);
    assert_eq!(home.stats("q")["paused"], false);
    home.json_with_input(&["push", "q", "--delay", "1h"], b"later\n");
    assert_eq!(
        home.json(&["queue", "purge", "q", "--state", "scheduled"])["jobs"],
        1
    );
    assert_eq!(home.json(&["queue", "purge", "q"])["jobs"], 2);
    assert_eq!(home.stats("q")["ready"], 0);
    home.json(&["queue", "delete", "q"]);
    assert_eq!(home.stats("q"), Value::Null);
    assert!(
        home.ackring(&["queue", "info", "q"])
            .expect(1)
            .stderr
            .contains("queue ls")
    );
}

#[test]
fn people_get_tables_and_sentences() {
    let home = Home::new();
    let _server = home.serve();
    assert!(
        home.ackring(&["stats"])
            .expect(0)
            .stdout
            .contains("no queues yet")
    );
    let pushed = home.ackring_with_input(&["push", "q"], b"a\nb\n").expect(0);
    assert!(
        pushed.stdout.starts_with("2 jobs confirmed (written) in "),
        "{pushed:?}"
    );
    // Standard error is no terminal here, so there is no progress bar.
    assert_eq!(pushed.stderr, "");
    let stats = home.ackring(&["stats"]).expect(0).stdout;
    assert!(stats.lines().next().unwrap().starts_with("QUEUE"), "{stats}");
    assert_eq!(stats.lines().count(), 2);
    assert!(
        home.ackring(&["queue", "info", "q"])
            .expect(0)
            .stdout
            .contains("2 ready")
    );
    let jobs = home.ackring(&["job", "ls", "q"]).expect(0).stdout;
    let id = jobs.lines().nth(1).unwrap().split(' ').next().unwrap();
    assert!(
        home.ackring(&["job", "get", id])
            .expect(0)
            .stdout
            .contains("0 of 25")
    );
}
