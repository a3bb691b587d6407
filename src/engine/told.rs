//! Where recovery last heard of the job of each slot, copies aside: what a copy says is news only if nothing was told since.

/// By slot: where the last record of its job stands that is not a copy (raw); 0 for none.
#[derive(Debug, Default)]
pub(super) struct Told(Vec<u64>);

impl Told {
    /// A record at `at` (raw) that is not a copy tells of the job of slot `number`, which the slab has.
    pub(super) fn note(&mut self, number: u32, at: u64) {
        let number = number as usize;
        if self.0.len() == number {
            // As nearly every job of a log that was never full.
            return self.0.push(at);
        }
        if self.0.len() < number {
            self.0.resize(number + 1, 0);
        }
        self.0[number] = at;
    }

    /// Where the last record of the slot's job stands (raw); 0 where only copies told of it.
    pub(super) fn at(&self, number: u32) -> u64 {
        self.0.get(number as usize).copied().unwrap_or_default()
    }

    /// Whether a record from `as_of` on has told of the slot's job.
    pub(super) fn is_since(&self, number: u32, as_of: u64) -> bool {
        self.0.get(number as usize).is_some_and(|told| *told >= as_of)
    }
}
