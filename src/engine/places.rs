//! In which segments the log tells of queues, so that a segment which goes leads to those whose record goes with it.

use crate::log::LogPosition;
use std::collections::BTreeMap;

/// Numbers that a segment keeps for each queue that it tells of, at most, and how many it may keep beyond.
const STALE_MAX: usize = 4;
const STALE_FEW: usize = 64;

/// Queues by the segment of the record that tells of them.
#[derive(Debug, Default)]
pub(super) struct Places {
    segments: BTreeMap<u32, Place>,
}

/// The queues that a segment tells of.
#[derive(Debug, Default)]
struct Place {
    /// Their numbers in the order in which they came, and those of some that are told of elsewhere by now: to look for one
    /// that leaves would cost more than to pass over it later. No more than so many times as many as are told of here.
    numbers: Vec<u32>,
    /// How many are told of here.
    count: u32,
}

impl Places {
    /// A queue is told of at another place than before, or at none; `told_at` says by now where each stands.
    pub(super) fn change(
        &mut self,
        number: u32,
        from: LogPosition,
        to: LogPosition,
        told_at: impl Fn(u32) -> LogPosition,
    ) {
        if from.sequence() == to.sequence() {
            return;
        }
        if !from.is_none()
            && let Some(place) = self.segments.get_mut(&from.sequence())
        {
            place.count -= 1;
            if place.count == 0 {
                self.segments.remove(&from.sequence());
            } else if place.numbers.len() > STALE_MAX * place.count as usize + STALE_FEW {
                // Each time as many go as have left since: a step for each that leaves.
                place
                    .numbers
                    .retain(|number| told_at(*number).sequence() == from.sequence());
                place.numbers.shrink_to_fit();
            }
        }
        if !to.is_none() {
            let place = self.segments.entry(to.sequence()).or_default();
            place.numbers.push(number);
            place.count += 1;
        }
    }

    /// The queues that segments up to `sequence` tell of; `told_at` says where each stands.
    pub(super) fn up_to(
        &self,
        sequence: u32,
        told_at: impl Fn(u32) -> LogPosition,
    ) -> impl Iterator<Item = u32> {
        self.in_range(0..=sequence, told_at)
    }

    /// The queues that segments from `sequence` on tell of, likewise.
    pub(super) fn from(
        &self,
        sequence: u32,
        told_at: impl Fn(u32) -> LogPosition,
    ) -> impl Iterator<Item = u32> {
        self.in_range(sequence..=u32::MAX, told_at)
    }

    fn in_range(
        &self,
        sequences: std::ops::RangeInclusive<u32>,
        told_at: impl Fn(u32) -> LogPosition,
    ) -> impl Iterator<Item = u32> {
        self.segments.range(sequences).flat_map(move |(sequence, place)| {
            let numbers = place.numbers.iter().copied();
            let here: Vec<u32> = numbers
                .filter(|number| told_at(*number).sequence() == *sequence)
                .collect();
            here
        })
    }

    /// Whether it says what `told_at` does, in the order of the queues' numbers.
    pub(super) fn are_right(&self, told_at: impl Iterator<Item = LogPosition>) -> bool {
        let told_at: Vec<LogPosition> = told_at.collect();
        let mut listed: Vec<u32> = self.up_to(u32::MAX, |number| told_at[number as usize]).collect();
        listed.sort_unstable();
        let is_told = |(_, at): &(usize, &LogPosition)| !at.is_none();
        let told = told_at.iter().enumerate().filter(is_told);
        let counted: u32 = self.segments.values().map(|place| place.count).sum();
        counted as usize == listed.len() && told.map(|(number, _)| number as u32).eq(listed)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn queues_that_are_told_of_elsewhere_take_no_room_where_one_of_many_stays() {
        let at = |sequence| LogPosition::new(sequence, 64);
        let mut places = Places::default();
        let mut told_at = vec![LogPosition::NONE; 10_000];
        for round in 1..100 {
            // The first of those that are left stays for ever.
            for number in round - 1..told_at.len() {
                let from = std::mem::replace(&mut told_at[number], at(round as u32));
                let now = |number: u32| told_at[number as usize];
                places.change(number as u32, from, now(number as u32), now);
            }
            assert!(places.are_right(told_at.iter().copied()), "round {round}");
        }
        let kept: usize = places
            .segments
            .values()
            .map(|place| place.numbers.capacity())
            .sum();
        assert!(kept < 2 * told_at.len(), "room for {kept}");
        assert_eq!(places.up_to(3, |number| told_at[number as usize]).count(), 3);
    }
}
