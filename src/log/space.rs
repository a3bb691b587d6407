//! Segments to come and segments that were: preparing spares, recycling the oldest.
//!
//! Order is what makes this safe across a crash. Segments get their sequence numbers in order, each header on the
//! disk before the next is begun, and lose them in order from the oldest, each on the disk before the next; so the
//! numbers on the disk never have a gap, and a gap means that a file is missing.

use crate::base::limits;
use crate::base::plant::{Plant, is_planted};
use crate::base::sync::Ordering;
use crate::log::config::Room;
use crate::log::count::SegmentCount;
use crate::log::dir::may_pass;
use crate::log::error::LogError;
use crate::log::header::{DATA_START, LogShape, SegmentHeader};
use crate::log::idle::Idle;
use crate::log::log::Log;
use crate::log::position::LogPosition;
use crate::log::region::Region;
use crate::log::segment::Segment;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// Segments not in use. Behind a lock that is only ever held for a moment.
#[derive(Debug)]
pub(super) struct Space {
    /// Those with their sequence number and header, in order.
    ready: VecDeque<u32>,
    /// Numbers of retired ones, the one retired last at the end.
    spare: Vec<u32>,
    /// All segments that exist, in use or not.
    existing: usize,
    /// How many may exist.
    existing_max: usize,
    /// Those in use that were left early. In memory only.
    early: usize,
    /// Why the last attempt to make one came to nothing: a full disk, mostly.
    obstacle: Option<Arc<str>>,
    /// When to try again then, in milliseconds since the Unix epoch.
    retry_ms: u64,
    /// In memory: which spares are not needed.
    idle: Idle,
}

impl Space {
    pub(super) fn new(spare: Vec<u32>, existing: usize, existing_max: usize) -> Self {
        Self {
            ready: VecDeque::new(),
            spare,
            existing,
            existing_max,
            early: 0,
            obstacle: None,
            retry_ms: 0,
            idle: Idle::default(),
        }
    }

    /// How many segments could be had, by taking or by making.
    fn obtainable(&self) -> usize {
        let makeable = match self.obstacle {
            Some(_) => 0,
            None => self.existing_max.saturating_sub(self.existing),
        };
        self.ready.len() + self.spare.len() + makeable
    }

    fn unused(&self) -> usize {
        self.ready.len() + self.spare.len()
    }

    /// Whether so few hold anything, and others can be had, that the next one may be left early.
    pub(super) fn may_leave_early(&self) -> bool {
        let in_use_max = self.existing_max / limits::SEGMENTS_PART_LEFT_EARLY;
        self.obstacle.is_none() && self.in_use() <= in_use_max.min(limits::SEGMENTS_LEFT_EARLY_MAX)
    }

    /// One that was left early is in use until it is retired.
    pub(super) fn add_early(&mut self) {
        self.early += 1;
    }

    fn in_use(&self) -> usize {
        self.existing - self.unused()
    }

    /// How many may exist.
    pub(super) fn existing_max(&self) -> usize {
        self.existing_max
    }

    /// Whether no further one can be made, for now.
    pub(super) fn has_obstacle(&self) -> bool {
        self.obstacle.is_some()
    }

    /// How many exist beyond the limit: starts and copies may have made them. They are not for new jobs, or the log
    /// would hold as many more of those and need as many more for their copies.
    pub(super) fn beyond(&self) -> usize {
        self.existing.saturating_sub(self.existing_max)
    }

    /// Whether a roll for this purpose leaves the reserve whole.
    fn has_for(&self, room: Room) -> bool {
        let reserve = match room {
            Room::Enqueue => room.roll_reserve() + self.beyond(),
            _ => room.roll_reserve(),
        };
        self.unused() > reserve
    }

    fn full(&self) -> LogError {
        LogError::Full {
            segments: self.in_use(),
            obstacle: self.obstacle.clone(),
        }
    }
}

/// What only the one who prepares and recycles touches. Its lock may be held across system calls.
#[derive(Debug)]
pub(super) struct Keeper {
    /// Sequence number of the next segment to be prepared.
    pub(super) next_sequence: u32,
    /// Sequence number of the oldest segment in use.
    pub(super) oldest: u32,
    /// File number of the next segment to be made.
    pub(super) next_number: u32,
}

impl Log {
    /// The next segment of the log, prepared; made ready on the spot when nobody did so ahead.
    pub(super) fn take_ready(&self, room: Room) -> Result<u32, LogError> {
        if let Some(sequence) = self.pop_ready(room) {
            return Ok(sequence);
        }
        let mut keeper = self.keeper.lock();
        loop {
            if let Some(sequence) = self.pop_ready(room) {
                return Ok(sequence);
            }
            let (has_ready, is_short) = {
                let space = self.space.lock();
                (!space.ready.is_empty(), !space.has_for(room))
            };
            // Better to use a segment again than to make one: its pages are there. The reserve consists of real
            // segments, so that a disk which turns out to be full does not take it away.
            if is_short && self.recycle(&mut keeper, 1)? == 0 {
                let number = self.make(&mut keeper, self.beyond_limit(room))?;
                self.space.lock().spare.push(number);
            }
            if !has_ready {
                self.prepare(&mut keeper, 0)?;
            }
        }
    }

    /// How many segments may exist beyond the limit for this purpose. Copies pack jobs less tightly than the batches
    /// that brought them: each has a head of its own, and where one does not fit any more the rest of the segment is
    /// lost. So what filled a segment may need two, and only when it is all copied does one come free; without those
    /// two a small log that is full would stay so, since nothing in it goes before its oldest segment does. They are
    /// not for new jobs, so a log never needs more of them. In memory nothing is written to take a job out.
    fn beyond_limit(&self, room: Room) -> usize {
        match (room, &self.directory) {
            (Room::Migrate, Some(_)) => limits::SEGMENTS_FOR_COPIES,
            _ => 0,
        }
    }

    /// A ready segment, if there is one and its going leaves the reserve whole.
    fn pop_ready(&self, room: Room) -> Option<u32> {
        let mut space = self.space.lock();
        if !space.has_for(room) {
            return None;
        }
        let sequence = space.ready.pop_front();
        self.publish(&space);
        sequence
    }

    /// Takes the first segment at a start, whatever the reserves are.
    pub(super) fn take_first(&self) -> Result<u32, LogError> {
        let mut keeper = self.keeper.lock();
        self.prepare(&mut keeper, usize::MAX)?;
        let mut space = self.space.lock();
        let sequence = space.ready.pop_front();
        self.publish(&space);
        drop(space);
        sequence.ok_or_else(|| self.full())
    }

    /// Shows the new counts to the writers. Under the lock of the space, so that they come in order.
    fn publish(&self, space: &Space) {
        self.obtainable
            .store(space.obtainable() as u32, Ordering::Relaxed);
        if space.obstacle.is_some() {
            self.kept_from_hand_outs.store(0, Ordering::Relaxed);
        }
    }

    pub(super) fn full(&self) -> LogError {
        self.space.lock().full()
    }

    /// Gives a spare segment (or a new one) the next sequence number and a header that is on the disk.
    /// `beyond`: how many may exist beyond the limit if one must be made.
    pub(super) fn prepare(&self, keeper: &mut Keeper, beyond: usize) -> Result<(), LogError> {
        let spare = {
            let mut space = self.space.lock();
            let spare = space.spare.pop();
            let spares = space.spare.len();
            space.idle.note(spares);
            spare
        };
        let number = match spare {
            Some(number) => number,
            None => self.make(keeper, beyond)?,
        };
        let sequence = keeper.next_sequence;
        let segment = self.segments.by_number(number);
        if let Err(error) = segment.warm() {
            // Nothing was written: it stays a spare.
            self.space.lock().spare.push(number);
            return Err(self.not_made("prepare a segment", &error));
        }
        let result = self
            .new_header(sequence, keeper.next_number - 1)
            .and_then(|header| {
                segment.write_header(&header, self.directory.is_some())?;
                Ok(header)
            });
        let header = result.map_err(|error| self.poison("prepare a segment", &error))?;
        segment.assign(&header);
        self.segments.install(sequence, number);
        keeper.next_sequence += 1;
        let mut space = self.space.lock();
        space.ready.push_back(sequence);
        self.publish(&space);
        Ok(())
    }

    fn new_header(&self, sequence: u32, files: u32) -> io::Result<SegmentHeader> {
        let epoch = loop {
            let mut bytes = [0; 4];
            self.disk.random(&mut bytes)?;
            let epoch = u32::from_le_bytes(bytes);
            if epoch != 0 {
                break epoch;
            }
        };
        Ok(SegmentHeader::new(sequence, epoch, self.boot, self.shape(files)))
    }

    fn shape(&self, files: u32) -> LogShape {
        LogShape {
            log_id: self.log_id,
            segment_bytes: self.segment_bytes,
            files,
            anchor: self.anchor_number.load(Ordering::Acquire),
        }
    }

    /// Makes a new segment and returns its number; it is in no list yet.
    fn make(&self, keeper: &mut Keeper, beyond: usize) -> Result<u32, LogError> {
        let number = keeper.next_number;
        let now_ms = self.now_ms.load(Ordering::Relaxed);
        {
            let space = self.space.lock();
            let allowed = space.existing < space.existing_max.saturating_add(beyond);
            let waits = space.obstacle.is_some() && now_ms < space.retry_ms;
            if !allowed || waits || number as usize > self.segments.capacity() {
                return Err(space.full());
            }
        }
        let region = self
            .make_region(number)
            .map_err(|error| self.not_made("make a segment", &error))?;
        self.segments.add(Segment::new(number, region, false));
        keeper.next_number += 1;
        let mut space = self.space.lock();
        space.existing += 1;
        space.obstacle = None;
        self.publish(&space);
        Ok(number)
    }

    /// What becomes of the failure to get a segment more: the log is full for a while, or fails for good.
    fn not_made(&self, action: &str, error: &io::Error) -> LogError {
        if !may_pass(error) {
            return self.poison(action, error);
        }
        let mut space = self.space.lock();
        space.obstacle = Some(error.to_string().into());
        space.retry_ms = self.now_ms.load(Ordering::Relaxed) + limits::SEGMENT_RETRY_MS;
        self.publish(&space);
        space.full()
    }

    fn make_region(&self, number: u32) -> io::Result<Region> {
        let len = self.segment_bytes as usize;
        let Some(directory) = &self.directory else {
            return Region::anonymous(len);
        };
        let file = directory.create(
            number,
            self.segment_bytes,
            &SegmentHeader::spare(self.shape(number)),
        )?;
        // Before it is used: its own header would be the only one to know of it.
        directory.count_segments(SegmentCount {
            log_id: self.log_id,
            files: number,
        })?;
        let region = file.map(len)?;
        region.populate()?;
        Ok(region)
    }

    /// Retires up to `budget` segments from the oldest on that nobody needs. Returns how many.
    pub(super) fn recycle(&self, keeper: &mut Keeper, budget: usize) -> Result<usize, LogError> {
        let mut done = 0;
        while done < budget {
            let sequence = keeper.oldest;
            if sequence >= self.tail().sequence() || sequence >= self.hold.load(Ordering::Acquire) {
                break;
            }
            let Some(segment) = self.segments.by_sequence(sequence) else {
                // Given up by a salvage.
                keeper.oldest += 1;
                continue;
            };
            let Some(end) = segment.sealed_end() else {
                // The roll that has just left it is not done with it.
                break;
            };
            if !self.is_passed(segment, sequence, || self.durable()) || !segment.holders.retire(sequence) {
                break;
            }
            if self.directory.is_some() {
                let header = SegmentHeader::spare(self.shape(keeper.next_number - 1));
                let written = segment.write_header(&header, true);
                written.map_err(|error| self.poison("retire a segment", &error))?;
            }
            // What is retired needs the disk no more: whoever waits for it there waits for nothing. Only now that
            // the disk says so: a record that carries this mark and survives a power cut which the retired header
            // does not would make the loss of what was never synced look like damage.
            self.durable.raise(LogPosition::new(sequence + 1, DATA_START));
            keeper.oldest += 1;
            self.oldest.store(keeper.oldest, Ordering::Release);
            let mut space = self.space.lock();
            space.early -= usize::from(self.is_early(end));
            space.spare.push(segment.number);
            self.publish(&space);
            done += 1;
        }
        Ok(done)
    }

    /// Whether nothing needs the segment any more, pins aside: every record is committed, no job is live, and the
    /// disk, up to `durable`, has what the segment's jobs rely on now.
    pub(super) fn is_passed(
        &self,
        segment: &Segment,
        sequence: u32,
        durable: impl FnOnce() -> LogPosition,
    ) -> bool {
        let must_be_durable = self.directory.is_some() && !self.recycles_unsynced.load(Ordering::Relaxed);
        let passed = || {
            if must_be_durable {
                self.durable()
            } else {
                self.advance_prefix()
            }
        };
        let durable = || {
            if is_planted(Plant::RecycleEarly) {
                return LogPosition::from_raw(u64::MAX);
            }
            durable()
        };
        segment.live.is_passed(sequence, passed, durable)
    }

    /// Prepares segments until enough are ready and enough spares exist, at most `budget`, and no more once one had to be
    /// made. That takes as long as to write all of it, and producers at full speed may fill it meanwhile: whoever made all
    /// that are wanted here would come to nothing else, and the log would not be synced for as long as they go on. Returns
    /// how many.
    pub(super) fn replenish(&self, keeper: &mut Keeper, budget: usize) -> Result<usize, LogError> {
        let mut done = 0;
        let made_before = keeper.next_number;
        while done < budget && keeper.next_number == made_before {
            let (ready, unused, may_make) = {
                let space = self.space.lock();
                (
                    space.ready.len(),
                    space.unused(),
                    space.existing < space.existing_max,
                )
            };
            if ready < limits::SEGMENTS_READY && (unused > ready || may_make) {
                self.prepare(keeper, 0)?;
            } else if unused < limits::SEGMENTS_SPARE && may_make {
                let number = self.make(keeper, 0)?;
                self.space.lock().spare.push(number);
            } else {
                break;
            }
            done += 1;
        }
        Ok(done)
    }

    /// In memory: gives the pages of a spare that was not needed for long back to the system, one a second. (Files
    /// keep their blocks: a spare must have them.)
    pub(super) fn discard(&self, now_ms: u64) {
        let mut space = self.space.lock();
        let spares = space.spare.len();
        if self.directory.is_some() || !space.idle.is_due(spares, now_ms) {
            return;
        }
        // The one at the front would be used last. Out of the list, and so the caller's alone, while it loses its
        // pages; then behind the others that are not needed, so that each has its turn and none goes before one that is.
        let coldest = space.spare.remove(0);
        let place = space.idle.surplus - 1;
        drop(space);
        // Best effort: what is not given back is still good.
        let _ = self.segments.by_number(coldest).region().discard();
        let mut space = self.space.lock();
        let place = place.min(space.spare.len());
        space.spare.insert(place, coldest);
    }

    /// Segments that hold a part of the log.
    pub fn segments_in_use(&self) -> usize {
        self.space.lock().in_use()
    }

    /// Those of them that were left early, in memory, and so hold little.
    pub fn segments_left_early(&self) -> usize {
        self.space.lock().early
    }

    /// Segments that may exist at once.
    pub fn segments_max(&self) -> usize {
        self.space.lock().existing_max
    }

    /// Segments that exist and hold nothing.
    pub fn spare_segments(&self) -> usize {
        self.space.lock().unused()
    }
}
