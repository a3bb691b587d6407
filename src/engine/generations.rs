//! Which generations are in use, as the log tells it: ids are never given out twice, whatever a crash or a power cut
//! takes with it.
//!
//! The log tells of generations in ranges of 2^16, and none of a range is given out before the record that tells of
//! it is on the disk. That record is written when half of the range before it is used up, so that the background sync
//! has long seen to it; only the first enqueue after a start waits for the disk.

use super::Engine;
use super::journal::Kind;
use super::slab::is_newer;
use crate::base::plant::{Plant, is_planted};
use crate::base::sync::{AtomicU32, Ordering};
use crate::log::{LogError, LogPosition, Room};
use parking_lot::Mutex;

/// Generations of a range.
const STEP: u32 = 1 << 16;

/// What the log tells of generations.
#[derive(Default)]
pub(super) struct Generations {
    /// Up to here nothing is to be done; 0 for nothing told yet.
    calm: AtomicU32,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    /// Up to here they may be given out: the log on the disk says that they are in use. 0 for none.
    usable: u32,
    /// The next range as told already: its last generation, and the end of the record.
    ahead: Option<(u32, LogPosition)>,
    /// The highest generation told of, the segment in which that stands, and where its record ends.
    last: Option<(u32, u32, LogPosition)>,
}

impl Engine {
    /// To be called before ids with generations up to `generation` are given out.
    #[inline]
    pub(super) fn note_generation(&self, generation: u32, now_ms: u64) -> Result<(), LogError> {
        self.slab.raise_generation(generation);
        // Relaxed: what is on the disk stays there.
        let calm = self.generations.calm.load(Ordering::Relaxed);
        if calm != 0 && !is_newer(generation, calm) {
            return Ok(());
        }
        self.use_generation(generation, now_ms)
    }

    #[cold]
    fn use_generation(&self, generation: u32, now_ms: u64) -> Result<(), LogError> {
        let mut told = self.generations.told.lock();
        if told.usable == 0 || is_newer(generation, told.usable) {
            let ahead = told.ahead.take().filter(|(high, _)| !is_newer(generation, *high));
            let (high, end) = match ahead {
                Some(ahead) => ahead,
                None => self.tell(&mut told, generation, Room::Settle, now_ms)?,
            };
            if !is_planted(Plant::RepeatIds) {
                self.durable.sync_to(end)?;
            }
            told.usable = high;
        }
        let half = told.usable.wrapping_sub(STEP / 2);
        if told.ahead.is_none() && is_newer(generation, half) {
            // Without room in the log it is tried again when there is no other way.
            let next = told.usable.wrapping_add(1);
            told.ahead = self.tell(&mut told, next, Room::Settle, now_ms).ok();
        }
        let calm = if told.ahead.is_some() { told.usable } else { half };
        self.generations.calm.store(calm, Ordering::Relaxed);
        Ok(())
    }

    /// For a start that found generations up to `generation` told of: tells of them again, and waits for the disk.
    pub(super) fn retell_generation(&self, generation: u32, now_ms: u64) -> Result<(), LogError> {
        let (_, end) = self.tell(
            &mut self.generations.told.lock(),
            generation,
            Room::Settle,
            now_ms,
        )?;
        if is_planted(Plant::RepeatIds) {
            return Ok(());
        }
        self.durable.sync_to(end)
    }

    /// Tells again of what a segment up to `sequence` tells of last. Returns the highest generation told of, and up to
    /// where the log must be durable before those segments may go.
    pub(super) fn repeat_generations(
        &self,
        sequence: u32,
        now_ms: u64,
    ) -> Result<Option<(u32, LogPosition)>, LogError> {
        let mut told = self.generations.told.lock();
        if let Some((high, told_in, _)) = told.last
            && told_in <= sequence
        {
            self.tell(&mut told, high, Room::Migrate, now_ms)?;
        }
        Ok(told.last.map(|(high, _, end)| (high, end)))
    }

    /// Logs that generations up to `generation`, rounded up, are in use; returns up to where, and the record's end.
    fn tell(
        &self,
        told: &mut Told,
        generation: u32,
        room: Room,
        now_ms: u64,
    ) -> Result<(u32, LogPosition), LogError> {
        let high = generation | (STEP - 1);
        self.durable.set_segment_note(u64::from(high));
        let body = u64::from(high).to_le_bytes();
        let (at, end) = self.append(Kind::Generation, 0, &body, room, now_ms)?;
        told.last = Some((high, at.sequence(), end));
        Ok((high, end))
    }

    /// The first generation of a range that nobody has used, where those up to `high` were told of; 0 for none.
    pub(super) fn range_behind(high: u32) -> u32 {
        if high == 0 {
            0
        } else {
            (high | (STEP - 1)).wrapping_add(1)
        }
    }
}
