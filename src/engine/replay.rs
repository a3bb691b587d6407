//! Sessions: every numbered request is applied once, however often it is sent (G5b).
//!
//! A session keeps, for each of its last `SESSION_WINDOW` request numbers, where the record stands that carried
//! the request out; the answer is made again from that record. Costs O(1) a request and nothing a job. Where the
//! record's segment is gone, or nothing was logged, the answer is *already applied* without details.

pub use super::session::{Applied, RequestId};
use super::session::{Outcome, Session};
use crate::base::limits::{REQUESTS_REMEMBERED_MAX, SESSION_WINDOW, SESSIONS_MAX};
use crate::log::LogPosition;
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// What is known of a request before it is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// New: carry it out, then [`Sessions::finish`] or [`Sessions::abandon`].
    Fresh,
    /// It was carried out.
    Applied(Applied),
    /// It is being carried out right now.
    InProgress,
    /// Its number is older than the window: nobody knows any more.
    TooOld,
}

const SHARDS: usize = 16;

/// All sessions of one engine.
pub struct Sessions {
    shards: [Mutex<Shard>; SHARDS],
}

/// Sessions behind one lock.
struct Shard {
    /// A tree, since clients choose the ids.
    sessions: BTreeMap<u128, Session>,
    /// Requests that they know together.
    remembered: usize,
    remembered_max: usize,
}

impl Shard {
    fn new(remembered_max: usize) -> Mutex<Self> {
        Mutex::new(Self {
            sessions: BTreeMap::new(),
            remembered: 0,
            remembered_max,
        })
    }

    /// Lets something be done with a session that is there.
    fn with<T>(&mut self, id: u128, change: impl FnOnce(&mut Session) -> T) -> Option<T> {
        let session = self.sessions.get_mut(&id)?;
        let before = session.known.len();
        let result = change(session);
        self.remembered = self.remembered - before + session.known.len();
        Some(result)
    }

    /// Lets something be done with a session, which is made if it is not there. Another goes if there are too many, or
    /// if they remember too much.
    fn with_new<T>(&mut self, id: u128, change: impl FnOnce(&mut Session) -> T) -> T {
        if self.remembered >= self.remembered_max || !self.sessions.contains_key(&id) {
            self.make_room(id);
        }
        match self.with(id, change) {
            Some(result) => result,
            None => unreachable!("the session was made above"),
        }
    }

    /// Makes a session if it is not there, and room for what it is to remember.
    #[cold]
    fn make_room(&mut self, id: u128) {
        let is_new = !self.sessions.contains_key(&id);
        while is_new && self.sessions.len() >= SESSIONS_MAX / SHARDS || self.remembered >= self.remembered_max
        {
            if !self.evict_idlest(id) {
                break;
            }
        }
        self.sessions.entry(id).or_default();
    }

    /// Forgets the session that was idle longest, but not `but`. Says whether there was one.
    fn evict_idlest(&mut self, but: u128) -> bool {
        let others = self.sessions.iter().filter(|(id, _)| **id != but);
        let idlest = others.min_by_key(|(id, session)| (session.used_ms, **id));
        let gone = idlest.map(|(id, _)| *id).and_then(|id| self.sessions.remove(&id));
        self.remembered -= gone.as_ref().map_or(0, |session| session.known.len());
        gone.is_some()
    }
}

impl Default for Sessions {
    fn default() -> Self {
        Self::remembering(REQUESTS_REMEMBERED_MAX)
    }
}

/// A session as [`Sessions::needing`] hands it out to be logged again.
pub struct SessionSnapshot {
    /// Its id.
    pub session: u128,
    /// The highest number applied.
    pub highest: u64,
    /// All numbers applied within the window.
    pub applied: Vec<u64>,
    /// Records of requests that are not among these, but under way, stand in this segment or a later one.
    pub under_way_from: u32,
}

impl Sessions {
    fn remembering(requests_max: usize) -> Self {
        Self {
            shards: std::array::from_fn(|_| Shard::new(requests_max / SHARDS)),
        }
    }

    fn shard(&self, session: u128) -> &Mutex<Shard> {
        &self.shards[(session ^ (session >> 64)) as usize % SHARDS]
    }

    /// Looks a request up and, if it is new, marks it as in progress. Its record will stand in the segment
    /// `tail_sequence` or a later one.
    pub fn begin(&self, request: RequestId, tail_sequence: u32, now_ms: u64) -> Begun {
        if !request.is_numbered() {
            return Begun::Fresh;
        }
        let mut shard = self.shard(request.session).lock();
        shard.with_new(request.session, |session| {
            session.used_ms = now_ms;
            match session.find(request.number) {
                Some(Outcome::Applied(applied)) => Begun::Applied(applied),
                Some(Outcome::InProgress(_)) => Begun::InProgress,
                None if request.number <= session.highest.saturating_sub(SESSION_WINDOW) => Begun::TooOld,
                None => {
                    session.insert(request.number, Outcome::InProgress(tail_sequence));
                    Begun::Fresh
                }
            }
        })
    }

    /// The request was carried out.
    pub fn finish(&self, request: RequestId, applied: Applied) {
        if request.is_numbered() {
            let mut shard = self.shard(request.session).lock();
            shard.with(request.session, |session| session.set(request.number, applied));
        }
    }

    /// The request was refused or changed nothing, so it may be sent again. One that was finished stays so.
    pub fn abandon(&self, request: RequestId) {
        if request.is_numbered() {
            let mut shard = self.shard(request.session).lock();
            let stays =
                |(known, outcome): &(u64, Outcome)| *known != request.number || outcome.applied().is_some();
            shard.with(request.session, |session| session.known.retain(stays));
        }
    }

    /// As [`begin`](Self::begin) for several requests of a session in the order of their arrival. `false` where one
    /// of them may be no new one, which looks at each would tell: then none is begun.
    pub fn begin_together(
        &self,
        session: u128,
        numbers: impl Iterator<Item = u64> + Clone,
        tail_sequence: u32,
        now_ms: u64,
    ) -> bool {
        if session == 0 {
            return false;
        }
        let mut shard = self.shard(session).lock();
        shard.with_new(session, |session| {
            session.used_ms = now_ms;
            let mut highest = session.highest;
            // Above all before them, so they are new and not too old.
            let are_new = numbers
                .clone()
                .all(|number| std::mem::replace(&mut highest, number) < number);
            if are_new {
                numbers.for_each(|number| session.insert(number, Outcome::InProgress(tail_sequence)));
            }
            are_new
        })
    }

    /// The requests that were [begun together](Self::begin_together) were carried out; in the same order.
    pub fn finish_together(&self, session: u128, requests: &[(u64, Applied)]) {
        let mut shard = self.shard(session).lock();
        shard.with(session, |session| {
            let first = requests.first().map(|(number, _)| *number);
            let mut at = session.known.iter().rposition(|(known, _)| Some(*known) == first);
            for (number, applied) in requests {
                // They stand behind one another, with those of other threads between them at most.
                let place = at.filter(|at| session.known.get(*at).is_some_and(|(known, _)| known == number));
                match place {
                    Some(place) => session.known[place].1 = Outcome::Applied(*applied),
                    None => session.set(*number, *applied),
                }
                at = at.map(|at| at + 1);
                session.note_needs(*applied);
            }
        });
    }

    /// Whether any request of the session is remembered.
    pub fn knows(&self, session: u128) -> bool {
        self.shard(session)
            .lock()
            .sessions
            .get(&session)
            .is_some_and(|session| !session.known.is_empty())
    }

    /// Whether a request was carried out, as far as its session still knows. Changes nothing.
    pub fn is_applied(&self, request: RequestId) -> bool {
        request.is_numbered()
            && self
                .shard(request.session)
                .lock()
                .sessions
                .get(&request.session)
                .and_then(|session| session.find(request.number))
                .is_some_and(|outcome| outcome.applied().is_some())
    }

    /// From the log: a request was carried out there.
    pub fn restore(&self, request: RequestId, applied: Applied, now_ms: u64) {
        if !request.is_numbered() {
            return;
        }
        let mut shard = self.shard(request.session).lock();
        shard.with_new(request.session, |session| {
            session.used_ms = session.used_ms.max(now_ms);
            session.set(request.number, applied);
        });
    }

    /// From the log: a session as it stood, logged at `position`.
    pub fn restore_session(&self, snapshot: &SessionSnapshot, position: LogPosition, now_ms: u64) {
        let nowhere = Applied {
            position: LogPosition::NONE,
            volatile: false,
        };
        for number in &snapshot.applied {
            let request = RequestId {
                session: snapshot.session,
                number: *number,
            };
            let known = {
                let shard = self.shard(request.session).lock();
                shard
                    .sessions
                    .get(&request.session)
                    .and_then(|session| session.find(request.number))
            };
            if known.is_none() {
                self.restore(request, nowhere, now_ms);
            }
        }
        let mut shard = self.shard(snapshot.session).lock();
        if let Some(session) = shard.sessions.get_mut(&snapshot.session) {
            session.highest = session.highest.max(snapshot.highest);
            session.needs(position.sequence());
        }
    }

    /// Whether the record of a request that is being carried out may stand in a segment up to `sequence`.
    pub fn is_begun_by(&self, sequence: u32) -> bool {
        self.shards.iter().any(|shard| {
            let shard = shard.lock();
            let mut known = shard.sessions.values().flat_map(|session| &session.known);
            known.any(|(_, outcome)| matches!(outcome, Outcome::InProgress(begun) if *begun <= sequence))
        })
    }

    /// Sessions that a restart could not know any more if the segments up to `sequence` were gone. They are to
    /// be logged again, and [`logged`](Self::logged) then says so.
    pub fn needing(&self, sequence: u32) -> Vec<SessionSnapshot> {
        let mut found = Vec::new();
        for shard in &self.shards {
            for (id, session) in &shard.lock().sessions {
                if session.oldest_sequence == 0 || session.oldest_sequence > sequence {
                    continue;
                }
                let applied = session
                    .known
                    .iter()
                    .filter(|(_, outcome)| outcome.applied().is_some_and(|applied| !applied.volatile))
                    .map(|(number, _)| *number)
                    .collect();
                let begun = session.known.iter().filter_map(|(_, outcome)| match outcome {
                    Outcome::InProgress(begun) => Some(*begun),
                    Outcome::Applied(_) => None,
                });
                found.push(SessionSnapshot {
                    session: *id,
                    highest: session.highest,
                    applied,
                    under_way_from: begun.min().unwrap_or(u32::MAX),
                });
            }
        }
        // The same log from the same requests, whatever the order in a hash table.
        found.sort_unstable_by_key(|snapshot| snapshot.session);
        found
    }

    /// A session as segments up to `sequence` tell it, whatever came behind. `None` where it was forgotten.
    pub fn told_through(&self, session: u128, sequence: u32) -> Option<SessionSnapshot> {
        let shard = self.shard(session).lock();
        let known = shard.sessions.get(&session)?;
        // One without a place was told by an earlier start.
        let is_told = |applied: Applied| !applied.volatile && applied.position.sequence() <= sequence;
        let told = known.known.iter();
        let applied = told.filter(|(_, outcome)| outcome.applied().is_some_and(is_told));
        Some(SessionSnapshot {
            session,
            // The numbers that are too old to be known stay so.
            highest: known.highest,
            applied: applied.map(|(number, _)| *number).collect(),
            under_way_from: u32::MAX,
        })
    }

    /// A session was logged again as `snapshot` has it. A restart needs segments from `tail_sequence` on, which is
    /// where the log's tail was before the session was looked at, and those with what was under way then.
    pub fn logged(&self, snapshot: &SessionSnapshot, tail_sequence: u32) {
        let mut shard = self.shard(snapshot.session).lock();
        if let Some(session) = shard.sessions.get_mut(&snapshot.session) {
            session.oldest_sequence = tail_sequence.min(snapshot.under_way_from);
        }
    }
}

#[cfg(all(test, not(loom)))]
#[path = "replay_test.rs"]
mod tests;
