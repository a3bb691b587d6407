//! Which jobs a segment's records brought: those that may have to be copied before it is used again.

use super::journal::{self, Group, JobHead, Kind, Prelude};
use crate::base::job::JobId;
use crate::log::{LogPosition, Recovered};
use zerocopy::FromBytes;

/// A job found in a segment: slot, id, and its place in the order of jobs never handed out.
#[derive(Clone, Copy)]
pub(super) struct Straggler {
    pub(super) id: JobId,
    pub(super) body: LogPosition,
    pub(super) order: u64,
}

/// How a job came to stand in a segment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// It was copied there.
    Copy,
    /// It was enqueued there.
    Arrival,
}

/// Shows the jobs of a record that have such an origin. `None` where it is none of the engine's.
pub(super) fn find_stragglers(
    record: &Recovered<'_>,
    origin: Origin,
    found: &mut dyn FnMut(Straggler),
) -> Option<()> {
    let kind = Kind::from_u8(record.kind)?;
    if (kind == Kind::Job) != (origin == Origin::Copy) {
        return Some(());
    }
    let (_, body) = Prelude::split(record.flags, record.body)?;
    let body_at = record
        .body_position()
        .plus((record.body.len() - body.len()) as u32);
    let mut group = |body: &[u8], at: LogPosition| {
        let parsed = journal::parse_enqueue(body)?;
        let bodies_at = at.plus(journal::enqueue_bodies_offset(parsed.batch.count()) as u32);
        for (item, id) in parsed.batch.items().zip(parsed.ids) {
            let body = bodies_at.plus(item.body_offset as u32);
            found(Straggler {
                id: JobId(id.get()),
                body,
                order: body.raw(),
            });
        }
        Some(())
    };
    match kind {
        Kind::Enqueue => group(body, body_at),
        Kind::Step => {
            let (_, groups) = journal::parse_step(body)?;
            groups.into_iter().try_for_each(|part| match part {
                Group::Jobs(offset, bytes) => group(bytes, body_at.plus(offset as u32)),
                Group::Answer(_) => Some(()),
            })
        }
        Kind::Job => {
            let (head, _) = JobHead::ref_from_prefix(body).ok()?;
            let body = body_at.plus(size_of::<JobHead>() as u32);
            found(Straggler {
                id: JobId(head.id.get()),
                body,
                order: head.order.get(),
            });
            Some(())
        }
        _ => Some(()),
    }
}
