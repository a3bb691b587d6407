//! Calls of the client against a scripted server: what it sends, what it makes of the answers.
#![cfg(feature = "client")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

mod client_fake;

use ackring::client::{Client, ClientConfig, ClientError, Reserve, Window};
use ackring::limits;
use ackring::wire::{Op, Request, response};
use ackring::{
    Class, Durability, EnqueueBuilder, ErrorCode, ItemError, JobId, JobOptions, Refusal, SettleBuilder, Token,
};
use client_fake::{Fake, Peer};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

const TOKEN: Token = Token {
    id: JobId(7),
    attempt: 2,
};

fn job(payload: &[u8]) -> EnqueueBuilder {
    let mut batch = EnqueueBuilder::new();
    batch.push(payload, &JobOptions::default());
    batch
}

/// Runs the script beside the calls; both must get through.
fn play(
    fake: &Fake,
    config: ClientConfig,
    script: impl FnOnce(&mut Peer) + Send,
    calls: impl FnOnce(&Client),
) {
    let (client, mut peer) = fake.connect(config);
    thread::scope(|scope| {
        let script = scope.spawn(move || {
            script(&mut peer);
            peer
        });
        calls(&client);
        script.join().unwrap();
    });
}

#[test]
fn a_job_is_enqueued_reserved_and_acked() {
    let fake = Fake::new();
    play(
        &fake,
        fake.config(),
        |peer| {
            peer.open_queue("mail", 5);
            let enqueue = peer.request();
            let Request::Enqueue {
                number,
                queue: 5,
                durability,
                batch,
            } = enqueue.decode()
            else {
                panic!()
            };
            assert_eq!((number, durability), (1, Some(Durability::Synced)));
            assert_eq!(batch.items().next().unwrap().payload(), b"hello");
            peer.outcome(&enqueue, &[7], &[]);

            let reserve = peer.request();
            let Request::Reserve(fields) = reserve.decode() else {
                panic!()
            };
            assert_eq!(
                (
                    fields.number,
                    fields.max_jobs,
                    fields.wait_ms,
                    fields.queues[0].get()
                ),
                (2, 3, 1_000, 5)
            );
            peer.deliver(&reserve, 5, &[b"hello", b"", b"third"]);

            let settle = peer.request();
            let Request::Settle { number: 3, batch, .. } = settle.decode() else {
                panic!()
            };
            let ack = batch.items().next().unwrap();
            assert_eq!(
                (ack.token, ack.note),
                (
                    Token {
                        id: JobId(1),
                        attempt: 1
                    },
                    Some(&b"fine"[..])
                )
            );
            peer.outcome(&settle, &[], &[]);
        },
        |client| {
            let mail = client.queue("mail").unwrap();
            let done = client
                .enqueue(&mail, &job(b"hello"), Some(Durability::Synced))
                .unwrap();
            assert_eq!(
                (done.ids, done.level),
                (vec![JobId(7)], Some(Durability::Written))
            );
            let wanted = Reserve {
                max_jobs: 3,
                wait: Duration::from_secs(1),
                ..Reserve::default()
            };
            let jobs = client.reserve(&[&mail], wanted).unwrap();
            let payloads: Vec<_> = jobs.iter().map(|job| job.payload()).collect();
            assert_eq!(payloads, [&b"hello"[..], b"", b"third"]);
            assert_eq!(jobs[0].queue(), "mail");
            client.ack(jobs[0].token(), Some(b"fine")).unwrap();
        },
    );
}

#[test]
fn answers_may_come_byte_by_byte_and_in_any_order() {
    let fake = Fake::new();
    play(
        &fake,
        fake.config(),
        |peer| {
            peer.open_queue("mail", 5);
            let requests: Vec<_> = (0..3).map(|_| peer.request()).collect();
            for request in requests.iter().rev() {
                let mut out = Vec::new();
                let head = ackring::wire::OutcomeHead {
                    level: Some(Durability::Written),
                    replayed: false,
                    count: 1,
                };
                request
                    .reply()
                    .outcome(&mut out, head, &[request.number() * 100], &[]);
                out.iter().for_each(|byte| peer.send(&[*byte]));
            }
        },
        |client| {
            let mail = client.queue("mail").unwrap();
            let pending: Vec<_> = (0..3)
                .map(|_| client.enqueue_start(&mail, &job(b"x"), None).unwrap())
                .collect();
            let ids: Vec<_> = pending
                .into_iter()
                .map(|pending| pending.wait().unwrap().ids[0].0)
                .collect();
            assert_eq!(ids, [100, 200, 300]);
        },
    );
}

#[test]
fn quiet_acks_wait_for_nothing_and_are_as_many_requests_as_they_have_to_be() {
    let fake = Fake::new();
    let tokens: Vec<Token> = (0..limits::BATCH_JOBS_MAX as u64 + 3)
        .map(|id| Token {
            id: JobId(id),
            attempt: 2,
        })
        .collect();
    play(
        &fake,
        fake.config(),
        |peer| {
            let ping = peer.request();
            peer.answer(&ping, |reply, out| reply.empty(out));
            let mut came = Vec::new();
            while came.len() < tokens.len() {
                let acks = peer.request();
                let Request::Settle {
                    number: 0,
                    quiet: true,
                    batch,
                } = acks.decode()
                else {
                    panic!("a quiet settlement")
                };
                came.extend(batch.items().map(|item| item.token));
                // Nobody asked, so what it says is nobody's.
                peer.refuse(&acks, ErrorCode::LogFull);
            }
            assert_eq!(came, tokens);
            let ping = peer.request();
            assert!(
                matches!(ping.decode(), Request::Ping),
                "nothing was sent for no token"
            );
            peer.answer(&ping, |reply, out| reply.empty(out));
        },
        |client| {
            // Whoever has tokens has heard from the server before.
            client.ping().unwrap();
            client.ack_quietly(&tokens).unwrap();
            client.ack_quietly(&[]).unwrap();
            client.ping().unwrap();
        },
    );
}

/// So many quiet acks, in one request of a quarter of a MiB.
fn many_acks() -> Vec<Token> {
    vec![TOKEN; limits::BATCH_JOBS_MAX]
}

/// A client that has heard from the server: quiet acks are refused where no connection is in use yet.
fn connect_and_ping(fake: &Fake, config: ClientConfig) -> (Client, Peer) {
    let (client, mut peer) = fake.connect(config);
    thread::scope(|scope| {
        let pinged = scope.spawn(|| client.ping());
        let ping = peer.request();
        peer.answer(&ping, |reply, out| reply.empty(out));
        pinged.join().unwrap().unwrap();
    });
    (client, peer)
}

/// Reads so many of those requests.
fn take_acks(peer: &mut Peer, requests: usize) {
    for _ in 0..requests {
        let acks = peer.request();
        let Request::Settle { batch, .. } = acks.decode() else {
            panic!("an ack")
        };
        assert_eq!(batch.count(), limits::BATCH_JOBS_MAX);
    }
}

#[test]
fn what_a_server_did_not_read_piled_up_without_limit_while_somebody_was_writing() {
    // More than the sockets hold between the two, and what may wait for them.
    const BYTES_MAX: usize = 256 * 1024 * 1024;
    let fake = Fake::new();
    let config = ClientConfig {
        request_timeout: Duration::from_secs(3),
        heartbeat: Duration::ZERO,
        ..fake.config()
    };
    let (client, mut peer) = connect_and_ping(&fake, config);
    let acks = many_acks();
    let requests_max = BYTES_MAX / (acks.len() * 16) / 4;
    let ack = || {
        let failed =
            (0..requests_max).find_map(|sent| client.ack_quietly(&acks).err().map(|why| (sent, why)));
        let (sent, why) = failed.expect("nobody reads, so this comes to an end");
        assert!(matches!(why, ClientError::Timeout(3000)), "{why}");
        sent
    };
    let sent: usize = thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(ack)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    // What was taken comes once somebody reads, and nothing else.
    take_acks(&mut peer, sent);
    client.ack_quietly(&[TOKEN]).unwrap();
    let last = peer.request();
    let Request::Settle { batch, .. } = last.decode() else {
        panic!("the last ack")
    };
    assert_eq!(batch.count(), 1);
}

#[test]
fn whoever_waits_for_a_server_that_is_behind_goes_on_when_it_reads() {
    const THREADS: usize = 4;
    const REQUESTS: usize = 64;
    let fake = Fake::new();
    let (client, mut peer) = connect_and_ping(&fake, fake.config());
    let acks = many_acks();
    let ack = || (0..REQUESTS).for_each(|_| client.ack_quietly(&acks).unwrap());
    thread::scope(|scope| {
        (0..THREADS).for_each(|_| drop(scope.spawn(ack)));
        take_acks(&mut peer, THREADS * REQUESTS);
    });
}

#[test]
fn who_waits_for_room_does_not_wait_for_a_connection_that_is_gone() {
    let fake = Fake::new();
    let (client, peer) = connect_and_ping(&fake, fake.config());
    drop(fake);
    let acks = many_acks();
    let (broken, heard) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..4 {
            let (client, acks, broken) = (&client, &acks, broken.clone());
            scope.spawn(move || {
                let why = (0..).find_map(|sent| {
                    if sent == 4 {
                        broken.send(()).unwrap();
                    }
                    client.ack_quietly(acks).err()
                });
                assert!(matches!(why, Some(ClientError::NoConnection { .. })), "{why:?}");
            });
        }
        drop(broken);
        heard.recv().unwrap();
        peer.hang_up();
    });
}

#[test]
fn each_class_of_refusal_is_an_error_of_its_own() {
    let fake = Fake::new();
    let codes = [
        ErrorCode::QueueFull,
        ErrorCode::PayloadTooLarge,
        ErrorCode::SessionExpired,
        ErrorCode::AlreadyApplied,
        ErrorCode::QueueNotFound,
    ];
    play(
        &fake,
        fake.config(),
        |peer| {
            peer.open_queue("mail", 5);
            for code in codes {
                let request = peer.request();
                peer.refuse(&request, code);
            }
        },
        |client| {
            let mail = client.queue("mail").unwrap();
            let enqueue = || client.enqueue(&mail, &job(b"x"), None);
            let full = enqueue().unwrap_err();
            assert!(
                matches!(&full, ClientError::RetryLater(refusal) if refusal.retry_ms > 0),
                "{full}"
            );
            assert_eq!(enqueue().unwrap_err().code(), Some(ErrorCode::PayloadTooLarge));
            let unknown = enqueue().unwrap_err();
            assert!(matches!(unknown, ClientError::OutcomeUnknown { number: 3, .. }));
            assert_eq!(unknown.class(), Some(Class::OutcomeUnknown));
            let applied = enqueue().unwrap();
            assert!(applied.details_lost && applied.replayed && applied.ids.is_empty());
            assert_eq!(enqueue().unwrap_err().class(), Some(Class::Caller));
        },
    );
}

#[test]
fn a_request_in_progress_elsewhere_is_sent_again_under_its_number() {
    let fake = Fake::new();
    play(
        &fake,
        fake.config(),
        |peer| {
            let first = peer.request();
            peer.refuse(&first, ErrorCode::InProgress);
            let second = peer.request();
            assert_eq!((first.body, first.header), (second.body.clone(), second.header));
            peer.outcome(&second, &[], &[]);
        },
        |client| client.ack(TOKEN, None).unwrap(),
    );
}

#[test]
fn a_settlement_tells_success_and_lost_leases_apart() {
    let fake = Fake::new();
    play(
        &fake,
        fake.config(),
        |peer| {
            for code in [ErrorCode::AlreadySettled, ErrorCode::LeaseLost] {
                let request = peer.request();
                peer.outcome(&request, &[], &[ItemError { position: 0, code }]);
            }
            let step = peer.request();
            let Request::Step {
                settlements: Some(batch),
                groups,
                ..
            } = step.decode()
            else {
                panic!()
            };
            assert_eq!((batch.count(), groups.len()), (1, 0));
            peer.refuse(&step, ErrorCode::StepRefused);
        },
        |client| {
            client.ack(TOKEN, None).unwrap();
            let lost = client.nack(TOKEN, None, Some(b"it broke")).unwrap_err();
            assert_eq!(lost.code(), Some(ErrorCode::LeaseLost));
            let mut batch = SettleBuilder::new();
            batch.ack(TOKEN, None);
            assert_eq!(
                client.step(&batch, &[]).unwrap_err().code(),
                Some(ErrorCode::StepRefused)
            );
        },
    );
}

#[test]
fn a_server_that_stalls_is_a_timeout_or_an_unknown_outcome() {
    let fake = Fake::new();
    let config = ClientConfig {
        request_timeout: Duration::from_millis(50),
        ..fake.config()
    };
    play(
        &fake,
        config,
        |peer| {
            peer.request();
            peer.request();
            // What comes too late for its caller is given back.
            let reserve = peer.request();
            assert_eq!(reserve.header.answered_op(), Some(Op::Reserve));
            peer.request();
            peer.deliver(&reserve, 5, &[b"too late"]);
            let release = peer.request();
            let Request::Settle { batch, .. } = release.decode() else {
                panic!("a release")
            };
            assert_eq!(batch.items().next().unwrap().verb, ackring::Verb::Release);
        },
        |client| {
            assert!(matches!(client.queue_info("mail"), Err(ClientError::Timeout(50))));
            assert!(matches!(
                client.ack(TOKEN, None),
                Err(ClientError::OutcomeUnknown { number: 1, .. })
            ));
            let pending = client.reserve_start(&[], Reserve::default()).unwrap();
            assert!(matches!(pending.wait(), Err(ClientError::Timeout(_))));
            assert!(matches!(client.ping(), Err(ClientError::Timeout(_))));
        },
    );
}

#[test]
fn a_server_that_does_not_read_stalls_no_caller_beyond_its_deadline() {
    let fake = Fake::new();
    let config = ClientConfig {
        request_timeout: Duration::from_millis(200),
        ..fake.config()
    };
    let (done, finished) = mpsc::channel::<()>();
    play(
        &fake,
        config,
        move |peer| {
            peer.open_queue("mail", 5);
            // Reads nothing until the calls are over.
            let _ = finished.recv();
        },
        |client| {
            let mail = client.queue("mail").unwrap();
            let large = job(&vec![0; 8 << 20]);
            for _ in 0..2 {
                let error = client.enqueue(&mail, &large, None).unwrap_err();
                assert!(matches!(error, ClientError::OutcomeUnknown { .. }), "{error}");
            }
            drop(done);
        },
    );
}

#[test]
fn no_more_requests_are_under_way_than_the_session_remembers() {
    let mut fake = Fake::new();
    fake.session_window = 4;
    play(
        &fake,
        fake.config(),
        |peer| {
            let first: Vec<_> = (0..3).map(|_| peer.request()).collect();
            assert_eq!(
                first.iter().map(|request| request.number()).collect::<Vec<_>>(),
                [1, 2, 3]
            );
            // The second is answered, the first is not: number 5 would push it out of the window.
            peer.outcome(&first[1], &[], &[]);
            let fourth = peer.request();
            assert_eq!(fourth.number(), 4);
            peer.outcome(&fourth, &[], &[]);
            peer.outcome(&first[2], &[], &[]);
            peer.stream
                .set_read_timeout(Some(Duration::from_millis(50)))
                .unwrap();
            assert!(
                std::io::Read::read(&mut peer.stream, &mut [0; 1]).is_err(),
                "number 5 has to wait"
            );
            peer.stream
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            peer.outcome(&first[0], &[], &[]);
            let fifth = peer.request();
            assert_eq!(fifth.number(), 5);
            peer.outcome(&fifth, &[], &[]);
        },
        |client| {
            thread::scope(|scope| {
                for _ in 0..5 {
                    scope.spawn(|| client.ack(TOKEN, None).unwrap());
                }
            });
        },
    );
}

#[test]
fn many_threads_share_one_connection() {
    let fake = Fake::new();
    play(
        &fake,
        fake.config(),
        |peer| {
            peer.open_queue("mail", 5);
            for _ in 0..400 {
                let request = peer.request();
                let Request::Enqueue { batch, .. } = request.decode() else {
                    panic!()
                };
                let payload: [u8; 8] = batch.items().next().unwrap().payload().try_into().unwrap();
                peer.outcome(&request, &[u64::from_le_bytes(payload)], &[]);
            }
        },
        |client| {
            let mail = client.queue("mail").unwrap();
            thread::scope(|scope| {
                for thread in 0..8u64 {
                    let (client, mail) = (&client, &mail);
                    scope.spawn(move || {
                        for n in 0..50 {
                            let mark = thread << 32 | n;
                            let id = client
                                .enqueue_one(mail, &mark.to_le_bytes(), &JobOptions::default())
                                .unwrap();
                            assert_eq!(id.0, mark);
                        }
                    });
                }
            });
        },
    );
}

#[test]
fn a_subscription_that_a_full_log_ended_seemed_to_be_refused_for_good() {
    let fake = Fake::new();
    play(
        &fake,
        fake.config(),
        |peer| {
            peer.open_queue("mail", 5);
            let subscribe = peer.request();
            peer.answer(&subscribe, |reply, out| reply.handle(out, 9));
            let full = Refusal {
                retry_ms: 100,
                ..Refusal::new(ErrorCode::LogFull, "the log is full")
            };
            let mut out = Vec::new();
            response::subscription_ended(&mut out, 9, &full);
            peer.send(&out);
        },
        |client| {
            let mail = client.queue("mail").unwrap();
            let subscription = client.subscribe(&[&mail], Window::default()).unwrap();
            let ended = subscription.next(Duration::from_secs(60)).unwrap_err();
            assert!(
                matches!(&ended, ClientError::RetryLater(refusal) if refusal.retry_ms == 100),
                "{ended}"
            );
        },
    );
}

#[test]
fn pushed_jobs_reach_the_subscription_until_it_ends() {
    let fake = Fake::new();
    play(
        &fake,
        fake.config(),
        |peer| {
            peer.open_queue("mail", 5);
            let subscribe = peer.request();
            let Request::Subscribe(fields) = subscribe.decode() else {
                panic!()
            };
            assert_eq!((fields.window_jobs, fields.queues[0].get()), (10, 5));
            // In one write, so that the pushes are in the same read as the answer.
            let mut out = Vec::new();
            subscribe.reply().handle(&mut out, 9);
            peer.send(&out);
            peer.push(9, 5, &[b"one", b"two"]);
            let gone = Refusal::new(ErrorCode::QueueNotFound, "the queue was deleted");
            let mut out = Vec::new();
            response::subscription_ended(&mut out, 9, &gone);
            peer.send(&out);

            let subscribe = peer.request();
            peer.answer(&subscribe, |reply, out| reply.handle(out, 10));
            peer.push(10, 5, &[b"never taken"]);
            // The second subscription is dropped with the job in it.
            let (mut released, mut unsubscribed) = (false, false);
            while !(released && unsubscribed) {
                let request = peer.request();
                match request.decode() {
                    Request::Unsubscribe { subscription: 10 } => unsubscribed = true,
                    Request::Settle { .. } => released = true,
                    Request::Ping => peer.answer(&request, |reply, out| reply.empty(out)),
                    other => panic!("{other:?}"),
                }
            }
        },
        |client| {
            let mail = client.queue("mail").unwrap();
            let window = Window {
                jobs: 10,
                ..Window::default()
            };
            let subscription = client.subscribe(&[&mail], window).unwrap();
            let jobs = subscription.next(Duration::from_secs(20)).unwrap().unwrap();
            assert_eq!(
                jobs.iter().map(|job| job.payload()).collect::<Vec<_>>(),
                [b"one", b"two"]
            );
            assert_eq!(jobs[0].queue(), "mail");
            let end = subscription.next(Duration::from_secs(20)).unwrap_err();
            assert_eq!(end.code(), Some(ErrorCode::QueueNotFound));
            let second = client.subscribe(&[&mail], window).unwrap();
            drop(second);
        },
    );
}

#[test]
fn a_batch_beyond_the_frame_is_refused_before_it_is_sent() {
    let fake = Fake::new();
    play(
        &fake,
        fake.config(),
        |peer| peer.open_queue("mail", 5),
        |client| {
            let mail = client.queue("mail").unwrap();
            let mut batch = job(&vec![0; 15 << 20]);
            batch.push(&vec![0; 15 << 20], &JobOptions::default());
            let error = client.enqueue(&mail, &batch, None).unwrap_err();
            assert_eq!(error.code(), Some(ErrorCode::BatchTooLarge));
        },
    );
}

#[test]
fn a_handle_of_another_client_is_refused() {
    let fake = Fake::new();
    let (other, mut peer) = fake.connect(fake.config());
    let opened = thread::scope(|scope| {
        scope.spawn(|| peer.open_queue("mail", 1));
        other.queue("mail").unwrap()
    });
    let (client, _peer) = fake.connect(fake.config());
    let error = client.enqueue(&opened, &job(b"x"), None).unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::InvalidArgument));
}
