//! The power fails: what was not synced is gone, or is not, sector by sector.
//!
//! The server's data directory lies on a filesystem of this test (`fuse.rs`), behind which there is a disk that
//! forgets (`disk.rs`). It takes the right to mount, and `/dev/fuse`; where these are missing the tests say
//! `skipped: …` and pass.

pub mod disk;
pub mod fuse;

use super::cli::{self, Home, Server};
use super::load::Load;
use super::seed::{self, Random};
use super::table::Sets;
use ackring::Durability;
use disk::Disk;
use fuse::Mounted;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

/// Power cuts of the short run.
const CUTS: u64 = 4;
/// Cuts between two moments at which all is drained and compared.
const ROUND: u64 = 4;

/// Small segments, so that many are used again.
const ARGUMENTS: [&str; 8] = [
    "--segment-bytes",
    "256KiB",
    "--log-bytes-max",
    "24MiB",
    "--slots",
    "65536",
    "--threads",
    "2",
];

/// Mounts, or says why not.
pub fn mount(path: &Path, disk: Disk) -> Option<Mounted> {
    match Mounted::at(path, disk) {
        Ok(mounted) => Some(mounted),
        Err(error) => {
            println!("skipped: no FUSE filesystem can be mounted here ({error})");
            None
        }
    }
}

/// A server whose data directory is below the mount.
pub fn serve(home: &Home, more: &[&str]) -> Server {
    Server::start(home.serve_command("disk/data", &[&ARGUMENTS, more].concat()))
}

struct Run {
    home: Home,
    random: Random,
    cuts: u64,
    while_recovering: u64,
    sets: Sets,
}

#[test]
fn a_power_cut_takes_nothing_that_was_confirmed_as_synced() {
    let seed = seed::seed();
    let cuts = seed::from_environment("ACKRING_CUTS", CUTS);
    let replay =
        format!("once more: ACKRING_SEED={seed} ACKRING_CUTS={cuts} cargo test --test crash power_cut");
    let begin = Instant::now();
    let mut run = Run {
        home: Home::new(),
        random: Random::part(seed, u64::MAX),
        cuts: 0,
        while_recovering: 0,
        sets: Sets::default(),
    };
    println!("power cuts, seed {seed}");
    let Some(mut mounted) = mount(&run.home.path("disk"), Disk::new()) else {
        return;
    };
    let mut server = serve(&run.home, &[]);
    let load = Load::start(run.home.address(), seed, Durability::Synced);
    let ledger = &load.shared.ledger;
    let mut next_round = ROUND;
    while run.cuts < cuts {
        run.wait_for_the_moment(&load);
        (mounted, server) = run.cut(mounted, server);
        if run.cuts >= next_round || run.cuts >= cuts {
            next_round = run.cuts + ROUND;
            load.quiet();
            server.kill();
            server = serve(&run.home, &[]);
            load.drain();
            let sets = ledger.close_round();
            run.sets += sets;
            println!("{:>5} power cuts: {}", run.cuts, sets.line());
            ledger.judge(&replay);
            load.resume();
        }
        ledger.judge(&replay);
    }
    load.stop().ledger.judge(&replay);
    server.kill();
    let disk = mounted.take_out();
    println!(
        "{} power cuts ({} while recovering), {:.0} s; {:?}\n{}",
        run.cuts,
        run.while_recovering,
        begin.elapsed().as_secs_f64(),
        disk.traffic,
        run.sets
    );
    assert!(
        disk.traffic.sectors_lost > 0 && run.sets.durable > 0,
        "too little went on"
    );
}

impl Run {
    fn wait_for_the_moment(&mut self, load: &Load) {
        let rarely = self.random.percent(50);
        load.shared.rarely_synced.store(rarely, Ordering::SeqCst);
        if self.random.percent(50) {
            thread::sleep(Duration::from_millis(self.random.within(1, 700)));
            return;
        }
        let confirmations = &load.shared.ledger.confirmations;
        let until = confirmations.load(Ordering::Relaxed) + self.random.within(1, 10_000);
        cli::eventually("confirmations", || {
            (confirmations.load(Ordering::Relaxed) >= until).then_some(())
        });
    }

    /// Cuts the power, sometimes again while the server recovers, and has a server that runs.
    fn cut(&mut self, mut mounted: Mounted, server: Server) -> (Mounted, Server) {
        self.fail_power(&mounted, server.pid());
        server.kill();
        loop {
            let disk = mounted.take_out().after_power_cut(&mut self.random);
            mounted = Mounted::at(&self.home.path("disk"), disk).unwrap();
            if !self.random.percent(20) {
                return (mounted, serve(&self.home, &[]));
            }
            self.while_recovering += 1;
            let mut command = self.home.serve_command("disk/data", &ARGUMENTS);
            let mut child = command.stdout(Stdio::null()).spawn().unwrap();
            thread::sleep(Duration::from_millis(self.random.below(80)));
            self.fail_power(&mounted, Pid::from_child(&child));
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// In the middle of what the server does; or after the kernel wrote back all that the server had stored, which
    /// puts more at stake.
    fn fail_power(&mut self, mounted: &Mounted, server: Pid) {
        self.cuts += 1;
        if self.random.percent(50) {
            kill_process(server, Signal::STOP).unwrap();
            // All of its threads stand still when this returns, or it has ended.
            let options = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            waitid(WaitId::Pid(server), options).unwrap();
            mounted.write_back("data");
        }
        mounted.cut_power();
    }
}
