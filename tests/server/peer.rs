//! A server for one test, and a peer that speaks frames and nothing else.

use ackring::engine::EngineConfig;
use ackring::server::{Server, ServerConfig, Spread};
use ackring::wire::compose::{self, ReserveFields};
use ackring::wire::{DeliveryBatch, ErrorReply, FrameDecoder, Header, Hello, Op, Outcome, Welcome, response};
use ackring::{Durability, EnqueueBuilder, ErrorCode, JobId, JobOptions, SettleBuilder, Token, limits};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

/// No answer takes this long; whatever does, hangs.
const HANG: Duration = Duration::from_secs(30);

/// A small engine in memory, or in a directory.
pub fn engine(directory: Option<&Path>) -> EngineConfig {
    EngineConfig {
        directory: directory.map(Path::to_owned),
        slots: 64 * 1024,
        segment_bytes: 4 * 1024 * 1024,
        log_bytes_max: 256 * 1024 * 1024,
        memory_bytes_max: 256 * 1024 * 1024,
        ..EngineConfig::default()
    }
}

/// A free port on the loopback address, two reactors that get connections in turn, so that jobs come across.
pub fn config() -> ServerConfig {
    ServerConfig {
        listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        threads: 2,
        spread: Spread::InTurn,
        ..ServerConfig::default()
    }
}

/// A server with an engine in memory.
pub fn start() -> Server {
    start_with(None, config())
}

/// A server whose log lies in `directory`.
pub fn start_in(directory: &Path) -> Server {
    start_with(Some(directory), config())
}

/// A server as told.
pub fn start_with(directory: Option<&Path>, config: ServerConfig) -> Server {
    Server::open(engine(directory), config).unwrap().0
}

/// A frame that the server sent.
#[derive(Debug, Clone)]
pub struct Received {
    pub header: Header,
    pub body: Vec<u8>,
}

impl Received {
    /// The error in it.
    pub fn error(&self) -> ErrorReply {
        assert!(self.header.is_error(), "no error: {self:?}");
        ErrorReply::decode(&self.body).unwrap()
    }

    /// The code of the error in it.
    pub fn code(&self) -> ErrorCode {
        ErrorCode::from_u16(self.error().number).unwrap()
    }

    /// The body, which is no error.
    pub fn ok(&self) -> &[u8] {
        assert!(!self.header.is_error(), "{:?}", ErrorReply::decode(&self.body));
        &self.body
    }

    /// The body as an outcome.
    pub fn outcome(&self) -> Outcome {
        Outcome::decode(self.ok()).unwrap()
    }

    /// The deliveries in it.
    pub fn deliveries(&self) -> Vec<Delivered> {
        let batch = DeliveryBatch::parse(self.ok()).unwrap();
        batch
            .items()
            .map(|item| Delivered {
                token: item.entry.token(),
                queue: item.entry.queue.get(),
                attempts: item.entry.attempts.get(),
                lease_ms: item.entry.lease_ms.get(),
                is_repeat: item.entry.flags != 0,
                payload: item.payload().to_vec(),
            })
            .collect()
    }
}

/// A job that was handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    pub token: Token,
    pub queue: u32,
    pub attempts: u16,
    pub lease_ms: u32,
    pub is_repeat: bool,
    pub payload: Vec<u8>,
}

impl Delivered {
    /// The payload as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap()
    }
}

/// The texts of deliveries.
pub fn texts(deliveries: &[Delivered]) -> Vec<&str> {
    deliveries.iter().map(Delivered::text).collect()
}

/// One connection.
pub struct Peer {
    pub stream: TcpStream,
    decoder: FrameDecoder,
    /// Frames that came while another was waited for.
    early: VecDeque<Received>,
    correlation: u32,
}

impl Peer {
    /// Connects and says nothing.
    pub fn silent(server: &Server) -> Self {
        Self::to(server.local_addr().unwrap())
    }

    /// Connects to an address and says nothing.
    pub fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(HANG)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            decoder: FrameDecoder::new(limits::FRAME_BYTES_MAX),
            early: VecDeque::new(),
            correlation: 0,
        }
    }

    /// Connects and says HELLO without a session.
    pub fn connect(server: &Server) -> Self {
        Self::with_session(server, 0).0
    }

    /// Connects and says HELLO.
    pub fn with_session(server: &Server, session: u128) -> (Self, Welcome) {
        let mut peer = Self::silent(server);
        let welcome = peer.hello(session);
        (peer, welcome)
    }

    /// Says HELLO.
    pub fn hello(&mut self, session: u128) -> Welcome {
        let reply = self.call(|out, correlation| hello(session).encode(out, correlation));
        Welcome::decode(reply.ok()).unwrap()
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends one request and returns its correlation.
    pub fn ask(&mut self, compose: impl FnOnce(&mut Vec<u8>, u32)) -> u32 {
        self.correlation += 1;
        let mut out = Vec::new();
        compose(&mut out, self.correlation);
        self.send(&out);
        self.correlation
    }

    /// Sends one request and waits for its answer; other frames are kept.
    pub fn call(&mut self, compose: impl FnOnce(&mut Vec<u8>, u32)) -> Received {
        let correlation = self.ask(compose);
        self.answer(correlation)
    }

    /// Waits for the answer with that correlation; other frames are kept.
    pub fn answer(&mut self, correlation: u32) -> Received {
        self.find(|frame| !frame.header.is_push() && frame.header.correlation.get() == correlation)
    }

    /// Waits for the next push.
    pub fn push(&mut self) -> Received {
        self.find(|frame| frame.header.is_push())
    }

    fn find(&mut self, wanted: impl Fn(&Received) -> bool) -> Received {
        if let Some(at) = self.early.iter().position(&wanted) {
            return self.early.remove(at).unwrap();
        }
        loop {
            let frame = self.read().expect("the connection was closed");
            if wanted(&frame) {
                return frame;
            }
            self.early.push_back(frame);
        }
    }

    /// The next frame in the order in which it came; `None` when the server has closed.
    pub fn next(&mut self) -> Option<Received> {
        match self.early.pop_front() {
            Some(frame) => Some(frame),
            None => self.read(),
        }
    }

    fn read(&mut self) -> Option<Received> {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return Some(Received {
                    header: *frame.header,
                    body: frame.body.to_vec(),
                });
            }
            match self.stream.read(self.decoder.space()) {
                Ok(0) => return None,
                Ok(count) => self.decoder.filled(count),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no answer: {error}"),
            }
        }
    }

    /// Reads up to the end; the error that came last.
    pub fn last_words(&mut self) -> Option<ErrorCode> {
        let mut last = None;
        while let Some(frame) = self.next() {
            last = frame.header.is_error().then(|| frame.code());
        }
        last
    }

    /// The handle of a queue.
    pub fn open(&mut self, name: &str) -> u32 {
        let reply = self.call(|out, correlation| compose::queue_open(out, correlation, name));
        response::decode_handle(reply.ok()).unwrap()
    }

    /// Enqueues texts under number 0.
    pub fn enqueue(&mut self, queue: u32, payloads: &[&str]) -> Vec<JobId> {
        self.enqueue_with(queue, payloads, &JobOptions::default(), None)
            .outcome()
            .ids
    }

    /// Enqueues texts, all with the same options.
    pub fn enqueue_with(
        &mut self,
        queue: u32,
        payloads: &[&str],
        options: &JobOptions<'_>,
        durability: Option<Durability>,
    ) -> Received {
        let batch = batch(payloads, options);
        self.call(|out, correlation| compose::enqueue(out, correlation, 0, queue, durability, &batch))
    }

    /// Reserves under number 0.
    pub fn reserve(&mut self, queues: &[u32], max_jobs: u32, wait_ms: u32) -> Vec<Delivered> {
        let correlation = self.ask_reserve(queues, max_jobs, wait_ms);
        self.answer(correlation).deliveries()
    }

    /// Sends a RESERVE and does not wait for its answer.
    pub fn ask_reserve(&mut self, queues: &[u32], max_jobs: u32, wait_ms: u32) -> u32 {
        let fields = ReserveFields {
            number: 0,
            max_jobs,
            wait_ms,
            max_bytes: 0,
            lease_ms: 0,
        };
        self.ask(|out, correlation| compose::reserve(out, correlation, &fields, queues))
    }

    /// Settles under number 0.
    pub fn settle(&mut self, settle: impl FnOnce(&mut SettleBuilder)) -> Outcome {
        let mut batch = SettleBuilder::new();
        settle(&mut batch);
        self.call(|out, correlation| compose::settle(out, correlation, 0, &batch))
            .outcome()
    }

    /// Acks deliveries, all of which must be current.
    pub fn ack(&mut self, deliveries: &[Delivered]) {
        let outcome = self.settle(|batch| deliveries.iter().for_each(|one| batch.ack(one.token, None)));
        assert_eq!(outcome.items, []);
    }

    /// Subscribes; returns the subscription.
    pub fn subscribe(&mut self, queues: &[u32], window_jobs: u32, window_bytes: u32) -> u32 {
        let reply = self.call(|out, correlation| {
            compose::subscribe(out, correlation, window_jobs, window_bytes, 0, queues)
        });
        response::decode_handle(reply.ok()).unwrap()
    }

    /// A sign of life: everything that this connection sent before was carried out when it returns.
    pub fn ping(&mut self) {
        assert_eq!(self.call(compose::ping).header.answered_op(), Some(Op::Ping));
    }

    /// Frames that came and that nobody asked for so far.
    pub fn early(&mut self) -> Vec<Received> {
        self.early.drain(..).collect()
    }
}

/// HELLO of this version.
pub fn hello(session: u128) -> Hello<'static> {
    Hello::new(session, "test")
}

/// A batch of texts.
pub fn batch(payloads: &[&str], options: &JobOptions<'_>) -> EnqueueBuilder {
    let mut batch = EnqueueBuilder::new();
    payloads
        .iter()
        .for_each(|payload| batch.push(payload.as_bytes(), options));
    batch
}
