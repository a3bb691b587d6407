//! How those who sleep are woken: reactors, the flusher, and the end of both. A reactor's poll is a bell here. Loom
//! reports a deadlock where a wake is lost.

use crate::model;
use ackring::base::queue::QueueOptions;
use ackring::base::wake::{Awake, Bell, Errand, Turns, run_errands};
use ackring::engine::QueueId;
use ackring::engine::queue::Queue;
use ackring::ring::ChunkPool;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;
use std::collections::VecDeque;

/// The door of a reactor, as `server/mailbox.rs` puts it together.
#[derive(Default)]
struct Door {
    awake: Awake,
    poll: Bell,
    disk: Errand,
    batons: Mutex<VecDeque<u64>>,
}

impl Door {
    fn ring(&self) {
        if self.awake.ring() {
            self.poll.ring();
        }
    }

    /// As the reactor waits: it takes its mark away, looks a last time, and sleeps.
    fn sleep_unless(&self, has_messages: impl Fn() -> bool) {
        self.awake.doze();
        if !has_messages() {
            self.poll.wait(None);
        }
        self.awake.wake_up();
    }
}

fn spawn<S: 'static>(shared: &Arc<S>, body: impl FnOnce(&S) + 'static) -> thread::JoinHandle<()> {
    let shared = shared.clone();
    thread::spawn(move || body(&shared))
}

/// Two ringers bring a message each; the reactor sleeps until it has both. (A message is put in by `swap`, as a
/// queue's push would: of a store and a swap that meet, loom takes neither for the later one.)
#[test]
fn a_message_put_in_before_the_ring_is_never_slept_over() {
    model(3, || {
        let shared = Arc::new((Door::default(), [(); 2].map(|()| AtomicBool::new(false))));
        let reactor = spawn(&shared, |(door, messages)| {
            let mut has = [false; 2];
            while has != [true; 2] {
                // Taken out, as from a queue.
                for (has, message) in has.iter_mut().zip(messages) {
                    *has |= message.swap(false, Ordering::Relaxed);
                }
                if has != [true; 2] {
                    door.sleep_unless(|| messages.iter().any(|message| message.load(Ordering::Relaxed)));
                }
            }
        });
        let ringer = spawn(&shared, |(door, messages)| {
            messages[0].swap(true, Ordering::Relaxed);
            door.ring();
        });
        let (door, messages) = &*shared;
        messages[1].swap(true, Ordering::Relaxed);
        door.ring();
        ringer.join().unwrap();
        reactor.join().unwrap();
    });
}

/// A server as far as the disk goes: reactors whose answers wait, the flusher, and the end of all.
struct Server<const REACTORS: usize> {
    doors: [Door; REACTORS],
    /// Two records a reactor, committed and on the disk.
    records: [[AtomicBool; 2]; REACTORS],
    disk: [[AtomicBool; 2]; REACTORS],
    flush_bell: Bell,
    stopping: AtomicBool,
    retired: AtomicBool,
}

fn marks<const N: usize>() -> [[AtomicBool; 2]; N] {
    std::array::from_fn(|_| [(); 2].map(|()| AtomicBool::new(false)))
}

impl<const REACTORS: usize> Server<REACTORS> {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            doors: std::array::from_fn(|_| Door::default()),
            records: marks(),
            disk: marks(),
            flush_bell: Bell::default(),
            stopping: AtomicBool::new(false),
            retired: AtomicBool::new(false),
        })
    }

    /// `Flusher::step` and the loop around it.
    fn flush(&self) {
        while !self.retired.load(Ordering::Acquire) {
            let sync = || {
                for (records, disk) in self.records.iter().zip(&self.disk) {
                    for (record, disk) in records.iter().zip(disk) {
                        if record.load(Ordering::Relaxed) {
                            disk.store(true, Ordering::Relaxed);
                        }
                    }
                }
                Ok::<_, ()>(())
            };
            let errands = self.doors.iter().map(|door| &door.disk);
            if run_errands(errands, sync, |reactor| self.doors[reactor].ring()) == Ok(0) {
                self.flush_bell.wait(None);
            }
        }
    }

    /// A turn's end: asks for the disk.
    fn ask(&self, reactor: usize) {
        if self.doors[reactor].disk.ask() {
            self.flush_bell.ring();
        }
    }

    /// Commits `records`, each in a turn of its own, and goes on until all of them are on the disk.
    fn react(&self, reactor: usize, records: usize) {
        let (door, own) = (&self.doors[reactor], &self.records[reactor][..records]);
        let held = || {
            let on_disk = |disk: &AtomicBool| disk.load(Ordering::Relaxed);
            !self.disk[reactor][..records].iter().all(on_disk)
        };
        for record in own {
            record.store(true, Ordering::Relaxed);
            self.ask(reactor);
        }
        while held() {
            self.ask(reactor);
            door.sleep_unless(|| !door.disk.is_asked());
        }
    }

    /// Ends a flusher that may be asleep.
    fn retire(&self, flusher: thread::JoinHandle<()>) {
        self.retired.store(true, Ordering::Release);
        self.flush_bell.ring();
        flusher.join().unwrap();
    }
}

#[test]
fn an_answer_that_waits_for_the_disk_is_sent_however_the_flusher_is_timed() {
    model(3, || {
        let server = Server::<1>::new();
        let flusher = spawn(&server, Server::flush);
        // A second record that comes while the sync of the first is under way needs a sync of its own.
        server.react(0, 2);
        server.retire(flusher);
    });
}

#[test]
fn two_reactors_that_wait_for_the_disk_are_both_told() {
    model(2, || {
        let server = Server::<2>::new();
        let flusher = spawn(&server, Server::flush);
        let other = spawn(&server, |server| server.react(1, 1));
        server.react(0, 1);
        other.join().unwrap();
        server.retire(flusher);
    });
}

#[test]
fn a_stop_reaches_a_reactor_and_a_flusher_that_sleep() {
    model(3, || {
        let server = Server::<1>::new();
        let flusher = spawn(&server, Server::flush);
        let reactor = spawn(&server, |server| {
            let door = &server.doors[0];
            while !server.stopping.load(Ordering::Acquire) {
                door.sleep_unless(|| server.stopping.load(Ordering::Acquire));
            }
        });
        // As `Hub::stop`, then `Hub::retire` once the reactors are gone.
        server.stopping.store(true, Ordering::Release);
        server.doors[0].ring();
        reactor.join().unwrap();
        server.retire(flusher);
    });
}

/// Reactors at one queue, as `server/doors.rs` and the rounds of a reactor put it together. Each takes as many jobs
/// as its window has room for.
struct Floor {
    pool: ChunkPool,
    queue: Queue,
    turns: Turns,
    doors: [Door; 2],
    jobs: usize,
    taken: AtomicUsize,
    over: AtomicBool,
}

impl Floor {
    fn new(jobs: usize) -> Arc<Self> {
        Arc::new(Self {
            pool: ChunkPool::new(4),
            queue: Queue::new(QueueId(0), "q", QueueOptions::default()),
            turns: Turns::default(),
            doors: [Door::default(), Door::default()],
            jobs,
            taken: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        })
    }

    /// `Engine::wake` and `Doors::published`, from a thread that is no reactor.
    fn publish(&self, handles: &[u32]) {
        self.queue.push_ready(&self.pool, 0, handles);
        let bits = self.queue.waiters();
        if bits != 0 {
            self.turns
                .published(bits, 0, handles.len(), |who, others| self.hand(who, others));
        }
    }

    /// `Doors::hand`: the bit is taken out before the baton is put down.
    fn hand(&self, who: u32, others: u64) {
        self.queue.retire(1 << who);
        self.doors[who as usize].batons.lock().unwrap().push_back(others);
        self.doors[who as usize].ring();
    }

    fn take(&self) -> bool {
        let mut out = [0];
        if self.queue.pop_ready(&self.pool, 0, &mut out) == 0 {
            return false;
        }
        if self.taken.fetch_add(1, Ordering::AcqRel) + 1 == self.jobs {
            self.over.store(true, Ordering::Release);
            self.doors.iter().for_each(Door::ring);
        }
        true
    }

    /// The loop of a reactor with one waiter whose window has room for that many jobs.
    fn react(&self, me: usize, mut room: usize) {
        let door = &self.doors[me];
        let (mut announced, mut todo) = (false, Some(0));
        while !self.over.load(Ordering::Acquire) {
            while let Some(others) = { door.batons.lock().unwrap().pop_front() } {
                announced = false;
                todo = Some(todo.unwrap_or(0) | others);
            }
            if let Some(others) = todo.take() {
                self.look_after(me, others, &mut announced, &mut room);
            }
            door.sleep_unless(|| {
                !door.batons.lock().unwrap().is_empty() || self.over.load(Ordering::Acquire)
            });
        }
    }

    fn look_after(&self, me: usize, others: u64, announced: &mut bool, room: &mut usize) {
        loop {
            if *room == 0 {
                // `Desk::leave_queue`.
                if std::mem::take(announced) {
                    self.queue.retire(1 << me);
                }
                return self.turns.pass_on(others, |who, others| self.hand(who, others));
            }
            let mut found = self.take();
            if !found && !std::mem::replace(announced, true) {
                self.queue.announce(1 << me);
                found = self.take();
            }
            if !found {
                return;
            }
            *room -= 1;
        }
    }
}

/// Batches are published while reactors with these windows come and go.
fn serve_all(windows: [usize; 2], batches: &'static [&'static [u32]]) {
    model(2, move || {
        let floor = Floor::new(batches.iter().map(|batch| batch.len()).sum());
        let reactors = [0, 1].map(|me| spawn(&floor, move |floor| floor.react(me, windows[me])));
        for batch in batches {
            floor.publish(batch);
        }
        for reactor in reactors {
            reactor.join().unwrap();
        }
    });
}

#[test]
fn a_batch_finds_every_reactor_that_it_needs() {
    serve_all([1, 1], &[&[1, 2]]);
}

#[test]
fn no_job_lies_ready_while_a_reactor_with_room_sleeps() {
    serve_all([1, 1], &[&[1], &[2]]);
}

#[test]
fn a_reactor_that_is_told_twice_is_not_lost_sight_of() {
    serve_all([2, 2], &[&[1], &[2]]);
}
