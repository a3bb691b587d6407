//! The simplest cast: one producer of synced jobs, one worker, one request at a time. It tries the world out, and
//! sees the worst: a confirmed job that never comes, an acked one that comes again.

use crate::actor::{Actor, Cast, Crash, Judge};
use ackring::engine::{Engine, EngineConfig, RecoverySummary};
use ackring::wire::compose::{self, ReserveFields};
use ackring::wire::{DeliveryBatch, ErrorReply, FrameDecoder, Hello, Op, Outcome, response};
use ackring::{
    Class, Durability, EnqueueBuilder, ErrorCode, ItemError, JobOptions, QueueOptions, SettleBuilder, Token,
    limits,
};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

const QUEUE: &str = "plain";
const HEARTBEAT_MS: u32 = 2_000;
/// Without an answer for this long a client connects anew, in milliseconds.
const PATIENCE_MS: u64 = 4_000;

/// What is known.
#[derive(Debug, Default)]
struct Book {
    confirmed: BTreeSet<u64>,
    acked: BTreeSet<u64>,
    deliveries: u64,
    settling: bool,
    producer_is_idle: bool,
}

type Shared = Rc<RefCell<Book>>;

/// What a client does with its turn.
#[derive(Debug, Clone)]
enum Task {
    Enqueue(u64),
    Reserve,
    Ack(Token, u64),
}

struct Client {
    book: Shared,
    session: u128,
    decoder: FrameDecoder,
    output: Vec<u8>,
    is_open: bool,
    gives_up: bool,
    heard_ms: u64,
    queue: Option<u32>,
    /// The request in flight, and its number.
    task: Option<(u64, Task)>,
    next: u64,
    produces: bool,
}

impl Client {
    fn new(book: &Shared, session: u128, produces: bool) -> Self {
        Self {
            book: book.clone(),
            session,
            decoder: FrameDecoder::new(limits::FRAME_BYTES_MAX),
            output: Vec::new(),
            is_open: false,
            gives_up: false,
            heard_ms: 0,
            queue: None,
            task: None,
            next: 1,
            produces,
        }
    }

    fn begin(&mut self, task: Task) {
        self.task = Some((self.next, task));
        self.next += 1;
        self.send();
    }

    /// Sends the request in flight, for the first time or again.
    fn send(&mut self) {
        let (Some(queue), Some((number, task))) = (self.queue, &self.task) else {
            return;
        };
        let out = &mut self.output;
        match task {
            Task::Enqueue(job) => {
                let mut batch = EnqueueBuilder::new();
                let payload = [job.to_le_bytes(), [7; 8]].concat().repeat(40);
                batch.push(&payload, &JobOptions::default());
                compose::enqueue(out, 3, *number, queue, Some(Durability::Synced), &batch);
            }
            Task::Reserve => {
                let fields = ReserveFields {
                    number: *number,
                    max_jobs: 1,
                    wait_ms: 100,
                    max_bytes: 0,
                    lease_ms: 0,
                };
                compose::reserve(out, 3, &fields, &[queue]);
            }
            Task::Ack(token, _) => {
                let mut batch = SettleBuilder::new();
                batch.ack(*token, None);
                compose::settle(out, 3, *number, &batch);
            }
        }
    }

    fn next_task(&mut self) {
        if !self.produces {
            return self.begin(Task::Reserve);
        }
        let settling = self.book.borrow().settling;
        self.book.borrow_mut().producer_is_idle = settling;
        if !settling {
            self.begin(Task::Enqueue(self.next));
        }
    }

    fn answered(&mut self, op: Op, is_error: bool, body: &[u8]) {
        match op {
            Op::Hello if !is_error => compose::queue_open(&mut self.output, 2, QUEUE),
            Op::QueueOpen if !is_error => {
                self.queue = response::decode_handle(body).ok();
                if self.task.is_some() {
                    self.send()
                } else {
                    self.next_task()
                }
            }
            Op::Enqueue | Op::Reserve | Op::Settle => {
                let Some((_, task)) = self.task.take() else {
                    return;
                };
                let next = if is_error {
                    self.refused(task, body)
                } else {
                    self.learn(&task, body)
                };
                match next {
                    Some(next) => self.begin(next),
                    None => self.next_task(),
                }
            }
            _ => self.gives_up = true,
        }
    }

    /// A refused ack is tried again, unless it was applied before.
    fn refused(&mut self, task: Task, body: &[u8]) -> Option<Task> {
        let code = ErrorReply::decode(body).unwrap().number;
        match task {
            Task::Ack(_, job) if code == ErrorCode::AlreadyApplied as u16 => {
                self.book.borrow_mut().acked.insert(job);
                None
            }
            Task::Ack(..) => Some(task),
            _ => None,
        }
    }

    fn learn(&mut self, task: &Task, body: &[u8]) -> Option<Task> {
        let mut book = self.book.borrow_mut();
        match task {
            Task::Enqueue(job) => {
                let outcome = Outcome::decode(body).unwrap();
                if outcome.head.count == 1 {
                    assert_eq!(outcome.head.level, Some(Durability::Synced));
                    book.confirmed.insert(*job);
                }
                None
            }
            Task::Reserve => {
                let batch = DeliveryBatch::parse(body).unwrap();
                let item = batch.items().next()?;
                let job = u64::from_le_bytes(*item.payload().first_chunk().unwrap());
                book.deliveries += 1;
                assert!(!book.acked.contains(&job), "job {job} was acked, and came again");
                Some(Task::Ack(item.entry.token(), job))
            }
            Task::Ack(_, job) => {
                let outcome = Outcome::decode(body).unwrap();
                let is_lost = |item: &ItemError| item.code.class() != Class::Success;
                if !outcome.items.iter().any(is_lost) {
                    book.acked.insert(*job);
                }
                None
            }
        }
    }
}

impl Actor for Client {
    fn connected(&mut self, now_ms: u64) {
        (self.is_open, self.gives_up, self.heard_ms, self.queue) = (true, false, now_ms, None);
        self.decoder = FrameDecoder::new(limits::FRAME_BYTES_MAX);
        self.output.clear();
        let hello = Hello {
            heartbeat_ms: HEARTBEAT_MS,
            ..Hello::new(self.session, "")
        };
        hello.encode(&mut self.output, 1);
    }

    fn receive(&mut self, bytes: &[u8], now_ms: u64) {
        self.heard_ms = now_ms;
        self.decoder.extend(bytes);
        let mut answers = Vec::new();
        while let Some(frame) = self.decoder.next_frame().unwrap() {
            let op = frame.header.answered_op();
            answers.push((op, frame.header.is_error(), frame.body.to_vec()));
        }
        for (op, is_error, body) in answers {
            match op {
                Some(Op::Ping) => {}
                Some(op) => self.answered(op, is_error, &body),
                None => self.gives_up = true,
            }
        }
    }

    fn output(&mut self, now_ms: u64) -> Vec<u8> {
        if now_ms.saturating_sub(self.heard_ms) > PATIENCE_MS {
            self.gives_up = true;
        }
        if self.output.is_empty() && self.queue.is_some() {
            if self.task.is_none() {
                self.next_task();
            } else if now_ms.saturating_sub(self.heard_ms) > 500 {
                compose::ping(&mut self.output, 9);
            }
        }
        std::mem::take(&mut self.output)
    }

    fn disconnected(&mut self, _now_ms: u64) {
        self.is_open = false;
    }

    fn wants_connection(&self, _now_ms: u64) -> bool {
        !(self.is_open && self.gives_up)
    }
}

struct Witness(Shared);

impl Judge for Witness {
    fn crashed(&mut self, _crash: Crash, _now_ms: u64) {}

    fn recovered(&mut self, _engine: &Engine, _summary: &RecoverySummary, _now_ms: u64) {}

    fn settle(&mut self) {
        self.0.borrow_mut().settling = true;
    }

    fn is_settled(&self) -> bool {
        let book = self.0.borrow();
        book.producer_is_idle && book.confirmed.is_subset(&book.acked)
    }

    fn what_is_open(&self, engine: Option<&Engine>) -> String {
        let book = self.0.borrow();
        let open: Vec<_> = book.confirmed.difference(&book.acked).collect();
        let found = engine.map(|engine| {
            let queue = engine.find_queue(QUEUE).unwrap();
            let mut jobs = engine.list_jobs(queue, None, 0, 200).unwrap().jobs;
            jobs.iter_mut().for_each(|job| job.payload.truncate(8));
            jobs
        });
        format!("confirmed and not acked: {open:?}\n{found:#?}")
    }

    fn finish(&mut self, engine: &Engine, _now_ms: u64) {
        assert!(engine.poisoned().is_none());
    }

    fn counts(&self) -> Vec<(&'static str, u64)> {
        let book = self.0.borrow();
        vec![
            ("jobs confirmed", book.confirmed.len() as u64),
            ("deliveries", book.deliveries),
            ("acks confirmed", book.acked.len() as u64),
        ]
    }
}

/// A small engine, its grace, and who uses it.
pub fn cast() -> (EngineConfig, u32, Cast) {
    let book = Shared::default();
    let engine = EngineConfig {
        slots: 64,
        segment_bytes: 64 * 1024,
        log_bytes_max: 6 * 64 * 1024,
        memory_bytes_max: 4 * 64 * 1024,
        queue_defaults: QueueOptions {
            durability: Durability::Synced,
            lease_ms: 2_000,
            max_attempts: 1_000,
            ..QueueOptions::default()
        },
        ..EngineConfig::default()
    };
    let cast = Cast {
        actors: vec![
            Box::new(Client::new(&book, 1, true)),
            Box::new(Client::new(&book, 2, false)),
        ],
        judge: Box::new(Witness(book)),
    };
    (engine, 100, cast)
}
