//! The worker: what becomes of a job by how its command ends, and how the worker itself ends.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

mod cli;

use cli::{Home, eventually, lines};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;

/// Makes a queue and pushes one job; returns its id.
fn one_job(home: &Home, options: &[&str]) -> String {
    home.json(&[&["queue", "create", "q"], options].concat());
    let pushed = home.json_with_input(&["push", "q", "--ids"], b"payload\n");
    pushed["ids"][0].as_str().unwrap().to_owned()
}

fn work_once(home: &Home, script: &str) -> Value {
    home.json(&[
        "work",
        "q",
        "--max-jobs",
        "1",
        "--quiet",
        "--",
        "sh",
        "-c",
        script,
    ])
}

#[test]
fn the_commands_end_decides_what_becomes_of_the_job() {
    let table = [
        ("exit 0", "acked", "done", Value::Null),
        ("echo bad >&2; exit 65", "rejected", "dead", json!("bad")),
        (
            "echo 1 >&2; echo 2 >&2; exit 1",
            "nacked",
            "scheduled",
            json!("1\n2"),
        ),
        ("exit 9", "nacked", "scheduled", json!("exit code 9")),
        (
            "kill -9 $$",
            "nacked",
            "scheduled",
            json!("killed by signal 9 (SIGKILL)"),
        ),
    ];
    for (script, tally, state, error) in table {
        let home = Home::new();
        let _server = home.serve();
        let id = one_job(&home, &["--backoff", "1h"]);
        let worked = work_once(&home, script);
        assert_eq!(worked[tally], 1, "`{script}`: {worked}");
        let job = home.json(&["job", "get", &id]);
        assert_eq!(job["state"], state, "`{script}`: {job}");
        assert_eq!(job["last_error"], error, "`{script}`: {job}");
        assert_eq!(job["attempts"], 1, "`{script}`: {job}");
    }
}

#[test]
fn the_command_is_told_which_job_it_has() {
    let home = Home::new();
    let _server = home.serve();
    let id = one_job(&home, &["--backoff", "0s"]);
    let script =
        "echo \"$ACKRING_JOB_ID $ACKRING_ATTEMPT $ACKRING_QUEUE $(cat)\" >> out; test $ACKRING_ATTEMPT = 3";
    let worked = home.json(&["work", "q", "--until-empty", "--quiet", "--", "sh", "-c", script]);
    assert_eq!((&worked["nacked"], &worked["acked"]), (&json!(2), &json!(1)));
    let told: Vec<String> = (1..=3)
        .map(|attempt| format!("{id} {attempt} q payload"))
        .collect();
    assert_eq!(lines(&home.path("out")), told);
}

#[test]
fn a_lease_is_extended_while_the_command_runs() {
    let home = Home::new();
    let _server = home.serve();
    let id = one_job(&home, &["--lease", "200ms"]);
    let script = "until test -e go; do sleep 0.01; done";
    let worker = home.spawn(&["work", "q", "--until-empty", "--json", "--", "sh", "-c", script]);
    let job = |field: &str| home.json(&["job", "get", &id])[field].clone();
    eventually("the lease", || (job("state") == "leased").then_some(()));
    let mut ends = std::collections::BTreeSet::new();
    eventually("extensions beyond several leases", || {
        ends.insert(job("at_ms").as_u64().unwrap());
        (ends.last().unwrap() - ends.first().unwrap() > 1_000).then_some(())
    });
    assert_eq!(job("attempts"), 1);
    fs::write(home.path("go"), "").unwrap();
    let report = worker.finish().json();
    assert_eq!((&report["acked"], &report["lost"]), (&json!(1), &json!(0)));
    assert_eq!(job("expiries"), 0);
}

#[test]
fn a_stopped_worker_finishes_what_runs_and_gives_the_rest_back() {
    for signal in [Signal::TERM, Signal::INT] {
        let home = Home::new();
        let _server = home.serve();
        home.json_with_input(&["push", "q"], b"1\n2\n3\n4\n5\n6\n");
        let script = "cat >> started; echo >> started; until test -e go; do sleep 0.01; done";
        let arguments = [
            "work",
            "q",
            "-j",
            "2",
            "--prefetch",
            "2",
            "--json",
            "--",
            "sh",
            "-c",
            script,
        ];
        let worker = home.spawn(&arguments);
        eventually("two runs and two jobs ahead", || {
            (lines(&home.path("started")).len() == 2 && home.stats("q")["leased"] == 4).then_some(())
        });
        worker.signal(signal);
        eventually("the jobs that were ahead", || {
            (home.stats("q")["leased"] == 2).then_some(())
        });
        fs::write(home.path("go"), "").unwrap();
        let report = worker.finish().json();
        for (name, count) in [
            ("acked", 2),
            ("released", 2),
            ("nacked", 0),
            ("lost", 0),
            ("attempts", 2),
        ] {
            assert_eq!(report[name], count, "{name} in {report}");
        }
        let stats = home.stats("q");
        assert_eq!(
            (&stats["ready"], &stats["done"], &stats["failures"]),
            (&json!(4), &json!(2), &json!(0))
        );
        for job in home.json(&["job", "ls", "q", "--state", "ready"])["jobs"]
            .as_array()
            .unwrap()
        {
            assert_eq!(job["attempts"], 0, "{job}");
        }
    }
}

#[test]
fn a_second_signal_kills_what_runs() {
    let home = Home::new();
    let _server = home.serve();
    let id = one_job(&home, &["--backoff", "1h"]);
    // The shell has a child of its own, which must go with it.
    let worker = home.spawn(&[
        "work",
        "q",
        "--json",
        "--",
        "sh",
        "-c",
        "touch started; sleep 600; true",
    ]);
    eventually("the command", || home.path("started").exists().then_some(()));
    worker.signal(Signal::TERM);
    worker.signal(Signal::TERM);
    eventually("the second signal", || {
        worker.signal(Signal::TERM);
        (home.json(&["job", "get", &id])["state"] == "scheduled").then_some(())
    });
    assert_eq!(worker.finish().json()["nacked"], 1);
    let job = home.json(&["job", "get", &id]);
    assert_eq!(job["last_error"], "killed by signal 9 (SIGKILL)");
}

#[test]
fn until_empty_waits_for_retries_and_for_other_workers() {
    let home = Home::new();
    let _server = home.serve();
    home.json(&["queue", "create", "q", "--backoff", "50ms"]);
    home.json_with_input(&["push", "q"], b"held\n");
    let holder = home.spawn(&[
        "work",
        "q",
        "--",
        "sh",
        "-c",
        "touch held; until test -e go; do sleep 0.01; done; exit 1",
    ]);
    eventually("the other worker", || home.path("held").exists().then_some(()));
    let waiter = home.spawn(&[
        "work",
        "q",
        "--until-empty",
        "--json",
        "--",
        "sh",
        "-c",
        "test $ACKRING_ATTEMPT -gt 2",
    ]);
    holder.signal(Signal::TERM);
    fs::write(home.path("go"), "").unwrap();
    holder.finish().expect(0);
    let report = waiter.finish().json();
    assert_eq!(
        (&report["nacked"], &report["acked"]),
        (&json!(1), &json!(1)),
        "{report}"
    );
    assert_eq!(home.stats("q")["done"], 1);
}

#[test]
fn a_command_that_does_not_exist_uses_up_no_attempt() {
    let home = Home::new();
    let _server = home.serve();
    let id = one_job(&home, &[]);
    let ran = home.ackring(&["work", "q", "--", "no-such-command"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.stderr.contains("no-such-command"), "{ran:?}");
    let job = home.json(&["job", "get", &id]);
    assert_eq!((&job["state"], &job["attempts"]), (&json!("ready"), &json!(0)));
}

#[test]
fn a_batch_is_acked_or_nacked_as_one_and_a_failed_one_is_tried_job_by_job() {
    let home = Home::new();
    let _server = home.serve();
    home.json(&["queue", "create", "q", "--backoff", "0s", "--max-attempts", "3"]);
    home.json_with_input(&["push", "q"], b"a\nb\nbad\nc\nd\n");
    // Words of the two variables stand for the lines, in their order.
    let script =
        "echo $ACKRING_JOB_ID | wc -w >> ids; cat > last.$$; cat last.$$ >> out; ! grep -q bad last.$$";
    let worked = home.json(&[
        "work",
        "q",
        "--batch",
        "3",
        "--until-empty",
        "--quiet",
        "--",
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(
        (&worked["acked"], &worked["nacked"]),
        (&json!(4), &json!(5)),
        "{worked}"
    );
    let stats = home.stats("q");
    assert_eq!(
        (&stats["done"], &stats["dead"]),
        (&json!(4), &json!(1)),
        "only the bad one is dead: {stats}"
    );
    let ids: Vec<_> = lines(&home.path("ids"))
        .iter()
        .map(|line| line.trim().to_owned())
        .collect();
    assert_eq!(ids[..1], ["3"]);
    assert_eq!(
        ids.iter().filter(|count| *count == "1").count(),
        4,
        "retries are run alone: {ids:?}"
    );
    let mut out = lines(&home.path("out"));
    out.sort();
    assert_eq!(out, ["a", "a", "b", "b", "bad", "bad", "bad", "c", "d"]);
}

#[test]
fn a_payload_of_two_lines_is_not_put_into_a_batch() {
    let home = Home::new();
    let _server = home.serve();
    home.json(&["queue", "create", "q", "--max-attempts", "1"]);
    fs::write(home.path("two"), "1\n2").unwrap();
    home.json(&["push", "q", "--whole", "two"]);
    let worked = home.json(&[
        "work",
        "q",
        "--batch",
        "10",
        "--until-empty",
        "--",
        "touch",
        "ran",
    ]);
    assert_eq!(worked["nacked"], 1);
    assert!(!home.path("ran").exists());
    let dead = home.json(&["dead", "ls", "q"]);
    assert!(
        dead["jobs"][0]["last_error"]
            .as_str()
            .unwrap()
            .contains("--batch")
    );
}

#[test]
fn output_of_the_command_goes_where_the_workers_goes() {
    let home = Home::new();
    let _server = home.serve();
    home.json_with_input(&["push", "q"], b"a\nb\n");
    let ran = home.ackring(&[
        "work",
        "q",
        "--max-jobs",
        "1",
        "--",
        "sh",
        "-c",
        "cat; echo why >&2",
    ]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "a"), "{ran:?}");
    assert!(
        ran.stderr.contains("why\n") && ran.stderr.contains("1 acked"),
        "{ran:?}"
    );
    // With --json, standard output is one object and nothing else.
    let ran = home.ackring(&["work", "q", "--json", "--max-jobs", "1", "--", "cat"]);
    assert_eq!(ran.json()["acked"], 1);
    assert_eq!(ran.stderr, "b");
}

#[test]
fn what_a_command_prints_is_the_result_of_its_job_where_that_is_asked_for() {
    let home = Home::new();
    let _server = home.serve();
    let pushed = home.ackring_with_input(&["push", "q", "--ids"], b"payload\n");
    let id = pushed.stdout.trim().to_owned();
    let ran = home.ackring(&[
        "work",
        "q",
        "--result",
        "--max-jobs",
        "1",
        "--",
        "tr",
        "a-z",
        "A-Z",
    ]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""), "{ran:?}");
    let job = home.json(&["job", "get", &id]);
    assert_eq!(
        (&job["state"], &job["result"]),
        (&"done".into(), &"PAYLOAD".into()),
        "{job}"
    );
    home.ackring(&["work", "q", "--result", "--batch", "2", "--", "true"])
        .expect(2);
}

#[test]
fn a_worker_outlives_its_server_however_that_ends() {
    let home = Home::new();
    let mut server = home.serve();
    let worker = home.spawn(&["work", "q", "--json", "--", "sh", "-c", "cat >> out; echo >> out"]);
    for (round, is_killed) in [true, false, true].into_iter().enumerate() {
        home.json_with_input(&["push", "q"], b"x\n");
        let worked = || (lines(&home.path("out")).len() == round + 1).then_some(());
        eventually("the job of this round", worked);
        if is_killed {
            server.kill();
        } else {
            assert_eq!(server.stop(Signal::TERM).code(), Some(0));
        }
        server = home.serve();
    }
    eventually("the acks", || {
        let stats = home.stats("q");
        (stats["leased"] == 0 && stats["ready"] == 0).then_some(())
    });
    worker.signal(Signal::TERM);
    assert_eq!(worker.finish().json()["acked"], 3);
}
