//! The state word: who may touch a job, and when its slot is free.

use ackring::engine::slab::Slab;
use ackring::engine::slot::Fields;
use ackring::engine::transition::Popped;
use ackring::engine::word::{Phase, QUEUED, StateWord};
use ackring::log::LogPosition;
use ackring::log::tail::Tail;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering, fence};
use loom::thread;

fn model(body: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(body);
}

/// A slab of one slot with a job in it.
fn with_job(phase: Phase, flags: u8) -> (Arc<Slab>, StateWord) {
    let slab = Slab::new(1);
    let mut numbers = [9];
    assert_eq!((slab.take(&mut numbers), numbers), (1, [0]));
    let attempt = u16::from(phase == Phase::Leased);
    let word = slab.begin(0, 0, flags).with_phase(phase).with_attempt(attempt);
    slab.slot(0).write(&fields(1));
    slab.slot(0).publish(word);
    (Arc::new(slab), word)
}

fn fields(n: u64) -> Fields {
    Fields {
        body: LogPosition::from_raw(n << 32),
        at_ms: n,
        enqueued_ms: n,
        note: LogPosition::from_raw(n),
        ..Fields::default()
    }
}

/// So many jobs are worth passing the gate for.
const MANY: usize = 64;

/// How many slots can be had.
fn free_slots(slab: &Slab) -> usize {
    let mut numbers = [0; 3];
    slab.take(&mut numbers)
}

/// As a settlement does: takes the job if it is leased under this attempt.
fn take_leased(slab: &Slab, generation: u32, attempt: u16) -> Option<StateWord> {
    let slot = slab.slot(0);
    let word = slot.state();
    let current = word.generation() == generation && word.attempt() == attempt;
    (current && word.phase() == Phase::Leased && slot.take(word)).then_some(word)
}

#[test]
fn of_two_settlers_of_one_delivery_one_wins() {
    model(|| {
        let (slab, word) = with_job(Phase::Leased, 0);
        let there = {
            let slab = slab.clone();
            thread::spawn(move || {
                take_leased(&slab, word.generation(), 1)
                    .map(|word| slab.slot(0).finish(word.with_phase(Phase::Done)))
                    .is_some()
            })
        };
        let here = take_leased(&slab, word.generation(), 1)
            .map(|word| slab.slot(0).finish(word.with_phase(Phase::Done)))
            .is_some();
        let there = there.join().unwrap();
        assert!(here ^ there, "one ack counts");
        assert_eq!(slab.slot(0).state().phase(), Phase::Done);
    });
}

#[test]
fn a_settlement_and_the_end_of_the_lease_do_not_both_happen() {
    model(|| {
        let (slab, word) = with_job(Phase::Leased, 0);
        let expiry = {
            let slab = slab.clone();
            thread::spawn(move || {
                let slot = slab.slot(0);
                let taken = take_leased(&slab, word.generation(), 1);
                if let Some(before) = taken {
                    slot.write_changes(&fields(2));
                    slot.publish(before.with_phase(Phase::Ready).with(QUEUED));
                }
                taken.is_some()
            })
        };
        let acked = take_leased(&slab, word.generation(), 1)
            .map(|word| slab.slot(0).finish(word.with_phase(Phase::Done)))
            .is_some();
        let expired = expiry.join().unwrap();
        assert!(acked ^ expired);
        let (state, found) = slab.slot(0).snapshot().unwrap();
        let expected = if acked { Phase::Done } else { Phase::Ready };
        assert_eq!(
            (state.phase(), found.at_ms),
            (expected, if acked { 1 } else { 2 })
        );
    });
}

/// A job's records stand in the order of their claims, and the last one holds: a copy that stands behind a settlement
/// must not tell how the job stood before it.
#[test]
fn a_copy_behind_a_settlement_in_the_log_tells_what_the_settlement_did() {
    const LEN: u32 = 32;
    model(|| {
        let (slab, word) = with_job(Phase::Leased, 0);
        let tail = Arc::new(Tail::new(LogPosition::new(1, 64)));
        let settler = {
            let (slab, tail) = (slab.clone(), tail.clone());
            thread::spawn(move || {
                let before = take_leased(&slab, word.generation(), 1).unwrap();
                fence(Ordering::Release);
                let at = tail.claim(LEN, 1 << 20, 1 << 20).unwrap();
                let slot = slab.slot(0);
                slot.write_changes(&fields(2));
                slot.publish(before.with_phase(Phase::Ready).with(QUEUED));
                at
            })
        };
        let slot = slab.slot(0);
        let copy = slot.snapshot().and_then(|(word, fields)| {
            let at = tail.claim(LEN, 1 << 20, 1 << 20).unwrap();
            slot.is_still(word, fields.at_ms).then_some((at, word, fields))
        });
        let settled_at = settler.join().unwrap();
        if let Some((at, word, fields)) = copy {
            let told = (word.phase(), fields.at_ms);
            let expected = if at > settled_at {
                (Phase::Ready, 2)
            } else {
                (Phase::Leased, 1)
            };
            assert_eq!(told, expected);
        }
    });
}

/// As a cancel does: takes the job by its id.
fn cancel(slab: &Slab, word: StateWord) -> bool {
    slab.slot(0).take_closing(word, &mut slab.gate().closing())
}

/// As a reserve does with many handles that it popped, in passing if it may. Says whether it took the job.
fn pop_passing(slab: &Slab) -> bool {
    let Some(passing) = slab.gate().pass(MANY) else {
        return pop(slab);
    };
    let word = slab.slot(0).state();
    if word.phase() == Phase::Ready {
        slab.slot(0).take_passing(word, &passing);
        return true;
    }
    drop(passing);
    pop(slab)
}

/// As a reserve does with a handle that it popped. Says whether it took the job.
fn pop(slab: &Slab) -> bool {
    loop {
        match slab.meet(0) {
            Popped::Stale => return false,
            Popped::Ready(word) => {
                if slab.slot(0).take_popped(word).is_some() {
                    return true;
                }
            }
        }
    }
}

#[test]
fn a_job_cancelled_while_its_handle_is_popped_frees_its_slot_once() {
    model(|| {
        let (slab, word) = with_job(Phase::Ready, QUEUED);
        let popper = {
            let slab = slab.clone();
            thread::spawn(move || pop(&slab))
        };
        // The retention keeps nothing, so the job is forgotten at once.
        let cancelled = cancel(&slab, word);
        if cancelled {
            slab.slot(0).finish(word.with_phase(Phase::Cancelled));
            let (_, body, is_free) = slab.slot(0).forget(None);
            assert_eq!(body, LogPosition::from_raw(1 << 32), "the body is released once");
            if is_free {
                slab.give(&[0]);
            }
        }
        let taken = popper.join().unwrap();
        assert!(taken ^ cancelled);
        assert_eq!(free_slots(&slab), usize::from(cancelled));
        if taken {
            let state = slab.slot(0).state();
            assert_eq!(
                (state.phase(), state.attempt(), state.has(QUEUED)),
                (Phase::Busy, 1, false)
            );
        }
    });
}

#[test]
fn a_job_is_taken_by_its_popper_who_passes_the_gate_or_by_who_cancels_it() {
    model(|| {
        let (slab, word) = with_job(Phase::Ready, QUEUED);
        let popper = {
            let slab = slab.clone();
            thread::spawn(move || pop_passing(&slab))
        };
        let cancelled = cancel(&slab, word);
        let state = slab.slot(0).state();
        let (attempt, is_queued) = (state.attempt(), state.has(QUEUED));
        let taken = popper.join().unwrap();
        assert!(taken ^ cancelled);
        if taken {
            // Who was too late finds it taken, and it stays so.
            assert_eq!((attempt, is_queued), (1, false));
            assert_eq!(slab.slot(0).state(), state);
        } else {
            assert_eq!(slab.slot(0).state(), word.with_phase(Phase::Busy).without(QUEUED));
        }
    });
}

#[test]
fn a_job_whose_cancelling_is_taken_back_while_it_is_popped_in_passing_loses_no_handle() {
    model(|| {
        let (slab, word) = with_job(Phase::Ready, QUEUED);
        let popper = {
            let slab = slab.clone();
            thread::spawn(move || pop_passing(&slab))
        };
        // Who takes it back puts the handle into the ring again where it was dropped meanwhile.
        let again = cancel(&slab, word) && slab.slot(0).restore(word);
        let taken = popper.join().unwrap();
        let state = slab.slot(0).state();
        assert!(taken ^ again, "the job has one handle, or one worker");
        let expected = if taken { Phase::Busy } else { Phase::Ready };
        assert_eq!((state.phase(), state.has(QUEUED)), (expected, !taken));
    });
}

#[test]
fn the_gate_stays_closed_until_the_last_who_closed_it_is_gone() {
    model(|| {
        let (slab, word) = with_job(Phase::Ready, QUEUED);
        let popper = {
            let slab = slab.clone();
            thread::spawn(move || pop_passing(&slab))
        };
        let (first, second) = (slab.gate().close(), slab.gate().close());
        drop(first);
        let cancelled = cancel(&slab, word);
        drop(second);
        assert!(popper.join().unwrap() ^ cancelled);
    });
}

#[test]
fn a_job_forgotten_in_passing_while_its_handle_is_popped_frees_its_slot_once() {
    model(|| {
        let (slab, _) = with_job(Phase::Cancelled, QUEUED);
        let popper = {
            let slab = slab.clone();
            thread::spawn(move || pop_passing(&slab))
        };
        let passing = slab.gate().pass(MANY);
        let (_, body, is_free) = slab.slot(0).forget(passing.as_ref());
        drop(passing);
        assert_eq!(body, LogPosition::from_raw(1 << 32), "the body is released once");
        if is_free {
            slab.give(&[0]);
        }
        assert!(!popper.join().unwrap());
        assert_eq!(free_slots(&slab), 1);
        // The next job of the slot is whole.
        let next = slab.begin(0, 0, 0);
        slab.slot(0).write(&fields(2));
        slab.slot(0).publish(next.with_phase(Phase::Ready));
        assert_eq!(slab.slot(0).snapshot().unwrap().1, fields(2));
    });
}

#[test]
fn what_is_written_in_passing_is_not_seen_before_the_job_is_taken() {
    model(|| {
        let (slab, _) = with_job(Phase::Ready, QUEUED);
        let popper = {
            let slab = slab.clone();
            thread::spawn(move || {
                assert!(pop_passing(&slab));
                slab.slot(0).write_changes(&fields(2));
            })
        };
        if let Some((state, found)) = slab.slot(0).snapshot() {
            assert_eq!((state.phase(), found.at_ms), (Phase::Ready, 1));
        }
        popper.join().unwrap();
    });
}

#[test]
fn a_body_that_is_moved_while_its_job_is_forgotten_in_passing_is_released_once_where_it_stands() {
    let (from, to) = (LogPosition::from_raw(1 << 32), LogPosition::from_raw(9 << 32));
    model(move || {
        let (slab, _) = with_job(Phase::Done, 0);
        let forgetter = {
            let slab = slab.clone();
            thread::spawn(move || {
                let passing = slab.gate().pass(MANY);
                let (_, body, is_free) = slab.slot(0).forget(passing.as_ref());
                assert!(is_free);
                body
            })
        };
        let moved = {
            let closed = slab.gate().close();
            slab.slot(0).move_body(from, to, &closed)
        };
        let released = forgetter.join().unwrap();
        assert_eq!(released, if moved { to } else { from });
        assert!(slab.slot(0).body().is_none());
    });
}

#[test]
fn a_change_taken_back_while_the_handle_is_popped_loses_no_handle() {
    model(|| {
        let (slab, word) = with_job(Phase::Ready, QUEUED);
        // Handles of the job in the ring; the popper has one in its hand.
        let in_ring = Arc::new(AtomicUsize::new(0));
        let popper = {
            let slab = slab.clone();
            thread::spawn(move || pop(&slab))
        };
        if cancel(&slab, word) && slab.slot(0).restore(word) {
            in_ring.fetch_add(1, Ordering::Relaxed);
        }
        let taken = popper.join().unwrap();
        assert_eq!(
            in_ring.load(Ordering::Relaxed),
            usize::from(!taken),
            "either it is handed out, or its handle is in the ring"
        );
        let state = slab.slot(0).state();
        let expected = if taken { Phase::Busy } else { Phase::Ready };
        assert_eq!((state.phase(), state.has(QUEUED)), (expected, !taken));
    });
}

#[test]
fn two_looks_never_mix_two_owners() {
    model(|| {
        let (slab, word) = with_job(Phase::Leased, 0);
        let writer = {
            let slab = slab.clone();
            thread::spawn(move || {
                let slot = slab.slot(0);
                assert!(cancel(&slab, word));
                slot.write_changes(&fields(2));
                slot.publish(word.next_turn());
            })
        };
        if let Some((state, found)) = slab.slot(0).snapshot() {
            let n = if state == word { 1 } else { 2 };
            let expected = Fields {
                body: LogPosition::from_raw(1 << 32),
                ..fields(n)
            };
            assert_eq!(found, expected, "under {state:?}");
        }
        writer.join().unwrap();
    });
}

#[test]
fn the_end_of_a_job_whose_handle_is_in_a_ring_comes_with_its_fields() {
    model(|| {
        let (slab, word) = with_job(Phase::Ready, QUEUED);
        let canceller = {
            let slab = slab.clone();
            thread::spawn(move || {
                let slot = slab.slot(0);
                assert!(cancel(&slab, word));
                slot.write_changes(&fields(2));
                slot.finish(word.with_phase(Phase::Cancelled));
            })
        };
        if let Some((state, found)) = slab.slot(0).snapshot() {
            let n = if state.phase() == Phase::Ready { 1 } else { 2 };
            assert_eq!((found.at_ms, found.note), (n, fields(n).note), "under {state:?}");
        }
        canceller.join().unwrap();
    });
}

#[test]
fn a_look_at_a_slot_that_is_used_again_sees_one_job() {
    model(|| {
        let (slab, word) = with_job(Phase::Done, 0);
        let writer = {
            let slab = slab.clone();
            thread::spawn(move || {
                let (_, _, is_free) = slab.slot(0).forget(None);
                assert!(is_free);
                let next = slab.begin(0, 0, 0);
                slab.slot(0).write(&fields(2));
                slab.slot(0).publish(next.with_phase(Phase::Ready));
            })
        };
        if let Some((state, found)) = slab.slot(0).snapshot() {
            match state.phase() {
                // The body of a job that is being forgotten goes first.
                Phase::Done => assert_eq!((state, found.at_ms, found.note), (word, 1, fields(1).note)),
                Phase::Ready => assert_eq!(found, fields(2)),
                other => assert_eq!(other, Phase::Free),
            }
        }
        writer.join().unwrap();
    });
}

#[test]
fn an_old_token_never_settles_the_next_job_of_its_slot() {
    model(|| {
        let (slab, word) = with_job(Phase::Leased, 0);
        let next = {
            let slab = slab.clone();
            thread::spawn(move || {
                let slot = slab.slot(0);
                if take_leased(&slab, word.generation(), 1).is_none() {
                    return false;
                }
                slot.finish(word.with_phase(Phase::Done));
                let (_, _, is_free) = slab.slot(0).forget(None);
                assert!(is_free);
                let next = slab.begin(0, 0, 0).with_attempt(1);
                slot.publish(next.with_phase(Phase::Leased));
                true
            })
        };
        let settled = take_leased(&slab, word.generation(), 1);
        if let Some(before) = settled {
            assert_eq!(slab.slot(0).state().generation(), word.generation());
            slab.slot(0).finish(before.with_phase(Phase::Done));
        }
        let replaced = next.join().unwrap();
        assert!(settled.is_some() ^ replaced);
        let state = slab.slot(0).state();
        let expected = if replaced { Phase::Leased } else { Phase::Done };
        assert_eq!(state.phase(), expected);
        assert_eq!(state.generation() != word.generation(), replaced);
    });
}
