//! One of the worker's hands: runs the command for what is waiting, and tells how it went.

use super::board::Board;
use super::child::{Ended, Input, Program};
use super::settle::settle_run;
use crate::cli::exit::Failure;
use crate::client::{Client, Delivery};
use std::io;

/// Works until no run will come any more.
pub(super) fn run(client: &Client, board: &Board, program: &Program, is_batch: bool) {
    while let Some(run) = board.next_run() {
        let input = match input_of(&run.jobs, is_batch) {
            Ok(input) => input,
            Err(why) => {
                settle_run(client, board, &run, &Ended::Badly(why));
                continue;
            }
        };
        match program.start(input) {
            Ok(running) => {
                board.started(&run, &running);
                let ended = running.wait(|| board.ended(&run));
                settle_run(client, board, &run, &ended);
            }
            Err(error) => {
                // Not the job's fault, so it costs no attempt; and the next job would fare no better.
                board.not_started(run);
                board.fail(not_startable(program, &error));
            }
        }
    }
}

fn not_startable(program: &Program, error: &io::Error) -> Failure {
    let name = program
        .command
        .first()
        .map(|name| name.to_string_lossy())
        .unwrap_or_default();
    let text = format!("cannot run `{name}`: {error}; no job was used up");
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => Failure::usage(text),
        _ => Failure::refused(text),
    }
}

/// What the command gets for these jobs; or why they cannot be given to it.
fn input_of(jobs: &[Delivery], is_batch: bool) -> Result<Input, String> {
    let mut input = Input::default();
    for job in jobs {
        input.stdin.extend_from_slice(job.payload());
        if is_batch {
            if job.payload().contains(&b'\n') {
                return Err("the payload has more than one line, so --batch cannot hand it over".to_owned());
            }
            input.stdin.push(b'\n');
        }
    }
    let words = |word: fn(&Delivery) -> String| jobs.iter().map(word).collect::<Vec<_>>().join(" ");
    input
        .environment
        .push(("ACKRING_JOB_ID", words(|job| job.id().to_string())));
    input
        .environment
        .push(("ACKRING_ATTEMPT", words(|job| job.attempt().to_string())));
    if let [first, rest @ ..] = jobs {
        input
            .environment
            .push(("ACKRING_QUEUE", first.queue().to_owned()));
        let meta = String::from_utf8_lossy(first.meta());
        // An environment cannot hold a zero byte.
        if rest.is_empty() && !meta.is_empty() && !meta.contains('\0') {
            input.environment.push(("ACKRING_META", meta.into_owned()));
        }
    }
    Ok(input)
}
