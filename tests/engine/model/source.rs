//! Where the decisions of a run come from: a seed, or bytes that a fuzzer chose.

/// Draws numbers.
pub struct Rng(Source);

#[allow(dead_code, reason = "each of those who share this file has one source")]
enum Source {
    /// SplitMix64: any number of draws from one seed.
    Seed(u64),
    /// One to eight bytes a draw, as few as the range needs, so that a changed byte changes one decision. Zeros
    /// once they are used up.
    Bytes { bytes: Vec<u8>, at: usize },
}

impl Rng {
    #[allow(dead_code, reason = "only where a seed decides")]
    pub fn from_seed(seed: u64) -> Self {
        Self(Source::Seed(seed))
    }

    #[allow(dead_code, reason = "only where bytes decide")]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let bytes = bytes.to_vec();
        Self(Source::Bytes { bytes, at: 0 })
    }

    /// Whether all bytes were used; a seed never is.
    #[allow(dead_code, reason = "only where bytes decide")]
    pub fn is_used_up(&self) -> bool {
        matches!(&self.0, Source::Bytes { bytes, at } if *at >= bytes.len())
    }

    pub fn below(&mut self, n: u64) -> u64 {
        let n = n.max(1);
        let drawn = match &mut self.0 {
            Source::Seed(state) => split_mix(state),
            Source::Bytes { bytes, at } => {
                let width = match n {
                    1 => 0,
                    2..=0x100 => 1,
                    0x101..=0x1_0000 => 2,
                    _ => 8,
                };
                let rest = bytes.get(*at..).unwrap_or_default();
                *at += width;
                let taken = rest.iter().take(width).enumerate();
                taken.fold(0, |sum, (index, byte)| sum | u64::from(*byte) << (8 * index))
            }
        };
        drawn % n
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize].clone()
    }
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut x = *state;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
