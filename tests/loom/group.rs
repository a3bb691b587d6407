//! Group commit and what hangs on the disk: who waits is not forgotten, and what is called durable is there. The
//! disk is an array of cells, so that a reader whom nothing orders behind the sync fails the model.

use super::log::{START, Segment, UNIT};
use super::model;
use ackring::log::LogPosition;
use ackring::log::group::GroupCommit;
use ackring::log::tail::{Holders, Tail, committed_prefix};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

/// Units of the segment.
const UNITS: usize = 2;

struct Shared {
    tail: Tail,
    segment: Segment,
    prefix: Mutex<LogPosition>,
    group: GroupCommit,
    disk: Disk,
    is_poisoned: AtomicBool,
}

struct Disk([UnsafeCell<u64>; UNITS]);

// SAFETY: written by the leader of a commit and read behind the durable position; loom reports any other access.
#[allow(unsafe_code, reason = "a cell that loom watches")]
unsafe impl Sync for Disk {}
// SAFETY: as above.
#[allow(unsafe_code, reason = "a cell that loom watches")]
unsafe impl Send for Disk {}

#[allow(unsafe_code, reason = "a cell that loom watches")]
impl Disk {
    fn new() -> Self {
        Self(std::array::from_fn(|_| UnsafeCell::new(0)))
    }

    fn write(&self, unit: usize, value: u64) {
        // SAFETY: only under the lock of the commit; loom checks that.
        self.0[unit].with_mut(|cell| unsafe { *cell = value });
    }

    fn read(&self, unit: usize) -> u64 {
        // SAFETY: the durable position has passed it; loom checks that this orders the reading.
        self.0[unit].with(|cell| unsafe { *cell })
    }
}

fn unit(n: usize) -> LogPosition {
    LogPosition::new(1, START + n as u32 * UNIT)
}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            tail: Tail::new(unit(0)),
            segment: Segment::stale(7, UNITS),
            prefix: Mutex::new(unit(0)),
            group: GroupCommit::new(unit(0)),
            disk: Disk::new(),
            is_poisoned: AtomicBool::new(false),
        })
    }

    fn append(&self, value: u64) -> LogPosition {
        let at = self
            .tail
            .claim(UNIT, self.segment.end(), self.segment.end())
            .unwrap();
        self.segment.commit(at, value, UNIT);
        at.plus(UNIT)
    }

    /// As `Log::advance_prefix`.
    fn advance_prefix(&self) -> LogPosition {
        let mut prefix = self.prefix.lock().unwrap();
        let bounds = (START, UNIT);
        *prefix = committed_prefix(*prefix, self.tail.load(), self.segment.end(), bounds, |at| {
            self.segment.committed(at)
        });
        *prefix
    }

    /// As `Log::flush_prefix`.
    fn flush(&self, from: LogPosition) -> Result<LogPosition, ()> {
        let to = self.advance_prefix();
        let mut at = from;
        while at < to {
            assert!(self.segment.committed(at).is_some(), "a hole is not synced");
            self.disk.write(Segment::unit(at), self.segment.read(at));
            at = at.plus(UNIT);
        }
        Ok(to)
    }

    fn check(&self) -> Result<(), ()> {
        match self.is_poisoned.load(Ordering::Acquire) {
            true => Err(()),
            false => Ok(()),
        }
    }

    /// As `Log::sync_to`.
    fn sync_to(&self, position: LogPosition) {
        let sync = || {
            self.group
                .sync(self.tail.load(), || self.check(), |from| self.flush(from))
        };
        while sync().unwrap() < position {
            thread::yield_now();
        }
    }

    /// What is called durable is on the disk.
    fn check_durable(&self) {
        let durable = self.group.durable();
        for n in (0..UNITS).filter(|n| unit(*n) < durable) {
            assert_ne!(self.disk.read(n), 0, "called durable and not there");
        }
    }
}

/// Two writers append and sync to the end of what they wrote: each returns, and then it is on the disk. One who
/// looks on never finds a durable position that the disk does not have.
#[test]
fn who_syncs_returns_and_finds_its_record_on_the_disk() {
    model(2, || {
        let shared = Shared::new();
        let writers = [10, 20].map(|value| {
            let shared = shared.clone();
            thread::spawn(move || {
                let end = shared.append(value);
                shared.sync_to(end);
                let own = ((end.offset() - START) / UNIT) as usize - 1;
                assert_eq!(shared.disk.read(own), value);
            })
        });
        shared.check_durable();
        for writer in writers {
            writer.join().unwrap();
        }
        shared.check_durable();
        assert_eq!(shared.group.durable(), unit(2));
    });
}

/// The first record stays open for as long as its writer likes; the second is committed behind it. What is durable
/// does not pass the hole, and whoever waits for the second returns once the first is committed.
#[test]
fn a_hole_is_never_passed_and_who_waits_behind_it_is_not_forgotten() {
    model(3, || {
        let shared = Shared::new();
        let first = shared
            .tail
            .claim(UNIT, shared.segment.end(), shared.segment.end())
            .unwrap();
        let waiter = {
            let shared = shared.clone();
            thread::spawn(move || {
                let end = shared.append(20);
                shared.sync_to(end);
                assert_eq!((shared.disk.read(0), shared.disk.read(1)), (10, 20));
            })
        };
        let durable = shared
            .group
            .sync(shared.tail.load(), || Ok(()), |from| shared.flush(from));
        assert_eq!(durable, Ok(first), "the hole is not passed");
        shared.segment.commit(first, 10, UNIT);
        waiter.join().unwrap();
        shared.check_durable();
    });
}

/// The disk fails once and would not a second time: nobody is told that anything is on it, neither the leader nor
/// those who waited for it.
#[test]
fn after_a_failed_sync_nobody_is_told_that_it_worked() {
    model(3, || {
        let shared = Shared::new();
        let syncers = [10, 20].map(|value| {
            let shared = shared.clone();
            thread::spawn(move || {
                shared.append(value);
                let fail = |from| {
                    let failed = shared.is_poisoned.swap(true, Ordering::AcqRel);
                    assert!(!failed, "a sync that failed is tried again");
                    let _ = from;
                    Err(())
                };
                shared.group.sync(shared.tail.load(), || shared.check(), fail)
            })
        });
        for syncer in syncers {
            assert_eq!(syncer.join().unwrap(), Err(()));
        }
        assert_eq!(shared.group.durable(), unit(0));
    });
}

/// A job's body is copied out of a segment, which is then used again: not before the copy is on the disk, and not
/// while the copier reads.
#[test]
fn a_segment_is_not_used_again_before_the_copies_of_its_jobs_are_durable() {
    model(4, || {
        struct Log {
            old: (Holders, Segment),
            new: Segment,
            group: GroupCommit,
            disk: Disk,
        }
        let (place, copy) = (LogPosition::new(1, START), LogPosition::new(2, START));
        let log = Arc::new(Log {
            old: (Holders::retired(), Segment::stale(1, 1)),
            new: Segment::stale(2, 1),
            group: GroupCommit::new(copy),
            disk: Disk::new(),
        });
        log.old.0.assign(1);
        log.old.1.commit(place, 5, UNIT);
        let copier = {
            let log = log.clone();
            thread::spawn(move || {
                let body = log.old.1.read(place);
                log.new.commit(copy, body, UNIT);
                log.old.1.live.release_after(1, copy.plus(UNIT));
            })
        };
        let flusher = {
            let log = log.clone();
            thread::spawn(move || {
                let flush = |_| {
                    Ok::<_, ()>(match log.new.committed(copy) {
                        Some(len) => {
                            log.disk.write(0, log.new.read(copy));
                            copy.plus(len)
                        }
                        None => copy,
                    })
                };
                log.group.sync(copy.plus(UNIT), || Ok(()), flush).unwrap();
            })
        };
        let (holders, segment) = &log.old;
        if segment.live.is_passed(1, || copy, || log.group.durable()) && holders.retire(1) {
            assert_eq!(log.disk.read(0), 5, "its copy may be lost");
            segment.write(place, 6);
        }
        copier.join().unwrap();
        flusher.join().unwrap();
    });
}
