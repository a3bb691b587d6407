//! A log that somebody has spoiled while no server ran: it is refused in one line that says where, and `--salvage`
//! goes on with the rest.

use super::cli::{Home, Ran, run, snapshot};
use rustix::process::Signal;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Two logs of 200 jobs each in several segments, all on the disk.
fn logs() -> Home {
    let home = Home::new();
    let input: String = (0..200).map(|number| format!("{number:01000}\n")).collect();
    for data in ["data", "other"] {
        let command = home.serve_command(data, &["--segment-bytes", "64KiB"]);
        let server = super::cli::Server::start(command);
        let push = ["push", "q", "--batch", "10", "--durability", "synced"];
        home.json_with_input(&push, input.as_bytes());
        assert_eq!(server.stop(Signal::TERM).code(), Some(0));
    }
    home
}

fn segment(home: &Home, data: &str, number: u32) -> PathBuf {
    home.path(data).join(format!("{number:08}.segment"))
}

/// The server refuses the log, in one line that names the file or directory and a place; nothing was changed.
fn expect_refusal(home: &Home, named: &Path, words: &[&str]) -> Ran {
    let before = snapshot(&home.data());
    let ran = run(home.serve_command("data", &["--segment-bytes", "64KiB"]), b"").expect(1);
    let name = named.file_name().unwrap().to_str().unwrap();
    for word in [name].iter().chain(words) {
        assert!(ran.stderr.contains(word), "`{word}` is missing in {ran:?}");
    }
    assert_eq!(
        snapshot(&home.data()),
        before,
        "a log that is refused stays as it is"
    );
    ran
}

/// With `--salvage` the server runs, and has so many of the 200 jobs; the next one does without it.
fn expect_salvage(home: &Home, jobs: std::ops::Range<u64>) {
    let arguments = ["--segment-bytes", "64KiB", "--salvage"];
    let server = super::cli::Server::start(home.serve_command("data", &arguments));
    let ready = home.stats("q")["ready"].as_u64().unwrap();
    assert!(jobs.contains(&ready), "{ready} of 200 jobs");
    home.json_with_input(&["push", "q"], b"one more\n");
    server.kill();
    let server = super::cli::Server::start(home.serve_command("data", &arguments[..2]));
    assert_eq!(home.stats("q")["ready"], ready + 1);
    server.kill();
}

#[test]
fn a_log_whose_file_was_cut_is_refused_and_salvaged() {
    let home = logs();
    let path = segment(&home, "data", 2);
    OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(5_000)
        .unwrap();
    expect_refusal(&home, &path, &["corrupt at byte", "--salvage"]);
    expect_salvage(&home, 100..200);
}

#[test]
fn a_log_with_a_bit_flipped_is_refused_and_salvaged() {
    let home = logs();
    let path = segment(&home, "data", 2);
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 5_000).unwrap();
    file.write_all_at(&[byte[0] ^ 4], 5_000).unwrap();
    expect_refusal(&home, &path, &["corrupt at byte", "--salvage"]);
    expect_salvage(&home, 180..200);
}

#[test]
fn a_log_with_a_file_of_another_log_is_refused_and_salvaged() {
    let home = logs();
    let path = segment(&home, "data", 2);
    fs::copy(segment(&home, "other", 2), &path).unwrap();
    expect_refusal(&home, &path, &["corrupt at byte", "--salvage"]);
    expect_salvage(&home, 100..200);
}

#[test]
fn a_log_with_a_file_of_its_own_past_is_refused_and_salvaged() {
    let home = logs();
    let path = segment(&home, "data", 2);
    fs::copy(segment(&home, "data", 1), &path).unwrap();
    let ran = run(home.serve_command("data", &["--segment-bytes", "64KiB"]), b"").expect(1);
    assert!(ran.stderr.contains("corrupt at byte"), "{ran:?}");
    expect_salvage(&home, 100..200);
}

/// A pipe in a file's place was waited for without end, by a server and by `log verify`.
#[test]
fn a_log_with_a_pipe_for_a_file_is_refused_at_once() {
    let home = logs();
    for name in ["00000002.segment", "segments", "lock"] {
        let path = home.path("data").join(name);
        let aside = home.path("aside");
        fs::rename(&path, &aside).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        let serve = home.serve_command("data", &["--segment-bytes", "64KiB"]);
        let verify = home.command(["log", "verify", "data"]);
        for command in [serve, verify] {
            let ran = run(command, b"").expect(1);
            let says_why = ran.stderr.contains(name) && ran.stderr.contains("not a regular file");
            assert!(says_why, "{ran:?}");
        }
        fs::remove_file(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
    }
    let server = super::cli::Server::start(home.serve_command("data", &["--segment-bytes", "64KiB"]));
    assert_eq!(home.stats("q")["ready"], 200);
    server.kill();
}

#[test]
fn a_log_with_a_file_gone_is_refused_and_salvaged() {
    let home = logs();
    fs::remove_file(segment(&home, "data", 2)).unwrap();
    expect_refusal(&home, &home.data(), &["corrupt", "--salvage"]);
    expect_salvage(&home, 100..200);
}

#[test]
fn a_server_whose_log_file_is_cut_while_it_runs_dies_and_the_next_start_says_why() {
    let home = Home::new();
    let server = home.serve_with(&["--segment-bytes", "64KiB"]);
    home.json_with_input(&["push", "q", "--durability", "synced"], b"before\n");
    let path = segment(&home, "data", 1);
    // No program can answer a store into a page that is gone: the system ends the process (SIGBUS). Nothing is
    // confirmed in between.
    OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(4096)
        .unwrap();
    let input = format!("{:020000}\n", 0);
    let ran = home.ackring_with_input(&["push", "q", "--timeout", "2s"], input.as_bytes());
    assert_ne!(ran.code, Some(0), "{ran:?}");
    let status = server.ended();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(7),
        "{status}"
    );
    let ran = run(home.serve_command("data", &["--segment-bytes", "64KiB"]), b"").expect(1);
    assert!(
        ran.stderr.contains("00000001.segment is corrupt at byte 4096"),
        "{ran:?}"
    );
}
