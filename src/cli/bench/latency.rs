//! Times, in one histogram a thread, merged at the end.

use hdrhistogram::Histogram;
use std::io::{self, Write};

/// Longest time that is told apart, in nanoseconds: ten minutes.
const NS_MAX: u64 = 600_000_000_000;
/// Digits of a time that are kept.
const DIGITS: u8 = 3;

/// The percentiles that are told.
pub(super) const PERCENTILES: [(&str, f64); 5] = [
    ("p50", 50.0),
    ("p90", 90.0),
    ("p99", 99.0),
    ("p99.9", 99.9),
    ("p99.99", 99.99),
];

/// Names and microseconds.
pub(super) type Percentiles = Vec<(&'static str, f64)>;

/// A histogram of times.
#[derive(Debug, Clone, Default)]
pub(super) struct Latency {
    /// `None` until the first time comes.
    times: Option<Histogram<u64>>,
    /// Times in a row are often the same, as those of a batch: noted together.
    last_ns: u64,
    last_count: u64,
}

impl Latency {
    /// Notes a time.
    #[inline]
    pub(super) fn add(&mut self, ns: u64) {
        if ns != self.last_ns {
            self.write();
            self.last_ns = ns;
        }
        self.last_count += 1;
    }

    /// Notes the same time `count` times.
    pub(super) fn add_many(&mut self, ns: u64, count: u64) {
        self.add(ns);
        self.last_count += count - 1;
    }

    fn write(&mut self) {
        if self.last_count == 0 {
            return;
        }
        if self.times.is_none() {
            self.times = Histogram::new_with_bounds(1, NS_MAX, DIGITS).ok();
        }
        if let Some(times) = &mut self.times {
            times.saturating_record_n(self.last_ns.max(1), self.last_count);
        }
        self.last_count = 0;
    }

    /// Takes another one's times in.
    pub(super) fn merge(&mut self, mut other: Latency) {
        self.write();
        other.write();
        let Some(others) = other.times else { return };
        match &mut self.times {
            // Both have the same bounds, so nothing can be out of them.
            Some(times) => {
                let _ = times.add(&others);
            }
            None => self.times = Some(others),
        }
    }

    /// The percentiles and the longest time, in microseconds; `None` without any time.
    pub(super) fn summary(&mut self) -> Option<Percentiles> {
        self.write();
        let times = self.times.as_ref()?;
        let micros = |ns: u64| ns as f64 / 1_000.0;
        let shares = PERCENTILES.iter();
        let mut all: Vec<_> = shares
            .map(|(name, share)| (*name, micros(times.value_at_percentile(*share))))
            .collect();
        all.push(("max", micros(times.max())));
        Some(all)
    }

    /// Writes the percentile distribution in the text format of HdrHistogram, in microseconds.
    pub(super) fn write_hgrm(&mut self, out: &mut impl Write) -> io::Result<()> {
        self.write();
        let none = Latency::empty();
        let times = self.times.as_ref().or(none.as_ref());
        writeln!(
            out,
            "{:>12} {:>14} {:>10} {:>14}\n",
            "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
        )?;
        let Some(times) = times else { return Ok(()) };
        let mut total = 0;
        for step in times.iter_quantiles(5) {
            total += step.count_since_last_iteration();
            let value = step.value_iterated_to().min(times.max()) as f64 / 1_000.0;
            let quantile = step.quantile_iterated_to();
            if quantile < 1.0 {
                let inverse = 1.0 / (1.0 - quantile);
                writeln!(out, "{value:12.3} {quantile:2.12} {total:10} {inverse:14.2}")?;
            } else {
                writeln!(out, "{value:12.3} {quantile:2.12} {total:10}")?;
            }
        }
        let (mean, deviation) = (times.mean() / 1_000.0, times.stdev() / 1_000.0);
        writeln!(out, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]")?;
        let (max, count) = (times.max() as f64 / 1_000.0, times.len());
        writeln!(out, "#[Max     = {max:12.3}, Total count    = {count:12}]")?;
        let buckets = times.buckets();
        let sub_buckets = 2 * 10_u64.pow(u32::from(DIGITS)).next_power_of_two();
        writeln!(
            out,
            "#[Buckets = {buckets:12}, SubBuckets     = {sub_buckets:12}]"
        )
    }

    fn empty() -> Option<Histogram<u64>> {
        Histogram::new_with_bounds(1, NS_MAX, DIGITS).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_merged_and_not_averaged() {
        let (mut quick, mut slow) = (Latency::default(), Latency::default());
        quick.add_many(1_000, 99);
        slow.add(1_000_000);
        quick.merge(slow);
        let summary = quick.summary().unwrap();
        assert_eq!(quick.times.as_ref().unwrap().len(), 100);
        let of = |name| summary.iter().find(|(found, _)| *found == name).unwrap().1;
        assert!(
            (of("p50") - 1.0).abs() < 0.01 && (of("p99") - 1.0).abs() < 0.01,
            "{summary:?}"
        );
        assert!((of("max") - 1_000.0).abs() < 1.0, "{summary:?}");
        assert!(Latency::default().summary().is_none());
    }

    #[test]
    fn the_distribution_ends_with_everything_that_was_noted() {
        let mut latency = Latency::default();
        (1..=1_000).for_each(|ns| latency.add(ns * 1_000));
        let mut text = Vec::new();
        latency.write_hgrm(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let steps: Vec<&str> = text
            .lines()
            .skip(2)
            .filter(|line| !line.starts_with('#'))
            .collect();
        let last = steps.last().unwrap();
        assert!(
            last.contains("1.000000000000") && last.trim_end().ends_with("1000"),
            "{last}"
        );
        assert!(text.contains("Total count    =         1000"), "{text}");
    }
}
