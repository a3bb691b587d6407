//! What every job of one `push` is enqueued with.

use super::Push;
use super::source::Batch;
use crate::base::batch::{EnqueueBuilder, JobOptions};
use crate::base::limits::KEY_BYTES_MAX;
use crate::cli::exit::Failure;
use std::ops::Range;

/// Options that all jobs share, and how their keys are made.
#[derive(Debug)]
pub(super) struct Template {
    priority: u8,
    delay_ms: u64,
    ttl_ms: u64,
    lease_ms: u32,
    max_attempts: u16,
    meta: Vec<u8>,
    key: Option<Key>,
}

/// An idempotency key with a place for the job's number in the input.
#[derive(Debug)]
struct Key {
    before: String,
    /// `None` when there is no place: good for one job only.
    after: Option<String>,
}

impl Template {
    /// What the arguments ask for.
    pub(super) fn new(push: &Push) -> Self {
        Self {
            priority: push.priority,
            delay_ms: push.delay,
            ttl_ms: push.ttl,
            lease_ms: push.lease,
            max_attempts: push.max_attempts,
            meta: push.meta.clone().unwrap_or_default().into_bytes(),
            key: push.key.as_deref().map(|key| match key.split_once("{}") {
                Some((before, after)) => Key {
                    before: before.to_owned(),
                    after: Some(after.to_owned()),
                },
                None => Key {
                    before: key.to_owned(),
                    after: None,
                },
            }),
        }
    }

    /// Encodes some jobs of a batch.
    ///
    /// # Errors
    /// Wrong usage when two jobs would have the same key, or a key is too long.
    pub(super) fn encode(
        &self,
        batch: &Batch,
        range: Range<usize>,
        into: &mut EnqueueBuilder,
    ) -> Result<(), Failure> {
        into.clear();
        let options = JobOptions {
            priority: self.priority,
            delay_ms: self.delay_ms,
            ttl_ms: self.ttl_ms,
            lease_ms: self.lease_ms,
            max_attempts: self.max_attempts,
            meta: &self.meta,
            ..JobOptions::default()
        };
        let Some(key) = &self.key else {
            batch
                .payloads(range)
                .for_each(|payload| into.push(payload, &options));
            return Ok(());
        };
        let first = batch.first() + range.start as u64;
        for (number, payload) in (first..).zip(batch.payloads(range)) {
            let text = key.of(number)?;
            into.push(
                payload,
                &JobOptions {
                    key: text.as_bytes(),
                    ..options
                },
            );
        }
        Ok(())
    }
}

impl Key {
    fn of(&self, number: u64) -> Result<String, Failure> {
        let text = match &self.after {
            Some(after) => format!("{}{number}{after}", self.before),
            None if number == 1 => self.before.clone(),
            None => {
                return Err(Failure::usage(
                    "the second job would have the key of the first; write {} into --key where the number of the \
                     line goes",
                ));
            }
        };
        if text.len() > KEY_BYTES_MAX as usize {
            return Err(Failure::usage(format!(
                "the key `{text}` is longer than {KEY_BYTES_MAX} bytes"
            )));
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_jobs_number_where_it_is_asked_for() {
        let numbered = Key {
            before: "a-".to_owned(),
            after: Some("-z".to_owned()),
        };
        assert_eq!(numbered.of(12).unwrap(), "a-12-z");
        let single = Key {
            before: "a".to_owned(),
            after: None,
        };
        assert_eq!(single.of(1).unwrap(), "a");
        assert!(single.of(2).unwrap_err().to_string().contains("{}"));
        assert!(
            Key {
                before: "x".repeat(129),
                after: None
            }
            .of(1)
            .is_err()
        );
    }
}
