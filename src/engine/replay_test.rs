//! What sessions remember, and what they forget.

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
