//! What segments told that are gone, and the log does not tell durably yet: a small file beside it.
//!
//! A segment that holds no job any more may be used again at once, but for what it tells besides: queues, sessions,
//! keys, generations. That is logged again at the tail, and until the disk has it there it stands here, so that a few
//! segments go round without waiting for the disk. The file has two slots that are written in turn, so that one is
//! whole at any moment. `FORMAT.md` has the layout.

use crate::base::crc::crc32c;
use crate::base::limits::{ANCHOR_BYTES_MAX, SEGMENT_RETRY_MS};
use crate::base::plant::{Plant, is_planted};
use crate::base::sync::Ordering;
use crate::log::damage::Damage;
use crate::log::dir::{ANCHOR_NAME, Directory, may_pass};
use crate::log::disk::DiskFile;
use crate::log::error::{Corruption, LogError, OpenError};
use crate::log::examine::Examined;
use crate::log::header;
use crate::log::header::DATA_START;
use crate::log::log::Log;
use crate::log::position::LogPosition;
use crate::log::reading::LogVisitor;
use crate::log::record::{KIND_LOG_FIRST, Recovered};
use std::io;

const MAGIC: [u8; 8] = *b"ackringA";
/// Bytes in front of the statements of a slot.
const HEAD_LEN: usize = 56;
/// Bytes in front of the body of a statement.
const STATEMENT_HEAD_LEN: usize = 8;
/// Numbers stay below: so far from the end that none is ever reached by counting on.
pub(super) const NUMBERS_END: u64 = 1 << 62;
/// Behind the highest sequence number that a segment has.
const CLEARED_MAX: u32 = header::NUMBERS_END;

/// Something that the log told in a segment that is gone, as a record of the engine's has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The kind of that record, one of the engine's.
    pub kind: u8,
    /// Its body: a multiple of 8 bytes.
    pub body: Vec<u8>,
}

/// One slot of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Anchor {
    /// Each slot written has a higher one, from 1.
    pub(super) number: u64,
    /// Segments before this one are gone.
    pub(super) cleared: u32,
    /// When it was written, in milliseconds since the Unix epoch.
    pub(super) now_ms: u64,
    /// What those told, in order.
    pub(super) statements: Vec<Statement>,
}

impl Anchor {
    fn encode(&self, log_id: [u8; 16]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_LEN + slot_len(&self.statements));
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&log_id);
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&self.now_ms.to_le_bytes());
        bytes.extend_from_slice(&self.cleared.to_le_bytes());
        bytes.extend_from_slice(&(slot_len(&self.statements) as u32).to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        for statement in &self.statements {
            bytes.extend_from_slice(&u32::from(statement.kind).to_le_bytes());
            bytes.extend_from_slice(&(statement.body.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&statement.body);
        }
        let crc = crc32c(0, &bytes);
        bytes[48..52].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// What a slot says; `None` for anything but what [`encode`](Self::encode) gives for this log.
    fn parse(slot: &[u8], log_id: [u8; 16]) -> Option<Self> {
        let u32_at = |at: usize| Some(u32::from_le_bytes(*slot.get(at..)?.first_chunk()?));
        let u64_at = |at: usize| Some(u64::from_le_bytes(*slot.get(at..)?.first_chunk()?));
        if slot.get(..8)? != MAGIC || slot.get(8..24)? != log_id {
            return None;
        }
        let mut anchor = Self {
            number: u64_at(24)?,
            now_ms: u64_at(32)?,
            cleared: u32_at(40)?,
            statements: Vec::new(),
        };
        let is_possible = (1..NUMBERS_END).contains(&anchor.number) && anchor.cleared <= CLEARED_MAX;
        let all = HEAD_LEN.checked_add(u32_at(44)? as usize)?;
        let bytes = slot.get(..all).filter(|_| is_possible)?;
        let covered = [&bytes[..48], &[0; 4], &bytes[52..]];
        if u32_at(48)? != covered.into_iter().fold(0, crc32c) {
            return None;
        }
        let mut rest = &bytes[HEAD_LEN..];
        while let Some((head, behind)) = rest.split_first_chunk::<STATEMENT_HEAD_LEN>() {
            let kind = u32::from_le_bytes(*head.first_chunk()?);
            let len = u32::from_le_bytes(*head.last_chunk()?) as usize;
            let (body, behind) = behind.split_at_checked(len)?;
            let kind = u8::try_from(kind).ok().filter(|kind| *kind < KIND_LOG_FIRST)?;
            anchor.statements.push(Statement {
                kind,
                body: body.to_vec(),
            });
            rest = behind;
        }
        rest.is_empty().then_some(anchor)
    }

    /// Its statements, as records that stood behind all others of the segments that are gone.
    fn records(&self) -> impl Iterator<Item = Recovered<'_>> {
        let position = LogPosition::new(self.cleared.saturating_sub(1), DATA_START);
        self.statements.iter().map(move |statement| Recovered {
            position,
            kind: statement.kind,
            flags: 0,
            now_ms: self.now_ms,
            body: &statement.body,
        })
    }
}

fn slot_len(statements: &[Statement]) -> usize {
    let len = |statement: &Statement| STATEMENT_HEAD_LEN + statement.body.len();
    statements.iter().map(len).sum()
}

/// What was found of the file.
#[derive(Debug, Default)]
pub(super) struct FoundAnchor {
    /// There is a file.
    is_there: bool,
    /// It is not what the segments say that it once was.
    is_lost: bool,
    /// The slot that is written next.
    place: u32,
    slot_bytes: u32,
    /// The highest number that anything tells of.
    number: u64,
    /// What it says of segments that are gone, where the log relies on it.
    anchor: Option<Anchor>,
}

impl FoundAnchor {
    /// Sequence numbers of the log go on from here at least.
    pub(super) fn cleared(&self) -> u32 {
        self.anchor.as_ref().map_or(0, |anchor| anchor.cleared)
    }

    /// Shows what it says as the first records of the log.
    pub(super) fn show(&self, visitor: &mut dyn LogVisitor) {
        if let Some(anchor) = self.anchor.as_ref().filter(|_| !is_planted(Plant::ForgetAnchor)) {
            anchor.records().for_each(|record| visitor.record(record));
        }
    }

    fn read(directory: &Directory, log_id: [u8; 16]) -> Result<Self, OpenError> {
        let mut found = Self::default();
        let Some((file, len)) = directory.open_anchor()? else {
            return Ok(found);
        };
        found.is_there = true;
        found.slot_bytes = u32::try_from(len / 2).unwrap_or(u32::MAX);
        if found.slot_bytes > ANCHOR_BYTES_MAX {
            return Ok(found);
        }
        let mut slot = vec![0; found.slot_bytes as usize];
        for place in 0..2 {
            directory.read_slot(&*file, &mut slot, u64::from(place) * u64::from(found.slot_bytes))?;
            let Some(anchor) = Anchor::parse(&slot, log_id) else {
                continue;
            };
            if anchor.number > found.number {
                found.number = anchor.number;
                found.place = 1 - place;
                found.anchor = Some(anchor);
            }
        }
        Ok(found)
    }
}

impl Examined {
    /// Reads what the log keeps beside it of segments that are gone. Those that it says are gone count no more, though
    /// they may still be there.
    pub(super) fn take_anchor(&mut self, directory: &Directory) -> Result<(), OpenError> {
        let of_spares = self.spare.iter().filter_map(|segment| segment.header.ok());
        let headers: Vec<_> = self
            .used
            .iter()
            .map(|segment| segment.header)
            .chain(of_spares)
            .collect();
        let Some(log_id) = headers.first().map(|header| header.log_id) else {
            return Ok(());
        };
        let ours = headers.iter().filter(|header| header.log_id == log_id);
        let needed = ours.map(|header| header.anchor.get()).max().unwrap_or(0);
        let mut found = FoundAnchor::read(directory, log_id)?;
        if found.number < needed {
            // Each header that names it was written once it was on the disk.
            let (damage, reason) = if found.is_there {
                (
                    Damage::Anchor,
                    "what it says of segments that were used again cannot be read",
                )
            } else {
                (Damage::MissingFile, "the file is gone")
            };
            let path = directory.path().join(ANCHOR_NAME);
            self.corruptions.push(Corruption::new(path, damage, reason));
            found.is_lost = true;
            found.number = needed;
            found.anchor = None;
        }
        let oldest = self.used.first().map(|segment| segment.sequence());
        // Where the log begins later, its segments have come to tell all that is said here, and it was on the disk
        // before they went.
        let is_of_use = |anchor: &Anchor| oldest.is_none_or(|oldest| oldest <= anchor.cleared);
        found.anchor = found.anchor.filter(is_of_use);
        let cleared = found.cleared();
        let passed = self.used.partition_point(|segment| segment.sequence() < cleared);
        self.passed = self.used.drain(..passed).collect();
        self.anchor = found;
        Ok(())
    }
}

/// The file as a log writes it.
#[derive(Debug)]
pub(super) struct AnchorFile {
    file: Box<dyn DiskFile>,
    slot_bytes: u32,
    /// The slot that is written next.
    place: u32,
}

/// What a log does with the file.
#[derive(Debug, Default)]
pub(super) struct Anchors {
    /// None until something is to be said.
    file: Option<AnchorFile>,
    /// When to try again to make it where there was no room, in milliseconds since the Unix epoch.
    retry_ms: u64,
    /// The number of the slot written last; 0 for none.
    pub(super) number: u64,
}

impl AnchorFile {
    fn make(directory: &Directory, segment_bytes: u32) -> io::Result<Self> {
        let slot_bytes = segment_bytes.min(ANCHOR_BYTES_MAX);
        Ok(Self {
            file: directory.make_anchor(2 * u64::from(slot_bytes))?,
            slot_bytes,
            place: 0,
        })
    }

    /// Writes a slot and waits until it is on the disk. The other one stays as it is.
    fn write(&mut self, anchor: &Anchor, log_id: [u8; 16]) -> io::Result<()> {
        let at = u64::from(self.place) * u64::from(self.slot_bytes);
        self.file.write_all_at(&anchor.encode(log_id), at)?;
        self.place = 1 - self.place;
        Ok(())
    }
}

impl Anchors {
    /// For a start that found a file: says again, with a number of its own and for a log that begins with segment
    /// `cleared`, what the log relies on. On the disk when this returns, as what was read may have been in the cache
    /// only.
    pub(super) fn take_over(
        directory: &Directory,
        (log_id, segment_bytes): ([u8; 16], u32),
        found: &FoundAnchor,
        cleared: u32,
    ) -> io::Result<Self> {
        if found.number == 0 && !found.is_there {
            return Ok(Self::default());
        }
        let opened = if found.is_lost {
            None
        } else {
            directory.reopen_anchor()?
        };
        let mut file = match opened {
            Some(file) if found.number > 0 => AnchorFile {
                file,
                slot_bytes: found.slot_bytes,
                place: found.place,
            },
            _ => AnchorFile::make(directory, segment_bytes)?,
        };
        let statements = found.anchor.as_ref();
        let anchor = Anchor {
            number: found.number + 1,
            cleared,
            now_ms: statements.map_or(0, |anchor| anchor.now_ms),
            statements: statements.map_or_else(Vec::new, |anchor| anchor.statements.clone()),
        };
        file.write(&anchor, log_id)?;
        file.file.sync_data()?;
        Ok(Self {
            file: Some(file),
            retry_ms: 0,
            number: anchor.number,
        })
    }
}

impl Log {
    /// Says durably that segments before `cleared` are gone, and what they told: `statements`, each of which holds
    /// as of the end of those segments. A later call stands for all earlier ones. `Ok(false)`: that is more than the
    /// file takes, or there is no room for it, and nothing was said.
    ///
    /// # Errors
    /// [`LogError::Poisoned`].
    pub fn anchor(&self, cleared: u32, statements: Vec<Statement>, now_ms: u64) -> Result<bool, LogError> {
        let Some(directory) = &self.directory else {
            return Ok(false);
        };
        if self.is_poisoned.load(Ordering::Acquire) {
            return Err(self.poisoned_error());
        }
        let slot_bytes = self.segment_bytes.min(ANCHOR_BYTES_MAX) as usize;
        if HEAD_LEN + slot_len(&statements) > slot_bytes || cleared > CLEARED_MAX {
            return Ok(false);
        }
        let mut anchors = self.anchors.lock();
        let anchor = Anchor {
            number: anchors.number + 1,
            cleared,
            now_ms,
            statements,
        };
        if anchors.file.is_none() {
            if now_ms < anchors.retry_ms {
                return Ok(false);
            }
            match AnchorFile::make(directory, self.segment_bytes) {
                Ok(file) => anchors.file = Some(file),
                Err(error) if may_pass(&error) => {
                    anchors.retry_ms = now_ms + SEGMENT_RETRY_MS;
                    return Ok(false);
                }
                Err(error) => return Err(self.poison("make the anchor of the log", &error)),
            }
        }
        let Some(file) = &mut anchors.file else {
            unreachable!("it was just made")
        };
        if HEAD_LEN + slot_len(&anchor.statements) > file.slot_bytes as usize {
            return Ok(false);
        }
        let written = file.write(&anchor, self.log_id).and_then(|()| {
            if is_planted(Plant::AnchorLate) {
                return Ok(());
            }
            file.file.sync_data()
        });
        written.map_err(|error| self.poison("write the anchor of the log", &error))?;
        // Only now may the header of a segment tell of it.
        anchors.number = anchor.number;
        self.anchor_number.store(anchor.number, Ordering::Release);
        Ok(true)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const ID: [u8; 16] = [7; 16];

    fn sample() -> Anchor {
        let statement = |kind, len| Statement {
            kind,
            body: (0..len).map(|byte| byte as u8 ^ kind).collect(),
        };
        Anchor {
            number: 9,
            cleared: 4,
            now_ms: 77,
            statements: vec![statement(6, 64), statement(7, 0), statement(9, 8)],
        }
    }

    #[test]
    fn what_is_said_comes_back_whatever_stands_behind() {
        let mut slot = sample().encode(ID);
        assert_eq!(Anchor::parse(&slot, ID), Some(sample()));
        slot.resize(4096, 0xee);
        assert_eq!(Anchor::parse(&slot, ID), Some(sample()));
        assert_eq!(Anchor::parse(&slot, [8; 16]), None);
        let places: Vec<_> = sample().records().map(|record| record.position).collect();
        assert_eq!(places, [LogPosition::new(3, DATA_START); 3]);
    }

    /// A log that had come to a high segment did not open again once it had said anything here.
    #[test]
    fn an_anchor_of_segments_with_high_numbers_could_not_be_read() {
        for cleared in [1 << 30, CLEARED_MAX] {
            let anchor = Anchor { cleared, ..sample() };
            assert_eq!(Anchor::parse(&anchor.encode(ID), ID), Some(anchor));
        }
    }

    #[test]
    fn no_damaged_bit_and_no_cut_is_taken_for_something_said() {
        let slot = sample().encode(ID);
        for bit in 0..slot.len() * 8 {
            let mut damaged = slot.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Anchor::parse(&damaged, ID), None, "bit {bit}");
        }
        for len in 0..slot.len() {
            assert_eq!(Anchor::parse(&slot[..len], ID), None, "{len} bytes");
            let mut torn = vec![0; slot.len()];
            torn[..len].copy_from_slice(&slot[..len]);
            let is_whole = torn == slot;
            assert_eq!(Anchor::parse(&torn, ID).is_some(), is_whole, "{len} bytes");
        }
    }
}
