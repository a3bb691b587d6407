//! A log over a simulated disk, and a plain account of what was written, which decides what may come back.
#![allow(dead_code, reason = "each simulation uses its own part")]

use crate::disk::{Rng, SimDisk, SimOptions};
use ackring::log::{Claim, Log, LogConfig, LogError, LogPosition, OpenError, RecoveryReport, Room};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

pub const START_MS: u64 = 1_700_000_000_000;
const KIND: u8 = 7;
const HEADER: u32 = 32;

/// A record as it was meant to be.
#[derive(Debug, Clone)]
struct Written {
    position: LogPosition,
    end: LogPosition,
    body: Vec<u8>,
    job: u64,
    is_committed: bool,
    /// How far the log said to be durable when the record was committed.
    knew_durable: LogPosition,
}

/// A thing that lives in the log until it is settled; moved by copying.
#[derive(Debug, Clone)]
struct Job {
    /// Numbers of its committed records, the newest last.
    records: Vec<u64>,
    is_settled: bool,
}

/// What was written, and what of it must come back.
#[derive(Debug, Clone, Default)]
pub struct Book {
    records: BTreeMap<u64, Written>,
    jobs: BTreeMap<u64, Job>,
    last_number: u64,
    last_job: u64,
    /// The highest place that the log ever called durable.
    durable: LogPosition,
    /// Since the last open that worked no power cut happened, so the cache has everything.
    is_cached: bool,
    recycles_unsynced: bool,
    /// Seen at an opening that worked, and so harmless for ever.
    holes: Vec<(LogPosition, LogPosition)>,
    note: u64,
    pub trail: Vec<String>,
}

/// A record that was shown at an opening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    position: LogPosition,
    kind: u8,
    body: Vec<u8>,
}

impl Book {
    fn body(number: u64, job: u64, extra: usize) -> Vec<u8> {
        let mut body = number.to_le_bytes().to_vec();
        body.extend(job.to_le_bytes());
        body.extend((0..extra * 8).map(|i| (number as usize * 31 + i) as u8 | 1));
        body
    }

    fn begin(&mut self, position: LogPosition, job: u64, extra: usize) -> (u64, Vec<u8>) {
        self.last_number += 1;
        let body = Self::body(self.last_number, job, extra);
        let written = Written {
            position,
            end: position.plus(HEADER + body.len() as u32),
            body: body.clone(),
            job,
            is_committed: false,
            knew_durable: LogPosition::NONE,
        };
        self.records.insert(self.last_number, written);
        (self.last_number, body)
    }

    fn commit(&mut self, number: u64, durable: LogPosition) {
        let record = self.records.get_mut(&number).unwrap();
        record.is_committed = true;
        record.knew_durable = durable;
        let entry = self.jobs.entry(record.job).or_insert(Job {
            records: Vec::new(),
            is_settled: false,
        });
        entry.records.push(number);
    }

    fn note(&mut self, line: String) {
        self.trail.push(line);
    }

    /// Whether a record must be there after the last crash, its segment aside.
    fn is_kept(&self, record: &Written) -> bool {
        record.is_committed && (self.is_cached || record.end <= self.durable)
    }

    /// The first segment that a job needs which is not settled; all before may have been used again.
    fn first_needed(&self) -> u32 {
        let needed = self
            .jobs
            .values()
            .filter(|job| !job.is_settled)
            .filter_map(|job| {
                // The last copy that is durable takes the job's weight off all before it.
                let records = job.records.iter().map(|number| &self.records[number]);
                let durable = records.clone().rfind(|record| record.end <= self.durable);
                durable.or_else(|| records.clone().find(|record| self.is_kept(record)))
            });
        let sequences = needed.map(|record| record.position.sequence());
        sequences.min().unwrap_or(u32::MAX)
    }

    /// Holds what an opening showed against what was written. `None` instead of a report: the log was damaged at
    /// rest and salvaged.
    pub fn check_shown(&self, shown: &[Shown], report: &RecoveryReport) {
        self.check_known(shown);
        let first_shown = shown
            .first()
            .map_or(u32::MAX, |record| record.position.sequence());
        let mut from = self.first_needed();
        if !self.recycles_unsynced || self.is_cached {
            from = from.min(first_shown);
        }
        for (number, record) in &self.records {
            let must = self.is_kept(record) && record.position.sequence() >= from;
            let is_there = shown.iter().any(|shown| shown.position == record.position);
            assert!(
                !must || is_there,
                "record {number} at {} is gone; durable {}, first segment needed {from}, report {report:?}",
                record.position,
                self.durable
            );
        }
        for hole in &report.holes {
            let is_durable = hole.start < self.durable && hole.start.sequence() >= from;
            // A start that died has taken away the list that an earlier start had made.
            let is_known = self
                .holes
                .iter()
                .any(|(start, end)| *start <= hole.start && hole.end <= *end);
            assert!(
                !is_durable || is_known,
                "a hole in what was durable ({}): {hole:?}",
                self.durable
            );
        }
        assert!(report.note_max >= self.note, "the note went back");
    }

    /// Nothing is shown that was not written just so, and everything in order.
    pub fn check_known(&self, shown: &[Shown]) {
        for pair in shown.windows(2) {
            assert!(pair[0].position < pair[1].position, "out of order");
        }
        for record in shown {
            let number = record.body.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
            let written = number.and_then(|number| self.records.get(&number));
            let Some(written) = written else {
                panic!("never written, or gone before: {record:?}");
            };
            assert!(written.is_committed, "never committed: {record:?}");
            assert_eq!(
                (record.kind, record.position, &record.body),
                (KIND, written.position, &written.body)
            );
        }
    }

    /// What was shown by an opening that worked is all there is.
    fn keep_only(&mut self, shown: &[Shown], durable: LogPosition, report: &RecoveryReport) {
        let is_shown = |record: &Written| shown.iter().any(|shown| shown.position == record.position);
        self.records.retain(|_, record| is_shown(record));
        for job in self.jobs.values_mut() {
            job.records.retain(|number| self.records.contains_key(number));
        }
        self.jobs.retain(|_, job| !job.records.is_empty());
        self.durable = durable;
        self.is_cached = true;
        self.note = report.note_max;
        let holes = report.holes.iter().map(|hole| (hole.start, hole.end));
        self.holes.extend(holes);
    }

    /// What of `before` is not in `after` must be gone for a reason: nothing that stands later in the log, or is
    /// later than it, told that it was there.
    pub fn check_loss(&self, before: &[Shown], after: &[Shown], boot_start: LogPosition) {
        for lost in before.iter().filter(|record| !after.contains(record)) {
            let knows = |shown: &Shown| {
                self.records
                    .values()
                    .any(|known| known.position == shown.position && known.knew_durable > lost.position)
            };
            let witness = after
                .iter()
                .find(|shown| shown.position > lost.position && knows(shown));
            assert!(
                witness.is_none() && lost.position >= boot_start,
                "record at {} was cut silently; it was durable: {witness:?}, boot from {boot_start}",
                lost.position
            );
        }
    }
}

impl Shown {
    pub fn sequence(&self) -> u32 {
        self.position.sequence()
    }
}

/// A log, its disk, and the account.
pub struct LogWorld {
    pub rng: Rng,
    pub disk: SimDisk,
    pub config: LogConfig,
    now_ms: u64,
    book: Arc<Mutex<Book>>,
    /// Commit records while a sync is under way.
    pub busy_syncs: bool,
    /// The most 8-byte words in a body besides its number and job.
    pub extra_max: u64,
    syncs_failed: u64,
    /// Where the newest boot begins.
    pub boot_start: LogPosition,
}

/// How one life of the log ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Closed in good order.
    Closed,
    /// The machine stopped, or the log was poisoned.
    Stopped,
}

impl Drop for LogWorld {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for line in self.book().trail.iter().rev().take(40).rev() {
                eprintln!("  {line}");
            }
        }
    }
}

fn random_commit(log: &Log, rng: &mut Rng, book: &Mutex<Book>) {
    let extra = rng.below(8) as usize;
    let len = 16 + extra * 8;
    // Without a roll, which the thread that syncs may be in the middle of.
    if log.tail().offset() + HEADER + len as u32 > log.segment_bytes() {
        return;
    }
    let Ok(mut claim) = log.claim(len, Room::Migrate) else {
        return;
    };
    let mut book = book.lock().unwrap();
    book.last_job += 1;
    let job = book.last_job;
    let (number, body) = book.begin(claim.position(), job, extra);
    claim.put(&body);
    let durable = log.durable();
    let position = claim.position();
    claim.commit(KIND, 0, START_MS, 1);
    book.commit(number, durable);
    book.note(format!(
        "meanwhile record {number} at {position}, durable {durable}"
    ));
}

impl LogWorld {
    pub fn new(seed: u64, segments: u64, options: SimOptions) -> Self {
        let disk = SimDisk::new(seed, options);
        let config = LogConfig {
            directory: Some(PathBuf::from("/sim")),
            segment_bytes: 4096,
            log_bytes_max: segments * 4096,
            disk: disk.handle(),
            ..LogConfig::default()
        };
        Self {
            rng: Rng(seed ^ 0x5eed),
            disk,
            config,
            now_ms: START_MS,
            book: Arc::default(),
            busy_syncs: true,
            extra_max: 60,
            syncs_failed: 0,
            boot_start: LogPosition::NONE,
        }
    }

    /// The same history over another disk.
    pub fn fork(&self, disk: SimDisk) -> Self {
        let mut config = self.config.clone();
        config.disk = disk.handle();
        Self {
            rng: self.rng.clone(),
            disk,
            config,
            now_ms: self.now_ms,
            book: Arc::new(Mutex::new(self.book().clone())),
            busy_syncs: self.busy_syncs,
            extra_max: self.extra_max,
            syncs_failed: 0,
            boot_start: self.boot_start,
        }
    }

    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub fn note(&self, line: String) {
        self.book().note(line);
    }

    pub fn set_recycles_unsynced(&self, may: bool) {
        self.book().recycles_unsynced = may;
    }

    pub fn try_open(&self, salvage: bool) -> Result<(Log, Vec<Shown>, RecoveryReport), OpenError> {
        let mut config = self.config.clone();
        config.salvage = salvage;
        let mut shown = Vec::new();
        let (log, report) = Log::open(config, self.now_ms, &mut |record| {
            shown.push(Shown {
                position: record.position,
                kind: record.kind,
                body: record.body.to_vec(),
            });
        })?;
        Ok((log, shown, report))
    }

    /// Opens, which must work unless the machine stops meanwhile, and holds what comes back against the account.
    pub fn open(&mut self) -> Option<Arc<Log>> {
        let opened = self.try_open(false);
        if self.disk.is_off() {
            self.note("stopped in recovery".to_owned());
            return None;
        }
        let (log, shown, report) = match opened {
            Ok(opened) => opened,
            Err(error) => panic!("a sound disk was refused: {error}"),
        };
        let line = format!(
            "opened with {} records at {}: {report:?}",
            shown.len(),
            log.tail()
        );
        self.note(line);
        let mut book = self.book();
        book.check_shown(&shown, &report);
        book.keep_only(&shown, log.durable(), &report);
        let alive = book.jobs.values().filter(|job| !job.is_settled);
        let held = alive.map(|job| book.records[job.records.last().unwrap()].position);
        held.for_each(|position| log.retain(position, 1));
        let recycles_unsynced = book.recycles_unsynced;
        drop(book);
        log.set_recycles_unsynced(recycles_unsynced);
        self.boot_start = LogPosition::new(log.tail().sequence(), 0);
        let log = Arc::new(log);
        if self.busy_syncs {
            let (weak, book) = (Arc::downgrade(&log), Arc::clone(&self.book));
            let mut rng = Rng(self.rng.draw());
            self.disk.set_meanwhile(move || {
                if rng.one_in(3)
                    && let Some(log) = weak.upgrade()
                {
                    random_commit(&log, &mut rng, &book);
                }
            });
        }
        Some(log)
    }

    /// So many things done to the log, or fewer if it stops being usable.
    pub fn live(&mut self, log: &Log, ops: u64, closes: bool) -> End {
        let mut open: Vec<(u64, Claim<'_>)> = Vec::new();
        for _ in 0..ops {
            self.act(log, &mut open);
            if self.is_over(log) {
                return End::Stopped;
            }
        }
        if !closes {
            // Before the claims are dropped, which would make padding of them.
            self.disk.stop();
            return End::Stopped;
        }
        drop(open);
        let book = self.book();
        let ends = book.records.values().filter(|record| record.is_committed);
        let committed = ends.map(|record| record.end).max();
        drop(book);
        let closed = log.close(self.now_ms);
        self.note(format!("close: {closed:?}"));
        if self.is_over(log) {
            return End::Stopped;
        }
        closed.unwrap();
        assert!(
            committed.is_none_or(|end| end <= log.durable()),
            "closed, and not durable"
        );
        End::Closed
    }

    /// Takes down how far the log says to be durable, and whether it is of use any more.
    fn is_over(&mut self, log: &Log) -> bool {
        if let Some(reason) = log.poisoned() {
            assert!(
                log.sync().is_err() && log.claim(8, Room::Migrate).is_err(),
                "poison passes"
            );
            self.note(format!("poisoned: {reason}; durable {}", log.durable()));
        }
        let durable = log.durable();
        let mut book = self.book();
        book.durable = book.durable.max(durable);
        drop(book);
        if log.poisoned().is_some() && !self.disk.is_off() {
            self.disk.stop();
        }
        self.disk.is_off()
    }

    fn act<'a>(&mut self, log: &'a Log, open: &mut Vec<(u64, Claim<'a>)>) {
        match self.rng.below(100) {
            0..=34 => {
                if let Some((number, claim)) = self.claim(log) {
                    self.commit(log, number, claim);
                }
            }
            35..=44 if open.len() < 4 => open.extend(self.claim(log)),
            35..=54 if !open.is_empty() => {
                let (number, claim) = open.swap_remove(self.rng.below(open.len() as u64) as usize);
                if self.rng.one_in(6) {
                    self.note(format!("gave {number} up"));
                    drop(claim);
                } else {
                    self.commit(log, number, claim);
                }
            }
            55..=64 => {
                let synced = log.sync();
                self.note(format!("sync: {synced:?}"));
            }
            65..=79 => {
                self.now_ms += self.rng.below(3) * 400;
                let budget = 1 + self.rng.below(8) as usize;
                let done = log.step(self.now_ms, budget);
                self.note(format!("step: {done}, durable {}", log.durable()));
            }
            80..=93 => self.settle(log),
            94..=97 => self.migrate(log),
            98 => log.set_segment_note(self.rng.below(1_000)),
            _ => drop(log.pin(log.durable())),
        }
    }

    fn claim<'a>(&mut self, log: &'a Log) -> Option<(u64, Claim<'a>)> {
        let extra = self.rng.below(self.extra_max) as usize;
        let room = if self.rng.one_in(4) {
            Room::Settle
        } else {
            Room::Enqueue
        };
        match log.claim(16 + extra * 8, room) {
            Ok(mut claim) => {
                let mut book = self.book();
                book.last_job += 1;
                let job = book.last_job;
                let (number, body) = book.begin(claim.position(), job, extra);
                claim.put(&body);
                Some((number, claim))
            }
            Err(LogError::Full { .. } | LogError::Poisoned(_)) => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn commit(&self, log: &Log, number: u64, claim: Claim<'_>) {
        let (position, durable) = (claim.position(), log.durable());
        claim.commit(KIND, 0, self.now_ms, 1);
        let mut book = self.book();
        book.commit(number, durable);
        book.note(format!("record {number} at {position}, durable {durable}"));
    }

    fn draw_job(&mut self) -> Option<u64> {
        let book = Arc::clone(&self.book);
        let book = book.lock().unwrap();
        let alive = book
            .jobs
            .iter()
            .filter(|(_, job)| !job.is_settled)
            .map(|(id, _)| *id);
        let alive: Vec<u64> = alive.collect();
        if alive.is_empty() {
            return None;
        }
        // Mostly old ones, so that segments come free.
        let among = if self.rng.one_in(3) {
            alive.len()
        } else {
            alive.len().min(4)
        };
        Some(alive[self.rng.below(among as u64) as usize])
    }

    fn settle(&mut self, log: &Log) {
        for _ in 0..1 + self.rng.below(4) {
            let Some(id) = self.draw_job() else { return };
            let mut book = self.book();
            book.jobs.get_mut(&id).unwrap().is_settled = true;
            let last = *book.jobs[&id].records.last().unwrap();
            log.release(book.records[&last].position, 1);
            book.note(format!("settled job {id}, last in record {last}"));
        }
    }

    /// Copies a job to the tail.
    fn migrate(&mut self, log: &Log) {
        let Some(id) = self.draw_job() else { return };
        let Ok(mut claim) = log.claim(24, Room::Migrate) else {
            return;
        };
        let durable = log.durable();
        let mut book = self.book();
        let (number, body) = book.begin(claim.position(), id, 1);
        claim.put(&body);
        let last = *book.jobs[&id].records.last().unwrap();
        let end = claim.commit(KIND, 0, self.now_ms, 1);
        book.commit(number, durable);
        log.release_after(book.records[&last].position, 1, end);
        book.note(format!(
            "copied job {id} from record {last} to {number}, end {end}"
        ));
    }

    /// The process or the machine ends, and the log with it.
    pub fn crash(&mut self, log: Option<Arc<Log>>, power: bool) {
        self.disk.stop();
        drop(log);
        let failed = self.disk.counters().syncs_failed;
        if power || failed > self.syncs_failed {
            // What a failed sync left in the cache is forgotten at the next start.
            self.book().is_cached = false;
        }
        self.syncs_failed = failed;
        if power {
            self.disk.crash_power();
        } else {
            self.disk.crash_kill();
        }
        self.note(format!("crash, power cut {power}"));
    }

    /// After a crash that was chosen for the disk.
    pub fn note_power_cut(&mut self) {
        self.book().is_cached = false;
    }

    /// Where nothing went wrong the trail need not be shown.
    pub fn forget_trail(&mut self) {
        self.book().trail.clear();
    }

    pub fn now_passes(&mut self, ms: u64) {
        self.now_ms += ms;
    }
}
