//! What a hostile peer sends, and any bytes at all.
use proptest::prelude::*;

use super::*;

/// Each case: what it is, the bytes, why they are refused.
fn all_refused(cases: impl IntoIterator<Item = (&'static str, Vec<u8>, ChunkError)>) {
    for (name, wire, error) in cases {
        assert_eq!(refused(&wire), error, "{name}");
    }
}

#[test]
fn control_messages_that_are_refused() {
    let body = |kind, body: &[u8]| [&type0(2, 0, body.len() as u32, kind), body].concat();
    let short = |kind| ChunkError::ShortControl { kind };
    all_refused([
        ("chunk size 0", set_chunk_size(0), ChunkError::ChunkSize(0)),
        ("chunk size 1", set_chunk_size(1), ChunkError::ChunkSize(1)),
        ("chunk size 63", set_chunk_size(63), ChunkError::ChunkSize(63)),
        ("chunk size, top bit", set_chunk_size(0x8000_1000), ChunkError::ChunkSize(0x8000_1000)),
        ("chunk size of no bytes", body(1, b""), short(1)),
        ("chunk size of three bytes", body(1, &[0, 0, 9]), short(1)),
        ("abort of no bytes", body(2, b""), short(2)),
        ("abort of three bytes", body(2, &[0, 0, 9]), short(2)),
    ]);
}

#[test]
fn headers_that_are_refused() {
    let after_partial = |header: Vec<u8>| [type0(6, 0, 200, 9), vec![0; 128], header].concat();
    let fresh = |format| ChunkError::NoPreviousHeader { format, csid: 4 };
    let inside = |format| ChunkError::HeaderInsideMessage { format, csid: 6 };
    all_refused([
        ("type 3 on a fresh chunk stream", vec![0xc4], fresh(3)),
        ("type 2 on a fresh chunk stream", type2(4, 0), fresh(2)),
        ("type 0 in a message", after_partial(type0(6, 0, 200, 9)), inside(0)),
        ("type 1, other length, in a message", after_partial(type1(6, 0, 201, 9)), inside(1)),
        ("type 1, other type, in a message", after_partial(type1(6, 0, 200, 8)), inside(1)),
    ]);
}

#[test]
fn lengths_that_are_refused() {
    let cases = [
        ("control", 5, 17, 16),
        ("user control", 4, 65_537, 65_536),
        ("command", 20, 65_537, 65_536),
        ("AMF3 command", 17, 65_537, 65_536),
        ("data", 18, 262_145, 262_144),
        ("AMF3 data", 15, 262_145, 262_144),
        ("audio", 8, 8_388_609, 8_388_608),
        ("video", 9, 0xff_ffff, 8_388_608),
        ("aggregate", 22, 0xff_ffff, 8_388_608),
        ("type nobody knows", 200, 65_537, 65_536),
    ];
    all_refused(cases.map(|(name, kind, len, limit)| {
        let error = ChunkError::MessageTooLong { kind, len: len as usize, limit };
        (name, type0(3, 0, len, kind), error)
    }));
}

#[test]
fn longest_lengths_are_taken() {
    for (kind, len) in [(5, 16), (4, 65_536), (20, 65_536), (18, 262_144), (9, 8_388_608)] {
        let wire = [type0(4, 0, len, kind), vec![0]].concat();
        assert_eq!(read_all(&wire), (vec![], None), "type {kind}");
    }
}

#[test]
fn storm_of_chunk_streams_is_refused() {
    let stream = |i: u32| [&[0, i as u8][..], &type0(0, 0, 0, 8)[1..]].concat();
    let wire: Vec<u8> = (0..32).flat_map(stream).collect();
    assert_eq!(messages(&wire).len(), 32);
    let again = [wire.clone(), stream(7)].concat();
    assert_eq!(messages(&again).len(), 33);
    let more = [wire, stream(32)].concat();
    assert_eq!(refused(&more), ChunkError::TooManyChunkStreams);
}

#[test]
fn announced_lengths_cost_nothing_before_the_bytes_come() {
    let mut reader = ChunkReader::new();
    for csid in 3..35 {
        let wire = [type0(csid, 0, 8 << 20, 9), vec![0; 128]].concat();
        assert_eq!(feed(&mut reader, &wire, &mut Vec::new()), None);
    }
    let held: usize = reader.streams.iter().map(ChunkStream::capacity).sum();
    assert!(held <= 32 * 4096, "{held} bytes for {} received", 32 * 128);
}

#[test]
fn unfinished_messages_are_held_up_to_a_limit() {
    let mut reader = ChunkReader::new();
    let mut messages = Vec::new();
    assert_eq!(feed(&mut reader, &set_chunk_size(0xff_ffff), &mut messages), None);
    // Two whole chunks minus a byte, one after the other, cannot be: a chunk has to end. So many
    // chunk streams with one chunk each.
    feed(&mut reader, &set_chunk_size(4 << 20), &mut messages);
    let chunk = vec![0; 4 << 20];
    for csid in 3..7 {
        feed(&mut reader, &type0(csid, 0, (4 << 20) + 1, 9), &mut messages);
        assert_eq!(feed(&mut reader, &chunk, &mut messages), None);
    }
    assert_eq!(reader.partial_bytes(), MAX_PARTIAL_BYTES);
    let one_more = [type0(7, 0, 2, 9), vec![0]].concat();
    assert_eq!(feed(&mut reader, &one_more, &mut messages), Some(ChunkError::TooManyPartialBytes));
}

#[test]
fn memory_of_a_large_message_is_given_back() {
    let mut reader = ChunkReader::new();
    let payload = vec![1; 1 << 20];
    let message = Message { csid: 6, timestamp: Timestamp(0), kind: 9, msid: 1, payload: &payload };
    let mut wire = Vec::with_capacity(encoded_len(payload.len(), Timestamp(0), 128));
    encode(&message, 128, &mut |bytes| wire.extend_from_slice(bytes));
    let mut messages = Vec::new();
    assert_eq!(feed(&mut reader, &wire, &mut messages), None);
    assert_eq!(messages[0].payload, payload);
    assert!(reader.streams[0].capacity() <= 64 << 10);
    assert_eq!(reader.partial_bytes(), 0);
}

/// One chunk: a header, right or not, and bytes that a timestamp could be made of.
fn any_chunk() -> impl Strategy<Value = Vec<u8>> {
    let time = prop_oneof![
        0..20_000_u32,
        Just(0xff_ffff),
        Just(0x0101_0101),
        Just(0x0100_0000),
        any::<u32>()
    ];
    let kind = prop_oneof![3 => Just(9), 1 => Just(1), 1 => Just(2), 1 => any::<u8>()];
    let len = prop_oneof![4 => 0..8_u32, 1 => 100..300_u32];
    let byte = prop_oneof![Just(0), Just(1), Just(0xff), Just(0xc3), Just(0xc4)];
    let payload = prop::collection::vec(byte, 0..8);
    (0..4_u8, 3..5_u8, time, len, kind, payload, any::<bool>()).prop_map(
        |(format, csid, time, len, kind, mut payload, fitting)| {
            if fitting {
                payload.resize(len.min(128) as usize, 1);
            }
            let header = match format {
                0 => type0(csid, time, len, kind),
                1 => type1(csid, time, len, kind),
                2 => type2(csid, time),
                _ => [vec![0xc0 | csid], extended(time).1].concat(),
            };
            [header, payload].concat()
        },
    )
}

proptest! {
    #[test]
    fn any_chunks_are_read_the_same_however_they_are_cut(
        chunks in prop::collection::vec(any_chunk(), 0..20),
    ) {
        read_all(&chunks.concat());
    }

    #[test]
    fn reading_on_after_an_error_does_not_panic(
        chunks in prop::collection::vec(any_chunk(), 0..40),
    ) {
        let (mut reader, mut messages) = (ChunkReader::new(), Vec::new());
        for chunk in chunks {
            let cut = chunk.len() / 2;
            feed(&mut reader, &chunk[..cut], &mut messages);
            feed(&mut reader, &chunk[cut..], &mut messages);
        }
    }

    #[test]
    fn any_bytes_are_read_the_same_however_they_are_cut(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        read_all(&bytes);
    }

    #[test]
    fn what_is_encoded_is_read(
        sent in prop::collection::vec(any_message(), 0..6),
        chunk_size in prop_oneof![Just(64), Just(128), 64..5_000_u32],
    ) {
        let mut wire = set_chunk_size(chunk_size);
        for m in &sent {
            let message = Message {
                csid: m.csid,
                timestamp: Timestamp(m.time),
                kind: m.kind,
                msid: m.msid,
                payload: &m.payload,
            };
            encode(&message, chunk_size, &mut |bytes| wire.extend_from_slice(bytes));
        }
        prop_assert_eq!(&messages(&wire)[1..], sent);
    }
}

/// A message that a peer may send.
fn any_message() -> impl Strategy<Value = Owned> {
    let payload = prop::collection::vec(any::<u8>(), 0..600);
    let time = prop_oneof![any::<u32>(), 0xff_fff0..0x0100_0010_u32];
    (2..20_u32, time, 7..=255_u8, any::<u32>(), payload)
        .prop_map(|(csid, time, kind, msid, payload)| Owned { csid, time, kind, msid, payload })
}
