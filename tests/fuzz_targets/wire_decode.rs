//! Bytes as they may come from a socket: the decoder and every parser of `wire`.
//!
//! Never a panic; never more memory than the frame limit allows; the same frames however the bytes were cut; and
//! what is understood as a request is, written again, the bytes that came.

use crate::wire_again;
use ackring::wire::response::{decode_handle, decode_job, decode_jobs, decode_queue_info, decode_queue_list};
use ackring::wire::{
    BadFrame, DeliverEntry, DeliveryBatch, DeliveryLimits, DeliveryWriter, ErrorReply, FrameDecoder, Header,
    Op, Outcome, Reply, Request, Welcome,
};
use ackring::{EnqueueBatch, SettleBatch};
use zerocopy::{FromBytes, IntoBytes};

/// The longest frame that any run of this target allows, in bytes.
pub const FRAME_BYTES_MAX: usize = 1 << 16;
/// What a decoder may hold beyond its longest frame: the room for two large reads, in bytes.
const READ_BYTES: usize = 2 * 256 * 1024;

/// One input: how to read the rest, the longest frame, where to cut, and the stream.
///
/// Byte 0: bits 0–2 choose the longest frame; bit 3: the rest describes frames instead of being them. Byte 1: the
/// number of cuts (up to 15), whose lengths follow, one byte each.
pub fn run(input: &[u8]) {
    let Some(([mode, cuts], rest)) = input.split_first_chunk::<2>() else {
        return;
    };
    let (cuts, rest) = rest.split_at(usize::from(cuts & 15).min(rest.len()));
    let len_max = [16, 64, 256, 1024, 4096, 8192, 32 * 1024, FRAME_BYTES_MAX][usize::from(mode & 7)];
    let stream = if mode & 8 == 0 {
        rest.to_vec()
    } else {
        described(rest)
    };

    let whole = decode(&stream, &[], len_max);
    let cut = decode(&stream, cuts, len_max);
    assert_eq!(whole, cut, "the same frames however the stream was cut");
    for frame in &whole.frames {
        read(frame);
    }
    batches(&stream);
}

/// Frames with a right length around described bodies: op, flags, header length, aux, body length, body.
fn described(mut rest: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    while let Some(([op, flags, aux, len, more], after)) = rest.split_first_chunk::<5>() {
        let len = usize::from(*len) + 256 * usize::from(*more & 3);
        let (body, after) = after.split_at(len.min(after.len()));
        let start = stream.len();
        let header = Header {
            len: 0.into(),
            op: (u16::from(op & 0x3f) | u16::from(op & 0xc0) << 8).into(),
            flags: *flags,
            words: Header::WORDS + (more >> 6),
            correlation: 7.into(),
            aux: u32::from(*aux).into(),
        };
        stream.extend_from_slice(header.as_bytes());
        stream.extend_from_slice(body);
        stream.resize(stream.len().next_multiple_of(8), 0);
        let len = (stream.len() - start) as u32;
        stream[start..start + 4].copy_from_slice(&len.to_le_bytes());
        rest = after;
    }
    stream.extend_from_slice(rest);
    stream
}

#[derive(Debug, PartialEq)]
struct Decoded {
    frames: Vec<Vec<u8>>,
    end: Option<BadFrame>,
    pending: usize,
}

fn decode(stream: &[u8], cuts: &[u8], len_max: usize) -> Decoded {
    let mut decoder = FrameDecoder::new(len_max as u32);
    let mut frames = Vec::new();
    let mut end = None;
    let mut rest = stream;
    let mut cuts = cuts.iter().cycle();
    while !rest.is_empty() {
        // Unevenly, from single bytes to more than a read.
        let cut = cuts
            .next()
            .map_or(rest.len(), |cut| 1 + usize::from(*cut) * usize::from(*cut) / 3);
        let (now, later) = rest.split_at(cut.min(rest.len()));
        rest = later;
        for piece in now.chunks(len_max.max(1024)) {
            decoder.extend(piece);
            if end.is_none() {
                end = take(&mut decoder, &mut frames);
            }
            if end.is_none() {
                let held = decoder.pending() + decoder.space().len();
                let most = len_max + READ_BYTES;
                assert!(held <= most, "{held} bytes held for frames of at most {len_max}");
                assert!(decoder.pending() < len_max, "a whole frame was not handed out");
            }
        }
    }
    let pending = decoder.pending();
    assert_eq!(frames.iter().map(Vec::len).sum::<usize>() + pending, stream.len());
    assert_eq!(take(&mut decoder, &mut frames), end, "what was lost stays lost");
    Decoded { frames, end, pending }
}

fn take(decoder: &mut FrameDecoder, frames: &mut Vec<Vec<u8>>) -> Option<BadFrame> {
    for frame in decoder.frames() {
        match frame {
            Ok(frame) => frames.push([frame.header.as_bytes(), frame.body].concat()),
            Err(bad) => return Some(bad),
        }
    }
    None
}

fn read(frame: &[u8]) {
    let (header, body) = Header::ref_from_prefix(frame).unwrap();
    if let Ok(request) = Request::decode(header, body) {
        let again = wire_again::request(header, &request);
        assert_eq!(again, wire_again::canonical(frame, body, &request), "{request:?}");
        let (header, body) = Header::ref_from_prefix(&again).unwrap();
        let same = Request::decode(header, body).unwrap();
        assert_eq!(wire_again::request(header, &same), again, "{request:?}");
        assert_eq!(request.number(), same.number());
    }
    answers(header, body);
    batches(body);
}

/// What every answer's reader makes of a body, whatever op it came under: what it takes, written and read again, is
/// the same.
fn answers(header: &Header, body: &[u8]) {
    let reply = Reply::to(header);
    stands(
        body,
        |body| Welcome::decode(body).ok(),
        |out, welcome| welcome.encode(out, 7),
    );
    stands(
        body,
        |body| Outcome::decode(body).ok(),
        |out, outcome| {
            let ids: Vec<u64> = outcome.ids.iter().map(|id| id.0).collect();
            reply.outcome(out, outcome.head, &ids, &outcome.items);
        },
    );
    stands(
        body,
        |body| decode_handle(body).ok(),
        |out, handle| reply.handle(out, *handle),
    );
    stands(
        body,
        |body| decode_queue_info(body).ok(),
        |out, stats| reply.queue_info(out, stats),
    );
    stands(
        body,
        |body| decode_queue_list(body).ok(),
        |out, (queues, more)| {
            reply.queue_list(out, queues, *more);
        },
    );
    stands(
        body,
        |body| decode_job(body).ok(),
        |out, status| reply.job(out, status),
    );
    stands(
        body,
        |body| decode_jobs(body).ok(),
        |out, (jobs, cursor)| {
            reply.jobs(out, jobs, *cursor);
        },
    );
    stands(body, deliveries, |out, jobs| {
        let limits = DeliveryLimits {
            jobs: u32::MAX,
            bytes: 0,
            frame_bytes: u32::MAX,
        };
        let mut writer = DeliveryWriter::reply_to(out, reply, limits);
        jobs.iter().for_each(|(entry, body)| writer.push(entry, body));
        writer.finish();
    });
    if let Ok(error) = ErrorReply::decode(body) {
        assert!(error.text.len() <= body.len() * 3);
        if let Some(refusal) = error.refusal() {
            assert_eq!(
                (refusal.code as u16, refusal.retry_ms),
                (error.number, error.retry_ms)
            );
        }
    }
    let _ = header.answered_op().map(Op::name);
}

fn deliveries(body: &[u8]) -> Option<Vec<(DeliverEntry, Vec<u8>)>> {
    let batch = DeliveryBatch::parse(body).ok()?;
    let items: Vec<_> = batch
        .items()
        .map(|item| {
            assert_eq!(
                &body[item.body_offset..item.body_offset + item.body.len()],
                item.body
            );
            assert_eq!(item.meta().len() + item.payload().len(), item.body.len());
            (*item.entry, item.body.to_vec())
        })
        .collect();
    assert_eq!(items.len(), batch.count());
    Some(items)
}

fn stands<T: PartialEq + std::fmt::Debug>(
    body: &[u8],
    decode: impl Fn(&[u8]) -> Option<T>,
    encode: impl Fn(&mut Vec<u8>, &T),
) {
    let Some(value) = decode(body) else { return };
    let mut frame = Vec::new();
    encode(&mut frame, &value);
    let again = decode(&frame[Header::LEN..]);
    assert_eq!(again.as_ref(), Some(&value));
}

/// The batches that wire and log share, straight from bytes: a count, then the batch.
fn batches(bytes: &[u8]) {
    let Some(([low, high], rest)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let count = usize::from(*low) | usize::from(*high) << 8;
    for rest in [rest, rest.get(6..).unwrap_or_default()] {
        if let Ok(batch) = EnqueueBatch::parse(count, rest) {
            let bytes: usize = batch.items().map(|item| item.entry.padded_len()).sum();
            assert_eq!((batch.items().count(), bytes), (count, batch.bodies().len()));
            let mut again = Vec::new();
            wire_again::enqueue_batch(&batch).write_to(&mut again);
            assert_eq!(again.len(), rest.len());
        }
        if let Some(batch) = EnqueueBatch::from_log(count, rest) {
            assert_eq!(
                batch
                    .items()
                    .filter(|item| item.key().len() <= item.body.len())
                    .count(),
                count
            );
        }
        if let Ok(batch) = SettleBatch::parse(count, rest) {
            assert_eq!(batch.items().count(), count, "every settlement is shown");
            let mut again = Vec::new();
            wire_again::settle_batch(&batch).write_to(&mut again);
            assert_eq!(again.len(), rest.len());
        }
    }
}
