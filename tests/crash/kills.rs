//! `kill -9` at moments drawn from the seed, under full load; now and then the server is stopped for longer than leases
//! last before, or asked to end instead, or its log looked at before the next one starts.

use super::cli::{self, Home, Server};
use super::ledger::Wrong;
use super::load::Load;
use super::seed::{self, Random};
use super::table::Sets;
use ackring::Durability;
use rustix::process::Signal;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

/// Kills of the short run.
const KILLS: u64 = 10;
/// Kills between two moments at which all is drained and compared.
const ROUND: u64 = 25;

const ARGUMENTS: [&str; 6] = ["--log-bytes-max", "64MiB", "--slots", "65536", "--threads", "2"];

/// What one run came to.
#[derive(Default)]
struct Tally {
    sets: Sets,
    kills: u64,
    /// Kills before the server listened.
    while_recovering: u64,
    /// Not killed, but asked to end.
    asked: u64,
    /// How often the server stood still for longer than a lease.
    stopped: u64,
    /// Jobs whose attempt numbers were asked for after a restart.
    attempts_checked: u64,
}

struct Run {
    home: Home,
    seed: u64,
    kills: u64,
    random: Random,
    tally: Tally,
}

#[test]
fn kill_9_under_load_loses_and_repeats_nothing_that_was_confirmed() {
    let seed = seed::seed();
    let kills = seed::from_environment("ACKRING_KILLS", KILLS);
    let begin = Instant::now();
    let mut run = Run {
        home: Home::new(),
        seed,
        kills,
        random: Random::part(seed, u64::MAX),
        tally: Tally::default(),
    };
    run.go_through();
    let Tally {
        sets,
        kills,
        while_recovering,
        asked,
        stopped,
        attempts_checked,
    } = run.tally;
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "kill -9 under load, seed {seed}: {kills} kills ({while_recovering} while recovering), asked to end {asked} \
         times, stopped {stopped} times, {seconds:.0} s, {:.0} jobs/s\n{sets}  attempts checked    {attempts_checked:>12}  after a restart",
        sets.acked as f64 / seconds
    );
    // A load that does nothing would find nothing.
    assert!(
        sets.acked > 100 * kills && sets.recovered + sets.repeats > 0,
        "too little went on: {sets}"
    );
}

impl Run {
    fn serve(&self) -> Server {
        self.home.serve_with(&ARGUMENTS)
    }

    fn replay(&self) -> String {
        format!(
            "once more: ACKRING_SEED={} ACKRING_KILLS={} cargo test --test crash kill_9_under_load",
            self.seed, self.kills
        )
    }

    fn go_through(&mut self) {
        let mut server = self.serve();
        let load = Load::start(self.home.address(), self.seed, Durability::Written);
        let ledger = &load.shared.ledger;
        let mut next_round = ROUND;
        while self.tally.kills < self.kills {
            self.wait_for_the_moment(&load);
            server = self.restart(server);
            self.check_attempts(&load);
            if self.tally.kills >= next_round || self.tally.kills >= self.kills {
                next_round = self.tally.kills + ROUND;
                load.quiet();
                // What was sent by those who gave up dies with the connection and the server.
                server = self.restart(server);
                load.drain();
                let sets = ledger.close_round();
                self.tally.sets += sets;
                println!("{:>5} kills: {}", self.tally.kills, sets.line());
                ledger.judge(&self.replay());
                load.resume();
            }
            if ledger.is_spoiled() {
                println!("the log is kept in {}", self.keep_log());
            }
            ledger.judge(&self.replay());
        }
        load.stop().ledger.judge(&self.replay());
    }

    /// A time, or so many confirmations: the latter go on when the machine is slow.
    fn wait_for_the_moment(&mut self, load: &Load) {
        if self.random.percent(50) {
            thread::sleep(Duration::from_millis(self.random.within(1, 300)));
            return;
        }
        let confirmations = &load.shared.ledger.confirmations;
        let until = confirmations.load(Ordering::Relaxed) + self.random.within(1, 8_000);
        let begin = Instant::now();
        while confirmations.load(Ordering::Relaxed) < until {
            if begin.elapsed() > cli::HANG {
                self.tell_of_a_hang(until - confirmations.load(Ordering::Relaxed));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Nobody gets anything done any more. What the server says of itself is the best that there is to find out why.
    fn tell_of_a_hang(&self, missing: u64) -> ! {
        let stats = self.home.ackring(&["--json", "--timeout", "5s", "stats"]);
        let kept = self.keep_log();
        println!("the log is kept in {kept}; {stats:?}");
        panic!("waited in vain for {missing} confirmations; {}", self.replay());
    }

    /// Ends the server, mostly by a kill.
    fn end(&mut self, server: Server) {
        if self.random.percent(3) {
            server.signal(Signal::STOP);
            thread::sleep(Duration::from_millis(
                super::load::LEASE_MS + self.random.below(500),
            ));
            server.signal(Signal::CONT);
            self.tally.stopped += 1;
            // What comes of that has to get into the log.
            thread::sleep(Duration::from_millis(self.random.below(100)));
        }
        if self.random.percent(3) {
            assert_eq!(server.stop(Signal::TERM).code(), Some(0));
            self.tally.asked += 1;
        } else {
            server.kill();
            self.tally.kills += 1;
        }
        if self.random.percent(5) {
            // What a kill leaves behind is an end at most, and no damage.
            let verified = self.home.ackring(&["log", "verify", "data"]);
            assert!(matches!(verified.code, Some(0 | 4)), "{verified:?}");
        }
    }

    /// Ends the server, sometimes its successors before they listen, and has one that does.
    fn restart(&mut self, server: Server) -> Server {
        self.end(server);
        while self.random.percent(15) {
            self.tally.kills += 1;
            self.tally.while_recovering += 1;
            let mut command = self.home.serve_command("data", &ARGUMENTS);
            let mut child = command.stdout(Stdio::null()).spawn().unwrap();
            thread::sleep(Duration::from_millis(self.random.below(60)));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        self.serve()
    }

    /// Jobs that came to a worker and are not over are still known, and their attempts have not fallen.
    fn check_attempts(&mut self, load: &Load) {
        let client = load.shared.client(Duration::from_secs(60));
        let ledger = &load.shared.ledger;
        let sample = ledger.some_unfinished(self.random.below(64) as usize, 20);
        for (stamp, id, attempt) in sample {
            let what = match client.job(id) {
                Ok(status) if status.deliveries >= attempt => None,
                Ok(status) => Some(format!("has {} deliveries", status.deliveries)),
                Err(error) => Some(error.to_string()),
            };
            self.tally.attempts_checked += 1;
            if let Some(what) = what.filter(|_| ledger.must_exist(stamp)) {
                let known = ledger.describe(stamp);
                let text = format!(
                    "job {stamp} ({id}) reached a worker as attempt {attempt}, and now: {what}; {known}"
                );
                ledger.violation(Wrong::Other, text);
            }
        }
    }

    /// Copies the log, for `ackring log dump` to tell the history of a job.
    fn keep_log(&self) -> String {
        let kept = std::env::temp_dir().join(format!("ackring-kills-{}", self.seed));
        std::fs::create_dir_all(&kept).unwrap();
        for entry in std::fs::read_dir(self.home.data()).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, kept.join(path.file_name().unwrap())).unwrap();
        }
        kept.display().to_string()
    }
}
