//! The engine linked into a program: its own clock, its own threads, calls that block.
#![cfg(feature = "engine")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

use ackring::{Durability, Engine, EngineConfig, ErrorCode, JobOptions, JobState, QueueOptions};
use std::time::Duration;

/// Long enough that only a hang ever takes it.
const HANG: Duration = Duration::from_secs(60);

#[test]
fn jobs_and_attempts_survive_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::open(directory.path()).unwrap();
    let queue = engine
        .create_queue(
            "q",
            &QueueOptions {
                max_attempts: 3,
                // Copying a log takes longer than a usual lease where machine and sanitizer are slow.
                lease_ms: 3_600_000,
                ..QueueOptions::default()
            },
        )
        .unwrap();
    let first = queue.enqueue(b"first").unwrap();
    let second = queue.enqueue(b"second").unwrap();
    queue
        .reserve(Duration::ZERO)
        .unwrap()
        .unwrap()
        .ack_with(b"result")
        .unwrap();
    // A job that is leaked is a worker that died: its attempt counts.
    std::mem::forget(queue.reserve(Duration::ZERO).unwrap().unwrap());
    drop((queue, engine));
    // The leaked job holds the engine open in this process; another directory handle is refused clearly.
    let error = Engine::open(directory.path()).err().unwrap().to_string();
    assert!(error.contains("in use"), "{error}");
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(directory.path()).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let engine = Engine::open(copy.path()).unwrap();
    assert_eq!((engine.recovered().leased, engine.recovered().finished), (1, 1));
    let done = engine.job(first).unwrap();
    assert_eq!(
        (done.state, done.result.as_deref()),
        (JobState::Done, Some(&b"result"[..]))
    );
    let leased = engine.job(second).unwrap();
    assert_eq!(
        (leased.state, leased.attempts, leased.max_attempts),
        (JobState::Leased, 1, 3)
    );
}

#[test]
fn a_blocked_reserve_is_woken_by_an_enqueue_from_another_thread() {
    let engine = Engine::in_memory().unwrap();
    let queue = engine.queue("q").unwrap();
    std::thread::scope(|scope| {
        let workers = [(); 4].map(|()| {
            let queue = queue.clone();
            scope.spawn(move || {
                let job = queue.reserve(HANG).unwrap().unwrap();
                let payload = job.payload().to_vec();
                job.ack().unwrap();
                payload[0]
            })
        });
        for n in 0..4u8 {
            queue.enqueue(&[n]).unwrap();
        }
        let mut got: Vec<u8> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        got.sort_unstable();
        assert_eq!(got, [0, 1, 2, 3]);
    });
}

#[test]
fn a_job_dropped_unsettled_goes_back_without_using_an_attempt() {
    let engine = Engine::in_memory().unwrap();
    let queue = engine.queue("q").unwrap();
    let id = queue.enqueue(b"x").unwrap();
    drop(queue.reserve(Duration::ZERO).unwrap().unwrap());
    let status = engine.job(id).unwrap();
    assert_eq!(
        (status.state, status.attempts, status.deliveries),
        (JobState::Ready, 0, 1)
    );
}

#[test]
fn the_timer_thread_gives_an_expired_lease_back() {
    let engine = Engine::in_memory().unwrap();
    let options = QueueOptions {
        backoff: ackring::Backoff::List(vec![0]),
        ..QueueOptions::default()
    };
    let queue = engine.create_queue("q", &options).unwrap();
    queue
        .enqueue_with(
            b"x",
            &JobOptions {
                lease_ms: 1,
                ..JobOptions::default()
            },
        )
        .unwrap();
    let first = queue.reserve(Duration::ZERO).unwrap().unwrap();
    let second = queue.reserve(HANG).unwrap().unwrap();
    assert_eq!(second.attempts(), 2);
    assert_eq!(first.ack().unwrap_err().code, ErrorCode::LeaseLost);
    second.ack().unwrap();
}

#[test]
fn a_synced_queue_confirms_what_is_on_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::open(directory.path()).unwrap();
    let options = QueueOptions {
        durability: Durability::Synced,
        ..QueueOptions::default()
    };
    let queue = engine.create_queue("q", &options).unwrap();
    let before = engine.core().durable();
    queue.enqueue(b"x").unwrap();
    assert!(engine.core().durable() > before);
    queue.reserve(Duration::ZERO).unwrap().unwrap().ack().unwrap();
    assert_eq!(engine.core().durable(), engine.core().sync().unwrap());
}

#[test]
fn a_key_answers_the_first_job_and_refuses_another_body() {
    let engine = Engine::in_memory().unwrap();
    let queue = engine.queue("q").unwrap();
    let keyed = JobOptions {
        key: b"k",
        ..JobOptions::default()
    };
    let first = queue.enqueue_with(b"x", &keyed).unwrap();
    assert_eq!(queue.enqueue_with(b"x", &keyed).unwrap(), first);
    assert_eq!(
        queue.enqueue_with(b"y", &keyed).unwrap_err().code,
        ErrorCode::KeyConflict
    );
}

#[test]
fn settings_out_of_range_are_refused_in_one_line() {
    let bad = [
        EngineConfig {
            slots: 0,
            ..EngineConfig::default()
        },
        EngineConfig {
            segment_bytes: 1_000,
            ..EngineConfig::default()
        },
        EngineConfig {
            memory_bytes_max: 1,
            ..EngineConfig::default()
        },
        EngineConfig {
            queue_defaults: QueueOptions {
                max_attempts: 0,
                ..QueueOptions::default()
            },
            ..EngineConfig::default()
        },
    ];
    for config in bad {
        let error = Engine::with(config).err().unwrap().to_string();
        assert!(!error.is_empty() && !error.contains('\n'), "{error}");
    }
}

#[test]
fn a_blocked_reserve_hears_that_its_queue_was_deleted() {
    let engine = Engine::in_memory().unwrap();
    let queue = engine.queue("q").unwrap();
    std::thread::scope(|scope| {
        let blocked = scope.spawn(|| queue.reserve(HANG).err().map(|refusal| refusal.code));
        engine
            .core()
            .delete(queue.id(), ackring::engine::RequestId::NONE, engine.now_ms())
            .unwrap();
        assert_eq!(blocked.join().unwrap(), Some(ErrorCode::QueueNotFound));
    });
}

#[test]
fn a_reserve_may_wait_for_ever() {
    let engine = Engine::in_memory().unwrap();
    let queue = engine.queue("q").unwrap();
    std::thread::scope(|scope| {
        let blocked = scope.spawn(|| queue.reserve(Duration::MAX).unwrap().map(|job| job.ack()));
        queue.enqueue(b"late").unwrap();
        assert_eq!(blocked.join().unwrap(), Some(Ok(())));
    });
}

#[test]
fn an_opening_tells_how_far_it_is() {
    use ackring::engine::OnProgress;
    use std::sync::{Arc, Mutex};
    let directory = tempfile::tempdir().unwrap();
    let config = || EngineConfig {
        directory: Some(directory.path().to_owned()),
        segment_bytes: 64 * 1024,
        slots: 1024,
        ..EngineConfig::default()
    };
    let engine = Engine::with(config()).unwrap();
    let queue = engine.queue("q").unwrap();
    (0..20).for_each(|_| _ = queue.enqueue(&[7; 10_000]).unwrap());
    drop((queue, engine));
    let told = Arc::new(Mutex::new(Vec::new()));
    let telling = Arc::clone(&told);
    let config = EngineConfig {
        on_progress: Some(OnProgress::new(move |read| telling.lock().unwrap().push(*read))),
        ..config()
    };
    let engine = Engine::with(config).unwrap();
    let told = told.lock().unwrap();
    assert!(
        told.len() >= 3 && told.is_sorted_by_key(|read| read.bytes),
        "{told:?}"
    );
    let last = told.last().unwrap();
    assert_eq!(
        (last.bytes, last.records),
        (last.bytes_total, engine.recovered().records)
    );
    let [queue] = &engine.recovered().by_queue[..] else {
        panic!("{:?}", engine.recovered())
    };
    assert_eq!((&queue.name[..], queue.ready), ("q", 20));
}
