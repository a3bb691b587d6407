//! The exit codes, each with one line that says what to do.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

mod cli;

use cli::Home;
use std::fs;
use std::io::Read;
use std::process::Stdio;

#[test]
fn the_table_of_exit_codes() {
    let home = Home::new();
    let _server = home.serve();
    home.json_with_input(&["push", "q"], b"a\n");
    let table: &[(&[&str], i32, &str)] = &[
        (&["stats"], 0, ""),
        (&["--help"], 0, ""),
        (&["--version"], 0, ""),
        (&["queue", "create", "--help"], 0, ""),
        // The server said no.
        (&["queue", "info", "nowhere"], 1, "queue ls"),
        (&["queue", "pause", "nowhere"], 1, "QUEUE_NOT_FOUND"),
        (&["job", "get", "0000000100001234"], 1, "JOB_NOT_FOUND"),
        (&["job", "cancel", "0000000100001234"], 1, "JOB_NOT_FOUND"),
        (&["job", "ls", "nowhere"], 1, "QUEUE_NOT_FOUND"),
        (&["dead", "redrive", "nowhere", "--all"], 1, "QUEUE_NOT_FOUND"),
        // Wrong usage.
        (&[], 2, "ackring --help"),
        (&["queue"], 2, "ackring queue --help"),
        (&["psuh", "q"], 2, "push"),
        (&["push"], 2, "<QUEUE>"),
        (&["push", "not a name"], 2, "queue name"),
        (&["push", "q", "no-such-file"], 2, "no-such-file"),
        (&["push", "q", "--priority", "8"], 2, "priority"),
        (&["push", "q", "--delay", "soon"], 2, "10ms"),
        (
            &["push", "q", "--durability", "forever"],
            2,
            "memory, written, synced",
        ),
        (&["work", "q"], 2, "CMD"),
        (&["work", "q", "-j", "0", "--", "true"], 2, "-j"),
        (&["queue", "create", "q", "--lease", "0s"], 2, "lease"),
        (
            &["queue", "create", "q", "--backoff", "1s", "--backoff-list", "1s"],
            2,
            "cannot be used with",
        ),
        (&["queue", "create", "q", "--capacity-bytes", "1MB"], 2, "MiB"),
        (&["queue", "purge", "q", "--state", "lost"], 2, "scheduled"),
        (&["job", "get", "not-an-id"], 2, "hexadecimal"),
        (&["dead", "redrive", "q"], 2, "--all"),
        (
            &["dead", "redrive", "q", "--all", "0000000100000001"],
            2,
            "cannot be used with",
        ),
        (&["stats", "--server", "host:port"], 2, "HOST:PORT"),
        (&["stats", "--server", ""], 2, "HOST:PORT"),
        (&["serve", "--segment-bytes", "3MiB"], 2, "power of two"),
        (&["serve", "--listen", "nothing"], 2, "HOST:PORT"),
        // No connection.
        (&["stats", "--server", "unix:no-such-socket"], 3, "ackring serve"),
        (&["push", "q", "--server", "127.0.0.1:1"], 3, "ackring serve"),
        (
            &["work", "q", "--server", "127.0.0.1:1", "--", "true"],
            3,
            "ackring serve",
        ),
    ];
    for (arguments, code, says) in table {
        let ran = home.ackring_with_input(arguments, b"a\n");
        assert_eq!(ran.code, Some(*code), "{arguments:?}: {ran:?}");
        assert!(
            ran.stderr.contains(says),
            "{arguments:?} should say `{says}`: {ran:?}"
        );
        let lines = if *code == 0 { 0 } else { 1 };
        assert_eq!(ran.stderr.lines().count(), lines, "{arguments:?}: {ran:?}");
    }
}

#[test]
fn a_server_that_stays_silent_is_no_connection() {
    let home = Home::new();
    // Accepts by itself, into the listener's backlog, and never answers.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    home.ackring(&["stats", "--server", &address, "--timeout", "200ms"])
        .expect(3);
}

#[test]
fn something_else_on_the_port_is_told_in_one_line() {
    let home = Home::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            use std::io::Write;
            let _ = stream.unwrap().write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let ran = home.ackring(&["stats", "--server", &address, "--timeout", "2s"]);
    assert!(matches!(ran.code, Some(1 | 3)), "{ran:?}");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let home = Home::new();
    let _server = home.serve();
    let input: String = (0..20_000).map(|number| format!("{number}\n")).collect();
    fs::write(home.path("input"), input).unwrap();
    let mut child = home
        .command(["push", "q", "input", "--ids"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut byte = [0];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut byte).unwrap();
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(home.stats("q")["ready"], 20_000);

    let mut child = home
        .command(["job", "ls", "q", "--limit", "20000"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
