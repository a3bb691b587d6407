//! Turns bytes of a fuzzer into damage to a log directory.

use crate::histories::{self, History, SEGMENT_BYTES};
use crate::ram_disk::{Contents, Image};
use crate::reader::{RECORD_HEADER, SEGMENT_HEADER, Stone, half, header_crc, in_use, record_crc};
use ackring::log::LogPosition;

/// Numbers out of the input; zeros behind its end.
pub struct Taps<'a>(pub &'a [u8]);

impl Taps<'_> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn number(&mut self, bytes: usize) -> u64 {
        let (now, later) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = later;
        now.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.number(1) as usize % n.max(1)
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.number(1) as u8).collect()
    }
}

/// More than so many times the length of a segment is a large one.
const LARGE_SEGMENTS: u64 = 256;

/// A directory that is being damaged.
pub struct Mutant<'a> {
    pub history: &'a History,
    pub image: Image,
    /// A checksum was made to fit, so what is shown need not have been written.
    pub is_forged: bool,
}

/// A place in a file.
struct Place {
    name: String,
    offset: usize,
}

impl<'a> Mutant<'a> {
    pub fn new(history: &'a History) -> Self {
        Self {
            history,
            image: history.image.clone(),
            is_forged: false,
        }
    }

    /// Whether a file is as long as its header, damaged or not, says that segments are, and that is much more than they
    /// were. Recovery reads a segment as a whole, up to the gibibyte that one may have; here that would only be slow.
    pub fn has_large_segment(&self) -> bool {
        self.image.values().any(|file| {
            let claimed = u64::from(half(&file.bytes, 28));
            claimed <= file.len && claimed > LARGE_SEGMENTS * u64::from(SEGMENT_BYTES)
        })
    }

    /// Carries out one change.
    pub fn change(&mut self, taps: &mut Taps<'_>) {
        match taps.below(14) {
            0 => self.flip(taps),
            1 => self.poke(taps),
            2 => self.resize(taps),
            3 => self.swap(taps),
            4 => self.copy(taps),
            5 => drop(self.file(taps).map(|name| self.image.remove(&name))),
            6 => self.rename(taps),
            7 => self.splice(taps),
            8 => self.zero(taps),
            9 => self.add_raw(taps),
            10 => self.forge_record(taps),
            11 => self.forge_header(taps),
            12 => self.fit_checksum(taps),
            _ => self.import(taps),
        }
    }

    fn file(&self, taps: &mut Taps<'_>) -> Option<String> {
        let chosen = taps.below(self.image.len());
        self.image.keys().nth(chosen).cloned()
    }

    fn stone(&self, taps: &mut Taps<'_>) -> Option<&'a Stone> {
        let chosen = taps.below(self.history.stones.len());
        self.history.stones.get(chosen)
    }

    fn file_of(&self, sequence: u32) -> Option<String> {
        let holds = |contents: &Contents| contents.bytes.get(16..20) == Some(&sequence.to_le_bytes()[..]);
        let mut files = self.image.iter().filter(|(_, contents)| holds(contents));
        files.next().map(|(name, _)| name.clone())
    }

    fn place(&self, taps: &mut Taps<'_>) -> Option<Place> {
        match taps.below(4) {
            0 => {
                let stone = self.stone(taps)?;
                let offset = stone.offset + taps.below(stone.bytes.len());
                Some(Place {
                    name: self.file_of(stone.sequence)?,
                    offset,
                })
            }
            1 => {
                let stone = self.stone(taps)?;
                let end = taps.below(2) * stone.bytes.len();
                Some(Place {
                    name: self.file_of(stone.sequence)?,
                    offset: stone.offset + end,
                })
            }
            2 => Some(Place {
                name: self.file(taps)?,
                offset: taps.below(SEGMENT_HEADER),
            }),
            _ => {
                let name = self.file(taps)?;
                Some(Place {
                    name,
                    offset: taps.number(2) as usize % SEGMENT_BYTES as usize / 8 * 8,
                })
            }
        }
    }

    /// The bytes at a place, at most to the end of the file.
    fn at(&mut self, place: &Place, len: usize) -> &mut [u8] {
        let Some(contents) = self.image.get_mut(&place.name) else {
            return &mut [];
        };
        let from = place.offset.min(contents.bytes.len());
        let to = (from + len).min(contents.bytes.len());
        &mut contents.bytes[from..to]
    }

    fn flip(&mut self, taps: &mut Taps<'_>) {
        let Some(place) = self.place(taps) else { return };
        let bit = taps.below(8);
        self.at(&place, 1).iter_mut().for_each(|byte| *byte ^= 1 << bit);
    }

    fn poke(&mut self, taps: &mut Taps<'_>) {
        let Some(place) = self.place(taps) else { return };
        let len = 1 + taps.below(8);
        let bytes = taps.bytes(len);
        self.at(&place, len)
            .iter_mut()
            .zip(bytes)
            .for_each(|(byte, new)| *byte = new);
    }

    fn zero(&mut self, taps: &mut Taps<'_>) {
        let Some(mut place) = self.place(taps) else { return };
        let len = [8, 64, 512, 4096][taps.below(4)];
        place.offset = place.offset / len * len;
        self.at(&place, len).fill(0);
    }

    fn resize(&mut self, taps: &mut Taps<'_>) {
        let Some(name) = self.file(taps) else { return };
        let len = match taps.below(4) {
            0 => taps.number(2) % u64::from(SEGMENT_BYTES + 1),
            1 => u64::from(SEGMENT_BYTES) + taps.number(1),
            2 => taps.number(2),
            // No segment is as long as this, and nobody may set memory aside for it.
            _ => (1 << (20 + taps.below(22))) + 8,
        };
        if let Some(contents) = self.image.get_mut(&name) {
            contents.bytes.truncate(len as usize);
            contents.len = len;
        }
    }

    fn swap(&mut self, taps: &mut Taps<'_>) {
        let (Some(a), Some(b)) = (self.file(taps), self.file(taps)) else {
            return;
        };
        let (first, second) = (self.image[&a].clone(), self.image[&b].clone());
        self.image.insert(a, second);
        self.image.insert(b, first);
    }

    fn new_name(&self, taps: &mut Taps<'_>) -> String {
        match taps.below(8) {
            0..=2 => format!("{:08}.segment", taps.number(1)),
            3 => format!("{:08}.segment", taps.number(4)),
            4 => format!("{}.segment", taps.number(1)),
            5 => format!("+{:07}.segment", taps.number(1)),
            6 => format!("{:08}.unfinished", taps.number(1)),
            _ => format!("{:08}.segment.damaged", taps.number(1)),
        }
    }

    fn copy(&mut self, taps: &mut Taps<'_>) {
        let Some(from) = self.file(taps) else { return };
        let to = self.new_name(taps);
        let contents = self.image[&from].clone();
        self.image.insert(to, contents);
    }

    fn rename(&mut self, taps: &mut Taps<'_>) {
        let Some(from) = self.file(taps) else { return };
        let to = self.new_name(taps);
        if let Some(contents) = self.image.remove(&from) {
            self.image.insert(to, contents);
        }
    }

    fn splice(&mut self, taps: &mut Taps<'_>) {
        let (Some(from), Some(to)) = (self.place(taps), self.place(taps)) else {
            return;
        };
        let len = [8, 32, 64, 512, 4096][taps.below(5)];
        let bytes = self.at(&from, len).to_vec();
        self.at(&to, len)
            .iter_mut()
            .zip(bytes)
            .for_each(|(byte, new)| *byte = new);
    }

    fn add_raw(&mut self, taps: &mut Taps<'_>) {
        let name = self.new_name(taps);
        let count = taps.number(1) as usize;
        let mut bytes = taps.bytes(count.min(taps.0.len()));
        let len = bytes.len().max(taps.below(2) * SEGMENT_BYTES as usize);
        bytes.resize(len, 0);
        self.image.insert(
            name,
            Contents {
                bytes,
                len: len as u64,
            },
        );
    }

    /// A file of another log.
    fn import(&mut self, taps: &mut Taps<'_>) {
        let others = histories::all();
        let other = &others[taps.below(others.len())];
        let chosen = taps.below(other.image.len());
        let name = self.new_name(taps);
        if let Some(contents) = other.image.values().nth(chosen) {
            // Another log's records were written as well, only not here.
            self.is_forged |= !std::ptr::eq(other, self.history);
            self.image.insert(name, contents.clone());
        }
    }

    /// A record whose checksum is right, wherever it is put.
    fn forge_record(&mut self, taps: &mut Taps<'_>) {
        let Some(place) = self.place(taps) else { return };
        let Some((sequence, epoch)) = self.image.get(&place.name).and_then(|c| in_use(&c.bytes)) else {
            return;
        };
        let kind = [1, 3, 6, 0xEF, 0xF0, 0xF1, 0xF1, 0xF2][taps.below(8)];
        let flags = taps.below(4) as u8;
        let mark = match taps.below(4) {
            0 => 0,
            1 => self.stone(taps).map_or(0, |stone| stone.position().raw()),
            2 => LogPosition::new(sequence, taps.number(2) as u32).raw(),
            _ => taps.number(8),
        };
        let mut body = Vec::new();
        if kind == 0xF1 {
            // Note, previous end, and ranges.
            body.extend_from_slice(&taps.number(8).to_le_bytes());
            let ranges = taps.below(5) as u64;
            let words = [
                self.position(taps),
                if taps.below(8) == 0 {
                    taps.number(8)
                } else {
                    ranges
                },
            ];
            body.extend(words.iter().flat_map(|word| word.to_le_bytes()));
            (0..ranges * 2).for_each(|_| body.extend_from_slice(&self.position(taps).to_le_bytes()));
        } else {
            let words = [0, 1, 2, 6][taps.below(4)];
            body = taps.bytes(8 * words);
        }
        let len = (RECORD_HEADER + body.len()) as u32;
        let mut record = Vec::new();
        record.extend_from_slice(&len.to_le_bytes());
        record.extend_from_slice(&epoch.to_le_bytes());
        record.extend_from_slice(&[0, 0, 0, 0, kind, flags, 0, 0]);
        record.extend_from_slice(&mark.to_le_bytes());
        record.extend_from_slice(&histories::NOW_MS.to_le_bytes());
        record.extend_from_slice(&body);
        let crc = record_crc(&record, LogPosition::new(sequence, place.offset as u32));
        record[8..12].copy_from_slice(&crc.to_le_bytes());
        self.is_forged = true;
        self.at(&place, record.len())
            .iter_mut()
            .zip(record)
            .for_each(|(byte, new)| *byte = new);
    }

    /// A position that is likely to mean something.
    fn position(&self, taps: &mut Taps<'_>) -> u64 {
        match taps.below(4) {
            0 => 0,
            1 => taps.number(8),
            _ => {
                let stone = self.stone(taps);
                let start = stone.map_or(0, |stone| stone.position().raw());
                start + (taps.below(2) * stone.map_or(0, |stone| stone.bytes.len())) as u64
            }
        }
    }

    /// Another value in a field of a segment header, with a checksum that fits.
    fn forge_header(&mut self, taps: &mut Taps<'_>) {
        let Some(name) = self.file(taps) else { return };
        let field = [16, 16, 16, 20, 24, 24, 28, 32, 48, 8][taps.below(10)];
        let place = Place { name, offset: 0 };
        let old = half(self.at(&place, SEGMENT_HEADER), field);
        let new = match taps.below(3) {
            0 => old.wrapping_add(1),
            1 => taps.number(1) as u32,
            _ => taps.number(4) as u32,
        };
        // A segment may be as long as a gigabyte, and is then read as a whole.
        let is_long = field == 28 && (1 << 16..=1 << 30).contains(&new);
        let new = if is_long { new & 0xFFFF } else { new };
        let header = self.at(&place, SEGMENT_HEADER);
        if header.len() < SEGMENT_HEADER {
            return;
        }
        header[field..field + 4].copy_from_slice(&new.to_le_bytes());
        let crc = header_crc(header);
        header[12..16].copy_from_slice(&crc.to_le_bytes());
        self.is_forged = true;
    }

    /// Gives what stands where a record began the checksum that it needs.
    fn fit_checksum(&mut self, taps: &mut Taps<'_>) {
        let Some(stone) = self.stone(taps) else { return };
        let Some(name) = self.file_of(stone.sequence) else {
            return;
        };
        let place = Place {
            name,
            offset: stone.offset,
        };
        let len = half(self.at(&place, 4), 0) as usize;
        let record = self.at(&place, len);
        if record.len() == len && len >= RECORD_HEADER {
            let crc = record_crc(record, stone.position());
            record[8..12].copy_from_slice(&crc.to_le_bytes());
            self.is_forged = true;
        }
    }
}
