//! What the engine writes into the log, it reads back: every kind of record, with drawn values, through a real log.
#![cfg(all(feature = "engine", not(loom)))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

use ackring::engine::journal::{
    self, AnswerEntry, ChangeEntry, ChangeHead, DoneEntry, EnqueueHead, Group, GroupHead, JobHead, Kind,
    NUMBERED, Prelude, RefusedEntry, ReserveEntry, StepHead,
};
use ackring::engine::{Engine, EngineConfig, RequestId};
use ackring::limits::SEGMENT_BYTES_MIN;
use ackring::log::{Log, LogConfig, OpenError, Room};
use ackring::{EnqueueBuilder, JobOptions};
use proptest::collection::vec;
use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

const NOW_MS: u64 = 1_700_000_000_000;

/// A record as drawn: what it says, and its bytes.
#[derive(Debug, Clone)]
struct Drawn {
    kind: Kind,
    request: Option<RequestId>,
    body: Vec<u8>,
    /// How many entries of each sort, in the order of FORMAT.md.
    counts: Vec<usize>,
}

impl Drawn {
    fn bytes(&self) -> Vec<u8> {
        let prelude = self.request.map(Prelude::new);
        let prelude = prelude.as_ref().map_or(&[][..], |prelude| prelude.as_bytes());
        [prelude, &self.body].concat()
    }
}

/// Id, payload, metadata, key.
type JobParts = (u64, Vec<u8>, Vec<u8>, Vec<u8>);

fn enqueue_body(queue: u32, jobs: &[JobParts]) -> Vec<u8> {
    let head = EnqueueHead {
        queue: queue.into(),
        count: (jobs.len() as u32).into(),
    };
    let mut body = head.as_bytes().to_vec();
    let mut batch = EnqueueBuilder::new();
    for (id, payload, meta, key) in jobs {
        body.extend_from_slice(&id.to_le_bytes());
        batch.push(
            payload,
            &JobOptions {
                meta,
                key,
                ..JobOptions::default()
            },
        );
    }
    batch.write_to(&mut body);
    body
}

fn jobs() -> impl Strategy<Value = Vec<JobParts>> {
    let bytes = |len| vec(any::<u8>(), 0..len);
    vec((any::<u64>(), bytes(60), bytes(20), bytes(30)), 1..12)
}

fn change_body(
    done: &[(u64, u16)],
    changes: &[(u64, u16, Option<Vec<u8>>)],
    refused: &[(u32, u16)],
) -> Vec<u8> {
    let head = ChangeHead {
        done: (done.len() as u32).into(),
        changes: (changes.len() as u32).into(),
        refused: (refused.len() as u32).into(),
        reserved: 0.into(),
    };
    let mut body = head.as_bytes().to_vec();
    for (id, attempt) in done {
        let entry = DoneEntry {
            id: (*id).into(),
            attempt: (*attempt).into(),
            ..DoneEntry::default()
        };
        body.extend_from_slice(entry.as_bytes());
    }
    for (id, attempt, note) in changes {
        let noted = if note.is_some() { ChangeEntry::ERROR } else { 0 };
        let entry = ChangeEntry {
            id: (*id).into(),
            attempt: (*attempt).into(),
            noted,
            phase: 2,
            ..ChangeEntry::default()
        };
        body.extend_from_slice(entry.as_bytes());
    }
    for note in changes.iter().filter_map(|(.., note)| note.as_ref()) {
        let start = body.len();
        body.extend_from_slice(&(note.len() as u32).to_le_bytes());
        body.extend_from_slice(note);
        body.resize(start + journal::note_len(note, false), 0);
    }
    for (position, code) in refused {
        let entry = RefusedEntry {
            position: (*position).into(),
            code: (*code).into(),
            reserved: 0.into(),
        };
        body.extend_from_slice(entry.as_bytes());
    }
    body
}

type Changes = (Vec<(u64, u16)>, Vec<(u64, u16, Option<Vec<u8>>)>, Vec<(u32, u16)>);

fn changes() -> impl Strategy<Value = Changes> {
    let note = proptest::option::of(vec(any::<u8>(), 0..40));
    (
        vec(any::<(u64, u16)>(), 0..6),
        vec((any::<u64>(), any::<u16>(), note), 0..6),
        vec(any::<(u32, u16)>(), 0..4),
    )
}

fn step_body(change: &[u8], groups: &[Result<Vec<u8>, Vec<u64>>]) -> Vec<u8> {
    let head = StepHead {
        change_len: (change.len() as u32).into(),
        groups: (groups.len() as u32).into(),
    };
    let mut body = [head.as_bytes(), change].concat();
    for group in groups {
        let (kind, bytes) = match group {
            Ok(jobs) => (GroupHead::JOBS, jobs.clone()),
            Err(ids) => {
                let answer = |id: &u64| AnswerEntry {
                    id: (*id).into(),
                    flags: 0.into(),
                    reserved: [0; 6],
                };
                (
                    GroupHead::ANSWER,
                    ids.iter().flat_map(|id| answer(id).as_bytes().to_vec()).collect(),
                )
            }
        };
        let head = GroupHead {
            len: (bytes.len() as u32).into(),
            kind: kind.into(),
        };
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(&bytes);
    }
    body
}

/// A record of the kind; a kind that is added later does not compile until it is drawn here.
fn drawn(kind: Kind) -> BoxedStrategy<Drawn> {
    let request = proptest::option::of(any::<(u128, u64)>()).prop_map(|drawn| {
        drawn.map(|(session, number)| RequestId {
            session: session | 1,
            number: number | 1,
        })
    });
    let body: BoxedStrategy<(Vec<u8>, Vec<usize>)> = match kind {
        Kind::Enqueue => (any::<u32>(), jobs())
            .prop_map(|(queue, jobs)| (enqueue_body(queue, &jobs), vec![jobs.len()]))
            .boxed(),
        Kind::Reserve => vec(any::<(u64, u32, u16)>(), 0..20)
            .prop_map(|entries| {
                let mut body = (entries.len() as u64).to_le_bytes().to_vec();
                for (id, lease_ms, attempt) in &entries {
                    let entry = ReserveEntry {
                        id: (*id).into(),
                        lease_ms: (*lease_ms).into(),
                        attempt: (*attempt).into(),
                        reserved: 0.into(),
                    };
                    body.extend_from_slice(entry.as_bytes());
                }
                (body, vec![entries.len()])
            })
            .boxed(),
        Kind::Change => changes()
            .prop_map(|(done, changes, refused)| {
                let counts = vec![done.len(), changes.len(), refused.len()];
                (change_body(&done, &changes, &refused), counts)
            })
            .boxed(),
        Kind::Step => {
            let group = prop_oneof![
                (any::<u32>(), jobs()).prop_map(|(queue, jobs)| Ok(enqueue_body(queue, &jobs))),
                vec(any::<u64>(), 1..5).prop_map(Err),
            ];
            (changes(), vec(group, 0..4))
                .prop_map(|((done, changes, refused), groups)| {
                    let change = change_body(&done, &changes, &refused);
                    let counts = vec![
                        change.len(),
                        groups.len(),
                        groups.iter().filter(|group| group.is_ok()).count(),
                    ];
                    (step_body(&change, &groups), counts)
                })
                .boxed()
        }
        Kind::Job => (
            any::<[u64; 5]>(),
            vec(any::<u8>(), 0..80),
            vec(any::<u8>(), 0..20),
        )
            .prop_map(|(n, payload, meta)| {
                let head = JobHead {
                    id: n[0].into(),
                    order: n[1].into(),
                    as_of: n[2].into(),
                    enqueued_ms: n[3].into(),
                    expires_ms: n[4].into(),
                    payload_len: (payload.len() as u32).into(),
                    meta_len: (meta.len() as u16).into(),
                    ..JobHead::default()
                };
                let mut body = [head.as_bytes(), &meta, &payload].concat();
                body.resize(body.len().next_multiple_of(8), 0);
                (body, vec![meta.len(), payload.len()])
            })
            .boxed(),
        // A note around bytes of bincode; what is in them is drawn where they are made, in `engine/codec`.
        Kind::Queue | Kind::Session | Kind::Key => vec(any::<u8>(), 0..100)
            .prop_map(|bytes| {
                let mut body = (bytes.len() as u32).to_le_bytes().to_vec();
                body.extend_from_slice(&bytes);
                body.resize(body.len().next_multiple_of(8), 0);
                (body, vec![bytes.len()])
            })
            .boxed(),
        Kind::Generation => any::<u64>()
            .prop_map(|high| (high.to_le_bytes().to_vec(), Vec::new()))
            .boxed(),
    };
    (request, body)
        .prop_map(move |(request, (body, counts))| Drawn {
            kind,
            request,
            body,
            counts,
        })
        .boxed()
}

fn any_record() -> impl Strategy<Value = Drawn> {
    proptest::sample::select(&Kind::ALL).prop_flat_map(drawn)
}

/// What was read of a body, taken apart again, has the parts that it was put together from.
fn check(kind: Kind, body: &[u8], counts: &[usize]) {
    match kind {
        Kind::Enqueue => {
            let read = journal::parse_enqueue(body).unwrap();
            assert_eq!((read.ids.len(), read.batch.count()), (counts[0], counts[0]));
            assert_eq!(journal::enqueue_len(&read.batch), body.len());
            let at = journal::enqueue_bodies_offset(counts[0]);
            let items: Vec<_> = read.batch.items().collect();
            assert!(
                items
                    .iter()
                    .all(|item| body[at + item.body_offset..].starts_with(item.body))
            );
        }
        Kind::Reserve => {
            let read = journal::parse_reserve(body).unwrap();
            assert_eq!((read.len(), read.as_bytes()), (counts[0], &body[8..]));
        }
        Kind::Change => {
            let read = journal::parse_change(body).unwrap();
            assert_eq!(
                [read.done.len(), read.changes.len(), read.refused.len()],
                counts[..]
            );
            let mut notes = read.notes;
            for entry in read.changes.iter().filter(|entry| entry.noted != 0) {
                let note = journal::parse_note(notes).unwrap();
                assert!(body[read.notes_offset..].len() >= notes.len() && entry.noted == ChangeEntry::ERROR);
                notes = &notes[journal::note_len(note, false)..];
            }
            assert!(notes.is_empty());
        }
        Kind::Step => {
            let (change, groups) = journal::parse_step(body).unwrap();
            assert_eq!([change.len(), groups.len()], counts[..2]);
            assert!(journal::parse_change(change).is_some());
            let mut jobs = 0;
            for group in groups {
                match group {
                    Group::Jobs(at, group) => {
                        jobs += 1;
                        assert!(body[at..].starts_with(group) && journal::parse_enqueue(group).is_some());
                    }
                    Group::Answer(entries) => assert!(!entries.is_empty()),
                }
            }
            assert_eq!(jobs, counts[2]);
        }
        Kind::Job => {
            let (head, rest) = JobHead::ref_from_prefix(body).unwrap();
            assert_eq!(
                usize::from(head.meta_len.get()) + head.payload_len.get() as usize,
                counts[0] + counts[1]
            );
            assert_eq!(rest.len(), (counts[0] + counts[1]).next_multiple_of(8));
        }
        Kind::Queue | Kind::Session | Kind::Key => {
            assert_eq!(journal::parse_note(body).unwrap().len(), counts[0]);
        }
        Kind::Generation => assert_eq!(body.len(), 8),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_record_comes_back_from_the_log_as_it_was(records in vec(any_record(), 1..30), now_ms: u64) {
        let directory = tempfile::tempdir().unwrap();
        let config = LogConfig {
            directory: Some(directory.path().to_owned()),
            segment_bytes: SEGMENT_BYTES_MIN,
            log_bytes_max: 1 << 30,
            ..LogConfig::default()
        };
        let (log, _) = Log::open(config.clone(), 1, &mut |_| ()).unwrap();
        for record in &records {
            let bytes = record.bytes();
            let mut claim = log.claim(bytes.len(), Room::Enqueue).unwrap();
            claim.put(&bytes);
            let flags = if record.request.is_some() { NUMBERED } else { 0 };
            claim.commit(record.kind as u8, flags, now_ms, 0);
        }
        drop(log);
        let mut left = records.iter();
        let (_, report) = Log::open(config, 2, &mut |read| {
            let record = left.next().unwrap();
            assert_eq!((read.kind, read.now_ms), (record.kind as u8, now_ms));
            assert_eq!(Kind::from_u8(read.kind), Some(record.kind));
            let (request, body) = Prelude::split(read.flags, read.body).unwrap();
            assert_eq!((request, body), (record.request.unwrap_or(RequestId::NONE), &record.body[..]));
            check(record.kind, body, &record.counts);
        }).unwrap();
        prop_assert_eq!(report.records as usize, records.len());
        prop_assert!(left.next().is_none());
    }

    /// Whatever a body is cut to or filled with: taken apart or refused, never a panic.
    #[test]
    fn no_body_makes_a_parser_panic(record in any_record(), at: usize, byte: u8, len: usize) {
        let mut body = record.bytes();
        if !body.is_empty() {
            let at = at % body.len();
            body[at] = byte;
            body.truncate(len % (body.len() + 1));
        }
        for flags in [0, NUMBERED] {
            let Some((_, body)) = Prelude::split(flags, &body) else { continue };
            let _ = (journal::parse_enqueue(body).map(|read| read.batch.items().count()), journal::parse_reserve(body));
            let _ = journal::parse_change(body).map(|read| journal::parse_note(read.notes).map(<[u8]>::len));
            let _ = journal::parse_step(body).map(|(_, groups)| groups.len());
        }
    }

    /// Records whose checksum is right and whose body is not what it should be: the engine opens or refuses, and with
    /// salvage it opens.
    #[test]
    fn no_record_makes_the_engine_panic(
        records in vec((any_record(), any::<(bool, usize, u8, usize)>()), 1..8),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let config = EngineConfig {
            directory: Some(directory.path().to_owned()),
            slots: 256,
            segment_bytes: SEGMENT_BYTES_MIN,
            log_bytes_max: 1 << 20,
            memory_bytes_max: 1 << 20,
            ..EngineConfig::default()
        };
        let log_config = LogConfig {
            directory: config.directory.clone(),
            segment_bytes: SEGMENT_BYTES_MIN,
            log_bytes_max: 1 << 20,
            ..LogConfig::default()
        };
        let (log, _) = Log::open(log_config, NOW_MS, &mut |_| ()).unwrap();
        for (record, (is_changed, at, byte, len)) in &records {
            let mut bytes = record.bytes();
            if *is_changed && !bytes.is_empty() {
                let at = at % bytes.len();
                bytes[at] = *byte;
                bytes.truncate(len % (bytes.len() / 8 + 1) * 8);
            }
            let mut claim = log.claim(bytes.len(), Room::Enqueue).unwrap();
            claim.put(&bytes);
            let flags = if record.request.is_some() { NUMBERED } else { 0 };
            claim.commit(record.kind as u8, flags, NOW_MS, 0);
        }
        drop(log);
        let opened = Engine::open(config.clone(), NOW_MS);
        if let Ok((engine, summary)) = opened {
            prop_assert_eq!(summary.salvaged, Vec::<String>::new());
            engine.timer_step(NOW_MS + 1_000, 1_000);
            engine.log_step(NOW_MS + 1_000, 8);
        }
        match Engine::open(EngineConfig { salvage: true, ..config }, NOW_MS) {
            Ok((engine, _)) => {
                engine.timer_step(NOW_MS + 2_000, 1_000);
                engine.log_step(NOW_MS + 2_000, 8);
            }
            Err(error) => prop_assert!(matches!(error, OpenError::Config(_)), "{}", error),
        }
    }
}

/// It was passed over, and what it had said of jobs with it.
#[test]
fn a_whole_record_that_makes_no_sense_is_refused_and_told_by_a_salvage() {
    for (kind, body) in [
        (200, vec![0; 16]),
        (Kind::Enqueue as u8, vec![0xFF; 64]),
        (Kind::Queue as u8, vec![7; 8]),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let config = EngineConfig {
            directory: Some(directory.path().to_owned()),
            segment_bytes: SEGMENT_BYTES_MIN,
            log_bytes_max: 1 << 20,
            slots: 64,
            ..EngineConfig::default()
        };
        let log_config = LogConfig {
            directory: config.directory.clone(),
            segment_bytes: SEGMENT_BYTES_MIN,
            log_bytes_max: 1 << 20,
            ..LogConfig::default()
        };
        let (log, _) = Log::open(log_config, NOW_MS, &mut |_| ()).unwrap();
        let mut claim = log.claim(body.len(), Room::Enqueue).unwrap();
        claim.put(&body);
        claim.commit(kind, 0, NOW_MS, 0);
        drop(log);
        let error = Engine::open(config.clone(), NOW_MS).err().unwrap();
        assert!(error.to_string().contains("makes no sense"), "{error}");
        let (_, summary) = Engine::open(
            EngineConfig {
                salvage: true,
                ..config
            },
            NOW_MS,
        )
        .unwrap();
        assert_eq!(summary.salvaged.len(), 1, "{:?}", summary.salvaged);
    }
}
