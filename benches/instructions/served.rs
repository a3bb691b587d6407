//! Lives of jobs through a whole server on one thread: bytes in, bytes out, no system call of a socket between.

use crate::engine::{AGENTS_EVERY, config};
use crate::greeting::greeting;
use ackring::engine::Engine;
use ackring::server::ServerConfig;
use ackring::server::machine::{Machine, Net, NetStream, Ready};
use ackring::wire::{DeliveryBatch, FrameDecoder, compose};
use ackring::{EnqueueBuilder, JobOptions, SettleBuilder, Token};
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const BEGIN_MS: u64 = 1_767_225_600_000;

/// Both directions of one connection.
#[derive(Default)]
struct Line {
    to_server: Vec<u8>,
    read: usize,
    to_peer: Vec<u8>,
    /// Whether the server is yet to be told, of bytes and of room.
    has_news: bool,
    number: u32,
}

type Shared = Rc<RefCell<Line>>;

struct Stream(Shared);

impl NetStream for Stream {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let mut line = self.0.borrow_mut();
        let left = &line.to_server[line.read..];
        let count = left.len().min(space.len());
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        space[..count].copy_from_slice(&left[..count]);
        line.read += count;
        if line.read == line.to_server.len() {
            line.to_server.clear();
            line.read = 0;
        }
        Ok(count)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().to_peer.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn finish_writing(&self) {}
}

/// A network of lines that are there from the beginning.
struct Lines {
    arriving: Vec<Shared>,
    watched: Vec<Shared>,
}

impl Net for Lines {
    type Stream = Stream;

    fn wait(&mut self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn each_ready(&mut self, mut tell: impl FnMut(Ready)) {
        if !self.arriving.is_empty() {
            tell(Ready::Accept);
        }
        for line in &self.watched {
            let number = line.borrow().number;
            if std::mem::take(&mut line.borrow_mut().has_news) {
                tell(Ready::Stream {
                    number,
                    readable: true,
                    read_closed: false,
                    writable: true,
                });
            }
        }
    }

    fn accept(&mut self) -> io::Result<Option<Stream>> {
        Ok(self.arriving.pop().map(Stream))
    }

    fn stop_listening(&mut self) {}

    fn watch(&mut self, stream: &mut Stream, number: u32) -> io::Result<()> {
        stream.0.borrow_mut().number = number;
        stream.0.borrow_mut().has_news = true;
        self.watched.push(stream.0.clone());
        Ok(())
    }

    fn forget(&mut self, _: &mut Stream) {}
}

/// A client's end of a line.
struct Peer {
    line: Shared,
    decoder: FrameDecoder,
    number: u64,
}

impl Peer {
    fn new(session: u128) -> Self {
        let mut peer = Self {
            line: Shared::default(),
            decoder: FrameDecoder::new(u32::MAX - 7),
            number: 0,
        };
        peer.say(|out, _| out.extend(greeting(session, "instructions")));
        peer.say(|out, _| compose::queue_open(out, 1, "bench"));
        peer
    }

    fn say(&mut self, compose: impl FnOnce(&mut Vec<u8>, u64)) {
        self.number += 1;
        let mut line = self.line.borrow_mut();
        compose(&mut line.to_server, self.number);
        line.has_news = true;
    }

    /// Reads what came: the tokens of the deliveries go into `tokens`; returns how many answers there were.
    fn hear(&mut self, tokens: &mut Vec<Token>) -> usize {
        let mut line = self.line.borrow_mut();
        self.decoder.extend(&line.to_peer);
        line.to_peer.clear();
        let mut answers = 0;
        while let Some(frame) = self.decoder.next_frame().unwrap() {
            assert!(!frame.header.is_error());
            if frame.header.is_push() {
                let batch = DeliveryBatch::parse(frame.body).unwrap();
                tokens.extend(batch.items().map(|item| item.entry.token()));
            } else {
                answers += 1;
            }
        }
        answers
    }
}

struct Served {
    machine: Machine<Lines>,
    now_ms: u64,
}

impl Served {
    fn step(&mut self) {
        self.machine.wait(0, Duration::ZERO).unwrap();
        self.machine.step(0, self.now_ms, 1_000);
        self.machine.doze(0, self.now_ms);
    }
}

/// A producer sends `frames` ENQUEUE frames of `batch` jobs each at once; a subscriber gets the jobs and acks them in frames
/// of as many; again and again. Every request is numbered, as a client's are. What the two peers do counts too: it
/// is little.
pub fn life(batch: usize, frames: usize, rounds: u64) {
    let directory = tempfile::tempdir().unwrap();
    let (engine, _) = Engine::open(config(Some(directory.path())), BEGIN_MS).unwrap();
    let (mut producer, mut worker) = (Peer::new(1), Peer::new(2));
    let lines = Lines {
        arriving: vec![worker.line.clone(), producer.line.clone()],
        watched: Vec::new(),
    };
    let net = (lines, Box::new(|| ()) as Box<dyn Fn() + Send + Sync>);
    let machine = Machine::new(Arc::new(engine), ServerConfig::default(), 1, vec![net]);
    let mut served = Served {
        machine,
        now_ms: BEGIN_MS,
    };
    let mut tokens = Vec::new();
    (0..4).for_each(|_| served.step());
    worker.say(|out, _| compose::subscribe(out, 2, 8_192, 64 << 20, 0, &[0]));
    served.step();
    assert_eq!((producer.hear(&mut tokens), worker.hear(&mut tokens)), (2, 3));
    let mut jobs = EnqueueBuilder::new();
    (0..batch).for_each(|_| jobs.push(&[1; 64], &JobOptions::default()));
    let mut settles = SettleBuilder::new();
    for round in 1..=rounds {
        served.now_ms = BEGIN_MS + round / 8;
        for _ in 0..frames {
            producer.say(|out, number| compose::enqueue(out, 3, number, 0, None, &jobs));
        }
        let (mut confirmed, mut settled) = (0, 0);
        while confirmed < frames || settled < frames {
            served.step();
            confirmed += producer.hear(&mut tokens);
            settled += worker.hear(&mut tokens);
            for delivered in tokens.chunks(batch) {
                settles.clear();
                delivered.iter().for_each(|token| settles.ack(*token, None));
                worker.say(|out, number| compose::settle(out, 4, number, &settles));
            }
            tokens.clear();
        }
        if round % AGENTS_EVERY == 0 {
            served.machine.keep_time(served.now_ms, 10_000);
            served.machine.keep_log(served.now_ms, 16);
        }
    }
}
