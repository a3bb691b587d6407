//! The power fails: what was not synced is gone, or is not, sector by sector.
//!
//! The server's data directory lies on a filesystem of this test (`fuse.rs`), behind which there is a disk that
//! forgets (`disk.rs`); or on an ext4 in an image on that disk, whose journal then has to hold (`machine.rs`). It takes
//! the right to mount, and `/dev/fuse`; where these are missing the tests say
//! `skipped: …` and pass.

pub mod disk;
mod failing;
pub mod fuse;
mod machine;

use super::cli::{self, Home, Server};
use super::load::Load;
use super::mounts::skipped;
use super::seed::{self, Random};
use super::table::Sets;
use ackring::Durability;
use disk::Disk;
use fuse::Mounted;
use machine::Machine;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

/// Power cuts of the short run.
const CUTS: u64 = 4;
const CUTS_EXT4: u64 = 3;
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
            skipped(&format!("no FUSE filesystem can be mounted here ({error})"));
            None
        }
    }
}

/// A server whose data directory is right on the disk.
pub fn serve(home: &Home) -> Server {
    Server::start(home.serve_command("disk/data", &ARGUMENTS))
}

struct Run {
    home: Home,
    random: Random,
    machine: Option<Machine>,
    /// The server listens, so that it is certain to use the disk.
    is_loaded: bool,
    cuts: u64,
    while_recovering: u64,
    sets: Sets,
}

#[test]
fn a_power_cut_takes_nothing_that_was_confirmed_as_synced() {
    power_cuts("power_cut_takes", false, CUTS);
}

#[test]
fn a_power_cut_under_ext4_takes_nothing_that_was_confirmed_as_synced() {
    power_cuts("power_cut_under_ext4", true, CUTS_EXT4);
}

fn power_cuts(name: &str, on_ext4: bool, cuts: u64) {
    let seed = seed::seed();
    let cuts = seed::from_environment("ACKRING_CUTS", cuts);
    let replay = format!("once more: ACKRING_SEED={seed} ACKRING_CUTS={cuts} cargo test --test crash {name}");
    let begin = Instant::now();
    let home = Home::new();
    let Some(machine) = Machine::on(&home, Disk::new(), on_ext4) else {
        return;
    };
    println!("{name}, seed {seed}");
    let mut run = Run {
        home,
        random: Random::part(seed, u64::MAX),
        machine: Some(machine),
        is_loaded: true,
        cuts: 0,
        while_recovering: 0,
        sets: Sets::default(),
    };
    run.go_through(seed, cuts, &replay);
    let traffic = run.machine.unwrap().off().traffic;
    println!(
        "{} power cuts ({} while recovering), {:.0} s; {traffic:?}\n{}",
        run.cuts,
        run.while_recovering,
        begin.elapsed().as_secs_f64(),
        run.sets
    );
    assert!(traffic.writes > 0 && run.sets.durable > 0, "too little went on");
}

impl Run {
    fn go_through(&mut self, seed: u64, cuts: u64, replay: &str) {
        let mut server = Server::start(self.serve());
        let load = Load::start(self.home.address(), seed, Durability::Synced);
        let ledger = &load.shared.ledger;
        let mut next_round = ROUND;
        while self.cuts < cuts {
            self.wait_for_the_moment(&load);
            server = self.cut(server);
            if self.cuts >= next_round || self.cuts >= cuts {
                next_round = self.cuts + ROUND;
                load.quiet();
                server.kill();
                server = Server::start(self.serve());
                load.drain();
                // The next power cut must not bring back what ended in this round.
                load.sync();
                let sets = ledger.close_round();
                self.sets += sets;
                println!("{:>5} power cuts: {}", self.cuts, sets.line());
                ledger.judge(replay);
                load.resume();
            }
            ledger.judge(replay);
        }
        load.stop().ledger.judge(replay);
        server.kill();
    }

    fn serve(&self) -> Command {
        let data = self.machine.as_ref().unwrap().data();
        self.home.serve_command(data, &ARGUMENTS)
    }

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
    fn cut(&mut self, server: Server) -> Server {
        self.fail_power(server.pid());
        server.kill();
        loop {
            self.restore_power();
            if !self.random.percent(20) {
                return Server::start(self.serve());
            }
            self.while_recovering += 1;
            let mut child = self.serve().stdout(Stdio::null()).spawn().unwrap();
            thread::sleep(Duration::from_millis(self.random.below(80)));
            self.is_loaded = false;
            self.fail_power(Pid::from_child(&child));
            self.is_loaded = true;
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// At any moment; or between a write and its sync; or after the kernel wrote back all that the server had stored.
    /// The latter two put more at stake.
    fn fail_power(&mut self, server: Pid) {
        self.cuts += 1;
        let machine = self.machine.as_ref().unwrap();
        match self.random.below(4) {
            0 if self.is_loaded => machine.cut_power_in(self.random.within(1, 60)),
            1 if self.is_loaded => machine.cut_power_in(1),
            2 => {
                kill_process(server, Signal::STOP).unwrap();
                // All of its threads stand still when this returns, or it has ended.
                let options = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
                waitid(WaitId::Pid(server), options).unwrap();
                machine.write_back();
            }
            _ => {}
        }
        machine.cut_power();
    }

    fn restore_power(&mut self) {
        let machine = self.machine.take().unwrap();
        let on_ext4 = machine.is_on_ext4();
        let disk = machine.off().after_power_cut(&mut self.random);
        self.machine = Machine::on(&self.home, disk, on_ext4);
        self.be_another_machine();
    }

    /// The power of this machine was not cut, and the server is not to think that it still has what was not synced:
    /// the note of which machine it ran on (`machine`, see FORMAT.md) is changed to that of another one.
    fn be_another_machine(&self) {
        let Some(machine) = &self.machine else { return };
        let path = self.home.path(machine.data()).join("machine");
        let Ok(mut note) = std::fs::read(&path) else {
            return;
        };
        if note.len() == 48 {
            note[24..40].copy_from_slice(&u128::from(self.cuts).to_le_bytes());
            let sum = ackring::base::crc::crc32c(0, &note[..44]);
            note[44..].copy_from_slice(&sum.to_le_bytes());
            std::fs::write(&path, note).unwrap();
        }
    }
}
