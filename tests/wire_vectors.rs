//! Golden bytes in `tests/vectors`, for clients in every language: one file a frame, hexadecimal, `#` begins a
//! comment. This test holds them to what the crate writes and reads.
//!
//! After a deliberate change (which a released version may never make): `ACKRING_WRITE_VECTORS=1 cargo test --test
//! wire_vectors` writes the files anew.
#![cfg(any(feature = "client", feature = "server"))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

use ackring::wire::{
    DeliverEntry, DeliveryBatch, DeliveryLimits, DeliveryWriter, ErrorReply, FrameDecoder, FrameWriter,
    Header, Hello, Op, Outcome, OutcomeHead, Reply, Request, Welcome, compose, response,
};
use ackring::{
    Backoff, Durability, EnqueueBuilder, ErrorCode, ItemError, JobId, JobOptions, JobState, JobStatus,
    QueueCounts, QueueOptions, QueueStats, Refusal, SettleBuilder, Token, limits,
};
use std::fmt::Write;
use std::path::PathBuf;
use zerocopy::FromBytes;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

fn read(name: &str) -> Vec<u8> {
    let path = directory().join(format!("{name}.hex"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines()
        .flat_map(|line| line.split('#').next().unwrap_or("").split_whitespace())
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}

fn write(name: &str, what: &str, bytes: &[u8]) {
    let mut text = format!("# {what}\n");
    for line in bytes.chunks(8) {
        let hex: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "{}", hex.join(" ")).unwrap();
    }
    std::fs::write(directory().join(format!("{name}.hex")), text).unwrap();
}

const TOKEN: Token = Token {
    id: JobId(0x0000_0001_0000_002a),
    attempt: 1,
};

fn jobs() -> EnqueueBuilder {
    let mut batch = EnqueueBuilder::new();
    batch.push(b"hello", &JobOptions::default());
    batch
}

fn full_jobs() -> EnqueueBuilder {
    let mut batch = jobs();
    let options = JobOptions {
        priority: 7,
        delay_ms: 1_500,
        due_ms: 0,
        ttl_ms: 60_000,
        lease_ms: 5_000,
        max_attempts: 4,
        key: b"order-17",
        meta: b"trace=1",
    };
    batch.push(b"{}", &options);
    batch.push(
        b"",
        &JobOptions {
            due_ms: 1_800_000_000_000,
            ..JobOptions::default()
        },
    );
    batch
}

fn settlements() -> SettleBuilder {
    let mut batch = SettleBuilder::new();
    batch.ack(TOKEN, Some(b"result"));
    batch.nack(TOKEN, None, Some(b"it broke"));
    batch.nack(TOKEN, Some(250), None);
    batch.reject(TOKEN, Some(b"bad input"));
    batch.release(TOKEN);
    batch.extend(TOKEN, 60_000);
    batch
}

fn ack() -> SettleBuilder {
    let mut batch = SettleBuilder::new();
    batch.ack(TOKEN, None);
    batch
}

fn requests() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let mut list = Vec::new();
    let mut add = |name, what, compose: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        compose(&mut bytes);
        list.push((name, what, bytes));
    };
    let options = QueueOptions {
        backoff: Backoff::List(vec![10, 100, 1_000]),
        ..QueueOptions::default()
    };
    let session = 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100;
    add(
        "hello_request",
        "HELLO: version 1 only, session 00 01 .. 0f, name `example`",
        &|out| {
            let hello = Hello {
                version_min: 1,
                version_max: 1,
                features: 0,
                frame_bytes_max: 0,
                heartbeat_ms: 10_000,
                session,
                name: "example",
            };
            hello.encode(out, 1);
        },
    );
    add("ping_request", "PING", &|out| compose::ping(out, 2));
    add("queue_open_request", "QUEUE_OPEN `mail`", &|out| {
        compose::queue_open(out, 3, "mail")
    });
    add(
        "queue_create_request",
        "QUEUE_CREATE `mail`, number 1, defaults but a backoff list",
        &|out| {
            compose::queue_create(out, 4, 1, "mail", &options);
        },
    );
    add("queue_info_request", "QUEUE_INFO `mail`", &|out| {
        compose::queue_info(out, 5, "mail")
    });
    add("queue_list_request", "QUEUE_LIST after `mail`, 100", &|out| {
        compose::queue_list(out, 6, "mail", 100)
    });
    add("queue_pause_request", "QUEUE_PAUSE `mail`, number 2", &|out| {
        compose::queue_change(out, 7, Op::QueuePause, 2, "mail");
    });
    add("queue_resume_request", "QUEUE_RESUME `mail`, number 3", &|out| {
        compose::queue_change(out, 8, Op::QueueResume, 3, "mail");
    });
    add(
        "queue_purge_request",
        "QUEUE_PURGE `mail`, number 4, scheduled and ready",
        &|out| {
            compose::queue_purge(out, 9, 4, "mail", 0b110);
        },
    );
    add("queue_delete_request", "QUEUE_DELETE `mail`, number 5", &|out| {
        compose::queue_change(out, 10, Op::QueueDelete, 5, "mail");
    });
    add(
        "enqueue_request",
        "ENQUEUE into handle 1, number 1: one job `hello`",
        &|out| {
            compose::enqueue(out, 11, 1, 1, None, &jobs());
        },
    );
    add(
        "enqueue_full_request",
        "ENQUEUE into handle 1, synced, number 6: three jobs, every field used",
        &|out| {
            compose::enqueue(out, 12, 6, 1, Some(Durability::Synced), &full_jobs());
        },
    );
    add(
        "reserve_request",
        "RESERVE from handle 1, number 2: one job, wait 1000 ms",
        &|out| {
            let fields = compose::ReserveFields {
                number: 2,
                max_jobs: 1,
                wait_ms: 1_000,
                max_bytes: 0,
                lease_ms: 0,
            };
            compose::reserve(out, 13, &fields, &[1]);
        },
    );
    add(
        "settle_request",
        "SETTLE, number 3: ack of job 1:42, attempt 1",
        &|out| {
            compose::settle(out, 14, 3, &ack());
        },
    );
    add(
        "settle_quiet_request",
        "SETTLE, answered only if it fails: ack of job 1:42, attempt 1",
        &|out| {
            compose::settle_quietly(out, 14, &ack());
        },
    );
    add(
        "settle_full_request",
        "SETTLE, number 7: every verb, with and without notes",
        &|out| {
            compose::settle(out, 15, 7, &settlements());
        },
    );
    add(
        "step_request",
        "STEP, number 8: one ack, and one job into handle 1 and three into handle 2",
        &|out| {
            compose::step(out, 16, 8, &ack(), &[(1, &jobs()), (2, &full_jobs())]);
        },
    );
    add(
        "subscribe_request",
        "SUBSCRIBE to handles 1, 2, 3: 100 jobs, 1 MiB, lease 30 s",
        &|out| {
            compose::subscribe(out, 17, 100, 1 << 20, 30_000, &[1, 2, 3]);
        },
    );
    add("unsubscribe_request", "UNSUBSCRIBE 1", &|out| {
        compose::unsubscribe(out, 18, 1)
    });
    add("job_get_request", "JOB_GET 1:42", &|out| {
        compose::job_get(out, 19, TOKEN.id)
    });
    add(
        "job_list_request",
        "JOB_LIST of `mail`, dead, from the beginning, 50",
        &|out| {
            compose::job_list(out, 20, "mail", Some(JobState::Dead), 0, 50);
        },
    );
    add("job_peek_request", "JOB_PEEK of `mail`, 1", &|out| {
        compose::job_peek(out, 21, "mail", 1)
    });
    add("job_cancel_request", "JOB_CANCEL of 1:42, number 9", &|out| {
        compose::job_cancel(out, 22, 9, &[TOKEN.id])
    });
    add(
        "job_redrive_request",
        "JOB_REDRIVE of 1:42 in `mail`, number 10",
        &|out| {
            compose::job_redrive(out, 23, 10, "mail", &[TOKEN.id], 0);
        },
    );
    list
}

fn stats() -> QueueStats {
    let counts = QueueCounts {
        ready: 1,
        scheduled: 2,
        leased: 3,
        dead: 4,
        expired: 16,
        ..QueueCounts::default()
    };
    QueueStats {
        name: "mail".to_owned(),
        paused: true,
        options: QueueOptions::default(),
        counts,
    }
}

fn status() -> JobStatus {
    JobStatus {
        id: TOKEN.id,
        queue: "mail".to_owned(),
        state: JobState::Dead,
        priority: 0,
        attempts: 4,
        max_attempts: 4,
        deliveries: 5,
        failures: 3,
        expiries: 1,
        enqueued_ms: 1_700_000_000_000,
        at_ms: 1_700_000_060_000,
        expires_ms: 0,
        payload_bytes: 5,
        meta: b"m".to_vec(),
        payload: Vec::new(),
        last_error: Some(b"it broke".to_vec()),
        result: None,
    }
}

fn answers() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let mut list = Vec::new();
    let mut add = |name, what, op: Op, correlation, write: &dyn Fn(Reply, &mut Vec<u8>)| {
        let mut request = Vec::new();
        FrameWriter::begin(&mut request, op as u16, 0, correlation, 0).finish();
        let reply = Reply::to(Header::ref_from_prefix(&request).unwrap().0);
        let mut bytes = Vec::new();
        write(reply, &mut bytes);
        list.push((name, what, bytes));
    };
    let head = OutcomeHead {
        level: Some(Durability::Written),
        replayed: false,
        count: 1,
    };
    let entry = DeliverEntry {
        id: TOKEN.id.0.into(),
        enqueued_ms: 1_700_000_000_000.into(),
        queue: 1.into(),
        payload_len: 5.into(),
        lease_ms: 30_000.into(),
        meta_len: 0.into(),
        attempt: 1.into(),
        attempts: 1.into(),
        max_attempts: 25.into(),
        priority: 0,
        flags: 0,
        reserved: 0.into(),
    };
    let one = DeliveryLimits {
        jobs: 1,
        bytes: 0,
        frame_bytes: limits::FRAME_BYTES_MAX,
    };
    add(
        "hello_reply",
        "HELLO answered: version 1, new session, 20 MiB frames, heartbeat 10 s",
        Op::Hello,
        1,
        &|_, out| {
            let welcome = Welcome {
                version: 1,
                session_known: false,
                features: 0,
                frame_bytes_max: limits::FRAME_BYTES_MAX,
                heartbeat_ms: 10_000,
                boot: 7,
                session_window: 1_024,
                name: "ackring 0.1.0".to_owned(),
            };
            welcome.encode(out, 1);
        },
    );
    add("ping_reply", "PING answered", Op::Ping, 2, &|reply, out| {
        reply.empty(out)
    });
    add(
        "queue_open_reply",
        "QUEUE_OPEN answered: handle 1",
        Op::QueueOpen,
        3,
        &|reply, out| reply.handle(out, 1),
    );
    add(
        "queue_create_reply",
        "QUEUE_CREATE answered: handle 1",
        Op::QueueCreate,
        4,
        &|reply, out| reply.handle(out, 1),
    );
    let plain = |count| OutcomeHead { count, ..head };
    add(
        "queue_pause_reply",
        "QUEUE_PAUSE answered: written",
        Op::QueuePause,
        7,
        &|reply, out| {
            reply.outcome(out, plain(1), &[], &[]);
        },
    );
    add(
        "queue_resume_reply",
        "QUEUE_RESUME answered: written",
        Op::QueueResume,
        8,
        &|reply, out| {
            reply.outcome(out, plain(1), &[], &[]);
        },
    );
    add(
        "queue_purge_reply",
        "QUEUE_PURGE answered: written, 12 jobs",
        Op::QueuePurge,
        9,
        &|reply, out| {
            reply.outcome(out, plain(12), &[], &[]);
        },
    );
    add(
        "queue_delete_reply",
        "QUEUE_DELETE answered: written",
        Op::QueueDelete,
        10,
        &|reply, out| {
            reply.outcome(out, plain(1), &[], &[]);
        },
    );
    add(
        "step_reply",
        "STEP answered: written, 5 took effect, ids of four jobs",
        Op::Step,
        16,
        &|reply, out| {
            let ids = [TOKEN.id.0, TOKEN.id.0 + 1, TOKEN.id.0 + 2, TOKEN.id.0 + 3];
            reply.outcome(out, plain(5), &ids, &[]);
        },
    );
    add(
        "step_refused_reply",
        "STEP refused: STEP_REFUSED, nothing of it was applied",
        Op::Step,
        16,
        &|reply, out| {
            reply.error(
                out,
                &Refusal::new(ErrorCode::StepRefused, "settlement 0: LEASE_LOST"),
            );
        },
    );
    add(
        "subscribe_reply",
        "SUBSCRIBE answered: subscription 1",
        Op::Subscribe,
        17,
        &|reply, out| {
            reply.handle(out, 1);
        },
    );
    add(
        "unsubscribe_reply",
        "UNSUBSCRIBE answered",
        Op::Unsubscribe,
        18,
        &|reply, out| reply.empty(out),
    );
    add(
        "job_peek_reply",
        "JOB_PEEK answered: one ready job with its payload",
        Op::JobPeek,
        21,
        &|reply, out| {
            let ready = JobStatus {
                state: JobState::Ready,
                payload: b"hello".to_vec(),
                last_error: None,
                result: Some(b"42".to_vec()),
                ..status()
            };
            reply.jobs(out, &[ready], 0);
        },
    );
    add(
        "job_cancel_reply",
        "JOB_CANCEL answered: written, one cancelled",
        Op::JobCancel,
        22,
        &|reply, out| {
            reply.outcome(out, plain(1), &[], &[]);
        },
    );
    add(
        "job_redrive_reply",
        "JOB_REDRIVE answered: position 0 is not dead",
        Op::JobRedrive,
        23,
        &|reply, out| {
            let items = [ItemError {
                position: 0,
                code: ErrorCode::WrongState,
            }];
            reply.outcome(out, plain(0), &[], &items);
        },
    );
    add(
        "queue_info_reply",
        "QUEUE_INFO answered",
        Op::QueueInfo,
        5,
        &|reply, out| reply.queue_info(out, &stats()),
    );
    add(
        "queue_list_reply",
        "QUEUE_LIST answered: one queue, and there are more",
        Op::QueueList,
        6,
        &|reply, out| {
            reply.queue_list(out, &[stats()], true);
        },
    );
    add(
        "enqueue_reply",
        "ENQUEUE answered: written, one job, id 1:42",
        Op::Enqueue,
        11,
        &|reply, out| {
            reply.outcome(out, head, &[TOKEN.id.0], &[]);
        },
    );
    add(
        "enqueue_full_reply",
        "ENQUEUE answered, replayed: position 1 a duplicate, 2 a key conflict",
        Op::Enqueue,
        12,
        &|reply, out| {
            let items = [
                ItemError {
                    position: 1,
                    code: ErrorCode::Duplicate,
                },
                ItemError {
                    position: 2,
                    code: ErrorCode::KeyConflict,
                },
            ];
            let head = OutcomeHead {
                level: Some(Durability::Synced),
                replayed: true,
                count: 2,
            };
            reply.outcome(out, head, &[TOKEN.id.0, 0x1_0000_0007, 0], &items);
        },
    );
    add(
        "reserve_reply",
        "RESERVE answered: one job `hello` from handle 1, attempt 1",
        Op::Reserve,
        13,
        &|reply, out| {
            let mut writer = DeliveryWriter::reply_to(out, reply, one);
            writer.push(&entry, b"hello");
            writer.finish();
        },
    );
    add(
        "reserve_empty_reply",
        "RESERVE answered: no job within the wait",
        Op::Reserve,
        13,
        &|reply, out| {
            DeliveryWriter::reply_to(out, reply, one).finish();
        },
    );
    add(
        "settle_reply",
        "SETTLE answered: written, one settled",
        Op::Settle,
        14,
        &|reply, out| {
            reply.outcome(out, head, &[], &[]);
        },
    );
    add(
        "settle_full_reply",
        "SETTLE answered: position 3 lost its lease",
        Op::Settle,
        15,
        &|reply, out| {
            let items = [ItemError {
                position: 3,
                code: ErrorCode::LeaseLost,
            }];
            reply.outcome(out, OutcomeHead { count: 5, ..head }, &[], &items);
        },
    );
    add(
        "delivery_push",
        "DELIVERY pushed to subscription 1: one job `hello` with metadata `m`",
        Op::Delivery,
        0,
        &|_, out| {
            let mut writer = DeliveryWriter::push_to(out, 1, one);
            let flags = DeliverEntry::REDELIVERED;
            writer.push(
                &DeliverEntry {
                    meta_len: 1.into(),
                    attempt: 3.into(),
                    flags,
                    ..entry
                },
                b"mhello",
            );
            writer.finish();
        },
    );
    add(
        "subscription_ended_push",
        "subscription 1 ended: its queue is gone",
        Op::Delivery,
        0,
        &|_, out| {
            response::subscription_ended(
                out,
                1,
                &Refusal::new(ErrorCode::QueueNotFound, "the queue was deleted"),
            );
        },
    );
    add(
        "job_get_reply",
        "JOB_GET answered: a dead job",
        Op::JobGet,
        19,
        &|reply, out| reply.job(out, &status()),
    );
    add(
        "job_list_reply",
        "JOB_LIST answered: one job, next page at 43",
        Op::JobList,
        20,
        &|reply, out| {
            reply.jobs(out, &[status()], 43);
        },
    );
    add(
        "error_reply",
        "ENQUEUE refused: QUEUE_FULL, retry after 100 ms",
        Op::Enqueue,
        11,
        &|reply, out| {
            reply.error(out, &Refusal::new(ErrorCode::QueueFull, "the queue is full"));
        },
    );
    add(
        "connection_error",
        "an error that belongs to no request: BAD_FRAME, then the connection is closed",
        Op::Ping,
        0,
        &|_, out| {
            response::connection_error(out, &Refusal::new(ErrorCode::BadFrame, "a frame of 3 bytes"));
        },
    );
    list
}

#[test]
fn the_golden_bytes_are_what_this_version_writes() {
    let write_anew = std::env::var_os("ACKRING_WRITE_VECTORS").is_some();
    let all: Vec<_> = requests().into_iter().chain(answers()).collect();
    for (name, what, bytes) in &all {
        if write_anew {
            write(name, what, bytes);
        }
        assert_eq!(&read(name), bytes, "{name}: {what}");
    }
    let files = std::fs::read_dir(directory()).unwrap().filter(|file| {
        file.as_ref().is_ok_and(|file| {
            file.path()
                .extension()
                .is_some_and(|extension| extension == "hex")
        })
    });
    assert_eq!(
        files.count(),
        all.len(),
        "a file in tests/vectors that no test knows"
    );
}

#[test]
fn every_golden_request_is_understood_and_every_op_has_one() {
    let mut seen = Vec::new();
    for (name, _, bytes) in requests() {
        let mut decoder = FrameDecoder::new(limits::FRAME_BYTES_MAX);
        decoder.extend(&bytes);
        let frame = decoder.next_frame().unwrap().unwrap();
        Request::decode(frame.header, frame.body).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        seen.push(frame.header.op.get());
    }
    for op in Op::ALL.iter().filter(|op| **op != Op::Delivery) {
        assert!(seen.contains(&(*op as u16)), "{} has no vector", op.name());
    }
}

/// An answer as its op's reader takes it, written again. Every op is named, so that a new one needs its line here.
fn again(op: Op, header: &Header, body: &[u8]) -> Vec<u8> {
    let reply = Reply::to(header);
    let mut out = Vec::new();
    match op {
        Op::Hello => Welcome::decode(body)
            .unwrap()
            .encode(&mut out, header.correlation.get()),
        Op::Ping | Op::Unsubscribe => {
            assert!(body.is_empty());
            reply.empty(&mut out);
        }
        Op::QueueOpen | Op::QueueCreate | Op::Subscribe => {
            reply.handle(&mut out, response::decode_handle(body).unwrap());
        }
        Op::QueueInfo => reply.queue_info(&mut out, &response::decode_queue_info(body).unwrap()),
        Op::QueueList => {
            let (queues, more) = response::decode_queue_list(body).unwrap();
            reply.queue_list(&mut out, &queues, more);
        }
        Op::QueuePause
        | Op::QueueResume
        | Op::QueuePurge
        | Op::QueueDelete
        | Op::Enqueue
        | Op::Settle
        | Op::Step
        | Op::JobCancel
        | Op::JobRedrive => {
            let outcome = Outcome::decode(body).unwrap();
            let ids: Vec<u64> = outcome.ids.iter().map(|id| id.0).collect();
            reply.outcome(&mut out, outcome.head, &ids, &outcome.items);
        }
        Op::Reserve | Op::Delivery => {
            let limits = DeliveryLimits {
                jobs: u32::MAX,
                bytes: 0,
                frame_bytes: limits::FRAME_BYTES_MAX,
            };
            let batch = DeliveryBatch::parse(body).unwrap();
            let mut writer = if header.is_push() {
                DeliveryWriter::push_to(&mut out, header.aux.get(), limits)
            } else {
                DeliveryWriter::reply_to(&mut out, reply, limits)
            };
            batch.items().for_each(|item| writer.push(item.entry, item.body));
            writer.finish();
        }
        Op::JobGet => reply.job(&mut out, &response::decode_job(body).unwrap()),
        Op::JobList | Op::JobPeek => {
            let (jobs, cursor) = response::decode_jobs(body).unwrap();
            reply.jobs(&mut out, &jobs, cursor);
        }
    }
    out
}

#[test]
fn every_golden_answer_is_understood_and_every_op_has_one() {
    let mut seen = Vec::new();
    for (name, _, bytes) in answers() {
        let (header, body) = Header::ref_from_prefix(&bytes).unwrap();
        if header.is_error() {
            let error = ErrorReply::decode(body).unwrap();
            assert!(error.refusal().is_some() && !error.text.is_empty(), "{name}");
            continue;
        }
        let op = header.answered_op().unwrap();
        assert_eq!(again(op, header, body), bytes, "{name}");
        seen.push(op);
    }
    for op in Op::ALL {
        assert!(seen.contains(op), "the answer to {} has no vector", op.name());
    }
}

#[test]
fn no_golden_request_is_understood_after_it_was_cut() {
    for (name, _, bytes) in requests() {
        let (header, body) = Header::ref_from_prefix(&bytes).unwrap();
        for len in 0..body.len() / 8 {
            assert!(
                Request::decode(header, &body[..len * 8]).is_err(),
                "{name} cut to {len} words"
            );
        }
    }
}
