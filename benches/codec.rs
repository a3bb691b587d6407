//! The wire's codec alone: frames of ENQUEUE, SETTLE and deliveries with 1, 64 and 500 jobs, written into a buffer
//! (`encode`), and cut out of one again and read job by job (`decode`).
//!
//! `cargo bench --no-default-features --features client --bench codec`. Figures are jobs a second.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    reason = "a benchmark that cannot go on should panic where it stands"
)]

use ackring::wire::{
    DeliverEntry, DeliveryBatch, DeliveryLimits, DeliveryWriter, FrameDecoder, Request, compose,
};
use ackring::{EnqueueBuilder, JobId, JobOptions, SettleBuilder, Token};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;

const BATCHES: [usize; 3] = [1, 64, 500];
const PAYLOADS: [usize; 2] = [64, 1024];

/// Measures writing a frame, and reading it with `read`, which says how many jobs were in it.
fn frame(
    criterion: &mut Criterion,
    name: &str,
    jobs: usize,
    payload: usize,
    write: impl Fn(&mut Vec<u8>),
    read: impl Fn(&ackring::wire::Header, &[u8]) -> usize,
) {
    let mut group = criterion.benchmark_group(format!("codec/{name}"));
    group.warm_up_time(Duration::from_millis(200));
    group
        .measurement_time(Duration::from_millis(1000))
        .throughput(Throughput::Elements(jobs as u64));
    let id = |way| BenchmarkId::new(way, format!("{payload}B/batch {jobs}"));
    let mut out = Vec::new();
    group.bench_function(id("encode"), |b| {
        b.iter(|| {
            out.clear();
            write(&mut out);
            black_box(out.len())
        })
    });
    let mut bytes = Vec::new();
    write(&mut bytes);
    let mut decoder = FrameDecoder::new(u32::MAX - 7);
    group.bench_function(id("decode"), |b| {
        b.iter(|| {
            // As after a read of a socket, which fills this very buffer.
            decoder.extend(black_box(&bytes));
            let frame = decoder.next_frame().unwrap().unwrap();
            assert_eq!(read(frame.header, frame.body), jobs);
        })
    });
    group.finish();
}

fn enqueue(criterion: &mut Criterion) {
    for payload in PAYLOADS {
        for jobs in BATCHES {
            let mut builder = EnqueueBuilder::new();
            (0..jobs).for_each(|_| builder.push(&vec![1; payload], &JobOptions::default()));
            frame(
                criterion,
                "enqueue",
                jobs,
                payload,
                |out| compose::enqueue(out, 1, 1, 0, None, &builder),
                |header, body| match Request::decode(header, body).unwrap() {
                    Request::Enqueue { batch, .. } => batch
                        .items()
                        .map(|item| black_box(item.payload()))
                        .filter(|bytes| bytes.len() == payload)
                        .count(),
                    other => panic!("{other:?}"),
                },
            );
        }
    }
}

fn deliveries(criterion: &mut Criterion) {
    for payload in PAYLOADS {
        for jobs in BATCHES {
            let body = vec![1; payload];
            let entry = DeliverEntry {
                id: 7.into(),
                payload_len: (payload as u32).into(),
                attempt: 1.into(),
                ..DeliverEntry::default()
            };
            let limits = DeliveryLimits {
                jobs: jobs as u32,
                bytes: 0,
                frame_bytes: u32::MAX,
            };
            frame(
                criterion,
                "delivery",
                jobs,
                payload,
                |out| {
                    let mut writer = DeliveryWriter::push_to(out, 1, limits);
                    for _ in 0..jobs {
                        assert!(writer.has_room(body.len()));
                        writer.push(&entry, black_box(&body));
                    }
                    writer.finish();
                },
                |_, body| {
                    let batch = DeliveryBatch::parse(body).unwrap();
                    let payloads = batch.items().map(|item| black_box(item.payload()));
                    payloads.filter(|bytes| bytes.len() == payload).count()
                },
            );
        }
    }
}

fn settle(criterion: &mut Criterion) {
    for jobs in BATCHES {
        let mut builder = SettleBuilder::new();
        let token = |job| Token {
            id: JobId(job as u64),
            attempt: 1,
        };
        (0..jobs).for_each(|job| builder.ack(token(job), None));
        frame(
            criterion,
            "settle",
            jobs,
            0,
            |out| compose::settle(out, 1, 1, &builder),
            |header, body| match Request::decode(header, body).unwrap() {
                Request::Settle { batch, .. } => batch.items().map(black_box).count(),
                other => panic!("{other:?}"),
            },
        );
    }
}

criterion_group!(codec, enqueue, deliveries, settle);
criterion_main!(codec);
