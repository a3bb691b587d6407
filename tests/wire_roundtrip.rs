//! What one side writes, the other reads: every request and every answer, with drawn values.
#![cfg(any(feature = "client", feature = "server"))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

#[path = "fuzz_targets/wire_again.rs"]
mod wire_again;

use ackring::wire::response::{decode_handle, decode_job, decode_jobs, decode_queue_info, decode_queue_list};
use ackring::wire::{
    DeliverEntry, DeliveryBatch, DeliveryLimits, DeliveryWriter, ErrorReply, FrameDecoder, FrameWriter,
    Header, Hello, Op, Outcome, OutcomeHead, Reply, Request, Welcome, compose, status_len,
};
use ackring::{
    Backoff, Durability, EnqueueBuilder, ErrorCode, ItemError, JobId, JobOptions, JobState, JobStatus,
    QueueCounts, QueueOptions, QueueStats, Refusal, SettleBuilder, Token, Verb,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use zerocopy::FromBytes;

fn split(bytes: &[u8]) -> (&Header, &[u8]) {
    let (header, body) = Header::ref_from_prefix(bytes).unwrap();
    assert_eq!(header.len.get() as usize, bytes.len());
    assert_eq!(bytes.len() % 8, 0);
    (header, body)
}

fn decode(bytes: &[u8]) -> Request<'_> {
    let (header, body) = split(bytes);
    Request::decode(header, body).unwrap()
}

/// An answer to `op`, its header checked, its body.
fn answer(op: Op, write: impl FnOnce(Reply, &mut Vec<u8>)) -> Vec<u8> {
    let mut request = Vec::new();
    FrameWriter::begin(&mut request, op as u16, 0, 77, 0).finish();
    let mut out = Vec::new();
    write(Reply::to(split(&request).0), &mut out);
    let (header, body) = split(&out);
    assert!(header.is_reply() && header.answered_op() == Some(op) && header.correlation.get() == 77);
    body.to_vec()
}

fn durability() -> impl Strategy<Value = Durability> {
    proptest::sample::select(&Durability::ALL)
}

fn name() -> impl Strategy<Value = String> {
    "[A-Za-z0-9._:/@+-]{1,128}"
}

fn options() -> impl Strategy<Value = QueueOptions> {
    let backoff = prop_oneof![
        (0u32..1000, 1000u32..100_000).prop_map(|(base_ms, cap_ms)| Backoff::Exponential { base_ms, cap_ms }),
        vec(0u32..100_000, 1..64).prop_map(Backoff::List),
    ];
    let limits = (
        1u32..1_000_000,
        1u16..60_000,
        1u64..1 << 30,
        1u64..1 << 40,
        0u32..1 << 24,
    );
    (durability(), backoff, limits, 0u64..1_000_000, 0u32..1 << 24).prop_map(
        |(durability, backoff, (lease_ms, max_attempts, jobs, bytes, payload), window, keep)| QueueOptions {
            durability,
            lease_ms,
            max_attempts,
            backoff,
            capacity_jobs: jobs,
            capacity_bytes: bytes,
            payload_bytes_max: payload,
            dedupe_window_ms: window,
            keep_finished: keep,
        },
    )
}

fn stats() -> impl Strategy<Value = QueueStats> {
    (name(), any::<bool>(), options(), any::<[u64; 16]>()).prop_map(|(name, paused, options, n)| QueueStats {
        name,
        paused,
        options,
        counts: QueueCounts {
            ready: n[0],
            scheduled: n[1],
            leased: n[2],
            dead: n[3],
            kept: n[4],
            bytes: n[5],
            enqueued: n[6],
            done: n[7],
            deliveries: n[8],
            failures: n[9],
            expiries: n[10],
            releases: n[11],
            buried: n[12],
            redriven: n[13],
            cancelled: n[14],
            expired: n[15],
        },
    })
}

fn status() -> impl Strategy<Value = JobStatus> {
    let bytes = || vec(any::<u8>(), 0..50);
    let state = proptest::sample::select(&JobState::ALL);
    (
        any::<[u64; 4]>(),
        name(),
        state,
        any::<[u16; 5]>(),
        bytes(),
        bytes(),
        option::of(bytes()),
        option::of(bytes()),
    )
        .prop_map(
            |(n, queue, state, c, meta, payload, last_error, result)| JobStatus {
                id: JobId(n[0]),
                queue,
                state,
                priority: (n[0] % 8) as u8,
                attempts: c[0],
                max_attempts: c[1],
                deliveries: c[2],
                failures: c[3],
                expiries: c[4],
                enqueued_ms: n[1],
                at_ms: n[2],
                expires_ms: n[3],
                payload_bytes: n[1] as u32,
                meta,
                payload,
                last_error,
                result,
            },
        )
}

type Job = (Vec<u8>, Vec<u8>, Vec<u8>, u8, u64);

fn jobs() -> impl Strategy<Value = Vec<Job>> {
    let bytes = |len| vec(any::<u8>(), 0..len);
    vec((bytes(90), bytes(20), bytes(30), 0u8..8, 0u64..10_000), 1..20)
}

fn batch(jobs: &[Job]) -> EnqueueBuilder {
    let mut batch = EnqueueBuilder::new();
    for (payload, meta, key, priority, delay_ms) in jobs {
        let options = JobOptions {
            meta,
            key,
            priority: *priority,
            delay_ms: *delay_ms,
            ..JobOptions::default()
        };
        batch.push(payload, &options);
    }
    batch
}

fn token(n: u64) -> Token {
    Token {
        id: JobId(n),
        attempt: n as u16,
    }
}

fn settlements(notes: &[(u64, Option<Vec<u8>>)]) -> SettleBuilder {
    let mut builder = SettleBuilder::new();
    for (n, note) in notes {
        builder.push(token(*n), Verb::Ack, 0, note.as_deref());
    }
    builder
}

type Note = (u64, u16, Verb, u32, Option<Vec<u8>>);

/// Settlements with every verb, each with what it may have.
fn any_settlements(min: usize) -> impl Strategy<Value = Vec<Note>> {
    let verbs = [Verb::Ack, Verb::Nack, Verb::Reject, Verb::Release, Verb::Extend];
    let one = (
        any::<u64>(),
        any::<u16>(),
        proptest::sample::select(verbs.to_vec()),
        0u32..1_000_000,
        option::of(vec(any::<u8>(), 0..40)),
    );
    vec(one, min..20).prop_map(|drawn| {
        let fitting = |(id, attempt, verb, arg, note): Note| match verb {
            Verb::Ack | Verb::Reject => (id, attempt, verb, 0, note),
            Verb::Nack => (id, attempt, verb, arg, note),
            Verb::Release => (id, attempt, verb, 0, None),
            Verb::Extend => (id, attempt, verb, arg, None),
        };
        drawn.into_iter().map(fitting).collect()
    })
}

fn settle_builder(notes: &[Note]) -> SettleBuilder {
    let mut builder = SettleBuilder::new();
    for (id, attempt, verb, arg, note) in notes {
        let token = Token {
            id: JobId(*id),
            attempt: *attempt,
        };
        builder.push(token, *verb, *arg, note.as_deref());
    }
    builder
}

fn composed(compose: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    compose(&mut out);
    out
}

/// A request of that op with drawn values; an op that is added later does not compile until it is drawn here.
fn request_of(op: Op) -> BoxedStrategy<Vec<u8>> {
    let named = (any::<u32>(), any::<u64>(), name());
    let ids = |min| vec(any::<u64>().prop_map(JobId), min..9);
    match op {
        Op::Hello => (any::<(u16, u16, u32, u32, u32, u128)>(), "[a-zé]{0,100}")
            .prop_map(|((min, max, features, frame, beat, session), name)| {
                let hello = Hello {
                    version_min: min,
                    version_max: max,
                    features,
                    frame_bytes_max: frame,
                    heartbeat_ms: beat,
                    session,
                    name: &name,
                };
                composed(|out| hello.encode(out, 3))
            })
            .boxed(),
        Op::Ping => any::<u32>()
            .prop_map(|c| composed(|out| compose::ping(out, c)))
            .boxed(),
        Op::QueueOpen => named
            .prop_map(|(c, _, name)| composed(|out| compose::queue_open(out, c, &name)))
            .boxed(),
        Op::QueueCreate => (named, options())
            .prop_map(|((c, n, name), options)| {
                composed(|out| compose::queue_create(out, c, n, &name, &options))
            })
            .boxed(),
        Op::QueueInfo => named
            .prop_map(|(c, _, name)| composed(|out| compose::queue_info(out, c, &name)))
            .boxed(),
        Op::QueueList => (named, 1u32..1000)
            .prop_map(|((c, _, name), limit)| composed(|out| compose::queue_list(out, c, &name, limit)))
            .boxed(),
        Op::QueuePause | Op::QueueResume | Op::QueueDelete => named
            .prop_map(move |(c, n, name)| composed(|out| compose::queue_change(out, c, op, n, &name)))
            .boxed(),
        Op::QueuePurge => (named, 1u32..128)
            .prop_map(|((c, n, name), states)| {
                composed(|out| compose::queue_purge(out, c, n, &name, states * 2))
            })
            .boxed(),
        Op::Enqueue => (named, any::<u32>(), option::of(durability()), jobs())
            .prop_map(|((c, n, _), queue, level, jobs)| {
                composed(|out| compose::enqueue(out, c, n, queue, level, &batch(&jobs)))
            })
            .boxed(),
        Op::Reserve => (
            any::<(u32, u64, u32)>(),
            1u32..1000,
            0u32..100_000,
            vec(any::<u32>(), 1..64),
        )
            .prop_map(|((c, number, max_bytes), max_jobs, ms, queues)| {
                let (wait_ms, lease_ms) = (ms, ms / 2);
                let fields = compose::ReserveFields {
                    number,
                    max_jobs,
                    wait_ms,
                    max_bytes,
                    lease_ms,
                };
                composed(|out| compose::reserve(out, c, &fields, &queues))
            })
            .boxed(),
        Op::Settle => (named, any_settlements(1))
            .prop_map(|((c, n, _), notes)| {
                composed(|out| compose::settle(out, c, n, &settle_builder(&notes)))
            })
            .boxed(),
        Op::Step => (named, any_settlements(0), vec((any::<u32>(), jobs()), 1..4))
            .prop_map(|((c, n, _), notes, groups)| {
                let built: Vec<_> = groups.iter().map(|(queue, jobs)| (*queue, batch(jobs))).collect();
                let borrowed: Vec<_> = built.iter().map(|(queue, batch)| (*queue, batch)).collect();
                composed(|out| compose::step(out, c, n, &settle_builder(&notes), &borrowed))
            })
            .boxed(),
        Op::Subscribe => (
            any::<(u32, u32)>(),
            1u32..60_000,
            0u32..100_000,
            vec(any::<u32>(), 1..64),
        )
            .prop_map(|((c, bytes), jobs, lease_ms, queues)| {
                composed(|out| compose::subscribe(out, c, jobs, bytes, lease_ms, &queues))
            })
            .boxed(),
        // Pushed only: what is drawn of it is in `deliveries`.
        Op::Unsubscribe | Op::Delivery => any::<(u32, u32)>()
            .prop_map(|(c, subscription)| composed(|out| compose::unsubscribe(out, c, subscription)))
            .boxed(),
        Op::JobGet => any::<(u32, u64)>()
            .prop_map(|(c, id)| composed(|out| compose::job_get(out, c, JobId(id))))
            .boxed(),
        Op::JobList => (
            named,
            1u32..1000,
            option::of(proptest::sample::select(&JobState::ALL)),
        )
            .prop_map(|((c, n, name), limit, state)| {
                composed(|out| compose::job_list(out, c, &name, state, n, limit))
            })
            .boxed(),
        Op::JobPeek => (named, 1u32..1000)
            .prop_map(|((c, _, name), limit)| composed(|out| compose::job_peek(out, c, &name, limit)))
            .boxed(),
        Op::JobCancel => (named, ids(1))
            .prop_map(|((c, n, _), ids)| composed(|out| compose::job_cancel(out, c, n, &ids)))
            .boxed(),
        Op::JobRedrive => (named, ids(0), any::<u32>())
            .prop_map(|((c, n, name), ids, limit)| {
                composed(|out| compose::job_redrive(out, c, n, &name, &ids, limit))
            })
            .boxed(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]
    #[test]
    fn every_request_read_and_written_again_is_the_same_bytes(
        bytes in proptest::sample::select(Op::ALL).prop_flat_map(request_of)
    ) {
        let (header, body) = split(&bytes);
        let request = Request::decode(header, body).unwrap();
        prop_assert_eq!(&wire_again::request(header, &request), &bytes);
        prop_assert_eq!(wire_again::canonical(&bytes, body, &request), bytes);
    }
}

proptest! {
    #[test]
    fn enqueue(jobs in jobs(), number: u64, queue: u32, level in option::of(durability())) {
        let mut out = Vec::new();
        compose::enqueue(&mut out, 3, number, queue, level, &batch(&jobs));
        let Request::Enqueue { number: n, queue: q, durability: d, batch } = decode(&out) else { panic!() };
        prop_assert_eq!((n, q, d, batch.count()), (number, queue, level, jobs.len()));
        for (item, (payload, meta, key, priority, _)) in batch.items().zip(&jobs) {
            prop_assert_eq!((item.payload(), item.meta(), item.key()), (&payload[..], &meta[..], &key[..]));
            prop_assert_eq!(item.entry.priority, *priority);
        }
    }

    #[test]
    fn settle(
        notes in vec((any::<u64>(), option::of(vec(any::<u8>(), 0..40))), 1..20),
        number: u64,
        is_quiet: bool,
    ) {
        let mut out = Vec::new();
        if is_quiet {
            compose::settle_quietly(&mut out, 3, &settlements(&notes));
        } else {
            compose::settle(&mut out, 3, number, &settlements(&notes));
        }
        let Request::Settle { number: n, quiet, batch } = decode(&out) else { panic!() };
        prop_assert_eq!((n, quiet), (if is_quiet { 0 } else { number }, is_quiet));
        let read: Vec<_> = batch.items().map(|s| (s.token.id.0, s.note.map(<[u8]>::to_vec))).collect();
        prop_assert_eq!(read, notes);
    }

    #[test]
    fn step(
        notes in vec((any::<u64>(), option::of(vec(any::<u8>(), 0..40))), 0..5),
        groups in vec((any::<u32>(), jobs()), 1..5),
        handles in any::<[u32; 5]>(),
    ) {
        let built: Vec<_> = groups.iter().map(|(queue, jobs)| (*queue, batch(jobs))).collect();
        let borrowed: Vec<_> = built.iter().map(|(queue, batch)| (*queue, batch)).collect();
        let mut out = Vec::new();
        compose::step(&mut out, 3, 5, &settlements(&notes), &borrowed);
        let Request::Step { settlements, groups: read, .. } = decode(&out) else { panic!() };
        prop_assert_eq!(settlements.map_or(0, |batch| batch.count()), notes.len());
        prop_assert!(read.iter().zip(&groups).all(|(r, g)| r.0 == g.0 && r.1.count() == g.1.len()));
        compose::set_queues(&mut out, &handles[..groups.len()]);
        let Request::Step { groups: read, .. } = decode(&out) else { panic!() };
        prop_assert!(read.iter().zip(handles).all(|(r, handle)| r.0 == handle));
    }

    #[test]
    fn reserve_and_subscribe(queues in vec(any::<u32>(), 1..64), others in vec(any::<u32>(), 64), wait: u16) {
        let fields =
            compose::ReserveFields { number: 9, max_jobs: 500, wait_ms: 1_000, max_bytes: 7, lease_ms: 8 };
        let mut out = Vec::new();
        compose::reserve(&mut out, 3, &fields, &queues);
        let Request::Reserve(read) = decode(&out) else { panic!() };
        prop_assert_eq!((read.number, read.max_jobs, read.wait_ms, read.max_bytes, read.lease_ms), (9, 500, 1_000, 7, 8));
        prop_assert_eq!(read.queues.iter().map(|q| q.get()).collect::<Vec<_>>(), queues.clone());
        compose::set_queues(&mut out, &others[..queues.len()]);
        compose::shorten_wait(&mut out, u32::from(wait));
        let Request::Reserve(read) = decode(&out) else { panic!() };
        prop_assert!(read.queues.iter().zip(&others).all(|(q, other)| q.get() == *other));
        prop_assert_eq!(read.wait_ms, u32::from(wait).min(1_000));

        let mut out = Vec::new();
        compose::subscribe(&mut out, 3, 100, 200, 300, &queues);
        compose::set_queues(&mut out, &others[..queues.len()]);
        let Request::Subscribe(read) = decode(&out) else { panic!() };
        prop_assert_eq!((read.window_jobs, read.window_bytes, read.lease_ms), (100, 200, 300));
        prop_assert!(read.queues.len() == queues.len() && read.queues.iter().zip(&others).all(|(q, o)| q.get() == *o));
    }

    #[test]
    fn requests_by_name(name in name(), options in options(), number: u64, limit in 1u32..1000) {
        let mut out = Vec::new();
        compose::queue_create(&mut out, 3, number, &name, &options);
        let Request::QueueCreate { number: n, name: read, options: o } = decode(&out) else { panic!() };
        prop_assert_eq!((n, read, o), (number, &name[..], options));

        out.clear();
        compose::queue_purge(&mut out, 3, number, &name, 0b110);
        assert!(matches!(decode(&out), Request::QueuePurge { number: n, name: r, states: 0b110 } if n == number && r == name));
        out.clear();
        compose::queue_list(&mut out, 3, &name, limit);
        assert!(matches!(decode(&out), Request::QueueList { after, limit: l } if after == name && l == limit));
        out.clear();
        compose::job_list(&mut out, 3, &name, Some(JobState::Dead), number, limit);
        assert!(matches!(decode(&out), Request::JobList { queue, state: Some(JobState::Dead), cursor, limit: l }
            if queue == name && cursor == number && l == limit));
        out.clear();
        compose::job_redrive(&mut out, 3, number, &name, &[JobId(number)], 4);
        assert!(matches!(decode(&out), Request::JobRedrive { number: n, queue, ids: [id], limit: 4 }
            if n == number && queue == name && id.get() == number));
        for op in [Op::QueuePause, Op::QueueResume, Op::QueueDelete] {
            out.clear();
            compose::queue_change(&mut out, 3, op, number, &name);
            prop_assert_eq!(decode(&out).number(), number);
        }
    }

    #[test]
    fn hello(session: u128, name in "[a-z0-9 ./-]{0,256}", boot: u64, known: bool) {
        let hello = Hello { version_min: 1, version_max: 4, features: 0, frame_bytes_max: 5, heartbeat_ms: 6, session, name: &name };
        let mut out = Vec::new();
        hello.encode(&mut out, 3);
        let Request::Hello(read) = decode(&out) else { panic!() };
        prop_assert_eq!(read, hello);
        let welcome = Welcome { version: 1, session_known: known, features: 2, frame_bytes_max: 4096, heartbeat_ms: 9,
            boot, session_window: 1024, name: name.clone() };
        let mut out = Vec::new();
        welcome.encode(&mut out, 3);
        prop_assert_eq!(Welcome::decode(split(&out).1).unwrap(), welcome);
    }

    #[test]
    fn outcomes(ids in vec(any::<u64>(), 0..50), positions in vec(any::<u32>(), 0..9), replayed: bool, count: u32,
                level in option::of(durability())) {
        let items: Vec<_> = positions.iter().map(|p| ItemError { position: *p, code: ErrorCode::Duplicate }).collect();
        let head = OutcomeHead { level, replayed, count };
        let body = answer(Op::Enqueue, |reply, out| reply.outcome(out, head, &ids, &items));
        let outcome = Outcome::decode(&body).unwrap();
        prop_assert_eq!(outcome.head, head);
        prop_assert_eq!(outcome.ids.iter().map(|id| id.0).collect::<Vec<_>>(), ids);
        prop_assert_eq!(outcome.items, items);
        for len in 0..body.len() {
            prop_assert!(Outcome::decode(&body[..len]).is_err());
        }
    }

    #[test]
    fn queues_and_jobs(queues in vec(stats(), 0..4), jobs in vec(status(), 0..4), more: bool, cursor: u64) {
        let body = answer(Op::QueueList, |reply, out| reply.queue_list(out, &queues, more));
        prop_assert_eq!(decode_queue_list(&body).unwrap(), (queues.clone(), more));
        let body = answer(Op::JobList, |reply, out| reply.jobs(out, &jobs, cursor));
        prop_assert_eq!(body.len(), 16 + jobs.iter().map(status_len).sum::<usize>());
        prop_assert_eq!(decode_jobs(&body).unwrap(), (jobs.clone(), cursor));
        if let (Some(queue), Some(job)) = (queues.first(), jobs.first()) {
            let body = answer(Op::QueueInfo, |reply, out| reply.queue_info(out, queue));
            prop_assert_eq!(&decode_queue_info(&body).unwrap(), queue);
            let body = answer(Op::JobGet, |reply, out| reply.job(out, job));
            prop_assert_eq!(&decode_job(&body).unwrap(), job);
        }
    }

    #[test]
    fn deliveries(jobs in vec((any::<u64>(), vec(any::<u8>(), 0..40), vec(any::<u8>(), 0..90)), 0..30)) {
        let mut out = vec![1, 2, 3, 4, 5];
        let limits = DeliveryLimits { jobs: 1000, bytes: 0, frame_bytes: 1 << 20 };
        let mut writer = DeliveryWriter::push_to(&mut out, 12, limits);
        for (id, meta, payload) in &jobs {
            let entry = DeliverEntry {
                id: (*id).into(), meta_len: (meta.len() as u16).into(), payload_len: (payload.len() as u32).into(),
                ..DeliverEntry::default()
            };
            let body = [&meta[..], &payload[..]].concat();
            prop_assert!(writer.has_room(body.len()));
            writer.push(&entry, &body);
        }
        prop_assert_eq!(writer.finish() as usize, jobs.len());
        let (header, body) = split(&out[5..]);
        prop_assert!(header.is_push() && header.aux.get() == 12);
        let batch = DeliveryBatch::parse(body).unwrap();
        prop_assert_eq!(batch.count(), jobs.len());
        for (item, (id, meta, payload)) in batch.items().zip(&jobs) {
            prop_assert_eq!((item.entry.id.get(), item.meta(), item.payload()), (*id, &meta[..], &payload[..]));
            prop_assert_eq!(&body[item.body_offset..item.body_offset + item.body.len()], item.body);
        }
        for len in 0..body.len() {
            prop_assert!(DeliveryBatch::parse(&body[..len]).is_err());
        }
    }

    #[test]
    fn errors(text in "[a-z ]{0,1024}", retry_ms: u32) {
        for code in ErrorCode::ALL {
            let refusal = Refusal { code: *code, retry_ms, text: text.clone() };
            let body = answer(Op::Settle, |reply, out| reply.error(out, &refusal));
            let reply = ErrorReply::decode(&body).unwrap();
            prop_assert_eq!(reply.refusal().unwrap(), refusal);
        }
    }
}

#[test]
fn a_frame_of_deliveries_keeps_its_limits() {
    let mut out = Vec::new();
    let entry = DeliverEntry {
        payload_len: 100.into(),
        ..DeliverEntry::default()
    };
    let limits = DeliveryLimits {
        jobs: 3,
        bytes: 150,
        frame_bytes: 4096,
    };
    let mut writer = DeliveryWriter::push_to(&mut out, 1, limits);
    assert!(
        writer.has_room(1_000),
        "one job always fits into the bytes asked for"
    );
    assert!(
        !writer.has_room(5_000),
        "but never into a frame that is too small"
    );
    writer.push(&entry, &[0; 100]);
    assert!(writer.has_room(50) && !writer.has_room(51));
    drop(writer);
    assert!(out.is_empty(), "an unfinished frame leaves nothing");
}

#[test]
fn a_page_is_never_larger_than_what_may_be_asked_for() {
    let mut body = vec![0; 8];
    body.extend_from_slice(&u32::MAX.to_le_bytes());
    body.extend_from_slice(&[0; 4]);
    assert!(decode_jobs(&body).is_err());
}

#[test]
fn small_requests_and_answers() {
    let mut out = Vec::new();
    compose::unsubscribe(&mut out, 1, 5);
    assert!(matches!(decode(&out), Request::Unsubscribe { subscription: 5 }));
    out.clear();
    compose::job_get(&mut out, 1, JobId(6));
    assert!(matches!(decode(&out), Request::JobGet { id: JobId(6) }));
    out.clear();
    compose::job_cancel(&mut out, 1, 7, &[JobId(6)]);
    assert!(matches!(decode(&out), Request::JobCancel { number: 7, ids: [_] }));
    out.clear();
    compose::job_peek(&mut out, 1, "q", 7);
    assert!(matches!(decode(&out), Request::JobPeek { queue: "q", limit: 7 }));
    out.clear();
    compose::queue_info(&mut out, 1, "q");
    assert!(matches!(decode(&out), Request::QueueInfo { name: "q" }));
    assert_eq!(
        decode_handle(&answer(Op::QueueOpen, |reply, out| reply.handle(out, 31))).unwrap(),
        31
    );
    let mut decoder = FrameDecoder::new(4096);
    ackring::wire::response::subscription_ended(&mut out, 4, &Refusal::new(ErrorCode::QueueNotFound, "gone"));
    decoder.extend(&out[out.len() - 32..]);
    let frame = decoder.next_frame().unwrap().unwrap();
    assert!(frame.header.is_push() && frame.header.is_error());
    assert_eq!(ErrorReply::decode(frame.body).unwrap().scope, 4);
}

#[test]
fn requests_written_in_place_are_those_of_the_builders() {
    let payloads: [&[u8]; 4] = [b"", b"seven..", b"eight...", b"nine....."];
    let mut jobs = EnqueueBuilder::new();
    payloads
        .iter()
        .for_each(|payload| jobs.push(payload, &JobOptions::default()));
    let tokens = [7, 8].map(|id| Token {
        id: JobId(id),
        attempt: 3,
    });
    let mut acks = SettleBuilder::new();
    tokens.iter().for_each(|token| acks.ack(*token, None));
    // Behind something else, as in a buffer that is sent from.
    let (mut built, mut in_place) = (vec![1; 24], vec![1; 24]);
    compose::enqueue(&mut built, 3, 9, 5, Some(Durability::Synced), &jobs);
    compose::settle(&mut built, 4, 10, &acks);
    compose::enqueue_with(
        &mut in_place,
        3,
        9,
        5,
        Some(Durability::Synced),
        4,
        |place, out| {
            out.extend_from_slice(payloads[place]);
        },
    );
    compose::ack_all(&mut in_place, 4, 10, &tokens);
    assert_eq!(built, in_place);
}
