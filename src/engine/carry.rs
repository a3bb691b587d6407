//! Logging the definitions of queues that stand still again, by copying their records: of a hundred thousand queues that wait
//! in a busy log, no more is touched than what the log says of them.

use super::Engine;
use super::codec;
use super::journal::Kind;
use super::queue::QueueId;
use super::remains::Due;
use super::tally::Tally;
use crate::base::limits::CARRY_BYTES_MAX;
use crate::log::{Body, Content, HEADER_LEN, LogError, Pin, Recovered, Room};

/// A portion of a segment that one portion of copies takes at most: where one does not fit any more, so much is lost.
const PART_OF_SEGMENT: usize = 64;

/// The bodies of a portion of records, one behind the other.
#[derive(Default)]
struct Portion {
    bodies: Vec<u8>,
    /// Whose they are, each with where it ends.
    queues: Vec<(QueueId, usize)>,
}

impl Portion {
    fn clear(&mut self) {
        self.bodies.clear();
        self.queues.clear();
    }

    fn push(&mut self, queue: QueueId, body: &[u8]) {
        self.bodies.extend_from_slice(body);
        self.queues.push((queue, self.bodies.len()));
    }

    /// Bytes of its records.
    fn len(&self) -> usize {
        self.bodies.len() + self.queues.len() * HEADER_LEN
    }

    fn iter(&self) -> impl Iterator<Item = (QueueId, &[u8])> {
        let begins = std::iter::once(0).chain(self.queues.iter().map(|(_, end)| *end));
        let queues = self.queues.iter().zip(begins);
        queues.map(|((queue, end), begin)| (*queue, &self.bodies[begin..*end]))
    }
}

/// A body as it stood elsewhere.
struct Whole<'a>(&'a [u8]);

impl Content for Whole<'_> {
    fn body_len(&self) -> usize {
        self.0.len()
    }

    fn put_into(self, body: &mut impl Body) {
        body.put(self.0);
    }
}

impl Engine {
    /// Copies the records of queues that stand still, which segments that are to go tell of, and says in `due` what is not
    /// durable of that. Returns the queues that are to be logged in the usual way: they have moved since they were looked
    /// at, or their record is not one that can be copied.
    ///
    /// # Errors
    /// The log's. What was copied until then counts all the same.
    pub(super) fn carry_definitions(
        &self,
        still: Vec<QueueId>,
        due: &mut Due,
        tally: &mut Tally,
        now_ms: u64,
    ) -> Result<Vec<QueueId>, LogError> {
        let bytes_max = CARRY_BYTES_MAX.min(self.durable.segment_bytes() as usize / PART_OF_SEGMENT);
        let mut moved = Vec::new();
        let mut portion = Portion::default();
        let mut pin: Option<Pin<'_>> = None;
        let mut still = still.into_iter().peekable();
        while still.peek().is_some() {
            portion.clear();
            // Nothing else may come into force between the look at what is in force and the copy's place behind it.
            let Some(_kept) = self.registry.keep_definitions() else {
                moved.extend(still.next());
                continue;
            };
            for queue in still.by_ref() {
                let at = tally.told_at(queue);
                if !pin.as_ref().is_some_and(|pin| pin.covers(at)) {
                    pin = self.durable.pin(at);
                }
                let record = pin.as_ref().and_then(|pin| pin.whole_record(at));
                match record.filter(|record| tells_of(record, queue)) {
                    Some(record) => portion.push(queue, record.body),
                    None => moved.push(queue),
                }
                if portion.len() >= bytes_max {
                    break;
                }
            }
            if portion.queues.is_empty() {
                continue;
            }
            let records = portion.queues.len();
            let mut claims = self
                .durable
                .claim_together(records, portion.bodies.len(), Room::Migrate)?;
            for (queue, body) in portion.iter() {
                // Behind the claim, so that what was counted before it is told. What is counted from now on has the queue logged
                // again, as it would if this were not a copy.
                if self.registry.has_moved(queue) {
                    moved.push(queue);
                    continue;
                }
                let (at, end) = claims.append(Whole(body), (Kind::Queue as u8, 0), now_ms, 0);
                tally.carry(queue, at, end);
                due.until = due.until.max(end);
                if !due.is_cut {
                    due.say(Kind::Queue, body.to_vec());
                }
            }
        }
        Ok(moved)
    }
}

/// Whether it is a record of that queue that can be copied as it is.
fn tells_of(record: &Recovered<'_>, queue: QueueId) -> bool {
    record.kind == Kind::Queue as u8 && record.flags == 0 && codec::queue_index(record.body) == Some(queue.0)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::queue::QueueOptions;
    use crate::engine::RequestId;
    use crate::engine::copy::tests::{NOW_MS, open};
    use crate::log::LogPosition;
    use std::os::unix::fs::FileExt;

    fn carry(engine: &Engine, still: &[QueueId]) -> (Vec<QueueId>, Due) {
        let mut reclaim = engine.reclaim.lock();
        let mut due = Due::default();
        let still = still.to_vec();
        let left = engine.carry_definitions(still, &mut due, &mut reclaim.tally, NOW_MS);
        (left.unwrap(), due)
    }

    fn is_carried(engine: &Engine, queue: QueueId) -> bool {
        let reclaim = engine.reclaim.lock();
        reclaim.tally.carried(queue).is_some()
    }

    #[test]
    fn only_the_record_of_a_queue_that_stands_still_is_copied() {
        let directory = tempfile::tempdir().unwrap();
        let (engine, plain) = open(&directory);
        let create = |name: &str, request| {
            let options = QueueOptions::default();
            engine.create_queue(name, &options, request, NOW_MS).unwrap().0
        };
        let moves = create("moves", RequestId::NONE);
        let request = RequestId {
            session: 7,
            number: 1,
        };
        let numbered = create("numbered", request);
        let all = [plain, moves, numbered];
        engine.reclaim.lock().tally.look(&engine.registry);
        {
            // Somebody is about to log what comes into force.
            let _redefining = engine.registry.redefine();
            assert_eq!(carry(&engine, &all).0, all);
        }
        engine.pause(moves, RequestId::NONE, NOW_MS).unwrap();
        let end = engine.durable.tail();
        let (mut left, due) = carry(&engine, &all);
        left.sort_unstable();
        // A copy of the last one would be one of its request too.
        assert_eq!(left, [moves, numbered]);
        assert!(is_carried(&engine, plain) && !is_carried(&engine, moves) && !is_carried(&engine, numbered));
        assert!(end < due.until && due.until <= engine.durable.tail());
        assert_eq!(due.statements.len(), 1);
        engine.sync().unwrap();
        drop(engine);
        let (engine, plain) = open(&directory);
        let at = |queue| engine.registry.get(queue).unwrap().defined_at();
        assert!(at(plain) > at(moves), "the copy is what the log says last");
    }

    #[test]
    fn a_place_without_a_record_is_not_copied() {
        let directory = tempfile::tempdir().unwrap();
        let (engine, queue) = open(&directory);
        let mut reclaim = engine.reclaim.lock();
        reclaim.tally.look(&engine.registry);
        let at = reclaim.tally.told_at(queue);
        reclaim.tally.carry(queue, at.plus(8), at.plus(16));
        drop(reclaim);
        let (left, due) = carry(&engine, &[queue]);
        assert_eq!((left, due.until), (vec![queue], LogPosition::NONE));
    }

    #[test]
    fn a_damaged_record_is_not_copied() {
        let directory = tempfile::tempdir().unwrap();
        let (engine, queue) = open(&directory);
        let at = {
            let mut reclaim = engine.reclaim.lock();
            reclaim.tally.look(&engine.registry);
            reclaim.tally.told_at(queue)
        };
        // The last byte of the body's first word, where only this segment's file has anything.
        let place = u64::from(at.offset()) + HEADER_LEN as u64 + 7;
        let header = u64::from(at.offset());
        let mut damaged = 0;
        for entry in directory.path().read_dir().unwrap() {
            let file = std::fs::File::options()
                .read(true)
                .write(true)
                .open(entry.unwrap().path())
                .unwrap();
            let mut bytes = [0; HEADER_LEN + 8];
            if file.read_exact_at(&mut bytes, header).is_ok() && bytes != [0; HEADER_LEN + 8] {
                file.write_all_at(&[bytes[HEADER_LEN + 7] ^ 1], place).unwrap();
                damaged += 1;
            }
        }
        assert_eq!(damaged, 1);
        let (left, due) = carry(&engine, &[queue]);
        assert_eq!((left, due.until), (vec![queue], LogPosition::NONE));
    }
}
