//! The decoder against what a network and a hostile peer can do to a stream of frames.
#![cfg(any(feature = "client", feature = "server"))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

use ackring::limits;
use ackring::wire::{FrameDecoder, FrameWriter, Header, Op, Request, compose};
use ackring::{ErrorCode, Refusal};
use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

fn frame(correlation: u32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = FrameWriter::begin(&mut out, Op::Ping as u16, 0, correlation, 0);
    writer.put(body);
    writer.finish();
    out
}

proptest! {
    #[test]
    fn any_cut_of_the_stream_gives_the_same_frames(
        bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..3000), 1..12),
        cuts in proptest::collection::vec(1usize..5000, 1..40),
    ) {
        let mut stream = Vec::new();
        for (n, body) in bodies.iter().enumerate() {
            stream.extend_from_slice(&frame(n as u32, body));
        }
        let mut decoder = FrameDecoder::new(limits::FRAME_BYTES_MAX);
        let mut seen = Vec::new();
        let mut rest = &stream[..];
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let (now, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            rest = later;
            decoder.extend(now);
            for frame in decoder.frames() {
                let frame = frame.unwrap();
                seen.push((frame.header.correlation.get(), frame.body.to_vec()));
            }
        }
        prop_assert_eq!(decoder.pending(), 0);
        prop_assert_eq!(seen.len(), bodies.len());
        for (n, (correlation, body)) in seen.iter().enumerate() {
            prop_assert_eq!(*correlation, n as u32);
            prop_assert_eq!(&body[..bodies[n].len()], &bodies[n][..]);
        }
    }

    #[test]
    fn what_is_given_up_is_missing_and_nothing_else(
        lens in proptest::collection::vec(0usize..3000, 1..12),
        cuts in proptest::collection::vec((1usize..2000, any::<bool>()), 1..40),
    ) {
        let frames = lens.iter().enumerate().map(|(n, len)| frame(n as u32, &vec![n as u8; *len]));
        let stream: Vec<u8> = frames.flatten().collect();
        let mut decoder = FrameDecoder::new(limits::FRAME_BYTES_MAX);
        let mut seen = Vec::new();
        let mut rest = &stream[..];
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let (len, gives_up) = *cuts.next().unwrap();
            let (now, later) = rest.split_at(len.min(rest.len()));
            rest = later;
            decoder.extend(now);
            seen.extend(decoder.frames().map(|frame| frame.unwrap().header.correlation.get()));
            let half = decoder.pending();
            if gives_up && let Some(header) = decoder.give_up_frame() {
                prop_assert!(half >= Header::LEN && half < header.len.get() as usize);
                prop_assert_eq!((decoder.pending(), decoder.memory()), (0, 0));
                seen.push(header.correlation.get());
            }
        }
        prop_assert_eq!(decoder.pending(), 0);
        prop_assert!(seen.into_iter().eq(0..lens.len() as u32));
    }

    #[test]
    fn garbage_is_refused_or_decoded_but_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let mut decoder = FrameDecoder::new(512);
        decoder.extend(&bytes);
        for frame in decoder.frames() {
            let Ok(frame) = frame else { break };
            let _ = Request::decode(frame.header, frame.body);
        }
    }

    #[test]
    fn a_garbage_body_under_every_op_is_refused_or_decoded_but_never_panics(
        op in 0u16..40, flags in any::<u8>(), aux in any::<u32>(),
        body in proptest::collection::vec(prop_oneof![Just(0u8), Just(1u8), any::<u8>()], 0..200),
    ) {
        let mut out = Vec::new();
        let mut writer = FrameWriter::begin(&mut out, op, flags & 3, 0, aux);
        writer.put(&body);
        writer.finish();
        let (header, body) = Header::ref_from_prefix(&out).unwrap();
        let _ = Request::decode(header, body);
    }
}

#[test]
fn many_frames_of_one_read_are_borrowed_at_once() {
    let mut decoder = FrameDecoder::new(1024);
    let stream: Vec<u8> = (0..50).flat_map(|n| frame(n, b"12345678")).collect();
    decoder.extend(&stream);
    let frames: Vec<_> = decoder.frames().map(Result::unwrap).collect();
    assert_eq!(frames.len(), 50);
    assert!(
        frames
            .iter()
            .enumerate()
            .all(|(n, frame)| frame.header.correlation.get() == n as u32)
    );
}

#[test]
fn impossible_lengths_lose_the_connection_as_soon_as_they_are_seen() {
    for len in [0u32, 8, 15, 17, 1023, 1032, u32::MAX] {
        let mut decoder = FrameDecoder::new(1024);
        decoder.extend(&len.to_le_bytes());
        let refusal = Refusal::from(decoder.next_frame().unwrap_err());
        assert_eq!(refusal.code, ErrorCode::BadFrame, "{len}");
        assert!(decoder.next_frame().is_err(), "it stays lost");
    }
}

#[test]
fn an_announced_length_takes_no_memory_before_its_bytes_come() {
    let mut decoder = FrameDecoder::new(limits::FRAME_BYTES_MAX);
    decoder.extend(&limits::FRAME_BYTES_MAX.to_le_bytes());
    assert!(decoder.next_frame().unwrap().is_none());
    assert!(decoder.space().len() < 16 * 1024);
}

#[test]
fn reads_grow_with_a_busy_peer_and_an_idle_one_gives_its_memory_back() {
    let mut decoder = FrameDecoder::new(limits::FRAME_BYTES_MAX);
    let big = frame(1, &vec![7; 3 << 20]);
    decoder.extend(&big);
    assert_eq!(decoder.next_frame().unwrap().unwrap().body.len(), 3 << 20);
    assert!(decoder.space().len() <= 256 * 1024, "what follows may be small");
    decoder.release_memory();
    assert_eq!((decoder.pending(), decoder.memory()), (0, 0));
}

#[test]
fn a_large_buffer_is_kept_for_large_frames_and_given_back_when_they_are_over() {
    let mut decoder = FrameDecoder::new(limits::FRAME_BYTES_MAX);
    let (large, small) = (frame(1, &vec![7; 3 << 20]), frame(2, b"12345678"));
    decoder.extend(&large);
    assert_eq!(decoder.frames().count(), 1);
    let kept = decoder.memory();
    for _ in 0..3 {
        for bytes in [&large, &small, &small] {
            decoder.extend(bytes);
            assert_eq!(decoder.frames().count(), 1);
            assert_eq!(decoder.memory(), kept);
        }
    }
    for _ in 0..64 {
        decoder.extend(&small);
        assert_eq!(decoder.frames().count(), 1);
    }
    assert!(decoder.memory() < 16 * 1024);
}

/// Ten thousand of them are held to 8 KiB each, everything included.
#[test]
fn a_peer_that_says_little_has_little_memory() {
    let mut decoder = FrameDecoder::new(limits::FRAME_BYTES_MAX);
    for _ in 0..100 {
        decoder.extend(&frame(1, &[7; 100]));
        assert_eq!(decoder.frames().count(), 1);
    }
    assert!(decoder.memory() <= 1024, "{} bytes", decoder.memory());
}

#[test]
fn a_long_frame_takes_hardly_more_memory_than_its_length() {
    let len_max = 3 << 20;
    let mut decoder = FrameDecoder::new(len_max);
    let long = frame(1, &vec![7; len_max as usize - Header::LEN]);
    for piece in [&long[..], &long[..]].concat().chunks(1_000) {
        decoder.extend(piece);
        let count = decoder.frames().map(Result::unwrap).count();
        assert!(count <= 1);
        let held = decoder.pending() + decoder.space().len();
        assert!(held <= len_max as usize + 256 * 1024, "{held} bytes held");
    }
    assert_eq!(decoder.pending(), 0);
}

#[test]
fn an_unknown_op_is_unsupported() {
    for op in [0u16, 11, 22, 37, 999, 0x8001, 0x4016] {
        let mut out = Vec::new();
        FrameWriter::begin(&mut out, op, 0, 1, 0).finish();
        let (header, body) = Header::ref_from_prefix(&out).unwrap();
        assert_eq!(
            Request::decode(header, body).unwrap_err().code,
            ErrorCode::Unsupported,
            "op {op}"
        );
    }
}

#[test]
fn every_reserved_bit_of_a_header_is_checked() {
    let mut bytes = Vec::new();
    compose::ping(&mut bytes, 9);
    for bit in (6 * 8..8 * 8).chain(12 * 8..16 * 8) {
        let mut broken = bytes.clone();
        broken[bit / 8] ^= 1 << (bit % 8);
        let (header, body) = Header::ref_from_prefix(&broken).unwrap();
        assert_eq!(
            Request::decode(header, body).unwrap_err().code,
            ErrorCode::Malformed,
            "bit {bit}"
        );
    }
    let (header, body) = Header::ref_from_prefix(&bytes).unwrap();
    assert_eq!(header.as_bytes().len(), Header::LEN);
    assert!(matches!(Request::decode(header, body), Ok(Request::Ping)));
}
