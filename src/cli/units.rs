//! Times and sizes as people write them.

use std::num::TryFromIntError;
use std::time::Duration;

/// Reads a time such as `10ms`, `1m 30s` or `2h`, as milliseconds.
///
/// # Errors
/// Says what a time looks like; also for a time that is not a whole number of milliseconds.
pub(crate) fn millis(text: &str) -> Result<u64, String> {
    let time = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; a time looks like 10ms, 5s, 1m 30s or 2h"))?;
    if time.subsec_nanos() % 1_000_000 != 0 {
        return Err("times go down to whole milliseconds".to_owned());
    }
    u64::try_from(time.as_millis()).map_err(|_| "that is too long".to_owned())
}

/// As [`millis`], for times that are counted in 32 bits (49 days).
///
/// # Errors
/// As [`millis`], and for longer times.
pub(crate) fn millis_u32(text: &str) -> Result<u32, String> {
    u32::try_from(millis(text)?).map_err(|_: TryFromIntError| "that is longer than 49 days".to_owned())
}

/// Reads a comma-separated list of times, such as `1s,5s,1m`, as milliseconds.
///
/// # Errors
/// As [`millis_u32`].
pub(crate) fn millis_list(text: &str) -> Result<Vec<u32>, String> {
    text.split(',').map(|part| millis_u32(part.trim())).collect()
}

/// A time such as `30s` as a [`Duration`].
///
/// # Errors
/// As [`millis`].
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    millis(text).map(Duration::from_millis)
}

const SIZES: [(&str, u64); 4] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Reads a size in bytes: a plain number, or one with `KiB`, `MiB`, `GiB` or `TiB`.
///
/// # Errors
/// Says what a size looks like.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let (number, factor) = SIZES
        .iter()
        .find_map(|(suffix, factor)| {
            text.strip_suffix(suffix)
                .map(|number| (number.trim_end(), *factor))
        })
        .unwrap_or((text, 1));
    let number: u64 = number.parse().map_err(|_| {
        "a size is a number of bytes, or one with KiB, MiB, GiB or TiB, such as 64MiB".to_owned()
    })?;
    number
        .checked_mul(factor)
        .ok_or_else(|| "that is too large".to_owned())
}

/// As [`bytes`], for sizes that are counted in 32 bits.
///
/// # Errors
/// As [`bytes`], and for larger sizes.
pub(crate) fn bytes_u32(text: &str) -> Result<u32, String> {
    u32::try_from(bytes(text)?).map_err(|_: TryFromIntError| "that is 4 GiB or more".to_owned())
}

/// A time in the future or past, as people read it: the two largest units, `1m 30s`.
pub(crate) fn show_millis(time_ms: u64) -> String {
    let rounded = match time_ms {
        0..1_000 => time_ms,
        1_000..60_000 => time_ms / 100 * 100,
        60_000..3_600_000 => time_ms / 1_000 * 1_000,
        _ => time_ms / 60_000 * 60_000,
    };
    humantime::format_duration(Duration::from_millis(rounded)).to_string()
}

/// A size in the largest unit that keeps it a short number.
pub(crate) fn show_bytes(bytes: u64) -> String {
    match SIZES.iter().rev().find(|(_, factor)| bytes >= *factor) {
        Some((suffix, factor)) if bytes.is_multiple_of(*factor) => format!("{} {suffix}", bytes / factor),
        Some((suffix, factor)) => format!("{:.1} {suffix}", bytes as f64 / *factor as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_to_the_millisecond() {
        assert_eq!(millis("10ms"), Ok(10));
        assert_eq!(millis("1m 30s"), Ok(90_000));
        assert_eq!(millis_list("1s, 5s,1m"), Ok(vec![1_000, 5_000, 60_000]));
        for wrong in ["", "10", "ten", "500us", "-1s", "1 fortnight"] {
            assert!(millis(wrong).is_err(), "{wrong}");
        }
        assert!(millis_u32("60days").is_err());
    }

    #[test]
    fn sizes_are_plain_or_binary() {
        assert_eq!(bytes("1000"), Ok(1_000));
        assert_eq!(bytes("64MiB"), Ok(64 << 20));
        assert_eq!(bytes("1 GiB"), Ok(1 << 30));
        for wrong in ["", "MiB", "1MB", "-1", "1.5GiB", "99999999TiB"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
        assert!(bytes_u32("4GiB").is_err());
    }

    #[test]
    fn what_is_shown_is_short() {
        assert_eq!(show_millis(90_500), "1m 30s");
        assert_eq!(show_millis(1_234), "1s 200ms");
        assert_eq!(show_bytes(64 << 20), "64 MiB");
        assert_eq!(show_bytes(1_536), "1.5 KiB");
        assert_eq!(show_bytes(7), "7 B");
    }
}
