//! Writes a log with everything in it, and knows what stands where.

use super::{LEFT_MS, SESSION, config, fixture, records_of, state_of, to_text};
use crate::reader::{RECORD_HEADER, half, in_use, word};
use ackring::engine::journal::Kind;
use ackring::engine::{DeliveryHead, DeliverySink, Engine, EnqueueReply, QueueId, RequestId};
use ackring::{
    Backoff, Durability, EnqueueBatch, EnqueueBuilder, ErrorCode, ItemError, JobId, JobOptions, QueueOptions,
    SettleBatch, SettleBuilder, Token,
};
use std::collections::BTreeSet;
use std::path::Path;

const START_MS: u64 = LEFT_MS - 100_000;
const DAY_MS: u64 = 24 * 3600 * 1000;

#[derive(Default)]
struct Tokens(Vec<Token>);

impl DeliverySink for Tokens {
    fn room(&self) -> (usize, usize) {
        (usize::MAX, usize::MAX)
    }

    fn push(&mut self, head: &DeliveryHead, _body: &[u8]) {
        self.0.push(head.token);
    }
}

fn numbered(number: u64) -> RequestId {
    RequestId {
        session: SESSION,
        number,
    }
}

type Draft<'a> = (&'a [u8], JobOptions<'a>);

fn encoded(jobs: &[Draft<'_>]) -> Vec<u8> {
    let mut builder = EnqueueBuilder::new();
    jobs.iter()
        .for_each(|(payload, options)| builder.push(payload, options));
    let mut bytes = Vec::new();
    builder.write_to(&mut bytes);
    bytes
}

fn push(
    engine: &Engine,
    queue: QueueId,
    jobs: &[Draft<'_>],
    request: RequestId,
    now_ms: u64,
) -> EnqueueReply {
    let bytes = encoded(jobs);
    let batch = EnqueueBatch::parse(jobs.len(), &bytes).unwrap();
    let mut reply = EnqueueReply::default();
    engine
        .enqueue(queue, &batch, None, request, now_ms, &mut reply)
        .unwrap();
    reply
}

fn take(
    engine: &Engine,
    queue: QueueId,
    max: usize,
    lease_ms: u32,
    request: RequestId,
    now_ms: u64,
) -> Vec<Token> {
    let mut tokens = Tokens::default();
    engine
        .reserve(&[queue], max, lease_ms, request, now_ms, &mut tokens)
        .unwrap();
    tokens.0
}

fn settled(build: impl FnOnce(&mut SettleBuilder)) -> (usize, Vec<u8>) {
    let mut builder = SettleBuilder::new();
    build(&mut builder);
    let mut bytes = Vec::new();
    builder.write_to(&mut bytes);
    (builder.count(), bytes)
}

fn settle(
    engine: &Engine,
    request: RequestId,
    now_ms: u64,
    build: impl FnOnce(&mut SettleBuilder),
) -> Vec<ItemError> {
    let (count, bytes) = settled(build);
    let mut items = Vec::new();
    engine
        .settle(
            &SettleBatch::parse(count, &bytes).unwrap(),
            request,
            now_ms,
            &mut items,
        )
        .unwrap();
    items
}

fn create(engine: &Engine, name: &str, options: QueueOptions) -> QueueId {
    engine
        .create_queue(name, &options, RequestId::NONE, START_MS)
        .unwrap()
        .0
}

/// Jobs in every state, by every way that leads there.
fn early(engine: &Engine) {
    let orders = create(
        engine,
        "orders",
        QueueOptions {
            backoff: Backoff::List(vec![1_000, 5_000]),
            max_attempts: 3,
            keep_finished: 8,
            dedupe_window_ms: 30 * DAY_MS,
            ..QueueOptions::default()
        },
    );
    let mail = create(
        engine,
        "mail",
        QueueOptions {
            keep_finished: 4,
            ..QueueOptions::default()
        },
    );
    let memory = create(
        engine,
        "memory",
        QueueOptions {
            durability: Durability::Memory,
            ..QueueOptions::default()
        },
    );
    let paused = create(
        engine,
        "paused",
        QueueOptions {
            durability: Durability::Synced,
            ..QueueOptions::default()
        },
    );
    let gone = create(engine, "gone", QueueOptions::default());

    let plain = JobOptions::default();
    // What happens to each is said by its payload. They are handed out in this order.
    let jobs: Vec<Draft<'_>> = vec![
        (
            b"nacked",
            JobOptions {
                meta: b"trace=1",
                ..plain
            },
        ),
        (b"rejected", plain),
        (
            b"leased",
            JobOptions {
                lease_ms: DAY_MS as u32,
                ..plain
            },
        ),
        (b"acked with a result", plain),
        (b"acked", plain),
        (b"nacked, then acked with a result", plain),
        (
            b"lease expired",
            JobOptions {
                lease_ms: 2_000,
                ..plain
            },
        ),
        (b"rejected, then redriven", plain),
        (b"released", plain),
        (b"extended", plain),
    ];
    push(engine, orders, &jobs, numbered(1), START_MS);
    let tokens = take(engine, orders, 100, 0, numbered(2), START_MS + 10);
    assert_eq!(tokens.len(), jobs.len());
    let unknown = Token {
        id: JobId(77),
        attempt: 1,
    };
    let items = settle(engine, numbered(3), START_MS + 20, |batch| {
        batch.nack(tokens[0], Some(DAY_MS as u32), Some(b"no route"));
        batch.reject(tokens[1], Some(b"bad order"));
        batch.ack(tokens[3], Some(b"42"));
        batch.ack(tokens[4], None);
        batch.ack(unknown, None);
        batch.nack(tokens[5], Some(0), Some(b"try again"));
        batch.reject(tokens[7], None);
        batch.release(tokens[8]);
        batch.extend(tokens[9], 2 * 3600 * 1000);
    });
    assert_eq!(
        items,
        [ItemError {
            position: 4,
            code: ErrorCode::JobNotFound
        }]
    );
    let mut items = Vec::new();
    engine
        .redrive(
            orders,
            Some(&[tokens[7].id]),
            0,
            RequestId::NONE,
            START_MS + 30,
            &mut items,
        )
        .unwrap();
    let again = take(engine, orders, 100, 0, RequestId::NONE, START_MS + 40);
    for token in again {
        settle(engine, RequestId::NONE, START_MS + 50, |batch| match token.id {
            id if id == tokens[5].id => batch.ack(token, Some(b"second time")),
            _ => batch.release(token),
        });
    }
    run_timers(engine, START_MS + 4_000);

    push(
        engine,
        orders,
        &[
            (b"ready", plain),
            (
                b"urgent",
                JobOptions {
                    priority: 7,
                    key: b"order-17",
                    ..plain
                },
            ),
            (
                b"due later",
                JobOptions {
                    delay_ms: 10 * DAY_MS,
                    ..plain
                },
            ),
            (
                b"with a TTL",
                JobOptions {
                    ttl_ms: 5 * DAY_MS,
                    max_attempts: 9,
                    ..plain
                },
            ),
            (
                b"expired",
                JobOptions {
                    ttl_ms: 1_000,
                    ..plain
                },
            ),
            (b"to be cancelled", plain),
        ],
        numbered(4),
        START_MS + 5_000,
    );
    run_timers(engine, START_MS + 7_000);
    let last = engine.list_jobs(orders, None, 0, 100).unwrap().jobs;
    let cancelled = last
        .iter()
        .find(|job| job.deliveries == 0 && job.payload_bytes == 15)
        .unwrap()
        .id;
    engine
        .cancel(&[cancelled], numbered(5), START_MS + 7_000, &mut items)
        .unwrap();

    push(
        engine,
        mail,
        &[(b"to a friend", plain), (b"to nobody", plain)],
        RequestId::NONE,
        START_MS + 7_000,
    );
    let token = take(engine, mail, 1, 0, RequestId::NONE, START_MS + 7_000)[0];
    settle(engine, RequestId::NONE, START_MS + 7_010, |batch| {
        batch.nack(token, None, Some(b"mailbox full"))
    });
    push(
        engine,
        memory,
        &[(b"not logged", plain)],
        RequestId::NONE,
        START_MS + 7_000,
    );
    push(
        engine,
        paused,
        &[(b"behind a pause", plain)],
        RequestId::NONE,
        START_MS + 7_000,
    );
    engine.pause(paused, RequestId::NONE, START_MS + 7_000).unwrap();
    push(
        engine,
        gone,
        &[(b"gone with its queue", plain)],
        RequestId::NONE,
        START_MS + 7_000,
    );
    engine.delete(gone, RequestId::NONE, START_MS + 7_000).unwrap();
}

/// The same again in short, for the records that the reclaimer has taken away since.
fn late(engine: &Engine, now_ms: u64) {
    let orders = engine.find_queue("orders").unwrap();
    let memory = engine.find_queue("memory").unwrap();
    let plain = JobOptions::default();
    let reply = push(
        engine,
        orders,
        &[
            (
                b"late",
                JobOptions {
                    priority: 5,
                    meta: b"m",
                    key: b"late-1",
                    delay_ms: 500,
                    ..plain
                },
            ),
            (
                b"urgent",
                JobOptions {
                    key: b"order-17",
                    ..plain
                },
            ),
            (
                b"another body",
                JobOptions {
                    key: b"order-17",
                    ..plain
                },
            ),
        ],
        numbered(6),
        now_ms,
    );
    let codes: Vec<ErrorCode> = reply.items.iter().map(|item| item.code).collect();
    assert_eq!(codes, [ErrorCode::Duplicate, ErrorCode::KeyConflict]);
    // A key brings another priority as well, and so the first body again is only a duplicate by its content.
    let tokens = take(engine, orders, 3, 3_600_000, numbered(7), now_ms);
    let items = settle(engine, numbered(8), now_ms + 1, |batch| {
        batch.ack(tokens[0], None);
        batch.nack(tokens[1], Some(60_000), Some(b"late error"));
        batch.ack(
            Token {
                id: JobId(77),
                attempt: 1,
            },
            None,
        );
    });
    assert_eq!(items.len(), 1);
    let (count, bytes) = settled(|batch| batch.ack(tokens[2], Some(b"late result")));
    let (first, second) = (
        encoded(&[(b"by a step", plain)]),
        encoded(&[(b"not logged", plain)]),
    );
    let groups = [
        (orders, EnqueueBatch::parse(1, &first).unwrap()),
        (memory, EnqueueBatch::parse(1, &second).unwrap()),
    ];
    let batch = SettleBatch::parse(count, &bytes).unwrap();
    let mut reply = EnqueueReply::default();
    engine
        .step_atomic(Some(&batch), &groups, numbered(9), now_ms + 2, &mut reply)
        .unwrap();
    assert_eq!(reply.ids.len(), 2);
}

fn run_timers(engine: &Engine, now_ms: u64) {
    while engine.timer_step(now_ms, 1_000) > 0 {}
}

/// Jobs come and go until the reclaimer has copied what the first segments held.
fn churn(engine: &Engine, directory: &Path) -> u64 {
    let filler = create(
        engine,
        "filler",
        QueueOptions {
            keep_finished: 0,
            ..QueueOptions::default()
        },
    );
    let mut now_ms = START_MS + 8_000;
    for _ in 0..400 {
        push(
            engine,
            filler,
            &[(&[b'.'; 14_000], JobOptions::default())],
            RequestId::NONE,
            now_ms,
        );
        for token in take(engine, filler, 10, 0, RequestId::NONE, now_ms) {
            settle(engine, RequestId::NONE, now_ms, |batch| batch.ack(token, None));
        }
        now_ms += 150;
        engine.log_step(now_ms, 8);
        engine.sync().unwrap();
        if [Kind::Job, Kind::Session, Kind::Key]
            .iter()
            .all(|kind| kinds(directory).contains(&(*kind as u8)))
        {
            return now_ms;
        }
    }
    panic!("nothing was copied");
}

fn kinds(directory: &Path) -> BTreeSet<u8> {
    files(directory)
        .iter()
        .flat_map(|(_, bytes)| records_of(bytes))
        .map(|record| record.bytes[12])
        .collect()
}

fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "segment"))
        .map(|path| {
            (
                path.file_name().unwrap().to_string_lossy().into_owned(),
                std::fs::read(&path).unwrap(),
            )
        })
        .collect();
    found.sort();
    found
}

#[test]
#[ignore = "it makes the fixture, which is made once and kept for ever"]
fn write_the_golden_log() {
    let target = fixture();
    assert!(
        !target.exists(),
        "{} is there and must never change",
        target.display()
    );
    let directory = tempfile::tempdir().unwrap();
    let (engine, _) = Engine::open(config(directory.path()), START_MS).unwrap();
    early(&engine);
    let now_ms = churn(&engine, directory.path());
    drop(engine);
    // As after `kill -9`.
    let (engine, _) = Engine::open(config(directory.path()), now_ms).unwrap();
    late(&engine, now_ms + 1_000);
    engine.log_step(now_ms + 3_000, 8);
    assert!(now_ms + 5_000 < LEFT_MS);
    drop(engine);

    std::fs::create_dir(&target).unwrap();
    for (name, mut bytes) in files(directory.path()) {
        if in_use(&bytes).is_none() {
            // What a spare held before says nothing.
            bytes[64..].fill(0);
        }
        std::fs::write(target.join(format!("{name}.hex")), to_text(&bytes)).unwrap();
    }
    let (engine, _) = Engine::open(config(directory.path()), LEFT_MS).unwrap();
    std::fs::write(target.join("state.txt"), state_of(&engine)).unwrap();
}

/// The old jobs are worked on as new ones are.
pub fn goes_on(engine: &Engine) {
    let orders = engine.find_queue("orders").unwrap();
    let first = engine.peek(orders, 1).unwrap().remove(0);
    let token = take(engine, orders, 1, 0, RequestId::NONE, LEFT_MS)[0];
    assert_eq!((token.id, token.attempt), (first.id, first.deliveries + 1));
    assert_eq!(
        settle(engine, RequestId::NONE, LEFT_MS, |batch| batch.ack(token, None)),
        []
    );
    // A request from before is known, with its answer.
    let options = JobOptions {
        priority: 5,
        meta: b"m",
        key: b"late-1",
        delay_ms: 500,
        ..JobOptions::default()
    };
    let reply = push(engine, orders, &[(b"late", options)], RequestId::NONE, LEFT_MS);
    assert_eq!(reply.items[0].code, ErrorCode::Duplicate);
    let old = JobOptions {
        key: b"order-17",
        ..JobOptions::default()
    };
    let reply = push(
        engine,
        orders,
        &[(b"another body", old)],
        RequestId::NONE,
        LEFT_MS,
    );
    assert_eq!(reply.items[0].code, ErrorCode::KeyConflict);
    assert!(engine.knows_session(SESSION));
}

/// Gives the first record of a kind that pleases.
pub type Finder<'a> = dyn Fn(u8, &dyn Fn(&[u8]) -> bool) -> Vec<u8> + 'a;

/// Bodies by the tables of FORMAT.md.
pub fn look_at(first: &Finder<'_>) {
    // Behind the record's header and, with flag 1, session and number.
    const NUMBERED: usize = RECORD_HEADER + 24;
    let body_of = |record: &[u8]| record[if record[13] == 1 { NUMBERED } else { RECORD_HEADER }..].to_vec();
    let is_number = |number: u64| move |record: &[u8]| record[13] == 1 && word(record, 48) == number;

    let record = first(Kind::Enqueue as u8, &is_number(6));
    assert_eq!(record[32..48], SESSION.to_le_bytes());
    let body = body_of(&record);
    let (queue, count) = (half(&body, 0), half(&body, 4));
    assert_eq!(count, 3, "jobs");
    let ids = [word(&body, 8), word(&body, 16), word(&body, 24)];
    assert!(
        ids[0] != 0 && ids[1] != 0 && ids[2] == 0,
        "a new one, a duplicate's first, and none"
    );
    let entry = &body[32..64];
    assert_eq!((word(entry, 0), word(entry, 8)), (500, 0), "delay, TTL");
    assert_eq!(
        (half(entry, 16), half(entry, 20)),
        (4, 0),
        "payload length, lease"
    );
    assert_eq!(
        (entry[24], entry[26], entry[28], entry[29]),
        (1, 0, 6, 5),
        "meta, attempts, key, priority"
    );
    assert_eq!(
        [30, 62, 94].map(|at| half(&body[..], 32 + at) & 0xFFFF),
        [0, 256, 512],
        "flags of the entries"
    );
    assert_eq!(&body[128..144], b"mlatelate-1\0\0\0\0\0");

    let body = body_of(&first(Kind::Reserve as u8, &is_number(7)));
    assert_eq!((word(&body, 0), half(&body, 16)), (3, 3_600_000), "count, lease");
    assert_eq!(half(&body, 20) >> 16, 0);

    let body = body_of(&first(Kind::Change as u8, &is_number(8)));
    assert_eq!(
        [0, 4, 8, 12].map(|at| half(&body, at)),
        [1, 1, 1, 0],
        "done, changes, refused"
    );
    let change = &body[32..64];
    assert_eq!((change[26], change[27]), (1, 1), "scheduled, with an error text");
    assert_eq!(&body[64..80], b"\x0a\0\0\0late error\0\0");
    assert_eq!(
        (half(&body, 80), half(&body, 84)),
        (2, u32::from(ErrorCode::JobNotFound as u16)),
        "refused"
    );

    let body = body_of(&first(Kind::Step as u8, &is_number(9)));
    let change_len = half(&body, 0) as usize;
    assert_eq!(half(&body, 4), 2, "groups");
    assert_eq!(
        (half(&body, 8), half(&body, 12)),
        (0, 1),
        "an ack with a result is a change"
    );
    assert_eq!(
        (body[8 + 16 + 26], body[8 + 16 + 27]),
        (5, 2),
        "done, with a result"
    );
    let group = 8 + change_len;
    let len = half(&body, group) as usize;
    assert_eq!(
        (half(&body, group + 4), half(&body, group + 8)),
        (0, queue),
        "jobs, of the same queue"
    );
    assert_eq!(
        half(&body, group + 8 + len + 4),
        1,
        "then jobs that are not logged"
    );

    let body = body_of(&first(Kind::Job as u8, &|record| record[32 + 87] & 0b1011 == 1));
    assert_eq!(half(&body, 72), queue);
    assert_ne!(word(&body, 0), 0, "id");
    assert!(
        word(&body, 8) < word(&body, 16),
        "its order is before the place as of which it tells"
    );
    let text_at = 88 + (half(&body, 76) as usize + (half(&body, 84) & 0xFFFF) as usize).next_multiple_of(8);
    let len = half(&body, text_at) as usize;
    assert!(["no route", "bad order"].contains(&std::str::from_utf8(&body[text_at + 4..][..len]).unwrap()));

    let queues = first(Kind::Queue as u8, &|record| {
        record.windows(6).any(|part| part == b"orders")
    });
    assert_eq!(queues[36], queue as u8, "a note that begins with the index");
    let session = first(Kind::Session as u8, &|_| true);
    assert!(half(&session, 32) > 0);
    let key = first(Kind::Key as u8, &|record| {
        record.windows(8).any(|part| part == b"order-17")
    });
    assert_eq!(key[36], queue as u8);
    let generation = first(Kind::Generation as u8, &|_| true);
    assert_eq!(
        (generation.len(), word(&generation, 32) & 0xFFFF),
        (40, 0xFFFF),
        "rounded up"
    );
}
