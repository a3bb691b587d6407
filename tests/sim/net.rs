//! The simulated network: byte streams between clients and the server, as TCP gives them.
//!
//! Bytes of one stream are never reordered, and nothing else is promised: they arrive in pieces of any size, late, or
//! not at all; buffers are small; a connection ends in the middle of anything, and its two ends learn of that at
//! different times. What the server is told of readiness is what an edge-triggered poll tells it, no more.

mod ear;
mod pipe;

pub use ear::Ear;

use crate::disk::SimDisk;
use crate::rng::Rng;
use ackring::server::machine::Wake;
use pipe::{Close, Pipe};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes that a connection holds in one direction, if it is not one of the narrow ones.
const CAPACITY_USUAL: usize = 256 * 1024;

/// What happened on the network, to know that it did.
#[derive(Debug, Clone, Copy, Default)]
pub struct NetCounts {
    /// Connections made.
    pub connects: u64,
    /// Connections that nobody listened for.
    pub refused: u64,
    /// Connections cut with both ends told at once.
    pub resets: u64,
    /// Connections whose server's end learned of the loss later.
    pub half_open_server: u64,
    /// Connections whose client's end learned of the loss later.
    pub half_open_client: u64,
    /// Connections on which nothing moved for a while.
    pub stalls: u64,
    /// Cuts that lost bytes of the server's answers.
    pub answers_lost: u64,
    /// Cuts that lost bytes of a client's requests.
    pub requests_lost: u64,
    /// Pieces that reached the server after the client had given the connection up.
    pub late_requests: u64,
    /// Writes of the server that were taken in part or not at all.
    pub short_writes: u64,
    /// Accepts that failed.
    pub accept_errors: u64,
    /// Accepted connections that the poll had no room for.
    pub watch_errors: u64,
    /// Reads and writes that a signal interrupted.
    pub interrupts: u64,
}

/// Which end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Server,
    Client,
}

#[derive(Debug)]
struct Link {
    up: Pipe,
    down: Pipe,
    /// The reactor that watches it, and under which number.
    watched: Option<(usize, u32)>,
    server_open: bool,
    client_open: bool,
    /// The server wrote more than there was room for, and is told when there is.
    blocked: bool,
    /// The system takes nothing although there is room.
    pressed: bool,
    /// Nothing moves before this.
    stalled_until_ms: u64,
    /// An end that has not noticed yet that the connection is lost, and when it will. Nothing moves any more.
    notice: Option<(End, u64)>,
}

/// All connections there are, and the server's ear.
#[derive(Debug)]
struct Fabric {
    rng: Rng,
    now_ms: u64,
    links: BTreeMap<u64, Link>,
    next: u64,
    backlog: VecDeque<u64>,
    listening: bool,
    accept_news: bool,
    /// Links with news, by reactor.
    news: Vec<BTreeSet<u64>>,
    counts: NetCounts,
    /// Whether the network misbehaves.
    faulty: bool,
    /// The machine that the server runs on: what it writes after it stopped was never written.
    machine: SimDisk,
    /// Writes of the server until the machine stops.
    die_in: Option<u64>,
}

/// What a client's read brings.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    Bytes(Vec<u8>),
    Nothing,
    /// The connection is over.
    End,
}

/// The network.
#[derive(Debug, Clone)]
pub struct SimNet(Rc<RefCell<Fabric>>);

impl SimNet {
    /// A network for a server on the machine with that disk.
    pub fn new(seed: u64, machine: SimDisk) -> Self {
        Self(Rc::new(RefCell::new(Fabric {
            rng: Rng::new(seed, "net"),
            now_ms: 0,
            links: BTreeMap::new(),
            next: 1,
            backlog: VecDeque::new(),
            listening: false,
            accept_news: false,
            news: Vec::new(),
            counts: NetCounts::default(),
            faulty: true,
            machine,
            die_in: None,
        })))
    }

    /// The machine stops at the server's write that is `writes` from now (1: the next).
    pub fn die_in(&self, writes: u64) {
        self.0.borrow_mut().die_in = Some(writes);
    }

    pub fn counts(&self) -> NetCounts {
        self.0.borrow().counts
    }

    /// Whether things go wrong from now on.
    pub fn set_faulty(&self, faulty: bool) {
        let mut fabric = self.0.borrow_mut();
        fabric.faulty = faulty;
        if !faulty {
            fabric.die_in = None;
            let ids: Vec<u64> = fabric.links.keys().copied().collect();
            for id in ids {
                if let Some(link) = fabric.links.get_mut(&id) {
                    link.stalled_until_ms = 0;
                    // Requests of half a megabyte come to no end in pieces of fifty bytes.
                    link.up.capacity = CAPACITY_USUAL;
                    link.down.capacity = CAPACITY_USUAL;
                }
                fabric.unblock(id);
            }
        }
    }

    /// What the reactors of a new server see; the first listens. With each comes what wakes it, and whether it was.
    pub fn serve(&self, reactors: usize) -> Vec<(Ear, Wake, Arc<AtomicBool>)> {
        let mut fabric = self.0.borrow_mut();
        fabric.listening = true;
        fabric.accept_news = false;
        fabric.backlog.clear();
        fabric.news = vec![BTreeSet::new(); reactors];
        let ear = |reactor| {
            let woken = Arc::new(AtomicBool::new(false));
            let rung = woken.clone();
            let wake: Wake = Box::new(move || rung.store(true, Ordering::SeqCst));
            let net = self.clone();
            (Ear { net, reactor }, wake, woken)
        };
        (0..reactors).map(ear).collect()
    }

    /// Whether the poll of a reactor would return.
    pub fn has_news(&self, reactor: usize) -> bool {
        let fabric = self.0.borrow();
        !fabric.news[reactor].is_empty() || reactor == 0 && fabric.accept_news
    }

    /// Moves the network's clock, and tells those of a lost connection whose time has come.
    pub fn tick(&self, now_ms: u64) {
        let mut fabric = self.0.borrow_mut();
        fabric.now_ms = now_ms;
        let due: Vec<u64> = fabric
            .links
            .iter()
            .filter(|(_, link)| link.notice.is_some_and(|(_, at_ms)| at_ms <= now_ms))
            .map(|(id, _)| *id)
            .collect();
        due.into_iter().for_each(|id| fabric.notice(id));
    }

    /// A client connects; `None` when nobody listens.
    pub fn connect(&self) -> Option<u64> {
        let mut fabric = self.0.borrow_mut();
        if !fabric.listening {
            fabric.counts.refused += 1;
            return None;
        }
        fabric.counts.connects += 1;
        let id = fabric.next;
        fabric.next += 1;
        let mut pipe = || Pipe {
            capacity: match fabric.rng.below(4) {
                _ if !fabric.faulty => CAPACITY_USUAL,
                0 => fabric.rng.range(48, 512) as usize,
                1 => fabric.rng.range(512, 8_192) as usize,
                _ => CAPACITY_USUAL,
            },
            ..Pipe::default()
        };
        let link = Link {
            up: pipe(),
            down: pipe(),
            watched: None,
            server_open: true,
            client_open: true,
            blocked: false,
            pressed: false,
            stalled_until_ms: 0,
            notice: None,
        };
        fabric.links.insert(id, link);
        fabric.backlog.push_back(id);
        fabric.accept_news = true;
        Some(id)
    }

    /// A client sends what the connection takes of `bytes`.
    pub fn client_write(&self, id: u64, bytes: &mut VecDeque<u8>) -> usize {
        let mut fabric = self.0.borrow_mut();
        let Some(link) = fabric.links.get_mut(&id) else {
            bytes.clear();
            return 0;
        };
        if link.up.close.is_some() {
            bytes.clear();
            return 0;
        }
        let taken = link.up.room().min(bytes.len());
        if link.notice.is_some() {
            // Nothing arrives behind bytes that were lost.
            bytes.drain(..taken);
            return taken;
        }
        link.up.sent.extend(bytes.drain(..taken));
        taken
    }

    /// A client reads all that has come.
    pub fn client_read(&self, id: u64) -> Read {
        let mut fabric = self.0.borrow_mut();
        let Some(link) = fabric.links.get_mut(&id) else {
            return Read::End;
        };
        if link.down.arrived.is_empty() {
            return match link.down.closed {
                Some(_) => Read::End,
                None => Read::Nothing,
            };
        }
        let bytes = link.down.arrived.drain(..).collect();
        fabric.unblock(id);
        Read::Bytes(bytes)
    }

    /// A client closes its end. What it sent is still on its way.
    pub fn client_close(&self, id: u64) {
        let mut fabric = self.0.borrow_mut();
        if let Some(link) = fabric.links.get_mut(&id) {
            link.client_open = false;
            if link.notice.is_none() {
                link.up.close.get_or_insert(Close::Fin);
            }
            link.down.sent.clear();
            link.down.arrived.clear();
            fabric.unblock(id);
            fabric.collect(id);
        }
    }

    /// Lets something arrive somewhere; says what, for the trace.
    pub fn deliver(&self) -> Option<String> {
        let mut fabric = self.0.borrow_mut();
        let now_ms = fabric.now_ms;
        let mut movable = Vec::new();
        for (id, link) in &fabric.links {
            if link.stalled_until_ms <= now_ms && link.notice.is_none() {
                if link.up.can_move() {
                    movable.push((*id, End::Server));
                }
                if link.down.can_move() {
                    movable.push((*id, End::Client));
                }
                if link.pressed {
                    movable.push((*id, End::Client));
                }
            }
        }
        if movable.is_empty() {
            return None;
        }
        let (id, to) = fabric.rng.pick(&movable);
        Some(fabric.deliver_to(id, to))
    }

    /// Something bad happens to a connection; says what.
    pub fn harm(&self) -> Option<String> {
        let mut fabric = self.0.borrow_mut();
        let ids: Vec<u64> = fabric.links.keys().copied().collect();
        if ids.is_empty() {
            return None;
        }
        let id = fabric.rng.pick(&ids);
        Some(fabric.harm(id))
    }

    /// The server's machine is gone. By a kill the system closes its connections; by a power cut nobody tells the
    /// clients, who notice in a while.
    pub fn server_died(&self, quietly: bool) {
        let mut fabric = self.0.borrow_mut();
        fabric.listening = false;
        fabric.die_in = None;
        fabric.backlog.clear();
        fabric.news.iter_mut().for_each(BTreeSet::clear);
        let ids: Vec<u64> = fabric.links.keys().copied().collect();
        let now_ms = fabric.now_ms;
        for id in ids {
            let Fabric {
                rng, links, counts, ..
            } = &mut *fabric;
            let Some(link) = links.get_mut(&id) else { continue };
            link.server_open = false;
            link.watched = None;
            let lost = link.down.reset(rng, false);
            counts.answers_lost += u64::from(lost > 0 && link.client_open);
            // Its last words come before anything that happens in another life.
            link.down.arrived.extend(link.down.sent.drain(..));
            link.up.reset(rng, true);
            link.notice = None;
            if quietly && link.client_open {
                let at_ms = now_ms + rng.range(1, 3_000);
                link.lose(End::Client, at_ms);
            }
            fabric.collect(id);
        }
    }
}

impl Link {
    /// Nothing moves any more; `end` will learn of it then. What is on its way there still comes.
    fn lose(&mut self, end: End, at_ms: u64) {
        let pipe = match end {
            End::Server => &mut self.up,
            End::Client => &mut self.down,
        };
        pipe.close = None;
        pipe.arrived.extend(pipe.sent.drain(..));
        self.notice = Some((end, at_ms));
    }
}

impl Fabric {
    /// A write of the server begins; it may be the one at which the machine stops.
    fn count_down(&mut self) {
        if let Some(left) = &mut self.die_in {
            *left -= 1;
            if *left == 0 {
                self.die_in = None;
                self.machine.stop();
            }
        }
    }

    fn tell(&mut self, id: u64) {
        if let Some(link) = self.links.get(&id)
            && let Some((reactor, _)) = link.watched
            && link.server_open
        {
            self.news[reactor].insert(id);
        }
    }

    /// There is room again for what the server writes.
    fn unblock(&mut self, id: u64) {
        if let Some(link) = self.links.get_mut(&id)
            && !link.pressed
            && link.down.room() > 0
            && std::mem::take(&mut link.blocked)
        {
            self.tell(id);
        }
    }

    /// Forgets a connection that neither end has open.
    fn collect(&mut self, id: u64) {
        if self
            .links
            .get(&id)
            .is_some_and(|link| !link.server_open && !link.client_open)
        {
            self.links.remove(&id);
        }
    }

    fn deliver_to(&mut self, id: u64, to: End) -> String {
        let Self {
            rng, links, counts, ..
        } = self;
        let Some(link) = links.get_mut(&id) else {
            return String::new();
        };
        if to == End::Client && std::mem::take(&mut link.pressed) {
            self.unblock(id);
            return format!("link {id} takes bytes again");
        }
        let (pipe, reader_open) = match to {
            End::Server => (&mut link.up, link.server_open),
            End::Client => (&mut link.down, link.client_open),
        };
        let waiting = pipe.sent.len();
        let count = match rng.below(4) {
            _ if waiting == 0 => 0,
            0 => rng.range(1, waiting.min(24) as u64) as usize,
            1 => rng.range(1, waiting as u64) as usize,
            _ => waiting,
        };
        if reader_open {
            pipe.arrived.extend(pipe.sent.drain(..count));
            counts.late_requests += u64::from(to == End::Server && !link.client_open && count > 0);
        } else {
            // Nobody reads there any more: the writer is told so.
            pipe.sent.clear();
            let back = match to {
                End::Server => &mut link.down,
                End::Client => &mut link.up,
            };
            back.reset(rng, true);
        }
        let pipe = match to {
            End::Server => &mut link.up,
            End::Client => &mut link.down,
        };
        if pipe.sent.is_empty() && pipe.close.is_some() && (count == 0 || rng.per_mille(500)) {
            pipe.closed = pipe.close;
        }
        let ended = pipe.closed.is_some();
        self.tell(id);
        let side = if to == End::Server { "server" } else { "client" };
        format!(
            "link {id}: {count} of {waiting} bytes to the {side}{}",
            if ended { ", its end" } else { "" }
        )
    }

    fn harm(&mut self, id: u64) -> String {
        let Self {
            rng,
            links,
            counts,
            now_ms,
            ..
        } = self;
        let Some(link) = links.get_mut(&id) else {
            return String::new();
        };
        let kind = rng.below(10);
        if kind < 3 || link.notice.is_some() {
            let for_ms = rng.pick(&[5, 50, 500, 5_000]);
            link.stalled_until_ms = *now_ms + rng.range(1, for_ms);
            counts.stalls += 1;
            return format!("link {id} stalls");
        }
        let (up, down) = match kind {
            3..6 => (true, true),
            6..8 => (false, true),
            _ => (true, false),
        };
        counts.requests_lost += u64::from(link.up.reset(rng, up) > 0);
        counts.answers_lost += u64::from(link.down.reset(rng, down) > 0);
        let late_ms = rng.pick(&[20, 500, 8_000]);
        let at_ms = *now_ms + rng.range(1, late_ms);
        let text = match (up, down) {
            (true, true) => {
                counts.resets += 1;
                format!("link {id} is cut")
            }
            (false, _) => {
                counts.half_open_server += 1;
                link.lose(End::Server, at_ms);
                format!("link {id} is lost; the server will notice at {at_ms}")
            }
            _ => {
                counts.half_open_client += 1;
                link.lose(End::Client, at_ms);
                format!("link {id} is lost; the client will notice at {at_ms}")
            }
        };
        self.tell(id);
        text
    }

    /// The end of a lost connection that did not know learns of it.
    fn notice(&mut self, id: u64) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let Some((end, _)) = link.notice.take() else {
            return;
        };
        let (pipe, other) = match end {
            End::Server => (&mut link.up, &mut link.down),
            End::Client => (&mut link.down, &mut link.up),
        };
        // What it wrote meanwhile comes behind bytes that were lost, so it never comes.
        other.sent.clear();
        pipe.reset(&mut self.rng, true);
        self.tell(id);
    }
}
