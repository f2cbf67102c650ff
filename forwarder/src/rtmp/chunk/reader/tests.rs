//! Tests of the chunk reader.
use super::*;
use crate::rtmp::Timestamp;
use crate::rtmp::chunk::{encode, encoded_len};

mod hostile;

/// A message with its payload owned.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owned {
    csid: u32,
    time: u32,
    kind: u8,
    msid: u32,
    payload: Vec<u8>,
}

impl From<Message<'_>> for Owned {
    fn from(m: Message<'_>) -> Self {
        let payload = m.payload.to_vec();
        Self { csid: m.csid, time: m.timestamp.0, kind: m.kind, msid: m.msid, payload }
    }
}

/// The messages of one input, until it ends or is refused.
fn feed(reader: &mut ChunkReader, mut input: &[u8], out: &mut Vec<Owned>) -> Option<ChunkError> {
    loop {
        match reader.read(&mut input) {
            Ok(Some(message)) => out.push(message.into()),
            Ok(None) => {
                assert!(input.is_empty(), "input left over");
                return None;
            }
            Err(error) => return Some(error),
        }
    }
}

/// What `wire` says, the same fed whole, in two pieces cut anywhere, and byte by byte.
fn read_all(wire: &[u8]) -> (Vec<Owned>, Option<ChunkError>) {
    let whole = in_pieces([wire]);
    assert_eq!(in_pieces(wire.chunks(1)), whole, "byte by byte");
    for cut in 0..wire.len().min(300) {
        let (a, b) = wire.split_at(cut);
        assert_eq!(in_pieces([a, b]), whole, "cut at {cut}");
    }
    whole
}

fn in_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Owned>, Option<ChunkError>) {
    let (mut reader, mut messages) = (ChunkReader::new(), Vec::new());
    let error = pieces.into_iter().find_map(|piece| feed(&mut reader, piece, &mut messages));
    (messages, error)
}

fn messages(wire: &[u8]) -> Vec<Owned> {
    let (messages, error) = read_all(wire);
    assert_eq!(error, None);
    messages
}

fn refused(wire: &[u8]) -> ChunkError {
    read_all(wire).1.expect("to be refused")
}

fn times(wire: &[u8]) -> Vec<u32> {
    messages(wire).iter().map(|m| m.time).collect()
}

fn u24(n: u32) -> [u8; 3] {
    let [_, a, b, c] = n.to_be_bytes();
    [a, b, c]
}

fn extended(ms: u32) -> ([u8; 3], Vec<u8>) {
    if ms < 0xff_ffff { (u24(ms), vec![]) } else { (u24(0xff_ffff), ms.to_be_bytes().to_vec()) }
}

/// A type 0 header.
fn type0(csid: u8, time: u32, len: u32, kind: u8) -> Vec<u8> {
    let (field, ext) = extended(time);
    [&[csid][..], &field, &u24(len), &[kind, 1, 0, 0, 0], &ext].concat()
}

fn type1(csid: u8, delta: u32, len: u32, kind: u8) -> Vec<u8> {
    let (field, ext) = extended(delta);
    [&[0x40 | csid][..], &field, &u24(len), &[kind], &ext].concat()
}

fn type2(csid: u8, delta: u32) -> Vec<u8> {
    let (field, ext) = extended(delta);
    [&[0x80 | csid][..], &field, &ext].concat()
}

fn set_chunk_size(size: u32) -> Vec<u8> {
    [type0(2, 0, 4, 1), size.to_be_bytes().to_vec()].concat()
}

#[test]
fn message_in_one_chunk_is_borrowed_from_the_input() {
    let wire = [type0(4, 7, 3, 8), b"abc".to_vec(), vec![0x04]].concat();
    let mut reader = ChunkReader::new();
    let mut input = &wire[..];
    let message = reader.read(&mut input).unwrap().unwrap();
    assert_eq!(message.payload.as_ptr(), wire[12..].as_ptr());
    let expected = Message { csid: 4, timestamp: Timestamp(7), kind: 8, msid: 1, payload: b"abc" };
    assert_eq!(message, expected);
    assert_eq!(input, [0x04]);
    assert_eq!(reader.read(&mut input), Ok(None));
    assert!(reader.is_mid_message());
}

#[test]
fn message_in_three_chunks() {
    let body: Vec<u8> = (0..=255).chain(0..10).collect();
    let wire = [
        &type0(6, 1000, 266, 9)[..],
        &body[..128],
        &[0xc6],
        &body[128..256],
        &[0xc6],
        &body[256..],
    ]
    .concat();
    let expected = Owned { csid: 6, time: 1000, kind: 9, msid: 1, payload: body };
    assert_eq!(messages(&wire), [expected]);
}

#[test]
fn chunk_stream_is_known_by_its_number_in_any_spelling() {
    let one = type0(63, 10, 1, 8);
    let long = |first: &[u8]| [first, &type0(0, 100, 1, 8)[1..], b"x"].concat();
    assert_eq!(messages(&[one, b"x".to_vec()].concat())[0].csid, 63);
    assert_eq!(messages(&long(&[0, 0]))[0].csid, 64);
    assert_eq!(messages(&long(&[0, 255]))[0].csid, 319);
    assert_eq!(messages(&long(&[1, 0, 1]))[0].csid, 320);
    assert_eq!(messages(&long(&[1, 255, 255]))[0].csid, 65_599);
    // 70 said in two bytes, then in three: one state.
    let wire = [long(&[0, 6]), vec![0x81, 6, 0, 0, 0, 5], b"y".to_vec()].concat();
    assert_eq!(
        messages(&wire)[1],
        Owned { csid: 70, time: 105, kind: 8, msid: 1, payload: b"y".to_vec() }
    );
}

#[test]
fn chunk_stream_begun_with_type_1() {
    let wire = [type1(3, 40, 1, 8), b"x".to_vec(), type1(3, 2, 1, 8), b"y".to_vec()].concat();
    let first = Owned { csid: 3, time: 40, kind: 8, msid: 0, payload: b"x".to_vec() };
    assert_eq!(messages(&wire)[0], first);
    assert_eq!(times(&wire), [40, 42]);
}

#[test]
fn type_3_begins_a_message_with_the_last_delta() {
    let wire = [&type0(4, 90, 1, 8)[..], b"a", &type2(4, 10), b"b", b"\xc4c", b"\xc4d"].concat();
    assert_eq!(times(&wire), [90, 100, 110, 120]);
}

#[test]
fn type_3_message_after_type_0_repeats_a_small_time_as_delta() {
    let wire = [&type0(4, 9_999, 1, 8)[..], b"a\xc4b\xc4c"].concat();
    assert_eq!(times(&wire), [9_999, 19_998, 29_997]);
}

#[test]
fn type_3_message_after_type_0_keeps_a_large_time() {
    let wire = [&type0(4, 10_000, 1, 8)[..], b"a\xc4b\xc4c"].concat();
    assert_eq!(times(&wire), [10_000, 10_000, 10_000]);
}

#[test]
fn delta_is_added_modulo_2_to_the_32() {
    // librtmp says a step back so.
    let wire = [type0(4, 1000, 0, 8), type2(4, 0xffff_fff6), type2(4, 0x8000_0000)].concat();
    assert_eq!(times(&wire), [1000, 990, 0x8000_03de]);
}

#[test]
fn type_1_and_2_inside_a_message_that_say_the_same_continue_it() {
    let body = [5; 300];
    let wire = [
        &type0(6, 50, 300, 9)[..],
        &body[..128],
        &type1(6, 9, 300, 9),
        &body[128..256],
        &type2(6, 9),
        &body[256..],
        &type2(6, 1),
        &body[..128],
        b"\xc6",
        &body[128..256],
        b"\xc6",
        &body[256..],
    ]
    .concat();
    assert_eq!(times(&wire), [50, 51]);
}

#[test]
fn extended_timestamp_is_taken_in_every_header_type() {
    let body = [5; 200];
    let big = 0x0100_0000;
    let wire = [
        &type0(6, big, 200, 9)[..],
        &body[..128],
        &[&[0xc6][..], &big.to_be_bytes()].concat(),
        &body[128..],
        &type1(6, big, 200, 9),
        &body[..128],
        &[&[0xc6][..], &big.to_be_bytes()].concat(),
        &body[128..],
        // type 3 as a new message: the delta again
        &[&[0xc6][..], &big.to_be_bytes()].concat(),
        &body[..128],
        &[&[0xc6][..], &big.to_be_bytes()].concat(),
        &body[128..],
    ]
    .concat();
    assert_eq!(times(&wire), [big, 2 * big, 3 * big]);
    assert!(messages(&wire).iter().all(|m| m.payload == body));
}

#[test]
fn extended_timestamp_left_out_of_continuations() {
    let body: Vec<u8> = (0..200).collect();
    let wire = |time| [&type0(6, time, 200, 9)[..], &body[..128], b"\xc6", &body[128..]].concat();
    // The second one begins as the payload goes on.
    for time in [0x0100_0000, 0x8081_8200] {
        let expected = Owned { csid: 6, time, kind: 9, msid: 1, payload: body.clone() };
        assert_eq!(messages(&wire(time)), [expected]);
    }
    // The payload that is the timestamp cannot be told from it.
    assert_eq!(messages(&wire(0x8081_8283)), []);
}

#[test]
fn extended_timestamp_left_out_before_the_last_bytes_of_a_message() {
    for tail in 1..4 {
        let body = vec![9; 128 + tail];
        let first = type0(6, 0x0100_0000, body.len() as u32, 9);
        let wire = [&first, &body[..128], b"\xc6", &body[128..]].concat();
        // Nothing need follow: 9 is not how the timestamp begins.
        assert_eq!(messages(&wire)[0].payload, body);
        // And the look ahead may reach into the next headers.
        let next = [&wire, &b"\x84\0\0\x01"[..], b"\xc4", b"\xc4"].concat();
        let next = [&type0(4, 0, 0, 8)[..], &next].concat();
        assert_eq!(times(&next), [0, 0x0100_0000, 1, 2, 3]);
    }
}

#[test]
fn extended_timestamp_left_out_of_a_type_3_message() {
    let wire = [&type0(6, 0, 1, 9)[..], b"a", &type2(6, 0x0100_0000), b"b", b"\xc6c\xc6d"].concat();
    assert_eq!(times(&wire), [0, 0x0100_0000, 0x0200_0000, 0x0300_0000]);
}

#[test]
fn absolute_time_behind_a_type_3_header() {
    // SRS takes and repeats the absolute time there.
    let (start, delta) = (0x0200_0000_u32, 0x0100_0000_u32);
    let now = start + delta;
    let body = [3; 130];
    let wire = [
        &type0(6, start, 0, 9)[..],
        &type1(6, delta, 130, 9),
        &body[..128],
        b"\xc6",
        &now.to_be_bytes(),
        &body[128..],
        b"\xc6",
        &(now + 60_000).to_be_bytes(),
        &body[..128],
        b"\xc6",
        &(now + 60_000).to_be_bytes(),
        &body[128..],
    ]
    .concat();
    assert_eq!(times(&wire), [start, now, now + 60_000]);
}

#[test]
fn set_chunk_size_rules_from_the_next_header_on_all_chunk_streams() {
    let body: Vec<u8> = (0..250).collect();
    let wire = [
        &type0(6, 0, 250, 9)[..],
        &body[..128],
        &set_chunk_size(64),
        b"\xc6",
        &body[128..192],
        &set_chunk_size(4096),
        b"\xc6",
        &body[192..],
    ]
    .concat();
    assert_eq!(messages(&wire)[2].payload, body);
}

#[test]
fn set_chunk_size_with_more_than_its_four_bytes() {
    let mut body = 4096_u32.to_be_bytes().to_vec();
    body.resize(16, 0xff);
    let mut reader = ChunkReader::new();
    assert_eq!(feed(&mut reader, &type0(2, 0, 16, 1), &mut Vec::new()), None);
    for byte in &body {
        assert_eq!(reader.chunk_size(), 128);
        assert_eq!(feed(&mut reader, &[*byte], &mut Vec::new()), None);
    }
    assert_eq!(reader.chunk_size(), 4096);
}

#[test]
fn set_chunk_size_beyond_any_message_is_cut_to_the_longest() {
    let mut reader = ChunkReader::new();
    feed(&mut reader, &set_chunk_size(0x7fff_ffff), &mut Vec::new());
    assert_eq!(reader.chunk_size(), 0xff_ffff);
}

#[test]
fn abort_drops_the_body_and_keeps_the_header() {
    let abort = |csid: u32| [type0(2, 0, 4, 2), csid.to_be_bytes().to_vec()].concat();
    let body = [1; 129];
    let begin = [&type0(6, 100, 129, 9)[..], &body[..128]].concat();
    let wire =
        [&begin[..], &abort(6), &type2(6, 20), &body[..128], b"\xc6\x01", &abort(6), &abort(999)]
            .concat();
    let read = messages(&wire);
    assert_eq!(read.iter().map(|m| m.kind).collect::<Vec<_>>(), [2, 9, 2, 2]);
    assert_eq!((read[1].time, read[1].payload.len()), (120, 129));

    let mut reader = ChunkReader::new();
    feed(&mut reader, &begin, &mut Vec::new());
    assert_eq!((reader.partial_bytes(), reader.is_mid_message()), (128, true));
    feed(&mut reader, &abort(6), &mut Vec::new());
    assert_eq!((reader.partial_bytes(), reader.is_mid_message()), (0, false));
}

#[test]
fn abort_of_the_chunk_stream_it_came_on_is_delivered() {
    let wire = [type0(2, 0, 4, 2), 2_u32.to_be_bytes().to_vec()].concat();
    assert_eq!(messages(&wire)[0].payload, 2_u32.to_be_bytes());
}

#[test]
fn empty_and_unknown_messages_are_delivered() {
    for kind in [0, 3, 4, 5, 6, 7, 8, 9, 10, 14, 15, 17, 18, 20, 22, 23, 255] {
        let read = messages(&type0(4, 1, 0, kind));
        assert_eq!(read.len(), 1, "type {kind}");
        assert!(read[0].payload.is_empty());
    }
}

#[test]
fn message_stream_id_is_passed_on_unjudged() {
    let mut wire = type0(4, 0, 0, 8);
    wire[8..12].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
    assert_eq!(messages(&wire)[0].msid, u32::MAX);
    wire[8..12].copy_from_slice(&[2, 0, 0, 1]);
    assert_eq!(messages(&wire)[0].msid, 0x0100_0002, "little-endian");
}
