//! Tells the server what became of jobs, and keeps their leases until then.

use super::board::{Board, Run, Stop};
use super::child::Ended;
use crate::base::batch::SettleBuilder;
use crate::base::code::{ErrorCode, ItemError};
use crate::base::job::Token;
use crate::base::limits::BATCH_JOBS_MAX;
use crate::cli::exit::Failure;
use crate::cli::output;
use crate::cli::report::is_success;
use crate::client::{Client, ClientError, Delivery};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Pause before a settlement is sent again that the server did not take.
const PAUSE: Duration = Duration::from_millis(200);

/// Sends the outcome of a run. The tokens make it safe to send it again and again, so it is, until it arrives or
/// the worker stops.
pub(super) fn settle_run(client: &Client, board: &Board, run: &Run, ended: &Ended) {
    let mut batch = SettleBuilder::new();
    for token in run.jobs.iter().map(Delivery::token) {
        match ended {
            Ended::Well(result) => batch.ack(token, result.as_deref().filter(|bytes| !bytes.is_empty())),
            Ended::Rejected(error) => batch.reject(token, Some(error.as_bytes())),
            Ended::Badly(error) => batch.nack(token, None, Some(error.as_bytes())),
        }
    }
    board.settling(run);
    let jobs = run.jobs.len() as u64;
    match settle(client, board, &batch) {
        Ok(items) => {
            let lost = lost_of(&run.jobs, &items);
            for token in &lost {
                tell_lost(
                    *token,
                    "its lease had run out, so the outcome does not count; is --lease too short?",
                );
            }
            let settled = jobs - lost.len() as u64;
            board.finished(run, |tally| {
                tally.lost += lost.len() as u64;
                match ended {
                    Ended::Well(_) => tally.acked += settled,
                    Ended::Rejected(_) => tally.rejected += settled,
                    Ended::Badly(_) => tally.nacked += settled,
                }
            });
        }
        Err(error) => {
            board.finished(run, |tally| tally.lost += jobs);
            board.fail(Failure::from(error).while_doing("the outcome of a job could not be told"));
        }
    }
}

/// Gives jobs back without using an attempt. A failure to do so is not worth more than a note: they come back when
/// their leases end.
pub(super) fn release(client: &Client, board: &Board, jobs: &[Delivery]) {
    for part in jobs.chunks(BATCH_JOBS_MAX) {
        let mut batch = SettleBuilder::new();
        part.iter().for_each(|job| batch.release(job.token()));
        match settle(client, board, &batch) {
            Ok(items) => board.released((part.len() - lost_of(part, &items).len()) as u64),
            Err(error) => {
                output::note(&format!(
                    "{} jobs come back only when their leases end: {error}",
                    part.len()
                ));
            }
        }
    }
}

fn settle(client: &Client, board: &Board, batch: &SettleBuilder) -> Result<Vec<ItemError>, ClientError> {
    loop {
        let error = match client.settle(batch) {
            Ok(settled) => return Ok(settled.items),
            Err(error) => error,
        };
        if !is_passing(&error) || board.stopping() != Stop::No {
            return Err(error);
        }
        output::note(&format!("{error}; trying again until the server is back"));
        board.pause(PAUSE);
    }
}

/// Whether the same request may succeed later.
pub(super) fn is_passing(error: &ClientError) -> bool {
    matches!(
        error,
        ClientError::NoConnection { .. }
            | ClientError::Timeout(_)
            | ClientError::OutcomeUnknown { .. }
            | ClientError::RetryLater(_)
    )
}

/// The jobs on which the settlement took no effect.
fn lost_of(jobs: &[Delivery], items: &[ItemError]) -> Vec<Token> {
    let failed = items.iter().filter(|item| !is_success(item.code));
    failed
        .filter_map(|item| jobs.get(item.position as usize))
        .map(Delivery::token)
        .collect()
}

fn tell_lost(token: Token, why: &str) {
    output::note(&format!("job {} attempt {}: {why}", token.id, token.attempt));
}

/// Extends leases as they come due, until `is_over`.
pub(super) fn keep_leases(client: &Client, board: &Board, lease_ms: u32, is_over: &AtomicBool) {
    while let Some(tokens) = board.wait_for_leases(|| is_over.load(Ordering::Acquire)) {
        for part in tokens.chunks(BATCH_JOBS_MAX) {
            let mut batch = SettleBuilder::new();
            part.iter().for_each(|token| batch.extend(*token, lease_ms));
            // A server that is away keeps the leases to their ends; the next extension is due before.
            let Ok(settled) = client.settle(&batch) else {
                continue;
            };
            for item in settled
                .items
                .iter()
                .filter(|item| item.code == ErrorCode::LeaseLost)
            {
                let Some(token) = part.get(item.position as usize) else {
                    continue;
                };
                if board.lost(*token) {
                    tell_lost(
                        *token,
                        "its lease is over, and another worker may have the job; the command goes on",
                    );
                }
            }
        }
    }
}
