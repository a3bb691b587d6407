//! The truth table of recovery, case by case.

use crate::base::crc::crc32c;
use crate::log::bad_range::BadRange;
use crate::log::header::{DATA_START, LogShape, SegmentHeader};
use crate::log::position::LogPosition;
use crate::log::record::{HEADER_LEN, KIND_MARK, KIND_START, RecordHeader, RecordMeta, commit_word};
use crate::log::recover::{Recovery, Verdict};
use crate::log::start::{FLAG_BOOT, StartBody};
use zerocopy::IntoBytes;

const SEGMENT_BYTES: usize = 4096;
const SHAPE: LogShape = LogShape {
    log_id: [1; 16],
    segment_bytes: SEGMENT_BYTES as u32,
    files: 9,
    anchor: 0,
};
const BODY_LEN: usize = 32;
/// A record of these tests.
const RECORD_LEN: u32 = (HEADER_LEN + BODY_LEN) as u32;

/// One segment being written as the log would.
struct Image {
    header: SegmentHeader,
    bytes: Vec<u8>,
    at: u32,
}

impl Image {
    fn new(sequence: u32, boot: u32) -> Self {
        let header = SegmentHeader::new(sequence, 1000 + sequence, boot, SHAPE);
        let mut bytes = vec![0xAA; SEGMENT_BYTES];
        bytes[..DATA_START as usize].copy_from_slice(header.as_bytes());
        Self {
            header,
            bytes,
            at: DATA_START,
        }
    }

    /// A segment that begins a boot.
    fn boot(sequence: u32, boot: u32, previous_end: LogPosition, accepted: &[BadRange]) -> Self {
        let body = StartBody {
            note: u64::from(boot),
            previous_end,
            accepted: accepted.to_vec(),
        };
        Self::new(sequence, boot).record(KIND_START, FLAG_BOOT, LogPosition::NONE, &body.encode())
    }

    /// A later segment of a boot.
    fn next(sequence: u32, boot: u32) -> Self {
        Self::new(sequence, boot).record(KIND_START, 0, LogPosition::NONE, &StartBody::default().encode())
    }

    fn place(&self) -> LogPosition {
        LogPosition::new(self.header.sequence.get(), self.at)
    }

    fn record(mut self, kind: u8, flags: u8, durable_mark: LogPosition, body: &[u8]) -> Self {
        let len = (HEADER_LEN + body.len()) as u32;
        let commit = commit_word(self.header.epoch.get(), len);
        let meta = RecordMeta {
            kind,
            flags,
            durable_mark,
            now_ms: 5,
        };
        let header = RecordHeader::new(self.place(), commit, &meta, |covers| {
            crc32c(crc32c(0, body), covers)
        });
        let at = self.at as usize;
        self.bytes[at..at + HEADER_LEN].copy_from_slice(header.as_bytes());
        self.bytes[at + HEADER_LEN..at + len as usize].copy_from_slice(body);
        self.at += len;
        self
    }

    /// A record of the engine that knew nothing to be durable.
    fn job(self) -> Self {
        self.marked_job(LogPosition::NONE)
    }

    fn marked_job(self, durable_mark: LogPosition) -> Self {
        self.record(1, 0, durable_mark, &[0x55; BODY_LEN])
    }

    /// Room for a record that was never committed.
    fn hole(mut self) -> Self {
        self.at += RECORD_LEN;
        self
    }

    /// A record with a flipped bit in its body.
    fn damaged(self) -> Self {
        let at = self.at as usize;
        let mut image = self.job();
        image.bytes[at + HEADER_LEN] ^= 4;
        image
    }

    fn fill(mut self) -> Self {
        while self.at as usize + RECORD_LEN as usize <= SEGMENT_BYTES {
            self = self.job();
        }
        self
    }
}

fn at(sequence: u32, record: u32) -> LogPosition {
    // Behind the opening record, whose body has no ranges.
    LogPosition::new(
        sequence,
        DATA_START + (HEADER_LEN + StartBody::LEN_MIN) as u32 + record * RECORD_LEN,
    )
}

fn range(sequence: u32, record: u32) -> BadRange {
    BadRange {
        start: at(sequence, record),
        end: at(sequence, record + 1),
    }
}

fn judge(images: &[Image]) -> (Verdict, Vec<LogPosition>) {
    let mut recovery = Recovery::default();
    let mut positions = Vec::new();
    for image in images {
        recovery.segment(&image.header, &mut image.bytes.clone(), &mut |record| {
            positions.push(record.position)
        });
    }
    (recovery.finish(), positions)
}

#[track_caller]
fn accepted(images: &[Image], records: usize, holes: usize, torn_tail: bool) -> Verdict {
    let (verdict, positions) = judge(images);
    assert_eq!(verdict.flaws, []);
    assert_eq!(
        (positions.len(), verdict.holes.len(), verdict.torn_tail),
        (records, holes, torn_tail)
    );
    assert!(positions.is_sorted());
    verdict
}

#[track_caller]
fn refused(images: &[Image], position: LogPosition, reason: &str) {
    let (verdict, _) = judge(images);
    let [flaw] = &verdict.flaws[..] else {
        panic!("{:?}", verdict.flaws)
    };
    assert_eq!(flaw.range.start, position);
    assert!(flaw.reason.contains(reason), "{}", flaw.reason);
}

#[test]
fn nothing_is_a_log() {
    accepted(&[], 0, 0, false);
}

#[test]
fn whole_records_are_taken() {
    let verdict = accepted(
        &[Image::boot(1, 1, LogPosition::NONE, &[]).job().job()],
        2,
        0,
        false,
    );
    assert_eq!(
        (
            verdict.end,
            verdict.keep_through,
            verdict.boot_max,
            verdict.note_max
        ),
        (at(1, 2), 1, 1, 1)
    );
}

#[test]
fn a_torn_tail_is_cut() {
    let verdict = accepted(
        &[Image::boot(1, 1, LogPosition::NONE, &[]).job().damaged()],
        1,
        0,
        true,
    );
    assert_eq!(verdict.end, at(1, 1));
}

#[test]
fn a_hole_in_the_newest_boot_is_accepted_and_what_follows_counts() {
    for image in [
        Image::boot(1, 1, LogPosition::NONE, &[]).hole(),
        Image::boot(1, 1, LogPosition::NONE, &[]).damaged(),
    ] {
        let verdict = accepted(&[image.job().job()], 2, 1, false);
        assert_eq!(
            (verdict.holes, verdict.accepted),
            (vec![range(1, 0)], vec![range(1, 0)])
        );
    }
}

#[test]
fn damage_that_a_later_record_knew_to_be_durable_is_refused() {
    let image = Image::boot(1, 1, LogPosition::NONE, &[])
        .job()
        .damaged()
        .marked_job(at(1, 2));
    refused(&[image], at(1, 1), "knew this place to be on the disk");
    let image = Image::boot(1, 1, LogPosition::NONE, &[])
        .job()
        .damaged()
        .record(KIND_MARK, 0, at(1, 2), &[]);
    refused(&[image], at(1, 1), "knew this place to be on the disk");
}

#[test]
fn damage_just_behind_what_was_durable_is_a_hole() {
    let image = Image::boot(1, 1, LogPosition::NONE, &[])
        .job()
        .damaged()
        .marked_job(at(1, 1));
    accepted(&[image], 2, 1, false);
}

#[test]
fn a_mark_in_a_later_segment_counts_too() {
    let first = Image::boot(1, 1, LogPosition::NONE, &[]).damaged().fill();
    let second = Image::next(2, 1).marked_job(at(1, 5));
    refused(&[first, second], at(1, 0), "knew this place to be on the disk");
}

#[test]
fn what_a_later_start_has_listed_is_accepted_for_ever() {
    let first = || Image::boot(1, 1, LogPosition::NONE, &[]).hole().job();
    let second = Image::boot(2, 2, at(1, 2), &[range(1, 0)]).job();
    let verdict = accepted(&[first(), second], 2, 0, false);
    assert_eq!(verdict.accepted, [range(1, 0)], "and listed again");
    let unlisted = Image::boot(2, 2, at(1, 2), &[]).job();
    refused(&[first(), unlisted], at(1, 0), "no later start has accepted that");
}

#[test]
fn the_newest_list_decides() {
    let images = [
        Image::boot(1, 1, LogPosition::NONE, &[]).hole().job(),
        Image::boot(2, 2, at(1, 2), &[]).job(),
        Image::boot(3, 3, at(2, 1), &[range(1, 0)]).job(),
    ];
    accepted(&images, 3, 0, false);
}

#[test]
fn damage_next_to_a_listed_range_is_refused() {
    let images = [
        Image::boot(1, 1, LogPosition::NONE, &[]).hole().damaged().job(),
        Image::boot(2, 2, at(1, 3), &[range(1, 0)]).job(),
    ];
    refused(&images, at(1, 0), "no later start has accepted that");
}

#[test]
fn the_end_of_an_older_boot_is_remembered() {
    let images = [
        Image::boot(1, 1, LogPosition::NONE, &[]).job().damaged(),
        Image::boot(2, 2, at(1, 2), &[]),
    ];
    refused(&images, at(1, 1), "records that were there at the next start");
    let images = [
        Image::boot(1, 1, LogPosition::NONE, &[]).job().job(),
        Image::boot(2, 2, at(1, 1), &[]),
    ];
    refused(&images, at(1, 1), "were not there at the next start");
}

#[test]
fn a_torn_tail_of_an_older_boot_stays_cut() {
    let images = [
        Image::boot(1, 1, LogPosition::NONE, &[]).job().damaged(),
        Image::boot(2, 2, at(1, 1), &[]).job(),
    ];
    accepted(&images, 2, 0, false);
}

#[test]
fn a_boot_that_died_before_its_opening_record_never_was() {
    let verdict = accepted(
        &[
            Image::boot(1, 1, LogPosition::NONE, &[]).hole().job(),
            Image::new(2, 2),
        ],
        1,
        1,
        false,
    );
    assert_eq!(
        (verdict.boot_max, verdict.sequence_max, verdict.keep_through),
        (2, 2, 1)
    );
}

#[test]
fn segments_without_records_of_the_engine_are_given_back() {
    let images = [
        Image::boot(1, 1, LogPosition::NONE, &[]).job(),
        // Its note is higher than what stands before, so it is kept; those behind tell nothing new.
        Image::boot(2, 2, at(1, 1), &[]),
        Image::new(3, 2),
        Image::new(4, 2),
    ];
    let verdict = accepted(&images, 1, 0, false);
    assert_eq!(
        (verdict.keep_through, verdict.sequence_max, verdict.end.sequence()),
        (2, 4, 2)
    );
}

#[test]
fn an_opening_record_of_a_later_boot_must_be_readable() {
    let mut second = Image::boot(2, 2, at(1, 1), &[]).job();
    second.bytes[DATA_START as usize + 8] ^= 1;
    let first = Image::boot(1, 1, LogPosition::NONE, &[]).job();
    refused(
        &[first, second],
        LogPosition::new(2, DATA_START),
        "opened this boot",
    );
}

#[test]
fn a_segment_missing_between_others_is_noticed() {
    let images = [
        Image::boot(1, 1, LogPosition::NONE, &[]).fill(),
        Image::next(3, 1).job(),
    ];
    refused(&images, LogPosition::new(2, 0), "missing");
}

#[test]
fn a_log_may_begin_anywhere() {
    accepted(&[Image::next(7, 3).fill(), Image::next(8, 3).job()], 63, 0, false);
}

#[test]
fn a_file_that_was_cut_is_noticed() {
    let mut image = Image::boot(1, 1, LogPosition::NONE, &[]).job();
    image.bytes.truncate(2048);
    refused(&[image], LogPosition::new(1, 2048), "cut short");
}

#[test]
fn a_hole_may_reach_over_the_end_of_a_segment() {
    let images = [
        Image::boot(1, 1, LogPosition::NONE, &[]).job(),
        Image::new(2, 1),
        Image::next(3, 1).job(),
    ];
    let verdict = accepted(&images, 2, 2, false);
    assert_eq!(
        verdict.holes[0],
        BadRange {
            start: at(1, 1),
            end: LogPosition::new(1, SEGMENT_BYTES as u32)
        }
    );
}

#[test]
fn records_of_an_earlier_use_of_the_file_are_not_resurrected() {
    let mut used_before = Image::new(1, 1);
    used_before.header = SegmentHeader::new(1, 77, 1, SHAPE);
    let used_before = used_before.fill();
    let mut image = Image::boot(2, 1, LogPosition::NONE, &[]).job();
    let at = image.at as usize;
    image.bytes[at..].copy_from_slice(&used_before.bytes[at..]);
    accepted(&[image], 1, 0, false);
}
