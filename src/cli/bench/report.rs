//! What a load came to, for programs and for people.

use super::latency::Percentiles;
use super::plan::{Acks, Deliver, Plan, Shape};
use super::run::{Checked, Measured};
use crate::cli::args::Global;
use crate::cli::exit::{Done, Failure};
use crate::cli::output;
use crate::cli::units::show_bytes;
use serde::{Serialize, Serializer};
use std::fs::File;
use std::io::{BufWriter, Write};

const OPEN: &str = "from when a job should have been sent";
const CLOSED: &str = "not valid as the latency of a service: the loop is closed; give a --rate";

/// A load as JSON. Names only ever grow.
#[derive(Debug, Serialize)]
struct Report {
    shape: &'static str,
    embedded: bool,
    durability: &'static str,
    payload: usize,
    batch: usize,
    producers: usize,
    workers: usize,
    queues: usize,
    in_flight: usize,
    deliver: Option<&'static str>,
    acks: Option<&'static str>,
    backlog: u64,
    busy_poll: bool,
    jobs: u64,
    seconds: f64,
    jobs_per_s: f64,
    target_jobs: Option<u64>,
    target_per_s: Option<f64>,
    errors: u64,
    lost: Option<u64>,
    repeated: u64,
    checked: &'static str,
    open_loop: bool,
    latency_valid: bool,
    latency_note: &'static str,
    #[serde(serialize_with = "as_object")]
    latency_us: Option<Percentiles>,
    #[serde(serialize_with = "as_object")]
    confirm_us: Option<Percentiles>,
    client_cpu_s: Option<f64>,
    server_cpu_s: Option<f64>,
    payload_bytes: u64,
    payload_bytes_per_s: f64,
    bytes_sent: Option<u64>,
    bytes_received: Option<u64>,
    version: &'static str,
}

/// Prints the report, writes the distribution, and says by its result whether all went well.
///
/// # Errors
/// What went wrong in the load, or that the report cannot be written.
pub(super) fn tell(
    global: &Global,
    plan: &Plan,
    mut measured: Measured,
    hgrm: Option<BufWriter<File>>,
) -> Done {
    let report = Report::new(plan, &mut measured);
    if let Some(mut file) = hgrm {
        let latency = &mut measured.ran.tally.latency;
        latency
            .write_hgrm(&mut file)
            .and_then(|()| file.flush())
            .map_err(|error| Failure::refused(format!("cannot write the distribution: {error}")))?;
    }
    if global.json {
        output::json(&report)?;
    } else {
        output::line(&report.text())?;
    }
    let lost = report.lost.unwrap_or(0);
    match measured.ran.tally.failure {
        Some(failure) => Err(failure),
        None if report.errors + lost + report.repeated > 0 => Err(Failure::refused(format!(
            "{} errors, {lost} jobs lost, {} repeated",
            report.errors, report.repeated
        ))),
        None => Ok(()),
    }
}

fn as_object<S: Serializer>(percentiles: &Option<Percentiles>, out: S) -> Result<S::Ok, S::Error> {
    match percentiles {
        Some(percentiles) => out.collect_map(percentiles.iter().copied()),
        None => out.serialize_none(),
    }
}

impl Report {
    fn new(plan: &Plan, measured: &mut Measured) -> Self {
        let ran = &mut measured.ran;
        let per_s = |count: f64| {
            if ran.seconds > 0.0 {
                count / ran.seconds
            } else {
                0.0
            }
        };
        let jobs_per_s = per_s(measured.jobs as f64).round();
        let payload_bytes = measured.jobs * plan.payload.len as u64;
        let payload_bytes_per_s = per_s(payload_bytes as f64).round();
        let sends = plan.shape != Shape::Reserve;
        let open_loop = plan.is_open_loop();
        let works = plan.workers > 0;
        let sockets = !plan.embedded;
        Self {
            shape: plan.shape.name(),
            embedded: plan.embedded,
            durability: plan.durability.name(),
            payload: plan.payload.len,
            batch: plan.batch,
            producers: plan.producers,
            workers: plan.workers,
            queues: plan.queues,
            in_flight: plan.in_flight,
            deliver: (works && sockets).then_some(match plan.deliver {
                Deliver::Subscribe => "subscribe",
                Deliver::Reserve => "reserve",
            }),
            acks: (works && sockets).then_some(plan.acks.name()),
            backlog: plan.backlog,
            busy_poll: plan.busy_poll,
            jobs: measured.jobs,
            seconds: ran.seconds,
            jobs_per_s,
            target_jobs: sends.then_some(ran.target),
            target_per_s: plan.rate,
            errors: ran.tally.errors,
            lost: measured.lost,
            repeated: measured.repeated,
            checked: match measured.checked {
                Checked::Each => "each job by its number",
                Checked::Counts => "how many jobs there are, not which",
                Checked::Not => "nothing, since the load did not get to its end",
            },
            open_loop,
            latency_valid: open_loop,
            latency_note: if open_loop { OPEN } else { CLOSED },
            latency_us: ran.tally.latency.summary(),
            confirm_us: ran.tally.confirm.summary(),
            client_cpu_s: measured.client_cpu,
            server_cpu_s: measured.server_cpu,
            payload_bytes,
            payload_bytes_per_s,
            bytes_sent: sockets.then_some(ran.tally.bytes.0),
            bytes_received: sockets.then_some(ran.tally.bytes.1),
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    fn text(&self) -> String {
        let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let mut head = vec![self.shape.to_owned()];
        if self.shape != Shape::Echo.name() {
            head.push(format!("{}-byte jobs in batches of {}", self.payload, self.batch));
            head.push(self.durability.to_owned());
        }
        if self.producers > 0 {
            head.push(count(self.producers, "producer"));
        }
        if self.workers > 0 {
            head.push(count(self.workers, "worker"));
        }
        if self.queues > 1 {
            head.push(count(self.queues, "queue"));
        }
        head.push(if self.embedded {
            "embedded".to_owned()
        } else {
            format!("{} in flight", self.in_flight)
        });
        if self.acks == Some(Acks::Quiet.name()) {
            head.push("quiet acks".to_owned());
        }
        if self.backlog > 0 {
            head.push(format!("backlog {}", self.backlog));
        }
        let target = match (self.target_per_s, self.target_jobs) {
            (Some(rate), Some(jobs)) => format!(" (target: {jobs} jobs, {rate}/s)"),
            _ => String::new(),
        };
        let mut lines = vec![
            head.join(", "),
            format!(
                "  {} jobs in {:.3} s: {} jobs/s, {}/s of payload{target}",
                self.jobs,
                self.seconds,
                self.jobs_per_s,
                show_bytes(self.payload_bytes_per_s as u64)
            ),
        ];
        if let Some(latency) = &self.latency_us {
            lines.push(format!("  latency in µs: {}", listed(latency)));
            lines.push(format!("    {}", self.latency_note));
        }
        if let Some(confirm) = &self.confirm_us {
            lines.push(format!(
                "  to the confirmation of an enqueue: {}",
                listed(confirm)
            ));
        }
        let lost = self.lost.map_or("unknown".to_owned(), |lost| lost.to_string());
        lines.push(format!(
            "  {} errors, {lost} lost, {} repeated; checked: {}",
            self.errors, self.repeated, self.checked
        ));
        let seconds = |cpu: Option<f64>| cpu.map_or("unknown".to_owned(), |cpu| format!("{cpu:.2} s"));
        let used = match (self.embedded, self.bytes_sent, self.bytes_received) {
            (false, Some(sent), Some(received)) => format!(
                "  CPU: client {}, server {}; bytes: {} sent, {} received",
                seconds(self.client_cpu_s),
                seconds(self.server_cpu_s),
                show_bytes(sent),
                show_bytes(received)
            ),
            _ => format!("  CPU: {}", seconds(self.client_cpu_s)),
        };
        lines.push(used);
        lines.join("\n")
    }
}

fn listed(percentiles: &Percentiles) -> String {
    let listed = percentiles
        .iter()
        .map(|(name, micros)| format!("{name} {micros}"));
    listed.collect::<Vec<_>>().join("  ")
}
