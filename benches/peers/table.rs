//! The rounds of all contestants as one page: medians, ranges, ratios.

use crate::limits::Limits;
use crate::load::{Round, Work};
use crate::peer::Class;
use std::fmt::Write;

/// Somebody who takes part.
pub struct Contestant {
    pub name: String,
    pub settings: String,
    pub class: Class,
    pub acks: &'static str,
    pub version: String,
    /// The rounds of each work; empty where it takes no part, or where it failed, and then why.
    pub rounds: Vec<Vec<Round>>,
    pub failures: Vec<Option<String>>,
    /// Whether it is what others of its class are measured by.
    pub is_measure: bool,
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len().checked_sub(1)? / 2;
    Some((values[middle] + values[values.len() / 2]) / 2.0)
}

/// Three digits that count, with separators.
fn short(value: f64) -> String {
    let digits = value.abs().max(1.0).log10().floor() as i32;
    let unit = 10_f64.powi((digits - 2).max(0));
    let rounded = (value / unit).round() * unit;
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let plain = format!("{rounded:.0}");
    let mut text = String::new();
    for (place, digit) in plain.chars().enumerate() {
        if place > 0 && (plain.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn speed(contestant: &Contestant, work: usize) -> Option<f64> {
    median(contestant.rounds[work].iter().map(|round| round.jobs_per_s))
}

fn latency(contestant: &Contestant, work: usize, place: usize) -> Option<f64> {
    median(
        contestant.rounds[work]
            .iter()
            .filter_map(|round| round.latency_us.map(|times| times[place])),
    )
}

fn class(class: Class) -> &'static str {
    match class {
        Class::Memory => "nothing",
        Class::Written => "`kill -9`",
        Class::Synced => "a power cut",
    }
}

pub fn page(works: &[Work], contestants: &[Contestant], limits: &[Limits], how: &str) -> String {
    let mut page = String::from("# Benchmarks\n\n");
    let _ = writeln!(page, "{how}\n");
    for (index, work) in works.iter().enumerate() {
        let _ = writeln!(page, "## {}\n", describe(work));
        if work.rate.is_some() {
            latency_table(&mut page, contestants, index);
        } else {
            speed_table(&mut page, contestants, index);
        }
    }
    page.push_str("## Who took part\n\n| | version | settings | a confirmed job survives | its full life |\n|---|---|---|---|---|\n");
    for one in contestants {
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} | {} |",
            one.name,
            one.version,
            one.settings,
            class(one.class),
            one.acks
        );
    }
    limits_table(&mut page, limits);
    for one in contestants {
        for failure in one.failures.iter().flatten() {
            let _ = writeln!(page, "\n{}, {}: {failure}", one.name, one.settings);
        }
    }
    page
}

fn describe(work: &Work) -> String {
    let requests = if work.batch == 1 {
        "a request a job".to_owned()
    } else {
        format!("batches of {}", work.batch)
    };
    let people = format!("{} producer(s), {} worker(s)", work.producers, work.workers);
    match work.rate {
        Some(rate) => format!(
            "{}: {rate} jobs/s, {requests}, {people}, µs from when a job should have been sent",
            work.name
        ),
        None => format!(
            "{}: {requests}, {people}, {} request(s) in flight",
            work.name, work.in_flight
        ),
    }
}

fn speed_table(page: &mut String, contestants: &[Contestant], work: usize) {
    page.push_str(
        "| | settings | jobs/s, median | range | ackring of that class : this |\n|---|---|---|---|---|\n",
    );
    for one in contestants {
        let Some(speed_of) = speed(one, work) else {
            let _ = writeln!(page, "| {} | {} | – | – | – |", one.name, one.settings);
            continue;
        };
        let all = one.rounds[work].iter().map(|round| round.jobs_per_s);
        let least = all.clone().fold(f64::INFINITY, f64::min);
        let most = all.fold(0.0, f64::max);
        let ours = contestants
            .iter()
            .find(|other| other.is_measure && other.class == one.class);
        let ratio = ours
            .and_then(|ours| speed(ours, work))
            .map_or("–".to_owned(), |ours| format!("{:.2}", ours / speed_of));
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} – {} | {ratio} |",
            one.name,
            one.settings,
            short(speed_of),
            short(least),
            short(most)
        );
    }
    page.push('\n');
}

fn latency_table(page: &mut String, contestants: &[Contestant], work: usize) {
    page.push_str("| | settings | p50 | p99 | p99.9 | jobs/s reached |\n|---|---|---|---|---|---|\n");
    for one in contestants {
        let cell = |value: Option<f64>| value.map_or("–".to_owned(), short);
        let [p50, p99, p999] = [0, 1, 2].map(|place| cell(latency(one, work, place)));
        let reached = cell(speed(one, work));
        let _ = writeln!(
            page,
            "| {} | {} | {p50} | {p99} | {p999} | {reached} |",
            one.name, one.settings
        );
    }
    page.push('\n');
}

fn limits_table(page: &mut String, limits: &[Limits]) {
    let of = |field: fn(&Limits) -> f64| median(limits.iter().map(field)).unwrap_or(f64::NAN);
    let gigabytes = |field: fn(&Limits) -> f64| format!("{:.2} GB/s", of(field) / 1e9);
    let _ = writeln!(
        page,
        "\n## The machine's limits in the same run, medians\n\n| | |\n|---|---|\n| loopback TCP, one way | {} |\n\
         | loopback TCP, there and back, sleeping | {:.1} µs |\n| `fdatasync` of one dirty page | {:.0} µs |\n\
         | sequential write with a sync at the end | {} |\n| memcpy | {} |",
        gigabytes(|limits| limits.loopback_bytes_per_s),
        of(|limits| limits.ping_pong_us),
        of(|limits| limits.sync_us),
        gigabytes(|limits| limits.disk_bytes_per_s),
        gigabytes(|limits| limits.memcpy_bytes_per_s),
    );
}
