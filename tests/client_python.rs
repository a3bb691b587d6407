//! The stranger's client: the Python script, written from PROTOCOL.md alone, against a scripted server.
#![cfg(feature = "client")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

mod client_fake;

use ackring::Verb;
use ackring::wire::Request;
use client_fake::Fake;
use std::process::{Command, Stdio};

fn script() -> std::path::PathBuf {
    std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("clients/python/ackring_minimal.py")
}

#[test]
fn it_stays_small() {
    let text = std::fs::read_to_string(script()).unwrap();
    assert!(text.lines().count() < 100);
    let imports: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("import ") || line.starts_with("from "))
        .collect();
    assert_eq!(
        imports,
        ["import os", "import socket", "import struct", "import sys"]
    );
}

#[test]
fn it_writes_and_reads_the_golden_bytes() {
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("no python3 here, so this test has nothing to run");
        return;
    }
    let test = script().with_file_name("test_vectors.py");
    // Without leaving compiled files in the tree.
    let output = Command::new("python3").arg("-B").arg(test).output().unwrap();
    let (said, wrong) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{wrong}");
    assert!(said.contains("as in the golden bytes"), "{said}");
}

#[test]
fn it_enqueues_reserves_and_acks() {
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("no python3 here, so this test has nothing to run");
        return;
    }
    let fake = Fake::new();
    let address = fake.address();
    let (host, port) = address.rsplit_once(':').unwrap();
    let script = Command::new("python3")
        .arg(script())
        .args([host, port, "mail"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();

    let mut peer = fake.accept();
    assert_ne!(peer.session, 0);
    peer.open_queue("mail", 5);
    let enqueue = peer.request();
    let Request::Enqueue {
        number: 1,
        queue: 5,
        batch,
        ..
    } = enqueue.decode()
    else {
        panic!()
    };
    assert_eq!(batch.items().next().unwrap().payload(), b"hello from python");
    peer.outcome(&enqueue, &[1], &[]);
    let reserve = peer.request();
    assert!(
        matches!(reserve.decode(), Request::Reserve(fields) if fields.number == 2 && fields.queues[0].get() == 5)
    );
    peer.deliver(&reserve, 5, &[b"hello from python"]);
    let settle = peer.request();
    let Request::Settle { number: 3, batch, .. } = settle.decode() else {
        panic!()
    };
    let ack = batch.items().next().unwrap();
    assert_eq!(
        (ack.token.id.0, ack.token.attempt, ack.verb, ack.note),
        (1, 1, Verb::Ack, Some(&b"done"[..]))
    );
    peer.outcome(&settle, &[], &[]);

    let output = script.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        said.contains("reserved 0000000000000001 attempt 1: hello from python"),
        "{said}"
    );
    assert!(said.contains("acked 1, errors []"), "{said}");
}
