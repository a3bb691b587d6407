//! The world: a server, its disk, its network, its clients and time, on one thread. Each turn chance says who goes on.

use crate::actor::{Actor, Cast, Crash, Judge};
use crate::disk::{SimDisk, SimOptions};
use crate::life::Life;
use crate::net::{Read, SimNet};
use crate::rng::Rng;
use crate::tally::Tally;
use crate::trace::Trace;
use crate::weather::Weather;
use ackring::EngineConfig;
use ackring::server::{ServerConfig, Spread};
use std::collections::VecDeque;
use std::path::PathBuf;

/// When the first server starts, in milliseconds since the Unix epoch.
pub const START_MS: u64 = 1_700_000_000_000;
/// Bytes of a client's that wait for its connection before it is not asked for more.
const UNSENT_MAX: usize = 64 * 1024;

/// A client and its place on the network.
struct Place {
    actor: Box<dyn Actor>,
    link: Option<u64>,
    unsent: VecDeque<u8>,
    retry_at_ms: u64,
}

/// How the present life of the server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Not yet.
    No,
    /// It was told to stop.
    Stopping,
    /// A sync failed.
    Failing,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Start,
    Reactor(usize),
    Flusher,
    Timekeeper,
    Keeper,
    Network,
    Actor(usize),
    Time,
}

/// See the [module](self).
pub struct World {
    pub(crate) rng: Rng,
    /// Who is preempted, of its own so that histories are alike in every build.
    #[cfg_attr(not(planted), allow(dead_code, reason = "there is nothing that preempts"))]
    pub(crate) preempts: Rng,
    /// Somebody has begun a record and is not done with it.
    #[cfg_attr(not(planted), allow(dead_code, reason = "there is nothing that stalls"))]
    pub(crate) is_stalled: bool,
    /// Which connections change their reactor, of its own as well.
    moves: Rng,
    pub(crate) trace: Trace,
    pub(crate) weather: Weather,
    pub(crate) disk: SimDisk,
    pub(crate) net: SimNet,
    pub(crate) engine: EngineConfig,
    pub(crate) server: ServerConfig,
    pub(crate) life: Option<Life>,
    places: Vec<Place>,
    pub(crate) judge: Box<dyn Judge>,
    /// Time that passed, whatever clocks say.
    pub(crate) elapsed_ms: u64,
    /// What the server's clock is ahead of that.
    pub(crate) clock_ahead_ms: u64,
    /// What the wall clock was set forward since the server read it at its start.
    pub(crate) wall_step_ms: i64,
    pub(crate) boots: u64,
    pub(crate) ending: Ending,
    /// Syncs that had failed when a life ended last.
    pub(crate) syncs_failed: u64,
    /// When the disk has room again.
    pub(crate) full_until_ms: Option<u64>,
    /// Nothing goes wrong any more.
    pub(crate) calm: bool,
    pub(crate) tally: Tally,
}

impl World {
    /// A world with an empty disk. What kind of engine and whose clients is the cast's business.
    pub fn new(seed: u64, trace: Trace, engine: EngineConfig, grace_ms: u32, cast: Cast) -> Self {
        let weather = Weather::draw(seed);
        trace.note(format!("seed {seed}: {weather:?}"));
        let options = SimOptions {
            writeback_one_in: weather.writeback_one_in,
            ..SimOptions::default()
        };
        let mut rng = Rng::new(seed, "world");
        let disk = SimDisk::new(rng.next(), options);
        let server = ServerConfig {
            listen: None,
            threads: weather.reactors,
            // In the simulation it is chance, not the load, that moves connections.
            spread: Spread::InTurn,
            grace_ms,
            connections_max: weather.connections_max,
            hello_timeout_ms: weather.hello_timeout_ms,
            stall_timeout_ms: weather.stall_timeout_ms,
            ..ServerConfig::default()
        };
        let place = |actor| Place {
            actor,
            link: None,
            unsent: VecDeque::new(),
            retry_at_ms: 0,
        };
        Self {
            rng,
            preempts: Rng::new(seed, "preempts"),
            is_stalled: false,
            moves: Rng::new(seed, "moves"),
            trace,
            net: SimNet::new(seed, disk.clone()),
            engine: EngineConfig {
                directory: Some(PathBuf::from("/simulated")),
                disk: disk.handle(),
                ..engine
            },
            disk,
            weather,
            server,
            life: None,
            places: cast.actors.into_iter().map(place).collect(),
            judge: cast.judge,
            elapsed_ms: 0,
            clock_ahead_ms: START_MS,
            wall_step_ms: 0,
            boots: 0,
            ending: Ending::No,
            syncs_failed: 0,
            full_until_ms: None,
            calm: false,
            tally: Tally::default(),
        }
    }

    /// What the server's clock says; it steps only where a life begins.
    pub fn now_ms(&self) -> u64 {
        self.clock_ahead_ms + self.elapsed_ms
    }

    /// What happened.
    pub fn tally(&self) -> Tally {
        let mut tally = self.tally.clone();
        tally.add_net(&self.net.counts());
        tally.add_disk(&self.disk.counters());
        tally.add_all(&self.judge.counts());
        tally
    }

    /// Lives through `turns` turns, in its weather.
    pub fn live(&mut self, turns: u64) {
        for _ in 0..turns {
            self.trouble();
            self.stall();
            self.turn();
        }
    }

    /// Lets everything come to its end with nothing going wrong; then looks at what is there, once more after a last
    /// stop and start.
    pub fn settle(&mut self, turns_max: u64) {
        self.calm_down();
        self.judge.settle();
        let mut left = turns_max;
        while self.life.is_none() || self.ending != Ending::No || !self.judge.is_settled() {
            assert!(
                left > 0,
                "nothing goes wrong any more, and still it does not come to an end: {}",
                self.what_is_open()
            );
            left -= 1;
            self.turn();
        }
        self.look();
        self.stop();
        while self.life.is_some() {
            assert!(left > 0, "the server does not stop");
            left -= 1;
            self.turn();
        }
        while self.life.is_none() {
            self.start();
        }
        self.look();
    }

    fn what_is_open(&self) -> String {
        let engine = self.life.as_ref().map(|life| &**life.machine.engine());
        self.judge.what_is_open(engine)
    }

    fn look(&mut self) {
        let now_ms = self.now_ms();
        if let Some(life) = &self.life {
            self.judge.finish(life.machine.engine(), now_ms);
        }
    }

    /// Somebody goes on.
    fn turn(&mut self) {
        let choices = self.choices();
        let total = choices.iter().map(|(weight, _)| weight).sum();
        let mut draw = self.rng.below(total);
        for (weight, turn) in choices {
            match draw.checked_sub(weight) {
                Some(rest) => draw = rest,
                None => {
                    self.take(turn);
                    break;
                }
            }
        }
        self.follow_life();
    }

    fn choices(&mut self) -> Vec<(u64, Turn)> {
        let weather = &self.weather;
        let now_ms = self.clock_ahead_ms + self.elapsed_ms;
        let mut choices = vec![(weather.time, Turn::Time), (weather.network, Turn::Network)];
        let each = (weather.actor / self.places.len() as u64).max(1);
        choices.extend((0..self.places.len()).map(|actor| (each, Turn::Actor(actor))));
        match &mut self.life {
            None => choices.push((weather.reactor / 2 + 1, Turn::Start)),
            Some(life) => {
                choices.push((weather.timekeeper, Turn::Timekeeper));
                choices.push((weather.keeper, Turn::Keeper));
                if life.wants_flush() {
                    choices.push((weather.flusher, Turn::Flusher));
                }
                for reactor in 0..life.reactors() {
                    if life.is_awake(reactor, now_ms) {
                        choices.push((weather.reactor, Turn::Reactor(reactor)));
                    } else if !life.machine.is_done(reactor) {
                        // A thread may wake for no reason.
                        choices.push((1, Turn::Reactor(reactor)));
                    }
                }
            }
        }
        choices
    }

    fn take(&mut self, turn: Turn) {
        let now_ms = self.now_ms();
        let budget = self.rng.pick(&[1, 2, 1_000]);
        let Some(life) = &mut self.life else {
            return match turn {
                Turn::Start => self.start(),
                Turn::Actor(actor) => self.act(actor),
                Turn::Network => self.carry(),
                Turn::Time => self.pass_time(),
                _ => {}
            };
        };
        match turn {
            Turn::Reactor(reactor) => {
                self.preempt();
                self.move_some(reactor);
                let Some(life) = &mut self.life else { return };
                let ran = life.run(reactor, now_ms, budget);
                self.go_on();
                self.trace.note(format!("reactor {reactor} ran {ran}"));
            }
            Turn::Flusher => {
                let woken = life.flush();
                self.trace.note(format!("flushed for {woken} reactors"));
            }
            Turn::Timekeeper => {
                let done = life.machine.keep_time(now_ms, budget);
                if done > 0 {
                    self.trace.note(format!("{now_ms}: {done} deadlines"));
                }
            }
            Turn::Keeper => {
                let done = life.machine.keep_log(now_ms, budget);
                if done > 0 {
                    self.trace.note(format!("{done} acts of the log's keeper"));
                }
            }
            Turn::Network => self.carry(),
            Turn::Actor(actor) => self.act(actor),
            Turn::Time => self.pass_time(),
            Turn::Start => {}
        }
    }

    /// Maybe a reactor gives connections away before its turn.
    fn move_some(&mut self, from: usize) {
        let Some(life) = &mut self.life else { return };
        let to = self.moves.index(life.reactors());
        if to == from || self.moves.below(100) >= self.weather.move_percent || life.machine.is_done(from) {
            return;
        }
        let moved = life.machine.hand_half(from, to);
        if moved > 0 {
            self.tally.note("connections moved");
            self.trace
                .note(format!("{moved} connections move from reactor {from} to {to}"));
        }
    }

    fn carry(&mut self) {
        if let Some(what) = self.net.deliver() {
            self.trace.note(what);
        }
    }

    fn pass_time(&mut self) {
        let step_ms = match self.rng.below(100) {
            0..5 => 0,
            5..88 => self.rng.range(1, self.weather.time_step_ms),
            88..97 => self.rng.range(1, 300),
            97..99 => self.rng.range(1, 6_000),
            _ => self.rng.range(1, 90_000),
        };
        self.tally.note(if step_ms > 5_000 {
            "time jumps"
        } else {
            "time steps"
        });
        self.elapsed_ms += step_ms;
        self.net.tick(self.elapsed_ms);
        self.trace.note(format!("{}: {step_ms} ms pass", self.now_ms()));
    }

    /// A client's turn: to connect, or to read, and to write.
    fn act(&mut self, actor: usize) {
        let now_ms = self.now_ms();
        let place = &mut self.places[actor];
        let Some(link) = place.link else {
            if place.actor.wants_connection(now_ms) && self.elapsed_ms >= place.retry_at_ms {
                place.link = self.net.connect();
                match place.link {
                    Some(link) => {
                        self.trace.note(format!("client {actor} connects: link {link}"));
                        place.actor.connected(now_ms);
                    }
                    None => place.retry_at_ms = self.elapsed_ms + self.rng.range(1, 50),
                }
            }
            return;
        };
        match self.net.client_read(link) {
            Read::Bytes(bytes) => {
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let at = self.rng.range(1, rest.len() as u64) as usize;
                    place.actor.receive(&rest[..at], now_ms);
                    rest = &rest[at..];
                }
            }
            Read::Nothing => {}
            Read::End => return self.leave(actor),
        }
        if !place.actor.wants_connection(now_ms) {
            return self.leave(actor);
        }
        if place.unsent.len() < UNSENT_MAX {
            place.unsent.extend(place.actor.output(now_ms));
        }
        let sent = self.net.client_write(link, &mut place.unsent);
        if sent > 0 {
            self.trace.note(format!("client {actor} sends {sent} bytes"));
        }
    }

    /// Every client reads what has come.
    pub(crate) fn hear_all(&mut self) {
        let now_ms = self.now_ms();
        for place in &mut self.places {
            while let Some(link) = place.link
                && let Read::Bytes(bytes) = self.net.client_read(link)
            {
                place.actor.receive(&bytes, now_ms);
            }
        }
    }

    /// A client's connection ends.
    pub(crate) fn leave(&mut self, actor: usize) {
        let now_ms = self.now_ms();
        let place = &mut self.places[actor];
        if let Some(link) = place.link.take() {
            self.trace.note(format!("client {actor} leaves link {link}"));
            self.net.client_close(link);
            place.unsent.clear();
            place.retry_at_ms = self.elapsed_ms + self.rng.below(20);
            place.actor.disconnected(now_ms);
        }
    }

    /// A client gives up its connection although nothing is wrong with it.
    pub(crate) fn give_up_one(&mut self) {
        let actor = self.rng.index(self.places.len());
        if self.places[actor].link.is_some() {
            self.tally.note("clients gave up");
            self.leave(actor);
        }
    }

    /// Tells the judge that a life has ended.
    pub(crate) fn tell_crash(&mut self, crash: Crash) {
        let now_ms = self.now_ms();
        // Killed behind a failed sync: the system has forgotten what it did not write.
        let failed = self.disk.counters().syncs_failed;
        let has_failed = std::mem::replace(&mut self.syncs_failed, failed) < failed;
        let crash = if crash == Crash::Kill && has_failed {
            Crash::Failed
        } else {
            crash
        };
        self.trace.note(format!("{now_ms}: the server ends: {crash:?}"));
        self.tally.note(match crash {
            Crash::Kill => "kills",
            Crash::Power => "power cuts",
            Crash::Stop => "stops in good order",
            Crash::Failed => "failed logs",
        });
        self.judge.crashed(crash, now_ms);
    }
}
