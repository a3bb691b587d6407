//! A server that says exactly what a test tells it to, over real sockets.
#![allow(dead_code, reason = "each test file uses its own part of it")]
#![allow(clippy::disallowed_methods, reason = "the bound of a wait")]

use ackring::client::{Client, ClientConfig, Reconnect};
use ackring::wire::{
    DeliverEntry, DeliveryLimits, DeliveryWriter, FrameDecoder, Header, OutcomeHead, Reply, Request, Welcome,
};
use ackring::{Durability, ErrorCode, ItemError, Refusal, limits};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

pub(crate) struct Fake {
    listener: TcpListener,
    pub(crate) boot: u64,
    pub(crate) session_known: bool,
    pub(crate) session_window: u32,
    pub(crate) heartbeat_ms: u32,
}

impl Fake {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self {
            listener,
            boot: 1,
            session_known: false,
            session_window: 1024,
            heartbeat_ms: 0,
        }
    }

    pub(crate) fn address(&self) -> String {
        self.listener.local_addr().unwrap().to_string()
    }

    /// Short pauses, so that tests are quick; long deadlines, so that a slow machine does not fail them.
    pub(crate) fn config(&self) -> ClientConfig {
        ClientConfig {
            request_timeout: Duration::from_secs(20),
            reconnect: Reconnect {
                pause_min: Duration::from_millis(1),
                pause_max: Duration::from_millis(20),
            },
            ..ClientConfig::to(&self.address()).unwrap()
        }
    }

    /// A client with that configuration, and the server's end of its connection.
    pub(crate) fn connect(&self, config: ClientConfig) -> (Client, Peer) {
        std::thread::scope(|scope| {
            let client = scope.spawn(|| Client::connect(config).unwrap());
            let peer = self.accept();
            (client.join().unwrap(), peer)
        })
    }

    /// The next connection, as it comes.
    pub(crate) fn accept_raw(&self) -> Peer {
        // Bounded, so that a client that does not come back fails its test instead of hanging it.
        self.listener.set_nonblocking(true).unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        let stream = loop {
            match self.listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) => assert!(Instant::now() < until, "no connection: {error}"),
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        stream.set_nonblocking(false).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Peer {
            stream,
            decoder: FrameDecoder::new(limits::FRAME_BYTES_MAX),
            session: 0,
        }
    }

    /// The next connection, with HELLO answered.
    pub(crate) fn accept(&self) -> Peer {
        let mut peer = self.accept_raw();
        let hello = peer.request();
        let Request::Hello(said) = hello.decode() else {
            panic!("the first frame is HELLO")
        };
        peer.session = said.session;
        let welcome = Welcome {
            version: 1,
            session_known: self.session_known,
            features: 0,
            frame_bytes_max: limits::FRAME_BYTES_MAX,
            heartbeat_ms: self.heartbeat_ms,
            boot: self.boot,
            session_window: self.session_window,
            name: "fake".to_owned(),
        };
        let mut out = Vec::new();
        welcome.encode(&mut out, hello.header.correlation.get());
        peer.send(&out);
        peer
    }
}

pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    decoder: FrameDecoder,
    pub(crate) session: u128,
}

/// A request that outlives the buffer it was read into.
pub(crate) struct Got {
    pub(crate) header: Header,
    pub(crate) body: Vec<u8>,
}

impl Got {
    pub(crate) fn decode(&self) -> Request<'_> {
        Request::decode(&self.header, &self.body).unwrap()
    }

    pub(crate) fn reply(&self) -> Reply {
        Reply::to(&self.header)
    }

    pub(crate) fn number(&self) -> u64 {
        self.decode().number()
    }
}

impl Peer {
    /// The next request. Panics when none comes within 20 seconds.
    pub(crate) fn request(&mut self) -> Got {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return Got {
                    header: *frame.header,
                    body: frame.body.to_vec(),
                };
            }
            let count = self
                .stream
                .read(self.decoder.space())
                .expect("a request within the time");
            assert!(count > 0, "the client closed the connection");
            self.decoder.filled(count);
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Answers with what `write` writes.
    pub(crate) fn answer(&mut self, got: &Got, write: impl FnOnce(Reply, &mut Vec<u8>)) {
        let mut out = Vec::new();
        write(got.reply(), &mut out);
        self.send(&out);
    }

    /// Answers with these ids.
    pub(crate) fn outcome(&mut self, got: &Got, ids: &[u64], items: &[ItemError]) {
        let head = OutcomeHead {
            level: Some(Durability::Written),
            replayed: false,
            count: 1,
        };
        self.answer(got, |reply, out| reply.outcome(out, head, ids, items));
    }

    pub(crate) fn refuse(&mut self, got: &Got, code: ErrorCode) {
        self.answer(got, |reply, out| {
            reply.error(out, &Refusal::new(code, "as the script says"))
        });
    }

    /// Answers a RESERVE with one delivery for each payload, ids from 1.
    pub(crate) fn deliver(&mut self, got: &Got, handle: u32, payloads: &[&[u8]]) {
        self.answer(got, |reply, out| {
            write_deliveries(DeliveryWriter::reply_to(out, reply, LIMITS), handle, payloads);
        });
    }

    pub(crate) fn push(&mut self, subscription: u32, handle: u32, payloads: &[&[u8]]) {
        let mut out = Vec::new();
        write_deliveries(
            DeliveryWriter::push_to(&mut out, subscription, LIMITS),
            handle,
            payloads,
        );
        self.send(&out);
    }

    /// Answers the QUEUE_OPEN that must come next.
    pub(crate) fn open_queue(&mut self, name: &str, handle: u32) {
        let got = self.request();
        assert!(matches!(got.decode(), Request::QueueOpen { name: opened } if opened == name));
        self.answer(&got, |reply, out| reply.handle(out, handle));
    }

    pub(crate) fn hang_up(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

const LIMITS: DeliveryLimits = DeliveryLimits {
    jobs: 1000,
    bytes: 0,
    frame_bytes: limits::FRAME_BYTES_MAX,
};

fn write_deliveries(mut writer: DeliveryWriter<'_>, handle: u32, payloads: &[&[u8]]) {
    for (n, payload) in payloads.iter().enumerate() {
        let entry = DeliverEntry {
            id: (n as u64 + 1).into(),
            queue: handle.into(),
            payload_len: (payload.len() as u32).into(),
            attempt: 1.into(),
            ..DeliverEntry::default()
        };
        writer.push(&entry, payload);
    }
    writer.finish();
}
