//! The log's tail, commit words, holders and live counts. The bytes of the segments are loom cells, so that an
//! access that no atomic edge orders fails the model.

use super::model;
use ackring::log::LogPosition;
use ackring::log::tail::{Holders, Live, Tail, commit, committed, committed_prefix};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

/// Header and record size of the models, in bytes.
pub(super) const START: u32 = 64;
pub(super) const UNIT: u32 = 32;
const OLD_EPOCH: u32 = 3;

/// A segment of a few units, each with a commit word and a cell for its body.
pub(super) struct Segment {
    epoch: u32,
    words: Vec<AtomicU64>,
    bodies: Vec<UnsafeCell<u64>>,
    pub(super) live: Live,
}

// SAFETY: the bodies are touched under the rules that the models check; loom reports any access that is not ordered.
#[allow(unsafe_code, reason = "a cell that loom watches")]
unsafe impl Sync for Segment {}
// SAFETY: as above.
#[allow(unsafe_code, reason = "a cell that loom watches")]
unsafe impl Send for Segment {}

impl Segment {
    /// Full of records of an earlier use.
    pub(super) fn stale(epoch: u32, units: usize) -> Self {
        let word = u64::from(OLD_EPOCH) << 32 | u64::from(UNIT);
        Self {
            epoch,
            words: (0..units).map(|_| AtomicU64::new(word)).collect(),
            bodies: (0..units).map(|_| UnsafeCell::new(u64::MAX)).collect(),
            live: Live::default(),
        }
    }

    pub(super) fn end(&self) -> u32 {
        START + self.words.len() as u32 * UNIT
    }

    pub(super) fn unit(position: LogPosition) -> usize {
        ((position.offset() - START) / UNIT) as usize
    }

    #[allow(unsafe_code, reason = "a cell that loom watches")]
    pub(super) fn write(&self, position: LogPosition, value: u64) {
        // SAFETY: the position was claimed by this thread; loom checks that.
        self.bodies[Self::unit(position)].with_mut(|body| unsafe { *body = value });
    }

    #[allow(unsafe_code, reason = "a cell that loom watches")]
    pub(super) fn read(&self, position: LogPosition) -> u64 {
        // SAFETY: the position was seen committed; loom checks that.
        self.bodies[Self::unit(position)].with(|body| unsafe { *body })
    }

    pub(super) fn commit(&self, position: LogPosition, value: u64, len: u32) {
        self.write(position, value);
        self.live.retain(1);
        commit(&self.words[Self::unit(position)], self.epoch, len);
    }

    pub(super) fn committed(&self, position: LogPosition) -> Option<u32> {
        committed(&self.words[Self::unit(position)], self.epoch)
    }
}

/// Two writers, one reader. What the prefix covers is committed, its bytes are there and its jobs are counted.
#[test]
fn the_prefix_covers_only_what_is_there() {
    model(5, || {
        let shared = Arc::new((Tail::new(LogPosition::new(1, START)), Segment::stale(7, 4)));
        let writers: Vec<_> = [(UNIT, 100), (2 * UNIT, 200)]
            .into_iter()
            .map(|(len, value)| {
                let shared = shared.clone();
                thread::spawn(move || {
                    let (tail, segment) = &*shared;
                    let position = tail.claim(len, segment.end(), segment.end()).unwrap();
                    segment.commit(position, value, len);
                })
            })
            .collect();
        let (tail, segment) = &*shared;
        let walk = || {
            let mut records = Vec::new();
            let start = LogPosition::new(1, START);
            let end = committed_prefix(start, tail.load(), segment.end(), (START, UNIT), |at| {
                let len = segment.committed(at)?;
                records.push((segment.read(at), len));
                Some(len)
            });
            assert!(segment.live.count() >= records.len() as u64);
            for (value, len) in &records {
                assert!([(100, UNIT), (200, 2 * UNIT)].contains(&(*value, *len)));
            }
            assert_eq!(
                end.offset() - START,
                records.iter().map(|(_, len)| len).sum::<u32>()
            );
            records.len()
        };
        walk();
        for writer in writers {
            writer.join().unwrap();
        }
        assert_eq!(walk(), 2);
    });
}

/// The roll as `space.rs` does it, over two segments.
struct Log {
    start: LogPosition,
    tail: Tail,
    segments: [Segment; 2],
    /// What whoever finds the second segment must see: written by the roll, before the tail is moved there.
    installed: UnsafeCell<bool>,
    roll_lock: Mutex<()>,
}

// SAFETY: `installed` is written under the roll lock and read behind the tail's edge; loom reports otherwise.
#[allow(unsafe_code, reason = "a cell that loom watches")]
unsafe impl Sync for Log {}

impl Log {
    const UNITS: u32 = 4;

    /// With that many units left in the first segment.
    fn with_room(units: u32) -> Self {
        let start = LogPosition::new(1, START + (Self::UNITS - units) * UNIT);
        let segment = |epoch| Segment::stale(epoch, Self::UNITS as usize);
        Self {
            start,
            tail: Tail::new(start),
            segments: [segment(7), segment(8)],
            installed: UnsafeCell::new(false),
            roll_lock: Mutex::new(()),
        }
    }

    #[allow(unsafe_code, reason = "a cell that loom watches")]
    fn segment(&self, position: LogPosition) -> &Segment {
        // SAFETY: the position came from the tail; loom checks that this orders the reading.
        let installed = position.sequence() == 1 || self.installed.with(|installed| unsafe { *installed });
        assert!(installed);
        &self.segments[position.sequence() as usize - 1]
    }

    fn append(&self, value: u64) -> LogPosition {
        let end = self.segments[0].end();
        loop {
            match self.tail.claim(UNIT, end, end) {
                Ok(position) => {
                    self.segment(position).commit(position, value, UNIT);
                    return position;
                }
                Err(full) => self.roll(full, UNIT, end),
            }
        }
    }

    #[allow(unsafe_code, reason = "a cell that loom watches")]
    fn roll(&self, full: LogPosition, len: u32, end: u32) {
        let _rolling = self.roll_lock.lock().unwrap();
        let tail = self.tail.load();
        if tail.sequence() != full.sequence() || end - tail.offset() >= len {
            return;
        }
        let start = LogPosition::new(2, START);
        // SAFETY: nobody looks before the tail is moved; loom checks that.
        self.installed.with_mut(|installed| unsafe { *installed = true });
        self.segments[1].commit(start, 1, UNIT);
        let left = self.tail.roll(start.plus(UNIT));
        if end - left.offset() >= UNIT {
            self.segments[0].commit(left, 0, end - left.offset());
        }
    }

    fn prefix(&self, mut on_record: impl FnMut(u64)) -> LogPosition {
        committed_prefix(
            self.start,
            self.tail.load(),
            self.segments[0].end(),
            (START, UNIT),
            |at| {
                let len = self.segment(at).committed(at)?;
                on_record(self.segment(at).read(at));
                Some(len)
            },
        )
    }
}

/// Two writers fill a segment and both find it full: one rolls, nothing is lost, nothing is claimed twice.
#[test]
fn a_segment_is_left_once_and_nothing_is_lost() {
    model(5, || {
        let log = Arc::new(Log::with_room(1));
        let other = log.clone();
        let writer = thread::spawn(move || [other.append(10), other.append(11)]);
        let mine = log.append(20);
        log.prefix(|value| assert!([1, 10, 11, 20].contains(&value)));
        let theirs = writer.join().unwrap();
        assert!(theirs[0] < theirs[1] && !theirs.contains(&mine));
        let mut values = Vec::new();
        assert_eq!(log.prefix(|value| values.push(value)), log.tail.load());
        values.sort_unstable();
        assert_eq!(values, [1, 10, 11, 20]);
    });
}

/// The segment is left with room for a record that was too small to be refused: padding fills it.
#[test]
fn a_small_record_may_slip_in_before_the_roll() {
    model(5, || {
        let log = Arc::new(Log::with_room(2));
        let other = log.clone();
        let writer = thread::spawn(move || other.append(10));
        let end = log.segments[0].end();
        if let Err(full) = log.tail.claim(3 * UNIT, end, end) {
            log.roll(full, 3 * UNIT, end);
        }
        writer.join().unwrap();
        let mut values = Vec::new();
        assert_eq!(log.prefix(|value| values.push(value)), log.tail.load());
        assert!(values.contains(&10) && values.contains(&1));
    });
}

/// A reader pins number 1 while the segment is retired and becomes number 2: the pin shows the one or fails.
#[test]
fn a_pin_holds_the_bytes_or_is_refused() {
    model(5, || {
        let holders = Holders::retired();
        holders.assign(1);
        let shared = Arc::new((holders, Segment::stale(1, 1)));
        let place = LogPosition::new(1, START);
        shared.1.write(place, 1);
        let readers: Vec<_> = [1, 2]
            .into_iter()
            .map(|sequence| {
                let shared = shared.clone();
                thread::spawn(move || {
                    let (holders, segment) = &*shared;
                    if holders.pin(sequence) {
                        assert_eq!(segment.read(place), u64::from(sequence));
                        holders.unpin();
                    }
                })
            })
            .collect();
        let (holders, segment) = &*shared;
        let recycled = holders.retire(1);
        if recycled {
            segment.write(place, 2);
            holders.assign(2);
        }
        for reader in readers {
            reader.join().unwrap();
        }
        assert_eq!(holders.sequence(), 1 + u32::from(recycled));
        assert!(
            holders.retire(1 + u32::from(recycled)),
            "passing pins leave nothing behind"
        );
    });
}

/// A worker reads its job and releases it; the recycler writes only after that.
#[test]
fn a_release_ends_the_reading() {
    model(5, || {
        let shared = Arc::new((Holders::retired(), Segment::stale(1, 1)));
        let place = LogPosition::new(1, START);
        shared.0.assign(1);
        shared.1.commit(place, 5, UNIT);
        let other = shared.clone();
        let worker = thread::spawn(move || {
            assert_eq!(other.1.read(place), 5);
            other.1.live.release(1);
        });
        let (holders, segment) = &*shared;
        if segment.live.count() == 0 && holders.retire(1) {
            segment.write(place, 6);
        }
        worker.join().unwrap();
    });
}

/// The recycler looks at the prefix and then at the live count: a record that it has passed is counted.
#[test]
fn a_committed_job_is_counted_before_it_can_be_passed() {
    model(5, || {
        let shared = Arc::new((Segment::stale(1, 1), AtomicU64::new(0)));
        let place = LogPosition::new(1, START);
        let other = shared.clone();
        let writer = thread::spawn(move || {
            other.0.commit(place, 5, UNIT);
            other.1.store(1, Ordering::Relaxed);
        });
        if shared.0.committed(place).is_some() {
            assert_eq!(shared.0.live.count(), 1);
        }
        writer.join().unwrap();
    });
}
