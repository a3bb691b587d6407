//! Fencing and repeated requests against a real server process, through the client and through raw frames.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

mod cli;

use ackring::client::{Client, ClientConfig, ClientError, Reserve};
use ackring::wire::{Hello, Outcome, compose};
use ackring::{EnqueueBuilder, ErrorCode, JobOptions, SettleBuilder};
use cli::{Home, eventually};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

fn client(home: &Home) -> Client {
    Client::connect(ClientConfig::to(&home.address()).unwrap()).unwrap()
}

fn reserve_one(client: &Client, queue: &str) -> ackring::client::Delivery {
    let queue = client.queue(queue).unwrap();
    let reserve = Reserve {
        wait: Duration::from_secs(60),
        ..Reserve::default()
    };
    client.reserve(&[&queue], reserve).unwrap().pop().unwrap()
}

#[test]
fn an_ack_with_an_old_attempt_is_refused_and_changes_nothing() {
    let home = Home::new();
    let server = home.serve();
    home.json_with_input(&["push", "q"], b"x\n");
    let first = reserve_one(&client(&home), "q");
    client(&home)
        .nack(first.token(), Some(0), Some(b"again"))
        .unwrap();
    let second = reserve_one(&client(&home), "q");
    assert_eq!(second.attempt(), first.attempt() + 1);
    server.kill();
    let _server = home.serve();
    // From another connection, to a server that was killed in between: the token decides, nothing else.
    let client = client(&home);
    let refused = client.ack(first.token(), None).unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::LeaseLost), "{refused}");
    assert_eq!(home.stats("q")["leased"], 1);
    client.ack(second.token(), None).unwrap();
    assert_eq!(
        home.json(&["job", "get", &second.id().to_string()])["state"],
        "done"
    );
}

#[test]
fn the_same_ack_again_is_a_success_also_after_a_kill() {
    let home = Home::new();
    let server = home.serve();
    home.json_with_input(&["push", "q"], b"x\n");
    let job = reserve_one(&client(&home), "q");
    let mut acks = SettleBuilder::new();
    acks.ack(job.token(), Some(b"result"));
    assert_eq!(client(&home).settle(&acks).unwrap().items, []);
    let settled = |client: Client| client.settle(&acks).unwrap().items[0].code;
    assert_eq!(settled(client(&home)), ErrorCode::AlreadySettled);
    server.kill();
    let _server = home.serve();
    assert_eq!(settled(client(&home)), ErrorCode::AlreadySettled);
    let job = home.json(&["job", "get", &job.id().to_string()]);
    assert_eq!(
        (&job["state"], &job["result"]),
        (&"done".into(), &"result".into())
    );
}

/// A client that speaks raw frames, so that it can leave an answer unread.
struct Raw {
    stream: UnixStream,
}

impl Raw {
    fn connect(home: &Home, session: u128) -> Self {
        let mut stream = UnixStream::connect(home.path("socket")).unwrap();
        stream.set_read_timeout(Some(cli::HANG)).unwrap();
        let mut frame = Vec::new();
        Hello::new(session, "raw").encode(&mut frame, 1);
        stream.write_all(&frame).unwrap();
        let mut raw = Self { stream };
        raw.body();
        raw
    }

    fn send(&mut self, frame: &[u8]) {
        self.stream.write_all(frame).unwrap();
    }

    /// The next answer's body.
    fn body(&mut self) -> Vec<u8> {
        let mut header = [0; 16];
        self.stream.read_exact(&mut header).unwrap();
        let len = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let mut body = vec![0; len - 16];
        self.stream.read_exact(&mut body).unwrap();
        assert_eq!(header[6] & 0x80, 0, "refused: {}", String::from_utf8_lossy(&body));
        body
    }

    fn open(&mut self, queue: &str) -> u32 {
        let mut frame = Vec::new();
        compose::queue_open(&mut frame, 2, queue);
        self.send(&frame);
        ackring::wire::response::decode_handle(&self.body()).unwrap()
    }
}

#[test]
fn a_batch_whose_answer_was_lost_is_there_once_after_a_kill() {
    let home = Home::new();
    let server = home.serve();
    let session = 0x1234_5678_9abc_def0_0fed_cba9_8765_4321;
    let mut batch = EnqueueBuilder::new();
    for payload in ["a", "b", "c"] {
        batch.push(payload.as_bytes(), &JobOptions::default());
    }
    let send = |raw: &mut Raw| {
        let handle = raw.open("q");
        let mut frame = Vec::new();
        compose::enqueue(&mut frame, 3, 1, handle, None, &batch);
        raw.send(&frame);
    };
    let mut raw = Raw::connect(&home, session);
    send(&mut raw);
    eventually("the batch", || (home.stats("q")["ready"] == 3).then_some(()));
    // The answer is never read; the server is killed, and the client comes back.
    drop(raw);
    server.kill();
    let _server = home.serve();
    assert_eq!(home.stats("q")["ready"], 3);
    let mut raw = Raw::connect(&home, session);
    send(&mut raw);
    let outcome = Outcome::decode(&raw.body()).unwrap();
    assert!(outcome.head.replayed, "{outcome:?}");
    assert_eq!(outcome.head.count, 3);
    assert_eq!(home.stats("q")["ready"], 3, "the batch is there once");
    let peeked = home.json(&["job", "peek", "q"]);
    let ids: Vec<String> = outcome.ids.iter().map(ToString::to_string).collect();
    for (at, id) in ids.iter().enumerate() {
        assert_eq!(peeked["jobs"][at]["id"], **id, "the first answer is given again");
    }
}

#[test]
fn a_client_that_gives_up_says_what_it_knows() {
    let home = Home::new();
    let server = home.serve();
    let mut config = ClientConfig::to(&home.address()).unwrap();
    config.request_timeout = Duration::from_millis(300);
    let client = Client::connect(config).unwrap();
    let queue = client.queue("q").unwrap();
    server.kill();
    let mut batch = EnqueueBuilder::new();
    batch.push(b"x", &JobOptions::default());
    let error = client.enqueue(&queue, &batch, None).unwrap_err();
    assert!(
        matches!(
            error,
            ClientError::NoConnection { .. } | ClientError::Timeout(_) | ClientError::OutcomeUnknown { .. }
        ),
        "{error}"
    );
}
