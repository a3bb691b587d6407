//! How long a failed job waits: the queue's backoff, with jitter that needs no random state.

use crate::base::job::JobId;
use crate::base::queue::Backoff;

/// The delay before the next attempt, in milliseconds, after `failures` failures or lease expiries (from 1).
///
/// The jitter is a hash of the job and its attempt, so two jobs that failed together part, and a simulation
/// under a seed sees the same delays again.
pub fn delay_ms(backoff: &Backoff, failures: u32, id: JobId, attempt: u16) -> u64 {
    match backoff {
        Backoff::List(delays) => {
            let index = (failures.max(1) as usize - 1).min(delays.len().saturating_sub(1));
            u64::from(delays.get(index).copied().unwrap_or(0))
        }
        Backoff::Exponential { base_ms, cap_ms } => {
            let doublings = failures.max(1) - 1;
            let full = u64::from(*base_ms)
                .checked_shl(doublings.min(40))
                .unwrap_or(u64::MAX)
                .min(u64::from(*cap_ms));
            // "Equal jitter": half is fixed, half is drawn.
            let drawn = mix(id.0 ^ u64::from(attempt).rotate_left(48)) % (full / 2 + 1);
            full - full / 2 + drawn
        }
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
pub fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn exponential_doubles_up_to_the_cap_and_jitters_in_the_upper_half() {
        let backoff = Backoff::Exponential {
            base_ms: 100,
            cap_ms: 1_000,
        };
        for (failures, full) in [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1_000), (60, 1_000)] {
            let delays: Vec<u64> = (0..200)
                .map(|n| delay_ms(&backoff, failures, JobId(n << 32), 1))
                .collect();
            assert!(
                delays.iter().all(|d| *d >= full / 2 && *d <= full),
                "{failures}: {delays:?}"
            );
            assert!(delays.iter().any(|d| *d != delays[0]), "no jitter at {failures}");
        }
    }

    #[test]
    fn a_list_is_followed_and_its_last_delay_repeats() {
        let backoff = Backoff::List(vec![5, 50]);
        let delays: Vec<u64> = (1..5)
            .map(|failures| delay_ms(&backoff, failures, JobId(1), 1))
            .collect();
        assert_eq!(delays, [5, 50, 50, 50]);
    }

    #[test]
    fn a_zero_backoff_retries_at_once() {
        assert_eq!(
            delay_ms(
                &Backoff::Exponential {
                    base_ms: 0,
                    cap_ms: 0
                },
                3,
                JobId(1),
                3
            ),
            0
        );
    }
}
