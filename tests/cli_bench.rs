//! `ackring bench`, as a process: small loads whose reports must add up, and loads that cannot go well.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

mod cli;

use cli::{Home, Server, eventually};
use rustix::process::Signal;
use serde_json::Value;

/// A report as it must be after a load without mishaps.
fn check_whole(report: &Value, shape: &str, jobs: u64) {
    assert_eq!(report["shape"], shape, "{report}");
    for (name, expected) in [("jobs", jobs), ("errors", 0), ("lost", 0), ("repeated", 0)] {
        assert_eq!(report[name], expected, "{name} in {report}");
    }
    let number = |name: &str| {
        report[name]
            .as_f64()
            .unwrap_or_else(|| panic!("{name} in {report}"))
    };
    assert!(number("seconds") > 0.0, "{report}");
    let per_s = jobs as f64 / number("seconds");
    assert!(
        (number("jobs_per_s") - per_s).abs() <= per_s / 100.0 + 1.0,
        "{report}"
    );
    for name in ["payload", "batch", "producers", "workers", "queues", "in_flight"] {
        assert!(report[name].is_u64(), "{name} in {report}");
    }
    for name in ["durability", "version", "checked", "latency_note"] {
        assert!(report[name].is_string(), "{name} in {report}");
    }
    assert!(number("client_cpu_s") >= 0.0, "{report}");
    assert_eq!(
        report["payload_bytes"].as_u64().unwrap(),
        jobs * report["payload"].as_u64().unwrap()
    );
}

/// Percentiles that rise.
fn check_percentiles(percentiles: &Value) {
    let names = ["p50", "p90", "p99", "p99.9", "p99.99", "max"];
    let values: Vec<f64> = names
        .iter()
        .map(|name| percentiles[name].as_f64().unwrap())
        .collect();
    assert!(values[0] > 0.0 && values.is_sorted(), "{percentiles}");
}

fn bench(home: &Home, arguments: &str) -> Value {
    let arguments: Vec<&str> = ["bench"].into_iter().chain(arguments.split(' ')).collect();
    home.json(&arguments)
}

/// Queues of loads on the home's server.
fn bench_queues(home: &Home) -> Vec<Value> {
    let stats = home.json(&["stats"]);
    let queues = stats["queues"].as_array().unwrap().iter();
    let of_loads = queues.filter(|queue| queue["name"].as_str().unwrap().starts_with("bench-"));
    of_loads.cloned().collect()
}

#[test]
fn every_shape_reports_what_it_did() {
    let home = Home::new();
    let _server = home.serve();
    let loads = [
        ("life", "life --jobs 20000 --batch 100"),
        (
            "life",
            "life --jobs 2000 --batch 1 --producers 3 --workers 4 --queues 2 --in-flight 1",
        ),
        (
            "life",
            "life --jobs 500 --durability synced --batch 50 --deliver reserve --in-flight 2",
        ),
        (
            "life",
            "life --jobs 3000 --durability memory --backlog 5000 --payload 1KiB",
        ),
        (
            "life",
            "life --jobs 4000 --acks quiet --batch 1 --producers 2 --workers 3",
        ),
        ("reserve", "reserve --jobs 3000 --acks quiet --batch 7"),
        ("enqueue", "enqueue --jobs 20000 --queues 3 --producers 2"),
        (
            "reserve",
            "reserve --jobs 7000 --backlog 2000 --workers 2 --batch 64",
        ),
        ("echo", "echo --jobs 1000 --producers 2"),
    ];
    for (shape, arguments) in loads {
        let report = bench(&home, arguments);
        let words: Vec<&str> = arguments.split(' ').collect();
        let jobs = words[words.iter().position(|word| *word == "--jobs").unwrap() + 1];
        check_whole(&report, shape, jobs.parse().unwrap());
        check_percentiles(&report["latency_us"]);
        assert_eq!(report["latency_valid"], false, "{report}");
        assert_eq!(report["open_loop"], false, "{report}");
        assert!(report["bytes_sent"].as_u64().unwrap() > 0, "{report}");
        assert!(
            report["server_cpu_s"].as_f64().unwrap() >= 0.0,
            "a local server's process is known: {report}"
        );
        let acks = arguments.contains("--acks quiet");
        let acks = if acks { "quiet" } else { "answered" };
        let works = shape == "life" || shape == "reserve";
        assert_eq!(report["acks"], if works { acks.into() } else { Value::Null });
        if shape == "life" {
            check_percentiles(&report["confirm_us"]);
            assert_eq!(report["checked"], "each job by its number");
        }
    }
    assert!(bench_queues(&home).is_empty(), "the queues of a load are removed");
}

#[test]
fn the_same_shapes_run_without_a_server() {
    let home = Home::new();
    std::fs::create_dir(home.path("scratch")).unwrap();
    for (shape, more) in [
        ("life", "--workers 2 --producers 2 --batch 64 --backlog 1000"),
        ("enqueue", "--payload 16"),
        ("reserve", "--durability synced --batch 200"),
    ] {
        let report = bench(
            &home,
            &format!("{shape} --embedded --data scratch --jobs 5000 {more}"),
        );
        check_whole(&report, shape, 5_000);
        assert_eq!(report["embedded"], true);
        assert_eq!(
            (&report["server_cpu_s"], &report["bytes_sent"]),
            (&Value::Null, &Value::Null)
        );
    }
    assert_eq!(std::fs::read_dir(home.path("scratch")).unwrap().count(), 0);
}

#[test]
fn an_open_loop_sends_as_many_jobs_as_its_rate_asks_for() {
    let home = Home::new();
    let _server = home.serve();
    for arguments in [
        "life --rate 4000 --duration 500ms --batch 1 --warmup 100 --hgrm life.hgrm",
        "life --rate 4000 --jobs 2000 --batch 20 --warmup 0 --producers 3 --workers 2",
        "enqueue --rate 4000 --duration 500ms --batch 1 --warmup 0 --busy-poll",
    ] {
        let report = bench(&home, arguments);
        check_whole(&report, arguments.split(' ').next().unwrap(), 2_000);
        assert_eq!(
            (&report["target_jobs"], &report["target_per_s"]),
            (&2_000.into(), &4_000.0.into())
        );
        assert_eq!(
            (&report["latency_valid"], &report["open_loop"]),
            (&true.into(), &true.into())
        );
        check_percentiles(&report["latency_us"]);
        // The last jobs are due at the end of the half second, whatever the machine does.
        assert!(report["seconds"].as_f64().unwrap() > 0.49, "{report}");
    }
    let distribution = std::fs::read_to_string(home.path("life.hgrm")).unwrap();
    assert!(
        distribution.contains("Total count    =         2000"),
        "{distribution}"
    );
}

#[test]
fn threads_that_poll_have_several_connections_each() {
    let home = Home::new();
    let server = home.serve_with(&["--busy-poll"]);
    for (shape, arguments) in [
        (
            "life",
            "life --rate 4000 --batch 1 --workers 3 --producers 2 --queues 2",
        ),
        (
            "life",
            "life --batch 7 --in-flight 2 --deliver reserve --workers 2",
        ),
        ("life", "life --batch 20 --backlog 300 --workers 3 --depth 50"),
        ("life", "life --batch 20 --embedded --workers 2"),
        ("reserve", "reserve --batch 20 --workers 3 --acks quiet"),
        ("enqueue", "enqueue --batch 20 --producers 3"),
        ("echo", "echo --producers 3 --in-flight 1"),
    ] {
        let report = bench(&home, &format!("{arguments} --jobs 400 --busy-poll"));
        check_whole(&report, shape, 400);
        check_percentiles(&report["latency_us"]);
        assert_eq!(report["busy_poll"], true);
    }
    assert!(bench_queues(&home).is_empty(), "the queues of a load are removed");
    let report = load_without_its_server(&home, server, &["--busy-poll"]);
    assert_eq!(report["lost"], Value::Null, "{report}");
}

#[test]
fn small_payloads_say_what_was_not_checked() {
    let home = Home::new();
    let _server = home.serve();
    let report = bench(&home, "life --jobs 3000 --payload 8");
    check_whole(&report, "life", 3_000);
    assert_eq!(report["checked"], "each job by its number");
    assert_eq!(report["latency_us"], Value::Null, "no room for a time");
    let report = bench(&home, "life --jobs 3000 --payload 8 --rate 20000 --batch 10");
    check_percentiles(&report["latency_us"]);
    let report = bench(&home, "life --jobs 3000 --payload 0");
    check_whole(&report, "life", 3_000);
    assert_eq!(report["checked"], "how many jobs there are, not which");
}

#[test]
fn a_server_of_its_own_goes_with_the_load() {
    let home = Home::new();
    let report = bench(&home, "--spawn --data scratch --jobs 2000");
    check_whole(&report, "life", 2_000);
    assert!(report["server_cpu_s"].as_f64().unwrap() >= 0.0, "{report}");
    assert_eq!(std::fs::read_dir(home.path("scratch")).unwrap().count(), 0);
}

#[test]
fn text_says_the_same_and_that_a_closed_loop_tells_no_latency() {
    let home = Home::new();
    let _server = home.serve();
    let ran = home.ackring(&["bench", "--jobs", "1000"]).expect(0);
    for part in [
        "1000 jobs in",
        "jobs/s",
        "p99.9 ",
        "not valid",
        "0 errors, 0 lost, 0 repeated",
    ] {
        assert!(ran.stdout.contains(part), "{part}: {}", ran.stdout);
    }
    assert_eq!(ran.stderr, "", "no progress bar where there is no terminal");
}

#[test]
fn nonsense_is_refused_in_one_line() {
    let home = Home::new();
    for (arguments, part) in [
        ("echo --embedded", "--embedded"),
        ("echo --batch 5", "--batch"),
        ("reserve --rate 5", "--rate"),
        ("reserve --duration 5s", "--jobs"),
        ("reserve --warmup 5s", "--warmup"),
        ("enqueue --backlog 5", "--backlog"),
        ("life --backlog 5 --duration 1s", "--jobs"),
        ("reserve --deliver subscribe", "--deliver"),
        ("enqueue --deliver reserve", "--deliver"),
        ("enqueue --acks quiet", "--acks"),
        ("--embedded --acks quiet", "--acks"),
        ("--acks quiet --durability synced", "--durability"),
        ("--acks quiet --jobs 9 --backlog 5", "--backlog"),
        ("--embedded --spawn", "--spawn"),
        ("--data x", "--data"),
        ("--rate 0", "--rate"),
        ("--rate 5 --depth 5", "--depth"),
        ("--jobs 5 --duration 5s", "--duration"),
        ("--jobs 0", "--jobs"),
        ("--batch 16384 --payload 16KiB", "frame"),
        ("--payload 17MiB", "16MiB"),
        ("--in-flight 5000", "--in-flight"),
        ("--queues 100000 --workers 1", "--workers"),
        ("--hgrm no/such/place --jobs 5", "no/such/place"),
        ("dance", "life"),
    ] {
        let arguments: Vec<&str> = ["bench"].into_iter().chain(arguments.split(' ')).collect();
        let ran = home.ackring(&arguments).expect(2);
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
    home.ackring(&["bench", "--jobs", "5"]).expect(3);
}

/// The report of a load whose server is killed under it.
fn load_without_its_server(home: &Home, server: Server, arguments: &[&str]) -> Value {
    let mut all = vec!["--json", "bench", "--duration", "10m", "--warmup", "0"];
    all.extend(arguments);
    let load = home.spawn(&all);
    eventually("jobs of the load", || {
        bench_queues(home)
            .iter()
            .any(|queue| queue["done"].as_u64() > Some(0))
            .then_some(())
    });
    server.kill();
    let ran = load.finish().expect(3);
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn a_server_that_is_killed_gives_errors_and_an_end() {
    let home = Home::new();
    let server = home.serve();
    let report = load_without_its_server(&home, server, &["--workers", "2"]);
    assert!(report["jobs"].as_u64().unwrap() > 0, "{report}");
    assert_eq!(
        report["lost"],
        Value::Null,
        "what is in the log cannot be known: {report}"
    );
}

#[test]
fn a_server_that_stands_still_is_given_up() {
    let home = Home::new();
    let server = home.serve();
    let load = home.spawn(&["--timeout", "1s", "bench", "--duration", "10m", "--warmup", "0"]);
    eventually("jobs of the load", || {
        bench_queues(&home)
            .iter()
            .any(|queue| queue["done"].as_u64() > Some(0))
            .then_some(())
    });
    server.signal(Signal::STOP);
    let ran = load.finish().expect(3);
    server.signal(Signal::CONT);
    assert!(ran.stderr.contains("nothing has come back"), "{ran:?}");
}

#[test]
fn a_signal_ends_a_load_with_its_report() {
    let home = Home::new();
    let _server = home.serve();
    let load = home.spawn(&["--json", "bench", "--duration", "10m", "--warmup", "0"]);
    eventually("jobs of the load", || {
        bench_queues(&home)
            .iter()
            .any(|queue| queue["done"].as_u64() > Some(0))
            .then_some(())
    });
    load.signal(Signal::INT);
    let ran = load.finish();
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert!(report["jobs"].as_u64().unwrap() > 0, "{report}");
    assert!(bench_queues(&home).is_empty(), "cleaned up all the same");
}
