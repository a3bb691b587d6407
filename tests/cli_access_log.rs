//! A real access log through server, push and work, with the server killed in the middle again and again: the
//! small form of `tests/demo/access_log.sh`.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

mod cli;

use cli::{Home, eventually, lines};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::path::Path;

/// Writes the job's id and its line with one system call, so that runs side by side do not mix.
const WRITE: &str = "read -r line; printf '%s %s\\n' \"$ACKRING_JOB_ID\" \"$line\" >> out";

fn sample() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/access.log.sample");
    std::fs::read_to_string(path).unwrap()
}

/// How often each line is there.
fn counted<'a>(lines: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    lines.for_each(|line| *counts.entry(line).or_default() += 1);
    counts
}

#[test]
fn every_line_of_an_access_log_is_there_though_the_server_was_killed_seven_times() {
    let home = Home::new();
    let sample = sample();
    let total = sample.lines().count();
    assert_eq!(total, 2_000);
    let mut server = home.serve();
    let mut kills = 0;
    let mut kill_and_restart = |server: cli::Server| {
        server.kill();
        kills += 1;
        home.serve()
    };

    // Pushed in three parts through a pipe, with a kill between them; push itself goes on.
    let mut push = home.spawn(&["--json", "push", "lines", "--batch", "100"]);
    let text: Vec<&str> = sample.split_inclusive('\n').collect();
    let parts: Vec<String> = text.chunks(total.div_ceil(3)).map(<[&str]>::concat).collect();
    let mut sent = 0;
    for part in &parts {
        push.write(part.as_bytes());
        sent += part.lines().count();
        eventually("the part", || {
            (home.stats("lines")["ready"] == sent).then_some(())
        });
        server = kill_and_restart(server);
        assert_eq!(
            home.stats("lines")["ready"],
            sent,
            "what was confirmed is there after the kill"
        );
    }
    let pushed = push.finish().json();
    assert_eq!(pushed["confirmed"], total);

    let out = home.path("out");
    let worker = home.spawn(&["--json", "work", "lines", "-j", "4", "--", "sh", "-c", WRITE]);
    for at in [200, 700, 1_100, 1_600] {
        eventually("lines", || (lines(&out).len() >= at).then_some(()));
        server = kill_and_restart(server);
    }
    eventually("the last line", || {
        let stats = home.stats("lines");
        ["ready", "scheduled", "leased"]
            .iter()
            .all(|state| stats[state] == 0)
            .then_some(())
    });
    worker.signal(Signal::TERM);
    let report = worker.finish().json();
    assert_eq!(kills, 7);

    let worked = lines(&out);
    let by_job: BTreeMap<&str, &str> = worked.iter().map(|line| line.split_once(' ').unwrap()).collect();
    assert_eq!(by_job.len(), total, "each confirmed job was worked");
    assert_eq!(
        counted(by_job.values().copied()),
        counted(sample.lines()),
        "every line is there"
    );
    println!(
        "{} lines, {} repeats, {report}",
        by_job.len(),
        worked.len() - by_job.len()
    );
}
