//! What a log says, given its bytes: the records that count, and whether anything is missing that should be there.
//!
//! Pure: no file is touched here. The caller hands in the segments in order and gets a [`Verdict`].
//!
//! A *boot* is one start of the engine. Each begins a new segment, whose opening record says where the records of
//! the boot before ended and lists every bad range accepted so far. So what is bad in an older boot and not
//! listed went bad since. In the newest boot, a bad range is harmless (a torn tail, or a writer that died in the
//! middle) unless a record behind it knew that the log was on the disk beyond the range's beginning. `FORMAT.md`
//! has the table.

use crate::log::position::LogPosition;
use crate::log::record::{
    BadRange, CheckedRecord, DATA_START, FLAG_BOOT, HEADER_LEN, KIND_LOG_FIRST, KIND_START, RecordFlaw,
    Recovered, SegmentHeader, StartBody, check_record,
};

/// A bad range and what is known about it.
#[derive(Debug, Clone, Copy)]
struct Spot {
    range: BadRange,
    /// A later record knew that the range's beginning was on the disk.
    was_durable: bool,
}

/// What was found of one boot.
#[derive(Debug)]
struct Boot {
    number: u32,
    first_sequence: u32,
    spots: Vec<Spot>,
    /// From the last valid record to where we are; becomes spots when a valid record follows.
    pending: Vec<BadRange>,
    end: LogPosition,
    start: Option<StartBody>,
    torn: bool,
}

/// Reads segments and keeps count.
#[derive(Debug, Default)]
pub(crate) struct Recovery {
    boots: Vec<Boot>,
    corruptions: Vec<(BadRange, &'static str)>,
    last_sequence: u32,
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
    pub(crate) position: LogPosition,
    pub(crate) reason: &'static str,
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

/// Calls `on_record` for every valid record of a segment and `on_gap(start, end, written)` for what lies between
/// and behind them. `written`: something was committed at `start`, but it is not valid. `bytes` may end before the
/// segment does; what is not there is part of a gap.
fn scan<'a>(
    header: &SegmentHeader,
    bytes: &'a [u8],
    mut on_record: impl FnMut(LogPosition, CheckedRecord<'a>),
    mut on_gap: impl FnMut(u32, u32, bool),
) {
    let (sequence, epoch) = (header.sequence.get(), header.epoch.get());
    let segment_end = header.segment_bytes.get() as usize;
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
                let bears_epoch = |word: &[u8]| word[4..8] == epoch.to_le_bytes();
                let rest = from(at + 8).chunks_exact(8).enumerate();
                let next = rest
                    .filter(|(_, word)| bears_epoch(word))
                    .map(|(index, _)| at + 8 + index * 8)
                    .find(|&candidate| check(candidate).is_ok());
                let end = next.unwrap_or(segment_end);
                on_gap(at as u32, end as u32, flaw == RecordFlaw::Damaged);
                at = end;
            }
        }
    }
}

impl Recovery {
    /// Takes in the next segment: `bytes` is the whole file, at least as long as a segment header. Records of
    /// the engine are shown to `visit` in order.
    pub(crate) fn segment(
        &mut self,
        header: &SegmentHeader,
        bytes: &[u8],
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
            self.corruptions.push((range, "the file was cut short"));
        }
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
            ..
        } = self;
        let Some(boot) = boots.last_mut() else {
            unreachable!("one was just pushed")
        };
        let gaps = std::cell::RefCell::new((Vec::new(), false));
        let mut has_engine_record = false;
        let on_record = |position: LogPosition, record: CheckedRecord<'_>| {
            let mut gaps = gaps.borrow_mut();
            boot.pending.append(&mut gaps.0);
            gaps.1 = false;
            boot.accept(position, &record);
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
                visit(Recovered {
                    position,
                    kind: record.header.kind,
                    flags: record.header.flags,
                    now_ms: record.header.now_ms.get(),
                    body: record.body,
                });
            }
        };
        scan(header, bytes, on_record, |start, end, written| {
            let at = |offset| LogPosition::new(sequence, offset);
            let mut gaps = gaps.borrow_mut();
            gaps.0.push(BadRange {
                start: at(start),
                end: at(end),
            });
            gaps.1 |= written;
        });
        let (gaps, torn) = gaps.into_inner();
        boot.torn = torn || (boot.torn && !gaps.is_empty());
        boot.pending.extend(gaps);
        if has_engine_record {
            *kept = Kept {
                sequence,
                end: boot.end,
            };
        }
    }

    fn check_order(&mut self, header: &SegmentHeader) {
        let (sequence, boot) = (header.sequence.get(), header.boot.get());
        let place = LogPosition::new(sequence, 0);
        if self.last_sequence != 0 && sequence != self.last_sequence + 1 {
            let start = LogPosition::new(self.last_sequence + 1, 0);
            self.corruptions.push((
                BadRange { start, end: place },
                "segments between others are missing",
            ));
        }
        if self.boots.last().is_some_and(|last| last.number > boot) {
            let range = BadRange {
                start: place,
                end: place.plus(DATA_START),
            };
            self.corruptions.push((
                range,
                "the segment's boot is older than that of the segment before it",
            ));
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
        let is_listed = |range: &BadRange| {
            listed
                .iter()
                .any(|known| known.start <= range.start && range.end <= known.end)
        };

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
                let reason = if is_listed(&spot.range) {
                    verdict.accepted.push(spot.range);
                    continue;
                } else if start_lost && spot.range.start == boot.first_place() {
                    "the record that opened this boot was on the disk and cannot be read"
                } else if boot.number != newest {
                    "no record is readable here, and no later start has accepted that"
                } else if spot.was_durable {
                    "no record is readable here, and a later record knew this place to be on the disk"
                } else {
                    verdict.holes.push(spot.range);
                    verdict.accepted.push(spot.range);
                    continue;
                };
                bad.push((spot.range, reason));
            }
        }
        bad.extend(
            self.boots
                .windows(2)
                .filter_map(|pair| ends_elsewhere(&pair[0], &pair[1])),
        );
        for (range, reason) in bad {
            verdict.accepted.push(range);
            if !is_listed(&range) {
                verdict.flaws.push(Flaw {
                    position: range.start,
                    reason,
                });
            }
        }
        verdict.flaws.sort_by_key(|flaw| flaw.position);
        verdict.accepted.sort_by_key(|range| range.start);
        verdict.accepted.dedup();
        verdict.accepted.retain(|range| range.start < self.kept.end);
        verdict
    }
}

/// The start of a boot remembers where the one before ended.
fn ends_elsewhere(boot: &Boot, next: &Boot) -> Option<(BadRange, &'static str)> {
    let recorded = next.start.as_ref()?.previous_end;
    if recorded > boot.end {
        let range = BadRange {
            start: boot.end,
            end: recorded,
        };
        Some((range, "records that were there at the next start cannot be read"))
    } else if recorded < boot.end {
        let range = BadRange {
            start: recorded,
            end: boot.end,
        };
        Some((range, "there are records that were not there at the next start"))
    } else {
        None
    }
}

impl Boot {
    fn first_place(&self) -> LogPosition {
        LogPosition::new(self.first_sequence, DATA_START)
    }

    /// A valid record: what was pending before it is bad, and it may know what was durable.
    fn accept(&mut self, position: LogPosition, record: &CheckedRecord<'_>) {
        let spots = self.pending.drain(..).map(|range| Spot {
            range,
            was_durable: false,
        });
        self.spots.extend(spots);
        if !self.spots.is_empty() {
            let mark = record.durable_mark();
            for spot in &mut self.spots {
                spot.was_durable |= mark > spot.range.start;
            }
        }
        self.end = position.plus(record.len() as u32);
        self.torn = false;
    }
}
