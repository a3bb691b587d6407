//! The server as a process: how it starts, how it refuses to, how it ends.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

mod cli;

use ackring::client::{ClientConfig, Connection, Reading};
use cli::{Home, Ran, Server, binary, eventually, run, snapshot};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

/// Runs `serve` with these arguments, which must fail.
fn refused(home: &Home, arguments: &[&str]) -> Ran {
    let mut command = Command::new(binary());
    command
        .current_dir(home.path("."))
        .args(["serve", "--log-level", "off"])
        .args(arguments);
    run(command, b"").expect(1)
}

#[test]
fn a_signal_stops_it_in_good_order() {
    for signal in [Signal::TERM, Signal::INT] {
        let home = Home::new();
        let server = home.serve();
        home.json_with_input(&["push", "q"], b"a\nb\n");
        assert_eq!(server.stop(signal).code(), Some(0));
        assert!(!home.path("socket").exists(), "the socket is removed");
        home.ackring(&["stats"]).expect(3);
        let server = home.serve();
        assert!(
            server.lines[0].starts_with("recovered 2 ready, 0 scheduled"),
            "{:?}",
            server.lines
        );
    }
}

#[test]
fn a_server_that_polls_does_what_others_do() {
    let home = Home::new();
    for poll in ["--busy-poll", "--busy-poll=1ms"] {
        let server = home.serve_with(&[poll, "--threads", "2"]);
        home.json_with_input(&["push", "q"], b"a\nb\n");
        home.ackring(&["work", "q", "--until-empty", "--", "true"])
            .expect(0);
        assert_eq!(server.stop(Signal::TERM).code(), Some(0));
    }
}

/// Before, the regular look at every connection's time limits counted as work, so a server with a connection never slept.
#[test]
fn a_server_that_polls_sleeps_while_its_connections_rest() {
    let home = Home::new();
    let server = home.serve_with(&["--busy-poll=300ms", "--threads", "1"]);
    let config = ClientConfig::to(&home.address()).unwrap();
    // It shows no sign of life by itself.
    let connection = Connection::open(config, &["q"], Reading::Sleeping).unwrap();
    let tasks = format!("/proc/{}/task", server.pid().as_raw_nonzero());
    let is_asleep = || {
        std::fs::read_dir(&tasks).unwrap().flatten().any(|task| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.contains("(reactor 0) S")
        })
    };
    // In a row, and for longer than one who polls keeps off a core that others want now and then.
    let mut looks = 0;
    eventually("the reactor to sleep", || {
        looks = if is_asleep() { looks + 1 } else { 0 };
        (looks > 100).then_some(())
    });
    drop(connection);
}

#[test]
fn what_was_confirmed_survives_a_kill() {
    let home = Home::new();
    let server = home.serve();
    home.json(&["queue", "create", "q", "--backoff", "1h", "--max-attempts", "2"]);
    home.json_with_input(&["push", "q"], b"done\nfails\nready\n");
    home.json_with_input(&["push", "q", "--delay", "1h"], b"later\n");
    let script = "! grep -q fails";
    home.json(&["work", "q", "--max-jobs", "2", "--", "sh", "-c", script]);
    server.kill();
    let server = home.serve_with(&["--json"]);
    let line: Value = serde_json::from_str(&server.lines[0]).unwrap();
    let recovered = &line["recovered"];
    for (name, count) in [
        ("queues", 1),
        ("ready", 1),
        ("scheduled", 2),
        ("leased", 0),
        ("finished", 1),
    ] {
        assert_eq!(recovered[name], count, "{name} in {recovered}");
    }
    assert_eq!(line["listening"]["unix"], "socket");
    assert_eq!(home.json(&["queue", "info", "q"])["options"]["max_attempts"], 2);
}

#[test]
fn a_free_port_is_taken_and_told() {
    let home = Home::new();
    let mut command = Command::new(binary());
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--log-level", "off", "--data"])
        .arg(home.data());
    let server = Server::start(command);
    let address = server.tcp_address();
    assert!(!address.ends_with(":0"), "{address}");
    let stats = home.json(&["stats", "--server", &address]);
    assert_eq!(stats, json!({ "queues": [] }));
}

#[test]
fn it_works_without_arguments() {
    let home = Home::new();
    let mut command = Command::new(binary());
    command
        .current_dir(home.path("."))
        .args(["serve", "--listen", "127.0.0.1:0"]);
    let server = Server::start(command);
    assert!(home.path("ackring-data").is_dir());
    drop(server);
}

#[test]
fn a_second_server_on_the_same_data_is_refused() {
    let home = Home::new();
    let _server = home.serve();
    home.json_with_input(&["push", "q"], b"a\n");
    let ran = refused(
        &home,
        &[
            "--data",
            "data",
            "--listen",
            "127.0.0.1:0",
            "--segment-bytes",
            "1MiB",
        ],
    );
    assert!(ran.stderr.contains("in use"), "{ran:?}");
    assert_eq!(ran.stdout, "");
    assert_eq!(home.stats("q")["ready"], 1, "the first one goes on");
}

#[test]
fn a_port_in_use_is_refused_before_the_data_is_touched() {
    let home = Home::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ran = refused(&home, &["--data", "fresh", "--listen", &address]);
    assert!(ran.stderr.contains(&address), "{ran:?}");
    assert!(!home.path("fresh").exists());
}

#[test]
fn a_socket_in_use_is_refused_and_a_stale_one_replaced() {
    let home = Home::new();
    let server = home.serve();
    let ran = refused(
        &home,
        &["--data", "other", "--listen", "none", "--unix", "socket"],
    );
    assert!(ran.stderr.contains("another server"), "{ran:?}");
    server.kill();
    assert!(
        home.path("socket").exists(),
        "a killed server leaves its socket behind"
    );
    let _server = home.serve();
    home.json(&["stats"]);

    fs::write(home.path("file"), "precious").unwrap();
    refused(&home, &["--data", "other", "--listen", "none", "--unix", "file"]);
    assert_eq!(fs::read(home.path("file")).unwrap(), b"precious");
}

#[test]
fn a_directory_that_is_none_is_refused() {
    let home = Home::new();
    fs::write(home.path("file"), "precious").unwrap();
    for directory in ["file", "file/below"] {
        let ran = refused(&home, &["--data", directory, "--listen", "127.0.0.1:0"]);
        assert!(ran.stderr.contains(directory), "{ran:?}");
    }
    assert_eq!(fs::read(home.path("file")).unwrap(), b"precious");
    refused(&home, &["--data", "d", "--listen", "none"]);
}

#[test]
fn a_log_of_a_newer_program_is_refused_and_left_alone() {
    let home = Home::new();
    let server = home.serve();
    home.json_with_input(&["push", "q"], b"a\n");
    server.stop(Signal::TERM);
    newer_format(&home);
    let before = snapshot(&home.data());
    let ran = refused(
        &home,
        &[
            "--data",
            "data",
            "--listen",
            "127.0.0.1:0",
            "--segment-bytes",
            "1MiB",
        ],
    );
    assert!(ran.stderr.contains("newer"), "{ran:?}");
    assert_eq!(snapshot(&home.data()), before);
}

#[test]
fn a_damaged_log_is_refused_and_left_alone_unless_salvaged() {
    let home = Home::new();
    let server = home.serve();
    // One after the other: each record says that those before it are on the disk.
    for line in ["first\n", "second\n", "third\n"] {
        home.json_with_input(&["push", "q", "--durability", "synced"], line.as_bytes());
    }
    server.stop(Signal::TERM);
    let (path, mut bytes) = first_segment(&home);
    let at = bytes.windows(6).position(|window| window == b"second").unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
    let before = snapshot(&home.data());
    let arguments = [
        "--data",
        "data",
        "--listen",
        "127.0.0.1:0",
        "--segment-bytes",
        "1MiB",
    ];
    let ran = refused(&home, &arguments);
    assert!(
        ran.stderr.contains("corrupt") && ran.stderr.contains("--salvage"),
        "{ran:?}"
    );
    assert_eq!(snapshot(&home.data()), before);
    let server = home.serve_with(&["--salvage"]);
    assert!(
        server.lines[0].starts_with("recovered 2 ready"),
        "{:?}",
        server.lines
    );
}

fn first_segment(home: &Home) -> (std::path::PathBuf, Vec<u8>) {
    let segments = snapshot(&home.data());
    segments
        .into_iter()
        .find(|(path, _)| path.extension().is_some_and(|name| name == "segment"))
        .unwrap()
}

/// Raises the format version in a segment's header, which stands behind eight magic bytes.
fn newer_format(home: &Home) {
    let (path, mut bytes) = first_segment(home);
    let newer = ackring::log::FORMAT_VERSION + 1;
    bytes[8..12].copy_from_slice(&newer.to_le_bytes());
    fs::write(path, bytes).unwrap();
}
