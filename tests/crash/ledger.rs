//! What was asked, what was answered, what came: written down by everybody, compared at the end.
//!
//! Each job carries a *stamp*, a number of its own. The sets are those of Jepsen's total-queue checker, with
//! settlements added. Time plays no part: what is compared are attempt numbers, which only ever rise.

use super::load::{LOOSE_STEPS, STEPS, level_of};
use super::seed::mix;
use super::table::Sets;
use ackring::{Durability, JobId, Token};
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

const SHARDS: usize = 64;

/// What a server may do wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// A job came that nobody enqueued, or that was refused, or not as it was enqueued.
    Unexpected,
    /// One enqueue made two jobs, or one id or attempt stands for two.
    Duplicated,
    /// A job came again after its ack was confirmed.
    Back,
    /// Anything else; what is lost is counted at the end.
    Other,
}

/// What became of one job, as far as anybody outside the server knows.
#[derive(Debug, Default, Clone)]
pub struct Entry {
    /// The queue it was meant for.
    pub queue: String,
    /// The job that was acked in the step that enqueued this one.
    parent: Option<u64>,
    /// It was said that it is there, and how safe.
    confirmed: Option<Durability>,
    /// It was said for certain that it was not taken.
    refused: bool,
    id: Option<JobId>,
    /// Attempts that reached a worker.
    attempts: Vec<u16>,
    /// The attempt whose ack was confirmed, and how safely.
    over: Option<(u16, Durability)>,
    /// All acks that were confirmed: of several ids only where a job may be lost, and enqueued again.
    acked: Vec<(Token, Durability)>,
    /// Acks on their way, or whose outcome was never told.
    acks_open: u32,
}

impl Entry {
    fn last_attempt(&self) -> u16 {
        self.attempts.iter().copied().max().unwrap_or(0)
    }

    fn is_over(&self) -> bool {
        self.over.is_some() || self.acks_open > 0
    }
}

/// The book of one round: from an empty server to an empty server.
pub struct Ledger {
    entries: Vec<Mutex<HashMap<u64, Entry>>>,
    stamps_by_id: Vec<Mutex<HashMap<u64, u64>>>,
    next_stamp: AtomicU64,
    /// Stamps below belong to rounds that were closed: none of their jobs may ever come again.
    floor: AtomicU64,
    /// Confirmations of any kind so far; a kill may wait for one of them.
    pub confirmations: AtomicU64,
    violations: Mutex<Vec<String>>,
    /// How many of each kind, in this round.
    wrongs: [AtomicU64; 4],
    /// What was confirmed at this level or a higher one must survive what is done to the server.
    survives: Durability,
}

impl Ledger {
    pub fn new(survives: Durability) -> Self {
        Self {
            survives,
            entries: (0..SHARDS).map(|_| Mutex::default()).collect(),
            stamps_by_id: (0..SHARDS).map(|_| Mutex::default()).collect(),
            next_stamp: AtomicU64::new(1),
            floor: AtomicU64::new(1),
            confirmations: AtomicU64::new(0),
            violations: Mutex::default(),
            wrongs: Default::default(),
        }
    }

    fn with<T>(&self, stamp: u64, change: impl FnOnce(&mut Entry) -> T) -> T {
        let mut shard = self.entries[stamp as usize % SHARDS].lock().unwrap();
        change(shard.entry(stamp).or_default())
    }

    pub fn violation(&self, wrong: Wrong, text: String) {
        self.wrongs[wrong as usize].fetch_add(1, Ordering::Relaxed);
        let mut violations = self.violations.lock().unwrap();
        // One bug may show in every job; the first few say it all.
        if violations.len() < 50 {
            violations.push(text);
        }
    }

    /// A stamp for a job that is about to be enqueued.
    pub fn attempt(&self, queue: &str, parent: Option<u64>) -> u64 {
        let stamp = self.next_stamp.fetch_add(1, Ordering::Relaxed);
        self.with(stamp, |entry| {
            entry.queue = queue.to_owned();
            entry.parent = parent;
        });
        stamp
    }

    /// It was said that nothing of the request was applied.
    pub fn refused(&self, stamp: u64) {
        self.with(stamp, |entry| entry.refused = true);
    }

    /// It was said that the job is there. Without an id when the server no longer knew that.
    pub fn confirmed(&self, stamp: u64, id: Option<JobId>, level: Durability) {
        self.confirmations.fetch_add(1, Ordering::Relaxed);
        self.with(stamp, |entry| entry.confirmed = entry.confirmed.max(Some(level)));
        if let Some(id) = id {
            self.seen(stamp, id);
        }
    }

    /// A stamp and an id that were seen together: one id is one job for ever, and one job has one id.
    fn seen(&self, stamp: u64, id: JobId) {
        let before = self.with(stamp, |entry| entry.id.replace(id));
        // Where a job may be lost, the request that brought it may be applied again.
        let is_safe = self.with(stamp, |entry| level_of(&entry.queue) >= self.survives);
        if let Some(before) = before.filter(|before| is_safe && *before != id) {
            let text = format!("duplicated: job {stamp} was enqueued as {before} and as {id}");
            self.violation(Wrong::Duplicated, text);
        }
        let mut shard = self.stamps_by_id[mix(id.0) as usize % SHARDS].lock().unwrap();
        let owner = *shard.entry(id.0).or_insert(stamp);
        drop(shard);
        if owner != stamp {
            let text = format!("the id {id} was given to job {owner} and to job {stamp}");
            self.violation(Wrong::Duplicated, text);
        }
    }

    /// A job reached a worker. Returns its stamp, or `None` if it is none that can be worked on.
    pub fn delivered(&self, token: Token, queue: &str, payload: &[u8]) -> Option<u64> {
        let Some(stamp) = payload.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes)) else {
            let text = format!(
                "unexpected: {} came without a payload that anybody wrote",
                token.id
            );
            self.violation(Wrong::Unexpected, text);
            return None;
        };
        if stamp < self.floor.load(Ordering::Relaxed) {
            self.violation(
                Wrong::Back,
                format!("job {stamp} came again in a round after its end"),
            );
            return None;
        }
        if stamp >= self.next_stamp.load(Ordering::Relaxed) || payload != body(stamp) {
            let text = format!("unexpected: job {stamp} came as nobody enqueued it");
            self.violation(Wrong::Unexpected, text);
            return None;
        }
        self.seen(stamp, token.id);
        let attempt = token.attempt;
        let wrong = self.with(stamp, |entry| {
            let wrong = if entry.refused {
                let text = "unexpected: its enqueue was refused".to_owned();
                Some((Wrong::Unexpected, text))
            } else if entry.queue != queue {
                let text = format!("it came from {queue}, and was meant for {}", entry.queue);
                Some((Wrong::Unexpected, text))
            } else if entry.attempts.contains(&attempt) && level_of(queue) >= self.survives {
                let text = format!("attempt {attempt} was handed out twice");
                Some((Wrong::Duplicated, text))
            } else {
                self.back_after_ack(entry, token)
            };
            entry.attempts.push(attempt);
            wrong
        });
        if let Some((wrong, text)) = wrong {
            let known = self.describe(stamp);
            let text = format!("job {stamp} ({}, attempt {attempt}): {text}; {known}", token.id);
            self.violation(wrong, text);
        }
        Some(stamp)
    }

    /// An ack is about to be sent. Returns the last attempt that reached anybody so far: if that is a later one, the
    /// ack must not succeed.
    pub fn acking(&self, stamp: u64) -> u16 {
        self.with(stamp, |entry| {
            entry.acks_open += 1;
            entry.last_attempt()
        })
    }

    /// An ack was confirmed.
    pub fn acked(&self, stamp: u64, token: Token, last_before: u16, level: Durability) {
        self.confirmations.fetch_add(1, Ordering::Relaxed);
        let Token { id, attempt } = token;
        let wrong = self.with(stamp, |entry| {
            entry.acks_open -= 1;
            entry.over = entry.over.max(Some((attempt, level)));
            entry.acked.push((token, level));
            if level_of(&entry.queue) < self.survives {
                // The reserve of a later attempt may be forgotten, and then the earlier one is current again.
                return None;
            }
            if last_before > attempt {
                let text = format!("its ack was accepted, though attempt {last_before} was out");
                return Some((Wrong::Other, text));
            }
            let attempt = entry.last_attempt();
            self.back_after_ack(entry, Token { id, attempt })
        });
        if let Some((wrong, text)) = wrong {
            self.violation(wrong, format!("job {stamp}, attempt {attempt}: {text}"));
        }
    }

    /// An ack was refused: it changed nothing.
    pub fn not_acked(&self, stamp: u64) {
        self.with(stamp, |entry| entry.acks_open -= 1);
    }

    /// The job must be known to the server unless its end was confirmed or is on its way: asked again after the
    /// server's answer, as it may have ended meanwhile.
    pub fn must_exist(&self, stamp: u64) -> bool {
        self.with(stamp, |entry| !entry.is_over())
    }

    /// All that is known of a job.
    pub fn describe(&self, stamp: u64) -> String {
        self.with(stamp, |entry| format!("{entry:?}"))
    }

    /// Some jobs that reached a worker and are not over: stamp, id and the last attempt.
    pub fn some_unfinished(&self, start: usize, count: usize) -> Vec<(u64, JobId, u16)> {
        let mut found = Vec::new();
        for shard in (0..SHARDS).map(|shard| &self.entries[(start + shard) % SHARDS]) {
            for (stamp, entry) in shard.lock().unwrap().iter() {
                let is_candidate =
                    !entry.is_over() && !entry.attempts.is_empty() && level_of(&entry.queue) >= self.survives;
                if let (true, Some(id)) = (is_candidate, entry.id) {
                    found.push((*stamp, id, entry.last_attempt()));
                    if found.len() == count {
                        return found;
                    }
                }
            }
        }
        found
    }

    fn back_after_ack(&self, entry: &Entry, token: Token) -> Option<(Wrong, String)> {
        let (acked, level) = entry.over?;
        let is_back = if level_of(&entry.queue) == Durability::Memory {
            // Where it is lost before its enqueue was answered, that is carried out again, as another job; the level is
            // no help there: of an answer for jobs of several queues it is the highest. The same job comes back only
            // where it is in the log, its enqueue having asked for that, and its ack is not as safe as all that.
            let is_volatile = entry.confirmed == Some(Durability::Memory);
            entry.acked.iter().any(|(acked, level)| {
                let is_later = acked.id == token.id && acked.attempt < token.attempt;
                is_later && (is_volatile || *level >= self.survives)
            })
        } else {
            level >= self.survives && token.attempt > acked
        };
        let text = || format!("back after the ack of attempt {acked} was confirmed as {level}");
        is_back.then(|| (Wrong::Back, text()))
    }

    /// Compares, when the server is empty and everybody is quiet, and begins a new round.
    pub fn close_round(&self) -> Sets {
        let mut all: HashMap<u64, Entry> = HashMap::new();
        for shard in &self.entries {
            all.extend(std::mem::take(&mut *shard.lock().unwrap()));
        }
        self.stamps_by_id
            .iter()
            .for_each(|shard| shard.lock().unwrap().clear());
        self.floor
            .store(self.next_stamp.load(Ordering::Relaxed), Ordering::Relaxed);
        let mut sets = Sets::default();
        let mut children: HashMap<u64, u64> = HashMap::new();
        for (stamp, entry) in &all {
            self.count(*stamp, entry, &mut sets);
            if let (Some(parent), false) = (entry.parent, entry.attempts.is_empty()) {
                *children.entry(parent).or_default() += 1;
            }
        }
        self.check_steps(&all, &children);
        let wrongs = |wrong: Wrong| self.wrongs[wrong as usize].swap(0, Ordering::Relaxed);
        sets.unexpected = wrongs(Wrong::Unexpected);
        sets.duplicated = wrongs(Wrong::Duplicated);
        sets.back = wrongs(Wrong::Back);
        sets
    }

    fn count(&self, stamp: u64, entry: &Entry, sets: &mut Sets) {
        let is_delivered = !entry.attempts.is_empty();
        sets.attempted += 1;
        sets.confirmed += u64::from(entry.confirmed.is_some());
        sets.delivered += u64::from(is_delivered);
        sets.acked += u64::from(entry.over.is_some());
        sets.recovered += u64::from(is_delivered && entry.confirmed.is_none());
        sets.repeats += entry.attempts.len().saturating_sub(1) as u64;
        if entry.confirmed >= Some(self.survives) {
            sets.durable += 1;
            if !is_delivered {
                sets.lost += 1;
                let text = format!("lost: job {stamp} was confirmed and never came: {entry:?}");
                self.violation(Wrong::Other, text);
            } else if !entry.is_over() {
                sets.lost += 1;
                let text = format!("lost: job {stamp} came and vanished without an end: {entry:?}");
                self.violation(Wrong::Other, text);
            }
        } else if entry.confirmed.is_some() && !is_delivered {
            sets.lost_allowed += 1;
        }
    }

    /// A job of a queue of steps ended with its child or not at all, and has one child, not two.
    fn check_steps(&self, all: &HashMap<u64, Entry>, children: &HashMap<u64, u64>) {
        let is_step = |entry: &Entry| [STEPS, LOOSE_STEPS].contains(&entry.queue.as_str());
        for (stamp, entry) in all.iter().filter(|(_, entry)| is_step(entry)) {
            let count = children.get(stamp).copied().unwrap_or(0);
            if count > 1 && level_of(&entry.queue) >= self.survives {
                let text = format!("a step was applied twice: job {stamp} has {count} children");
                self.violation(Wrong::Duplicated, text);
            }
            // Also where the step itself may be lost: with it its ack is lost, and the job there again.
            let is_safe = entry.confirmed >= Some(self.survives);
            if count == 0 && is_safe && !entry.attempts.is_empty() {
                let text = format!("half a step: job {stamp} is gone and has no child: {entry:?}");
                self.violation(Wrong::Other, text);
            }
        }
    }

    /// Whether something is wrong already.
    pub fn is_spoiled(&self) -> bool {
        !self.violations.lock().unwrap().is_empty()
    }

    /// Panics with everything that was found.
    pub fn judge(&self, how_to_replay: &str) {
        let violations = self.violations.lock().unwrap();
        assert!(
            violations.is_empty(),
            "{} things are wrong; {how_to_replay}\n{}",
            violations.len(),
            violations.join("\n")
        );
    }
}

/// The payload of that job: its stamp, and bytes that follow from it.
pub fn body(stamp: u64) -> Vec<u8> {
    let drawn = mix(stamp);
    // Mostly small, now and then a page or more.
    let len = if drawn.is_multiple_of(97) {
        drawn % 9_000
    } else {
        drawn % 120
    };
    let mut body = stamp.to_le_bytes().to_vec();
    let mut filler = drawn;
    while body.len() < 8 + len as usize {
        filler = mix(filler.wrapping_add(1));
        body.extend_from_slice(&filler.to_le_bytes());
    }
    body.truncate(8 + len as usize);
    body
}
