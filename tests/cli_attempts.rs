//! Attempts through crashes of the server, seen from outside: they only ever rise, and a job that always fails is
//! dead when they are used up.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

mod cli;

use cli::{Home, eventually, lines};
use serde_json::{Value, json};

struct Failing {
    home: Home,
    id: String,
}

impl Failing {
    fn attempts(&self) -> u64 {
        self.job()["attempts"].as_u64().unwrap()
    }

    fn job(&self) -> Value {
        self.home.json(&["job", "get", &self.id])
    }

    /// The attempt numbers that the command was given so far.
    fn told(&self) -> Vec<u64> {
        lines(&self.home.path("attempts"))
            .iter()
            .map(|line| line.parse().unwrap())
            .collect()
    }
}

const ALWAYS_FAILS: &str =
    "echo $ACKRING_ATTEMPT >> attempts; echo \"attempt $ACKRING_ATTEMPT: boom\" >&2; exit 1";

#[test]
fn a_job_that_always_fails_is_dead_after_its_attempts_through_two_kills_of_the_server() {
    let home = Home::new();
    let mut server = home.serve();
    home.json(&["queue", "create", "q", "--max-attempts", "4", "--backoff", "10ms"]);
    let pushed = home.json_with_input(&["push", "q", "--ids"], b"poison\n");
    let id = pushed["ids"][0].as_str().unwrap().to_owned();
    let failing = Failing { home, id };
    let home = &failing.home;
    let command = ["--", "sh", "-c", ALWAYS_FAILS];
    let work = |more: &[&str]| home.json(&[&["work", "q", "--quiet"], more, &command].concat());

    for kill in 1..=2 {
        assert_eq!(work(&["--max-jobs", "1"])["nacked"], 1);
        let before = failing.attempts();
        assert_eq!(before, kill);
        server.kill();
        server = home.serve();
        assert!(failing.attempts() >= before, "attempts fell back over a kill");
    }
    assert_eq!(work(&["--until-empty"])["nacked"], 2);
    assert_eq!(failing.told(), [1, 2, 3, 4]);
    let job = failing.job();
    for (name, value) in [
        ("state", json!("dead")),
        ("attempts", json!(4)),
        ("failures", json!(4)),
        ("last_error", json!("attempt 4: boom")),
    ] {
        assert_eq!(job[name], value, "{name} in {job}");
    }
    assert_eq!(home.stats("q")["dead"], 1);
    let dead = home.json(&["dead", "ls", "q"]);
    assert_eq!(dead["jobs"][0]["id"], *failing.id);
    assert!(
        home.ackring(&["dead", "ls", "q"])
            .expect(0)
            .stdout
            .contains("attempt 4: boom")
    );

    // Dead survives a kill, too, and redrive goes on where the attempts were.
    server.kill();
    let _server = home.serve();
    assert_eq!(failing.job()["state"], "dead");
    assert_eq!(home.json(&["dead", "redrive", "q", "--all"])["redriven"], 1);
    assert_eq!(failing.job()["state"], "ready");
    work(&["--max-jobs", "1"]);
    assert_eq!(failing.told(), [1, 2, 3, 4, 5]);
    assert_eq!(failing.attempts(), 5);
}

#[test]
fn an_attempt_that_the_server_did_not_survive_counts() {
    let home = Home::new();
    let server = home.serve();
    home.json(&[
        "queue",
        "create",
        "q",
        "--max-attempts",
        "2",
        "--backoff",
        "0s",
        "--lease",
        "300ms",
    ]);
    let pushed = home.json_with_input(&["push", "q", "--ids"], b"x\n");
    let failing = Failing {
        home,
        id: pushed["ids"][0].as_str().unwrap().to_owned(),
    };
    let home = &failing.home;
    // The worker dies with the server, so nobody ever says how the attempt ended.
    let script = "echo $ACKRING_ATTEMPT >> attempts; sleep 600";
    let worker = home.spawn(&["work", "q", "--", "sh", "-c", script]);
    eventually("the first attempt", || (failing.told() == [1]).then_some(()));
    server.kill();
    drop(worker);
    let _server = home.serve();
    assert_eq!(failing.attempts(), 1);
    let worker = home.spawn(&["work", "q", "--", "sh", "-c", script]);
    eventually("the second attempt", || (failing.told() == [1, 2]).then_some(()));
    drop(worker);
    eventually("the end of its lease", || {
        (failing.job()["state"] == "dead").then_some(())
    });
    let job = failing.job();
    assert_eq!(
        (&job["attempts"], &job["expiries"]),
        (&json!(2), &json!(2)),
        "{job}"
    );
}

#[test]
fn dead_jobs_are_redriven_one_by_one_or_all() {
    let home = Home::new();
    let _server = home.serve();
    home.json(&["queue", "create", "q"]);
    let pushed = home.json_with_input(&["push", "q", "--ids"], b"1\n2\n3\n4\n");
    home.json(&[
        "work",
        "q",
        "--until-empty",
        "--quiet",
        "--",
        "sh",
        "-c",
        "echo no >&2; exit 65",
    ]);
    let ids: Vec<&str> = pushed["ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_str().unwrap())
        .collect();
    assert_eq!(home.json(&["dead", "redrive", "q", ids[2]])["redriven"], 1);
    assert_eq!(home.json(&["job", "get", ids[2]])["state"], "ready");
    let refused = home.ackring(&["dead", "redrive", "q", ids[2], ids[3]]).expect(1);
    assert!(
        refused.stdout.contains('1') && refused.stderr.contains(ids[2]),
        "{refused:?}"
    );
    assert_eq!(
        home.json(&["dead", "redrive", "q", "--all", "--limit", "1"])["redriven"],
        1
    );
    assert_eq!(home.json(&["dead", "redrive", "q", "--all"])["redriven"], 1);
    assert_eq!(home.stats("q")["ready"], 4);
}
