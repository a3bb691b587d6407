//! What a log says, given its bytes: the records that count, and whether anything is missing that should be there.
//!
//! Pure: no file is touched here. The caller hands in the segments in order and gets a [`Verdict`].
//!
//! A *boot* is one start of the engine. Each begins a new segment, whose opening record says where the records of
//! the boot before ended and lists every bad range accepted so far. So what is bad in an older boot and not
//! listed went bad since. In the newest boot, a bad range is harmless (a torn tail, or a writer that died in the
//! middle) unless a record behind it knew that the log was on the disk beyond the range's beginning. `FORMAT.md`
//! has the table.

use crate::log::bad_range::BadRange;
use crate::log::damage::{Damage, classify, zeros_in_front};
use crate::log::header::{DATA_START, SegmentHeader};
use crate::log::position::LogPosition;
use crate::log::record::{
    CheckedRecord, HEADER_LEN, KIND_LOG_FIRST, KIND_START, Recovered, check_record, len_with_zeros,
};
use crate::log::start::{FLAG_BOOT, StartBody};
use std::cmp::Ordering;

const UNREADABLE: &str = "what stood here, if anything, cannot be told";

/// A stretch without a valid record.
#[derive(Debug, Clone, Copy)]
struct Gap {
    range: BadRange,
    damage: Damage,
    /// When the record in front of it was written.
    before_ms: u64,
}

/// A gap with a valid record behind it.
#[derive(Debug, Clone, Copy)]
struct Spot {
    gap: Gap,
    /// When that record was written.
    after_ms: u64,
    /// A later record knew that the gap's beginning was on the disk.
    was_durable: bool,
}

/// What was found of one boot.
#[derive(Debug)]
struct Boot {
    number: u32,
    first_sequence: u32,
    spots: Vec<Spot>,
    /// From the last valid record to where we are; becomes spots when a valid record follows.
    pending: Vec<Gap>,
    end: LogPosition,
    start: Option<StartBody>,
    torn: bool,
}

/// Reads segments and keeps count.
#[derive(Debug, Default)]
pub(crate) struct Recovery {
    boots: Vec<Boot>,
    corruptions: Vec<Flaw>,
    last_sequence: u32,
    /// When the last valid record was written.
    last_ms: u64,
    kept: Kept,
    counts: Counts,
    note_max: u64,
}

/// The log up to the last segment that holds a record of the engine.
#[derive(Debug, Clone, Copy, Default)]
struct Kept {
    sequence: u32,
    end: LogPosition,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

/// A place where something is damaged or gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flaw {
    /// What cannot be read.
    pub(crate) range: BadRange,
    /// What stands there instead.
    pub(crate) damage: Damage,
    /// Why that is no harmless end.
    pub(crate) reason: &'static str,
    /// When the records around it were written, in milliseconds since the Unix epoch; 0 where there is none.
    pub(crate) before_ms: u64,
    pub(crate) after_ms: u64,
}

impl Flaw {
    fn new(range: BadRange, damage: Damage, reason: &'static str) -> Self {
        Self {
            range,
            damage,
            reason,
            before_ms: 0,
            after_ms: 0,
        }
    }
}

/// What recovery concludes.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Not empty: the log must be refused, unless it is to be salvaged.
    pub(crate) flaws: Vec<Flaw>,
    /// Every bad range of the kept segments, for the next boot's list.
    pub(crate) accepted: Vec<BadRange>,
    /// Bad ranges accepted now for the first time, as harmless.
    pub(crate) holes: Vec<BadRange>,
    /// The newest boot ended in a record that was only partly there.
    pub(crate) torn_tail: bool,
    /// The last segment that holds a record of the engine; later ones may be used for something else. 0: none.
    pub(crate) keep_through: u32,
    /// Where the last valid record of the kept segments ends.
    pub(crate) end: LogPosition,
    /// Highest number of a boot in any segment.
    pub(crate) boot_max: u32,
    /// Highest sequence number of any segment.
    pub(crate) sequence_max: u32,
    pub(crate) note_max: u64,
    pub(crate) counts: Counts,
}

/// Calls `on_record` for every valid record of a segment and `on_gap` for what lies between and behind them.
/// `bytes` may end before the segment does; what is not there is part of a gap.
pub(super) fn scan<'a>(
    (sequence, epoch): (u32, u32),
    segment_bytes: u32,
    bytes: &'a [u8],
    mut on_record: impl FnMut(LogPosition, CheckedRecord<'a>),
    mut on_gap: impl FnMut(BadRange, Damage),
) {
    let segment_end = segment_bytes as usize;
    let from = |at: usize| bytes.get(at..).unwrap_or_default();
    let check = |at: usize| check_record(from(at), LogPosition::new(sequence, at as u32), epoch);
    let mut at = DATA_START as usize;
    while at + HEADER_LEN <= segment_end {
        match check(at) {
            Ok(record) => {
                on_record(LogPosition::new(sequence, at as u32), record);
                at += record.len();
            }
            Err(flaw) => {
                // Only a place that bears the epoch can be a record; everything else is passed over quickly.
                let bears_epoch = |word: &[u8]| {
                    let upper = word[4..8].try_into();
                    upper.is_ok_and(|bytes| u32::from_le_bytes(bytes) == epoch)
                };
                // No epoch is zero.
                let begin = at + 8 + zeros_in_front(from(at + 8));
                let rest = from(begin).chunks_exact(8).enumerate();
                let next = rest
                    .filter(|(_, word)| bears_epoch(word))
                    .map(|(index, _)| begin + index * 8)
                    .find(|&candidate| check(candidate).is_ok());
                let end = next.unwrap_or(segment_end);
                let range = BadRange {
                    start: LogPosition::new(sequence, at as u32),
                    end: LogPosition::new(sequence, end as u32),
                };
                on_gap(range, classify(from(at), range, flaw));
                at = end;
            }
        }
    }
}

/// Zeros that are put behind a file that was cut, unless it was cut in the zeros of a record.
pub(super) const FILL_UP_LEN: usize = HEADER_LEN + 7;

/// How many bytes of a segment whose file was cut tell as much as all of it would with zeros behind: its header alone
/// says how long it should be, so no memory is set aside for that.
fn len_filled_up(header: &SegmentHeader, bytes: &[u8]) -> usize {
    let segment_bytes = header.segment_bytes.get() as usize;
    let record_end = |at: usize| {
        let position = LogPosition::new(header.sequence.get(), at as u32);
        len_with_zeros(&bytes[at..], position, header.epoch.get(), segment_bytes - at).map(|len| at + len)
    };
    let ends = (DATA_START as usize..bytes.len())
        .step_by(8)
        .filter_map(record_end);
    // A header's worth more, so that what begins at the cut is seen to be zeros.
    let end = ends.max().unwrap_or(0).max(bytes.len());
    (end.next_multiple_of(8) + HEADER_LEN).min(segment_bytes)
}

impl Recovery {
    /// Takes in the next segment: `bytes` is the whole file, at least as long as a segment header; where that was cut,
    /// zeros come to stand behind. Records of the engine are shown to `visit` in order.
    pub(crate) fn segment(
        &mut self,
        header: &SegmentHeader,
        bytes: &mut Vec<u8>,
        visit: &mut dyn FnMut(Recovered<'_>),
    ) {
        let sequence = header.sequence.get();
        self.check_order(header);
        if bytes.len() < header.segment_bytes.get() as usize {
            let cut = LogPosition::new(sequence, bytes.len() as u32);
            let range = BadRange {
                start: cut,
                end: LogPosition::new(sequence, header.segment_bytes.get()),
            };
            self.corruptions
                .push(Flaw::new(range, Damage::CutFile, "the file was cut short"));
            // As a salvage leaves it: a record that was cut where it held zeros is whole then, and must count now.
            let len = len_filled_up(header, bytes);
            bytes.reserve_exact(len - bytes.len());
            bytes.resize(len, 0);
        }
        self.whole_segment(header, bytes, visit);
    }

    fn whole_segment(&mut self, header: &SegmentHeader, bytes: &[u8], visit: &mut dyn FnMut(Recovered<'_>)) {
        let sequence = header.sequence.get();
        if self
            .boots
            .last()
            .is_none_or(|boot| boot.number != header.boot.get())
        {
            self.boots.push(Boot {
                number: header.boot.get(),
                first_sequence: sequence,
                spots: Vec::new(),
                pending: Vec::new(),
                end: LogPosition::NONE,
                start: None,
                torn: false,
            });
        }
        let Self {
            boots,
            kept,
            counts,
            note_max,
            last_ms,
            ..
        } = self;
        let Some(boot) = boots.last_mut() else {
            unreachable!("one was just pushed")
        };
        let gaps = std::cell::RefCell::new(Vec::<Gap>::new());
        let written_ms = std::cell::Cell::new(*last_ms);
        let note_before = *note_max;
        let mut has_engine_record = false;
        let on_record = |position: LogPosition, record: CheckedRecord<'_>| {
            boot.pending.append(&mut gaps.borrow_mut());
            boot.accept(position, &record);
            written_ms.set(record.header.now_ms.get());
            if record.header.kind == KIND_START {
                let start = StartBody::decode(record.body).unwrap_or_default();
                *note_max = (*note_max).max(start.note);
                if record.header.flags & FLAG_BOOT != 0 && position == boot.first_place() {
                    boot.start = Some(start);
                }
            } else if record.header.kind < KIND_LOG_FIRST {
                has_engine_record = true;
                counts.records += 1;
                counts.bytes += record.len() as u64;
                visit(record.recovered(position));
            }
        };
        let name = (sequence, header.epoch.get());
        scan(
            name,
            header.segment_bytes.get(),
            bytes,
            on_record,
            |range, damage| {
                gaps.borrow_mut().push(Gap {
                    range,
                    damage,
                    before_ms: written_ms.get(),
                });
            },
        );
        *last_ms = written_ms.get();
        let gaps = gaps.into_inner();
        let is_torn = gaps.iter().any(|gap| gap.damage.is_begun());
        boot.torn = is_torn || (boot.torn && !gaps.is_empty());
        boot.pending.extend(gaps);
        // A note that no earlier segment tells is kept as well: a start that makes a spare of this one and dies would
        // leave none.
        if has_engine_record || *note_max > note_before {
            *kept = Kept {
                sequence,
                end: boot.end,
            };
        }
    }

    /// Bytes of the segment that is taken in next cannot be read.
    pub(crate) fn unreadable(&mut self, range: BadRange) {
        self.corruptions
            .push(Flaw::new(range, Damage::Unreadable, UNREADABLE));
    }

    /// Of a boot that was taken in alone: the beginning of its first gap that has records behind it and is not known
    /// to have been on the disk. `None` where there is no record at all. `is_oldest`: no boot was before it.
    pub(crate) fn first_hole(&self, is_oldest: bool) -> Option<Option<LogPosition>> {
        let boot = self.boots.last().filter(|boot| !boot.end.is_none())?;
        // The record that opens a boot is on the disk before another is written: where it is gone, more is wrong than
        // a stop of the machine explains.
        let is_opening = |spot: &&Spot| !is_oldest && spot.gap.range.start == boot.first_place();
        let mut holes = boot.spots.iter().filter(|spot| !spot.was_durable);
        Some(match holes.next() {
            Some(first) if is_opening(&first) => None,
            first => first.map(|spot| spot.gap.range.start),
        })
    }

    fn check_order(&mut self, header: &SegmentHeader) {
        let (sequence, boot) = (header.sequence.get(), header.boot.get());
        let place = LogPosition::new(sequence, 0);
        if self.last_sequence != 0 && sequence != self.last_sequence + 1 {
            let start = LogPosition::new(self.last_sequence + 1, 0);
            self.corruptions.push(Flaw {
                before_ms: self.last_ms,
                ..Flaw::new(
                    BadRange { start, end: place },
                    Damage::MissingSegments,
                    "segments between others are missing",
                )
            });
        }
        if self.boots.last().is_some_and(|last| last.number > boot) {
            let range = BadRange {
                start: place,
                end: place.plus(DATA_START),
            };
            let reason = "the segment's boot is older than that of the segment before it";
            self.corruptions
                .push(Flaw::new(range, Damage::WrongOrder, reason));
        }
        self.last_sequence = sequence;
    }

    /// The verdict over everything taken in.
    pub(crate) fn finish(mut self) -> Verdict {
        let boot_max = self.boots.iter().map(|boot| boot.number).max().unwrap_or(0);
        // A boot that left no record at all died before it served anybody; the one before is the newest then.
        self.boots.retain(|boot| !boot.end.is_none());
        let newest = self.boots.last().map_or(0, |boot| boot.number);
        let listed = self.boots.last_mut().and_then(|boot| boot.start.as_mut());
        let listed = listed
            .map(|start| std::mem::take(&mut start.accepted))
            .unwrap_or_default();
        let is_listed = |range: &BadRange| listed.iter().any(|known| known.contains(range));

        let mut verdict = Verdict {
            keep_through: self.kept.sequence,
            end: self.kept.end,
            boot_max,
            sequence_max: self.last_sequence,
            note_max: self.note_max,
            counts: self.counts,
            torn_tail: self.boots.last().is_some_and(|boot| boot.torn),
            ..Verdict::default()
        };
        let mut bad = std::mem::take(&mut self.corruptions);
        for (index, boot) in self.boots.iter().enumerate() {
            let start_lost = index > 0 && boot.start.is_none();
            for spot in &boot.spots {
                let Gap {
                    range,
                    damage,
                    before_ms,
                } = spot.gap;
                let reason = if is_listed(&range) {
                    verdict.accepted.push(range);
                    continue;
                } else if start_lost && range.start == boot.first_place() {
                    "the record that opened this boot was on the disk and cannot be read"
                } else if boot.number != newest {
                    "no record is readable here, and no later start has accepted that"
                } else if spot.was_durable {
                    "no record is readable here, and a later record knew this place to be on the disk"
                } else {
                    verdict.holes.push(range);
                    verdict.accepted.push(range);
                    continue;
                };
                bad.push(Flaw {
                    before_ms,
                    after_ms: spot.after_ms,
                    ..Flaw::new(range, damage, reason)
                });
            }
        }
        bad.extend(
            self.boots
                .windows(2)
                .filter_map(|pair| ends_elsewhere(&pair[0], &pair[1])),
        );
        for flaw in bad {
            verdict.accepted.push(flaw.range);
            if !is_listed(&flaw.range) {
                verdict.flaws.push(flaw);
            }
        }
        verdict.flaws.sort_by_key(|flaw| flaw.range.start);
        merge_unreadable(&mut verdict.flaws);
        verdict.accepted.sort_by_key(|range| range.start);
        verdict.accepted.dedup();
        verdict.accepted.retain(|range| range.start < self.kept.end);
        verdict
    }
}

/// A place that the disk does not give back is told of once, as what it is.
fn merge_unreadable(flaws: &mut Vec<Flaw>) {
    let unreadable: Vec<BadRange> = flaws
        .iter()
        .filter(|flaw| flaw.damage == Damage::Unreadable)
        .map(|flaw| flaw.range)
        .collect();
    if unreadable.is_empty() {
        return;
    }
    let mut told = Vec::new();
    for flaw in flaws.iter_mut().filter(|flaw| flaw.damage != Damage::Unreadable) {
        let within = |range: &&BadRange| flaw.range.contains(range);
        let before = told.len();
        told.extend(unreadable.iter().filter(within).copied());
        if told.len() > before {
            flaw.damage = Damage::Unreadable;
        }
    }
    flaws.retain(|flaw| flaw.reason != UNREADABLE || !told.contains(&flaw.range));
}

/// The start of a boot remembers where the one before ended.
fn ends_elsewhere(boot: &Boot, next: &Boot) -> Option<Flaw> {
    let recorded = next.start.as_ref()?.previous_end;
    let range = BadRange {
        start: recorded.min(boot.end),
        end: recorded.max(boot.end),
    };
    match recorded.cmp(&boot.end) {
        Ordering::Equal => None,
        Ordering::Greater => {
            let gap = boot.pending.iter().find(|gap| gap.range.start == boot.end);
            let damage = gap.map_or(Damage::WrongEnd, |gap| gap.damage);
            let reason = "records that were there at the next start cannot be read";
            Some(Flaw {
                before_ms: gap.map_or(0, |gap| gap.before_ms),
                ..Flaw::new(range, damage, reason)
            })
        }
        Ordering::Less => {
            let reason = "there are records that were not there at the next start";
            Some(Flaw::new(range, Damage::WrongEnd, reason))
        }
    }
}

impl Boot {
    fn first_place(&self) -> LogPosition {
        LogPosition::new(self.first_sequence, DATA_START)
    }

    /// A valid record: what was pending before it is bad, and it may know what was durable.
    fn accept(&mut self, position: LogPosition, record: &CheckedRecord<'_>) {
        let spots = self.pending.drain(..).map(|gap| Spot {
            gap,
            after_ms: record.header.now_ms.get(),
            was_durable: false,
        });
        self.spots.extend(spots);
        if !self.spots.is_empty() {
            let mark = record.durable_mark();
            for spot in &mut self.spots {
                spot.was_durable |= mark > spot.gap.range.start;
            }
        }
        self.end = position.plus(record.len() as u32);
        self.torn = false;
    }
}
