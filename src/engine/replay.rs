//! Sessions: every numbered request is applied once, however often it is sent (G5b).
//!
//! A session keeps, for each of its last `SESSION_WINDOW` request numbers, where the record stands that carried
//! the request out; the answer is made again from that record. Costs O(1) a request and nothing a job. Where the
//! record's segment is gone, or nothing was logged, the answer is *already applied* without details.

use crate::base::limits::{REQUESTS_REMEMBERED_MAX, SESSION_WINDOW, SESSIONS_MAX};
use crate::log::LogPosition;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};

/// Which request of which session this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId {
    /// The client's session, 128 random bits; 0 for none.
    pub session: u128,
    /// The request's number in the session, from 1; 0 for a request that is not remembered.
    pub number: u64,
}

impl RequestId {
    /// A request that is not remembered.
    pub const NONE: RequestId = RequestId {
        session: 0,
        number: 0,
    };

    /// Whether it is to be remembered.
    pub fn is_numbered(self) -> bool {
        self.session != 0 && self.number != 0
    }
}

/// Where a request's record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// The record's header; none where nothing was logged.
    pub position: LogPosition,
    /// Whether it stands in the volatile log.
    pub volatile: bool,
}

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

/// What is known of one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Being carried out; its record, if there will be one, stands in this segment or a later one.
    InProgress(u32),
    /// Carried out.
    Applied(Applied),
}

impl Outcome {
    fn applied(self) -> Option<Applied> {
        match self {
            Outcome::InProgress(_) => None,
            Outcome::Applied(applied) => Some(applied),
        }
    }
}

#[derive(Default)]
struct Session {
    /// Numbers applied or in progress with where, oldest arrival first; all above `highest - SESSION_WINDOW`
    /// but for a few at the front that wait to be trimmed.
    known: VecDeque<(u64, Outcome)>,
    highest: u64,
    used_ms: u64,
    /// Sequence of the oldest log segment that a restart would need to know this session, 0 for none.
    oldest_sequence: u32,
}

impl Session {
    fn find(&self, number: u64) -> Option<Outcome> {
        // New numbers are above all others, so the search is for resends and stragglers only.
        if number > self.highest {
            return None;
        }
        self.known
            .iter()
            .rev()
            .find(|(known, _)| *known == number)
            .map(|(_, outcome)| *outcome)
    }

    fn insert(&mut self, number: u64, outcome: Outcome) {
        self.highest = self.highest.max(number);
        let floor = self.highest.saturating_sub(SESSION_WINDOW);
        // Before the push: a full window then fits memory for as many as it has.
        while self
            .known
            .front()
            .is_some_and(|(known, outcome)| *known <= floor && outcome.applied().is_some())
        {
            self.known.pop_front();
        }
        self.known.push_back((number, outcome));
        if self.known.len() as u64 > 2 * SESSION_WINDOW {
            self.known
                .retain(|(known, outcome)| *known > floor || outcome.applied().is_none());
        }
    }

    fn set(&mut self, number: u64, applied: Applied) {
        if let Some(entry) = self.known.iter_mut().rev().find(|(known, _)| *known == number) {
            entry.1 = Outcome::Applied(applied);
        } else {
            self.insert(number, Outcome::Applied(applied));
        }
        self.note_needs(applied);
    }

    fn note_needs(&mut self, applied: Applied) {
        if !applied.volatile && !applied.position.is_none() {
            self.needs(applied.position.sequence());
        }
    }

    /// A restart needs the segment of that number, or what is logged again of it.
    fn needs(&mut self, sequence: u32) {
        if self.oldest_sequence == 0 || self.oldest_sequence > sequence {
            self.oldest_sequence = sequence;
        }
    }
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
mod tests {
    use super::*;

    fn request(number: u64) -> RequestId {
        RequestId { session: 9, number }
    }

    fn applied(offset: u64) -> Applied {
        Applied {
            position: LogPosition::from_raw(1 << 32 | offset),
            volatile: false,
        }
    }

    #[test]
    fn a_request_is_fresh_once() {
        let sessions = Sessions::default();
        assert_eq!(sessions.begin(request(1), 1, 0), Begun::Fresh);
        assert_eq!(sessions.begin(request(1), 1, 0), Begun::InProgress);
        sessions.finish(request(1), applied(8));
        assert_eq!(sessions.begin(request(1), 1, 0), Begun::Applied(applied(8)));
    }

    #[test]
    fn requests_that_came_together_are_fresh_once_and_only_where_all_are_new() {
        let sessions = Sessions::default();
        let begin = |numbers: &[u64]| sessions.begin_together(9, numbers.iter().copied(), 1, 0);
        assert!(begin(&[1, 2, 5]));
        assert!(!begin(&[5, 6]) && !begin(&[7, 7]) && !begin(&[8, 6]) && !begin(&[0]));
        assert_eq!(sessions.begin(request(6), 1, 0), Begun::Fresh);
        assert_eq!(sessions.begin(request(2), 1, 0), Begun::InProgress);
        sessions.finish_together(9, &[(1, applied(8)), (2, applied(16)), (5, applied(40))]);
        for (number, offset) in [(1, 8), (2, 16), (5, 40)] {
            assert_eq!(
                sessions.begin(request(number), 1, 0),
                Begun::Applied(applied(offset))
            );
        }
        assert_eq!(sessions.begin(request(6), 1, 0), Begun::InProgress);
        assert!(!sessions.begin_together(0, [7].into_iter(), 1, 0));
    }

    #[test]
    fn requests_of_another_thread_between_those_that_came_together_stay_as_they_are() {
        let sessions = Sessions::default();
        assert!(sessions.begin_together(9, [3, 6].into_iter(), 1, 0));
        assert_eq!(sessions.begin(request(4), 1, 0), Begun::Fresh);
        assert!(sessions.begin_together(9, [7, 8].into_iter(), 1, 0));
        sessions.abandon(request(6));
        sessions.finish_together(9, &[(7, applied(56)), (8, applied(64))]);
        sessions.finish_together(9, &[(3, applied(24))]);
        assert_eq!(sessions.begin(request(4), 1, 0), Begun::InProgress);
        assert_eq!(sessions.begin(request(7), 1, 0), Begun::Applied(applied(56)));
        assert_eq!(sessions.begin(request(3), 1, 0), Begun::Applied(applied(24)));
    }

    #[test]
    fn a_refused_request_may_come_again() {
        let sessions = Sessions::default();
        assert_eq!(sessions.begin(request(5), 1, 0), Begun::Fresh);
        sessions.abandon(request(5));
        assert_eq!(sessions.begin(request(5), 1, 0), Begun::Fresh);
    }

    #[test]
    fn numbers_may_arrive_out_of_order_within_the_window() {
        let sessions = Sessions::default();
        for number in [3, 1, 2] {
            assert_eq!(sessions.begin(request(number), 1, 0), Begun::Fresh);
            sessions.finish(request(number), applied(number * 8));
        }
        assert_eq!(sessions.begin(request(1), 1, 0), Begun::Applied(applied(8)));
    }

    #[test]
    fn beyond_the_window_the_outcome_is_unknown() {
        let sessions = Sessions::default();
        for number in 1..=3 * SESSION_WINDOW {
            assert_eq!(sessions.begin(request(number), 1, 0), Begun::Fresh);
            sessions.finish(request(number), applied(number * 8));
        }
        let highest = 3 * SESSION_WINDOW;
        assert_eq!(
            sessions.begin(request(highest - SESSION_WINDOW), 1, 0),
            Begun::TooOld
        );
        let oldest = highest - SESSION_WINDOW + 1;
        assert_eq!(
            sessions.begin(request(oldest), 1, 0),
            Begun::Applied(applied(oldest * 8))
        );
    }

    #[test]
    fn the_highest_number_of_all_is_no_trouble() {
        let sessions = Sessions::default();
        assert_eq!(sessions.begin(request(u64::MAX), 1, 0), Begun::Fresh);
        sessions.finish(request(u64::MAX), applied(8));
        assert_eq!(
            sessions.begin(request(u64::MAX), 1, 0),
            Begun::Applied(applied(8))
        );
        assert_eq!(sessions.begin(request(u64::MAX - 1), 1, 0), Begun::Fresh);
    }

    #[test]
    fn a_request_under_way_keeps_its_segment() {
        let sessions = Sessions::default();
        assert_eq!(sessions.begin(request(1), 4, 0), Begun::Fresh);
        assert!(sessions.is_begun_by(4) && !sessions.is_begun_by(3));
        sessions.finish(request(1), applied(8));
        assert!(!sessions.is_begun_by(4));
        assert_eq!(sessions.needing(1).len(), 1);
    }

    /// Its record could stand in a segment that nobody would think of when that went; a restart then did not know the
    /// request any more, and applied it again.
    #[test]
    fn a_request_that_ended_while_its_session_was_logged_again_was_forgotten_with_its_segment() {
        let sessions = Sessions::default();
        let at = |sequence: u32| Applied {
            position: LogPosition::new(sequence, 64),
            volatile: false,
        };
        assert_eq!(sessions.begin(request(1), 3, 0), Begun::Fresh);
        sessions.finish(request(1), at(3));
        assert_eq!(sessions.begin(request(2), 5, 0), Begun::Fresh);
        // The reclaimer clears segment 4 while the tail is in segment 7.
        assert!(!sessions.is_begun_by(4));
        let snapshot = sessions.needing(4).pop().unwrap();
        assert_eq!(snapshot.applied, [1]);
        sessions.finish(request(2), at(5));
        sessions.logged(&snapshot, 7);
        let later = sessions.needing(5).pop().map(|snapshot| snapshot.applied);
        assert_eq!(later, Some(vec![1, 2]));
    }

    #[test]
    fn sessions_are_bounded_and_the_idlest_goes() {
        let sessions = Sessions::default();
        for session in 1..=(SESSIONS_MAX as u128 * 2) {
            let request = RequestId { session, number: 1 };
            assert_eq!(sessions.begin(request, 1, session as u64), Begun::Fresh);
            sessions.finish(request, applied(8));
        }
        let kept: usize = sessions
            .shards
            .iter()
            .map(|shard| shard.lock().sessions.len())
            .sum();
        assert!(kept <= SESSIONS_MAX);
        assert!(sessions.knows(SESSIONS_MAX as u128 * 2) && !sessions.knows(1));
    }

    /// Sessions that had ended long ago kept a whole window each, up to gigabytes.
    #[test]
    fn what_idle_sessions_remembered_was_bounded_only_by_their_number() {
        let windows = 3;
        let sessions = Sessions::remembering(windows * SHARDS * SESSION_WINDOW as usize);
        let memory = || {
            let shards = sessions.shards.iter().map(|shard| {
                let shard = shard.lock();
                let known = shard.sessions.values().map(|session| session.known.len());
                assert_eq!(known.sum::<usize>(), shard.remembered);
                let places = shard.sessions.values().map(|session| session.known.capacity());
                places.sum::<usize>()
            });
            shards.sum::<usize>()
        };
        for session in 1..=SHARDS as u128 * 10 {
            for number in 1..=2 * SESSION_WINDOW {
                let request = RequestId { session, number };
                assert_eq!(sessions.begin(request, 1, session as u64), Begun::Fresh);
                sessions.finish(request, applied(8));
            }
            // What a session has in flight stays known while it goes on.
            let newest = RequestId {
                session,
                number: 2 * SESSION_WINDOW,
            };
            assert!(sessions.is_applied(newest));
        }
        let most = (windows + 1) * SHARDS * SESSION_WINDOW as usize;
        assert!(memory() <= most, "{} places for requests", memory());
        assert!(sessions.knows(SHARDS as u128 * 10) && !sessions.knows(1));
    }
}
