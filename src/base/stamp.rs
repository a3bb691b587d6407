//! Times as people write them, from milliseconds since the Unix epoch. Nothing here reads a clock.

const DAY_MS: u64 = 24 * 3600 * 1000;

/// A time taken apart, in UTC.
struct Civil {
    year: u64,
    month: u64,
    day: u64,
    ms_of_day: u64,
}

/// `2026-11-23T23:31:07.123Z`.
pub fn text(at_ms: u64) -> String {
    let civil = Civil::new(at_ms);
    let (hour, minute, second) = civil.clock();
    let Civil { year, month, day, .. } = civil;
    let ms = at_ms % 1000;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// `20261123T233107Z`, for names of files.
pub fn compact(at_ms: u64) -> String {
    let civil = Civil::new(at_ms);
    let (hour, minute, second) = civil.clock();
    let Civil { year, month, day, .. } = civil;
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

impl Civil {
    fn new(at_ms: u64) -> Self {
        let (mut days, ms_of_day) = (at_ms / DAY_MS, at_ms % DAY_MS);
        // Whole cycles of the calendar first: 400 years have 146,097 days. What is left is few years to count.
        let mut year = 1970 + days / 146_097 * 400;
        days %= 146_097;
        while days >= year_days(year) {
            days -= year_days(year);
            year += 1;
        }
        let mut month = 1;
        while days >= month_days(year, month) {
            days -= month_days(year, month);
            month += 1;
        }
        Self {
            year,
            month,
            day: days + 1,
            ms_of_day,
        }
    }

    fn clock(&self) -> (u64, u64, u64) {
        let seconds = self.ms_of_day / 1000;
        (seconds / 3600, seconds / 60 % 60, seconds % 60)
    }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn year_days(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

fn month_days(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(text(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(text(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(text(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(text(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
        assert_eq!(compact(1_700_000_000_123), "20231114T221320Z");
        assert!(text(u64::MAX).ends_with('Z'));
    }
}
