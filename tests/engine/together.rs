//! Requests that came together are carried out at once, and are still each a request of its own.

use crate::world::World;
use ackring::engine::{Confirmed, EnqueueReply, Numbered, QueueId, RequestId, Together};
use ackring::{
    EnqueueBatch, EnqueueBuilder, ErrorCode, JobId, JobOptions, JobState, QueueOptions, SettleBatch,
    SettleBuilder, Token,
};

const SESSION: u128 = 0xfeed_beef;

fn request(number: u64) -> RequestId {
    RequestId {
        session: SESSION,
        number,
    }
}

/// The ids of all jobs, and what each request was told; `None` where nothing was done.
fn enqueue(
    world: &World,
    queue: QueueId,
    requests: &[(u64, &[&str])],
    options: &JobOptions<'_>,
) -> Option<(Vec<u64>, Vec<Confirmed>)> {
    let bytes = requests.iter().map(|(_, payloads)| {
        let mut builder = EnqueueBuilder::new();
        payloads
            .iter()
            .for_each(|payload| builder.push(payload.as_bytes(), options));
        let mut bytes = Vec::new();
        builder.write_to(&mut bytes);
        bytes
    });
    let bytes: Vec<Vec<u8>> = bytes.collect();
    let numbered: Vec<_> = requests
        .iter()
        .zip(&bytes)
        .map(|((number, payloads), bytes)| (*number, EnqueueBatch::parse(payloads.len(), bytes).unwrap()))
        .collect();
    let (mut reply, mut confirmed) = (EnqueueReply::default(), Vec::new());
    let engine = world.engine();
    let now_ms = world.now_ms;
    let together = Together {
        session: SESSION,
        requests: &numbered,
    };
    let done = engine.enqueue_together(queue, together, None, now_ms, &mut reply, &mut confirmed);
    assert_eq!(confirmed.len(), if done { requests.len() } else { 0 });
    done.then_some((reply.ids, confirmed))
}

/// Calls `each` with requests that ack these tokens.
fn with_acks<R>(requests: &[(u64, &[Token])], each: impl FnOnce(&[Numbered<SettleBatch<'_>>]) -> R) -> R {
    let bytes = requests.iter().map(|(_, tokens)| {
        let mut builder = SettleBuilder::new();
        tokens.iter().for_each(|token| builder.ack(*token, None));
        let mut bytes = Vec::new();
        builder.write_to(&mut bytes);
        bytes
    });
    let bytes: Vec<Vec<u8>> = bytes.collect();
    let numbered: Vec<_> = requests
        .iter()
        .zip(&bytes)
        .map(|((number, tokens), bytes)| (*number, SettleBatch::parse(tokens.len(), bytes).unwrap()))
        .collect();
    each(&numbered)
}

fn ack(world: &World, requests: &[(u64, &[Token])]) -> bool {
    with_acks(requests, |requests| {
        let together = Together {
            session: SESSION,
            requests,
        };
        let mut confirmed = Vec::new();
        world
            .engine()
            .ack_together(together, world.now_ms, &mut confirmed)
    })
}

/// The same without numbers, each token in a request of its own.
fn ack_unnumbered(world: &World, tokens: &[Token]) -> bool {
    let requests: Vec<(u64, &[Token])> = tokens.chunks(1).map(|one| (0, one)).collect();
    with_acks(&requests, |requests| {
        world.engine().ack_unnumbered(requests, world.now_ms)
    })
}

fn both(test: impl Fn(World)) {
    test(World::logged());
    test(World::in_memory());
}

fn plain() -> JobOptions<'static> {
    JobOptions::default()
}

#[test]
fn each_has_its_ids_in_order_and_answers_them_again() {
    both(|world| {
        let queue = world.queue("q");
        let requests: [(u64, &[&str]); 3] = [(1, &["a"]), (2, &["b", "c"]), (7, &["d"])];
        let (ids, confirmed) = enqueue(&world, queue, &requests, &plain()).unwrap();
        assert!(confirmed.iter().all(|one| !one.replayed));
        for ((number, payloads), from) in requests.iter().zip([0, 1, 3]) {
            let jobs: Vec<_> = payloads.iter().map(|one| (one.as_bytes(), plain())).collect();
            let again = world.push_as(queue, &jobs, request(*number)).unwrap();
            assert_eq!(again.ids, ids[from..from + payloads.len()]);
        }
        assert_eq!(world.drain(queue), [b"a", b"b", b"c", b"d"]);
    });
}

#[test]
fn each_is_known_after_a_crash_and_every_job_is_there_once() {
    let mut world = World::logged();
    let queue = world.queue("q");
    let requests: Vec<(u64, &[&str])> = (1..=50).map(|number| (number, &["job"][..])).collect();
    let (ids, confirmed) = enqueue(&world, queue, &requests, &plain()).unwrap();
    assert!(confirmed.is_sorted_by_key(|one| one.position.unwrap().raw()));
    world.crash();
    let queue = world.queue("q");
    for (number, id) in (1..=50).zip(&ids) {
        let again = world
            .push_as(queue, &[(b"job", plain())], request(number))
            .unwrap();
        assert_eq!(again.ids, [*id]);
    }
    let jobs = world.reserve(queue, 100);
    let came: Vec<u64> = jobs.iter().map(|job| job.token.id.0).collect();
    assert_eq!(came, ids);
    let tokens: Vec<[Token; 1]> = jobs.iter().map(|job| [job.token]).collect();
    let acks: Vec<(u64, &[Token])> = (51..)
        .zip(&tokens)
        .map(|(number, one)| (number, &one[..]))
        .collect();
    assert!(ack(&world, &acks));
    for _ in 0..2 {
        assert!(ids.iter().all(|id| world.state(JobId(*id)) == JobState::Done));
        let again = world.settle_as(request(60), |batch| batch.ack(tokens[9][0], None));
        assert_eq!(again.unwrap(), []);
        assert!(!ack(&world, &acks), "each answers for itself from now on");
        world.crash();
    }
}

#[test]
fn acks_without_numbers_are_one_record_or_not_done_at_all() {
    both(|mut world| {
        let queue = world.queue("q");
        let jobs = vec![(&b"job"[..], plain()); 20];
        world.push_as(queue, &jobs, RequestId::NONE).unwrap();
        let tokens: Vec<Token> = world.reserve(queue, 20).iter().map(|job| job.token).collect();
        let states = |world: &World| {
            tokens
                .iter()
                .map(|token| world.state(token.id))
                .collect::<Vec<_>>()
        };
        let mut stale = tokens.clone();
        stale[7].attempt += 1;
        assert!(!ack_unnumbered(&world, &stale));
        assert_eq!(states(&world), [JobState::Leased; 20]);
        let before = world.engine().log_end().raw();
        assert!(ack_unnumbered(&world, &tokens));
        // 16 bytes a job, and less than a record's header for each.
        let logged = world.engine().log_end().raw() - before;
        assert!(logged < 20 * 24 + 100, "{logged} bytes");
        assert_eq!(states(&world), [JobState::Done; 20]);
        assert!(!ack_unnumbered(&world, &tokens), "they are over");
        if logged > 0 {
            world.crash();
            assert_eq!(states(&world), [JobState::Done; 20]);
        }
    });
}

#[test]
fn where_one_is_not_new_or_not_plain_nothing_is_done() {
    both(|world| {
        let queue = world.queue("q");
        world.push_as(queue, &[(b"old", plain())], request(5)).unwrap();
        let old: [(u64, &[&str]); 2] = [(5, &["old"]), (6, &["new"])];
        assert_eq!(enqueue(&world, queue, &old, &plain()), None);
        let new: [(u64, &[&str]); 2] = [(6, &["one"]), (7, &["two"])];
        for options in [
            JobOptions { key: b"k", ..plain() },
            JobOptions {
                ttl_ms: 5_000,
                ..plain()
            },
        ] {
            assert_eq!(enqueue(&world, queue, &new, &options), None);
        }
        assert_eq!(enqueue(&world, QueueId(999), &new, &plain()), None);
        // The numbers are still free, for each by itself.
        world.push_as(queue, &[(b"one", plain())], request(6)).unwrap();
        world.push_as(queue, &[(b"two", plain())], request(7)).unwrap();
        assert_eq!(world.drain(queue), [b"old", b"one", b"two"]);
    });
}

#[test]
fn a_full_queue_takes_those_that_fit_one_by_one() {
    both(|world| {
        let options = QueueOptions {
            capacity_jobs: 2,
            ..QueueOptions::default()
        };
        let queue = world.create("q", options);
        let requests: [(u64, &[&str]); 3] = [(1, &["a"]), (2, &["b"]), (3, &["c"])];
        assert_eq!(enqueue(&world, queue, &requests, &plain()), None);
        let one = |number, payload: &[u8]| world.push_as(queue, &[(payload, plain())], request(number));
        assert!(one(1, b"a").is_ok() && one(2, b"b").is_ok());
        assert_eq!(one(3, b"c").unwrap_err().code, ErrorCode::QueueFull);
        assert_eq!(world.drain(queue), [b"a", b"b"]);
        let next: [(u64, &[&str]); 2] = [(4, &["d"]), (5, &["e"])];
        assert!(enqueue(&world, queue, &next, &plain()).is_some());
    });
}

#[test]
fn a_token_that_is_not_current_keeps_the_others_leased_until_each_is_settled() {
    both(|world| {
        let queue = world.queue("q");
        let jobs = [(&b"a"[..], plain()), (b"b", plain())];
        world.try_push(queue, &jobs).unwrap();
        let held = world.reserve(queue, 2);
        let stale = Token {
            attempt: 9,
            ..held[1].token
        };
        assert!(!ack(&world, &[(1, &[held[0].token]), (2, &[stale])]));
        assert!(
            !ack(&world, &[(1, &[held[0].token]), (2, &[held[0].token])]),
            "twice the same"
        );
        assert_eq!(world.state(held[0].token.id), JobState::Leased);
        assert!(ack(&world, &[(3, &[held[0].token]), (4, &[held[1].token])]));
        assert_eq!(world.state(held[1].token.id), JobState::Done);
    });
}

/// What a request was told: how many jobs (or acks), or why not.
type Told = Result<usize, ErrorCode>;

/// One of two engines that live through the same: one gets requests together where it takes them, the other one by one.
struct Twin {
    world: World,
    is_together: bool,
    held: Vec<Token>,
    done_together: usize,
}

impl Twin {
    fn new(is_together: bool) -> Self {
        let world = World::logged();
        let options = QueueOptions {
            capacity_jobs: 40,
            keep_finished: 10,
            ..QueueOptions::default()
        };
        world.create("q", options);
        Self {
            world,
            is_together,
            held: Vec::new(),
            done_together: 0,
        }
    }

    fn enqueue(&mut self, requests: &[(u64, &[&str])]) -> Vec<Told> {
        let queue = self.world.queue("q");
        if self.is_together && enqueue(&self.world, queue, requests, &plain()).is_some() {
            self.done_together += 1;
            return requests.iter().map(|(_, payloads)| Ok(payloads.len())).collect();
        }
        let each = requests.iter().map(|(number, payloads)| {
            let jobs: Vec<_> = payloads.iter().map(|one| (one.as_bytes(), plain())).collect();
            let told = self.world.push_as(queue, &jobs, request(*number));
            told.map(|reply| reply.ids.len()).map_err(|refusal| refusal.code)
        });
        each.collect()
    }

    fn reserve(&mut self, count: usize) -> Vec<Vec<u8>> {
        let jobs = self.world.reserve(self.world.queue("q"), count);
        self.held.extend(jobs.iter().map(|job| job.token));
        jobs.into_iter().map(|job| job.payload).collect()
    }

    fn ack(&mut self, requests: &[(u64, Vec<usize>)]) -> Vec<Told> {
        let tokens: Vec<(u64, Vec<Token>)> = requests
            .iter()
            .map(|(number, places)| (*number, places.iter().map(|place| self.held[*place]).collect()))
            .collect();
        let all: Vec<(u64, &[Token])> = tokens.iter().map(|(number, own)| (*number, &own[..])).collect();
        if self.is_together && ack(&self.world, &all) {
            self.done_together += 1;
            return all.iter().map(|(_, own)| Ok(own.len())).collect();
        }
        let each = all.iter().map(|(number, own)| {
            let told = self.world.settle_as(request(*number), |batch| {
                own.iter().for_each(|token| batch.ack(*token, None));
            });
            told.map_err(|refusal| refusal.code)
                .and_then(|items| match items.first() {
                    Some(item) if item.code != ErrorCode::AlreadySettled => Err(item.code),
                    _ => Ok(own.len()),
                })
        });
        each.collect()
    }
}

#[test]
fn at_once_and_one_by_one_come_to_the_same_through_crashes() {
    let mut random = 88_172_645_463_325_252_u64;
    let mut below = |end: u64| {
        // xorshift64 (Marsaglia 2003).
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % end
    };
    let mut twins = [Twin::new(true), Twin::new(false)];
    let mut next = 1;
    let names: Vec<String> = (0..4_000).map(|number| format!("job {number}")).collect();
    for turn in 0..600 {
        // Mostly new numbers; some that are known, with what they asked for then or with something else.
        let mut number = || {
            if below(40) == 0 {
                return 1 + below(next);
            }
            next += 1;
            next
        };
        let count = turn % 7;
        let numbers: Vec<u64> = (0..count).map(|_| number()).collect();
        if turn % 2 == 0 {
            let payloads: Vec<Vec<&str>> = numbers
                .iter()
                .map(|number| vec![names[*number as usize].as_str(); 1 + *number as usize % 2])
                .collect();
            let requests: Vec<(u64, &[&str])> = numbers
                .iter()
                .zip(&payloads)
                .map(|(number, own)| (*number, &own[..]))
                .collect();
            let [one, other] = &mut twins;
            assert_eq!(one.enqueue(&requests), other.enqueue(&requests), "turn {turn}");
        } else {
            let wanted = below(12) as usize;
            let [one, other] = &mut twins;
            assert_eq!(one.reserve(wanted), other.reserve(wanted), "turn {turn}");
            let held = one.held.len() as u64;
            assert_eq!(held as usize, other.held.len());
            // The oldest ones in order, now and then one that is settled already.
            let mut places = held.saturating_sub(12)..held;
            let acks: Vec<(u64, Vec<usize>)> = numbers
                .iter()
                .filter_map(|number| {
                    let place = if below(30) == 0 {
                        below(held.max(1))
                    } else {
                        places.next()?
                    };
                    (place < held).then(|| (*number, vec![place as usize]))
                })
                .collect();
            assert_eq!(one.ack(&acks), other.ack(&acks), "turn {turn}");
        }
        if below(50) == 0 {
            for twin in &mut twins {
                twin.world.crash();
            }
        }
        let [one, other] = twins
            .each_ref()
            .map(|twin| twin.world.engine().queue_stats(twin.world.queue("q")).unwrap());
        assert_eq!(one, other, "turn {turn}");
    }
    assert!(twins[0].done_together > 100, "{}", twins[0].done_together);
    let [one, other] = twins
        .each_mut()
        .map(|twin| twin.world.drain(twin.world.queue("q")));
    assert_eq!(one, other);
}
