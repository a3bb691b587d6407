//! Holds the tables and the example of PROTOCOL.md to the code.
#![cfg(any(feature = "client", feature = "server"))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

use ackring::wire::error::{class_number, scope_number};
use ackring::wire::{Op, hello};
use ackring::{ErrorCode, JobState, Verb, limits};

const TEXT: &str = include_str!("../src/wire/PROTOCOL.md");

/// Cells of the rows of the table whose header line begins so.
fn table(header: &str) -> Vec<Vec<&'static str>> {
    let cells = |line: &'static str| line.trim_matches('|').split('|').map(str::trim).collect();
    let rows = TEXT.lines().skip_while(|line| !line.starts_with(header)).skip(2);
    rows.take_while(|line| line.starts_with('|')).map(cells).collect()
}

#[test]
fn the_table_of_ops_is_complete() {
    let want: Vec<_> = Op::ALL
        .iter()
        .map(|op| {
            [
                (*op as u16).to_string(),
                op.name().into(),
                (if op.is_numbered() { "yes" } else { "no" }).into(),
            ]
        })
        .collect();
    let have: Vec<_> = table("| number | op |")
        .iter()
        .map(|row| [0, 1, 2].map(|n| row[n].to_owned()))
        .collect();
    assert_eq!(have, want);
    for op in Op::ALL.iter().filter(|op| **op != Op::Hello) {
        let heading = TEXT
            .lines()
            .find(|line| line.starts_with("### ") && line[4..].split(", ").any(|n| n == op.name()));
        assert!(heading.is_some(), "{} has no section", op.name());
    }
}

#[test]
fn the_table_of_codes_is_complete() {
    let want: Vec<_> = ErrorCode::ALL
        .iter()
        .map(|code| {
            let (class, scope) = (class_number(code.class()), scope_number(code.scope()));
            [
                (*code as u16).to_string(),
                code.name().to_owned(),
                class.to_string(),
                scope.to_string(),
            ]
        })
        .collect();
    let have: Vec<_> = table("| number | code |")
        .iter()
        .map(|row| [0, 1, 2, 3].map(|n| row[n].to_owned()))
        .collect();
    assert_eq!(have, want);
}

#[test]
fn the_tables_of_verbs_and_states_are_complete() {
    let verbs: Vec<_> = table("| number | verb |")
        .iter()
        .map(|row| (row[0], row[1]))
        .collect();
    assert_eq!(
        verbs,
        [
            ("1", "ack"),
            ("2", "nack"),
            ("3", "reject"),
            ("4", "release"),
            ("5", "extend")
        ]
    );
    let numbers = [Verb::Ack, Verb::Nack, Verb::Reject, Verb::Release, Verb::Extend].map(|verb| verb as u8);
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
    let states: Vec<_> = table("| number | state |")
        .iter()
        .map(|row| (row[0], row[1]))
        .collect();
    let want: Vec<_> = JobState::ALL
        .iter()
        .map(|state| ((*state as u8).to_string(), state.name()))
        .collect();
    assert_eq!(
        states,
        want.iter().map(|(n, name)| (&n[..], *name)).collect::<Vec<_>>()
    );
}

#[test]
fn the_example_is_the_golden_bytes() {
    let blocks: Vec<_> = TEXT
        .split("```text\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    let frames: Vec<_> = blocks.iter().flat_map(|block| block.split("\n\n")).collect();
    assert_eq!(frames.len(), 11);
    for frame in frames {
        let (name, lines) = frame.trim_end().split_once('\n').unwrap();
        let path = format!("{}/tests/vectors/{name}.hex", env!("CARGO_MANIFEST_DIR"));
        let golden = std::fs::read_to_string(path).unwrap();
        let shown: Vec<_> = lines.lines().map(|line| &line[..23]).collect();
        assert_eq!(shown, golden.lines().skip(1).collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn the_numbers_in_the_text_are_those_of_the_limits() {
    let says = |text: &str| assert!(TEXT.contains(text), "PROTOCOL.md does not say: {text}");
    says(&format!("default port {}", limits::PORT_DEFAULT));
    says(&format!("until then it is {} bytes", hello::HELLO_BYTES_MAX));
    says(&format!(
        "HELLO, within {} seconds",
        limits::HELLO_TIMEOUT_MS / 1000
    ));
    says(&format!("Count is 1 to {}", limits::BATCH_JOBS_MAX));
    says(&format!("`limit` is 1 to {}", limits::LIST_PAGE_MAX));
    says(&format!("At most {} groups", limits::QUEUES_PER_REQUEST_MAX));
    says(&format!("(1 to {}) jobs", limits::WINDOW_JOBS_MAX));
    says(&format!("blobs of at most {} bytes", limits::NOTE_BYTES_MAX));
    says(&format!(
        "max_attempts {}, lease {} ms",
        limits::ATTEMPTS_DEFAULT,
        limits::LEASE_MS_DEFAULT
    ));
    says(&format!(
        "payload limit {} bytes, keep_finished {}",
        limits::PAYLOAD_BYTES_DEFAULT,
        limits::KEEP_FINISHED_DEFAULT
    ));
    says(&format!(
        "grace time ({} seconds",
        limits::DISCONNECT_GRACE_MS_DEFAULT / 1000
    ));
    says(&format!("session window {}", limits::SESSION_WINDOW));
}
