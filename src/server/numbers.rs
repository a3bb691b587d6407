//! Maps and sets by numbers that the server itself gave out: jobs, queues, waiters. Nobody outside can choose ones that
//! collide, so they need no hash that withstands that, which would be a tenth of what a single job costs.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

/// A map by such numbers.
pub(super) type NumberMap<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;
/// A set of them.
pub(super) type NumberSet<K> = HashSet<K, BuildHasherDefault<NumberHasher>>;

/// Spreads numbers.
#[derive(Debug, Default)]
pub(super) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    #[inline]
    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    #[inline]
    fn write_u64(&mut self, value: u64) {
        // Fibonacci hashing; the rotation brings the well mixed upper bits to where the table looks.
        self.0 = (self.0 ^ value)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(26);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::BuildHasher;

    #[test]
    fn numbers_in_a_row_and_slots_of_generations_are_spread_over_a_table() {
        let build = BuildHasherDefault::<NumberHasher>::default();
        // What the table looks at: the low bits for the place, the seven highest to tell entries apart.
        let used = |numbers: &mut dyn Iterator<Item = u64>| {
            let hashes: Vec<u64> = numbers.map(|number| build.hash_one(number)).collect();
            let places: HashSet<u64> = hashes.iter().map(|hash| hash & 4_095).collect();
            let tags: HashSet<u64> = hashes.iter().map(|hash| hash >> 57).collect();
            (places.len(), tags.len())
        };
        let sources: [&mut dyn Iterator<Item = u64>; 3] = [
            &mut (0..4_096),
            &mut (0..4_096).map(|slot| 7 << 32 | slot),
            &mut (0..4_096).map(|generation| generation << 32 | 5),
        ];
        for numbers in sources {
            let (places, tags) = used(numbers);
            // Of as many balls as bins a random throw hits 63 in a hundred. Generations alone leave a bit of the tags.
            assert!(places > 4_096 / 2 && tags >= 64, "{places} places, {tags} tags");
        }
    }
}
