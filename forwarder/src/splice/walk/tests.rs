//! Cut anywhere, padded, and read by the real reader.
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::rtmp::Timestamp;
use crate::rtmp::chunk::{ChunkReader, Message, encode};
use crate::rtmp::golden::recordings;

type Owned = (u32, u32, u8, u32, Vec<u8>);

fn owned(m: Message<'_>) -> Owned {
    (m.csid, m.timestamp.0, m.kind, m.msid, m.payload.to_vec())
}

/// Reads on; panics on what a player would refuse.
fn read(reader: &mut ChunkReader, mut bytes: &[u8], what: &str) -> Vec<Owned> {
    let mut messages = Vec::new();
    while let Some(message) =
        reader.read(&mut bytes).unwrap_or_else(|error| panic!("{what}: {error}"))
    {
        messages.push(owned(message));
    }
    messages
}

fn walked(bytes: &[u8]) -> Walk {
    let mut walk = Walk::new(DEFAULT_CHUNK_SIZE);
    walk.feed(bytes);
    walk
}

/// Cuts `wire` at `at`, pads, appends a message: all that was whole is there, nothing is half.
fn check_cut(wire: &[u8], at: usize, name: &str) {
    let what = format!("{name} cut at {at}");
    let cut = &wire[..at];
    let walk = walked(cut);
    assert!(!walk.is_lost(), "{what}: lost");

    let mut reader = ChunkReader::new();
    let mut messages = read(&mut reader, cut, &what);
    let border = walk.is_at_border();
    assert_ne!(border, reader.is_mid_message(), "{what}");
    assert_eq!(walk.chunk_size(), reader.chunk_size(), "{what}");
    let open = walk.open().count();

    let mut padding = Vec::new();
    let chunk_size = walk.pad(&mut padding);
    assert!(border == padding.is_empty(), "{what}: {} bytes of padding", padding.len());
    let padded = read(&mut reader, &padding, &what);
    let most = if border { 0 } else { open + 1 };
    assert!(padded.len() >= open && padded.len() <= most, "{what}: {} messages", padded.len());
    assert!(!reader.is_mid_message(), "{what}: half a message is left");
    assert_eq!(reader.chunk_size(), chunk_size, "{what}");

    let mut whole = cut.to_vec();
    whole.extend(&padding);
    messages.extend(padded);
    assert_eq!(read(&mut ChunkReader::new(), &whole, &what), messages, "{what}");
    assert!(walked(&whole).is_at_border(), "{what}");
    next_upstream_is_read(&mut reader, chunk_size, &what);
}

fn next_upstream_is_read(reader: &mut ChunkReader, chunk_size: u32, what: &str) {
    for (csid, kind) in [(2, kind::WINDOW_ACK_SIZE), (4, kind::AUDIO), (6, kind::VIDEO)] {
        let payload = if csid == 2 { vec![0, 0, 100, 0] } else { vec![9; 5000] };
        let message = Message { csid, timestamp: Timestamp(77), kind, msid: 1, payload: &payload };
        let mut wire = Vec::new();
        encode(&message, chunk_size, &mut |bytes| wire.extend_from_slice(bytes));
        assert_eq!(read(reader, &wire, what), [owned(message)], "{what}: then");
    }
}

#[test]
fn recordings_cut_anywhere_are_whole_once_padded() {
    let mut rng = SmallRng::seed_from_u64(4);
    for recording in recordings() {
        let wire = recording.chunks();
        // All of the commands, and some of the media.
        let all = 0..=wire.len().min(150);
        let some = (0..30).map(|_| rng.random_range(0..=wire.len())).collect::<Vec<_>>();
        for at in all.chain(some) {
            check_cut(wire, at, &recording.name);
        }
    }
}

#[test]
fn headers_of_media_cut_anywhere_are_whole_once_padded() {
    for recording in recordings() {
        let wire = recording.chunks();
        // Headers stand where the walk says that none and that all of one has come.
        let mut walk = Walk::new(DEFAULT_CHUNK_SIZE);
        let mut cuts = Vec::new();
        for (at, byte) in wire.iter().enumerate() {
            if !walk.header.is_empty() {
                cuts.push(at);
            }
            walk.feed(std::slice::from_ref(byte));
        }
        let step = (cuts.len() / 80).max(1);
        for at in cuts.into_iter().step_by(step) {
            check_cut(wire, at, &recording.name);
        }
    }
}

#[test]
fn walk_does_not_depend_on_the_pieces() {
    let mut rng = SmallRng::seed_from_u64(5);
    for recording in recordings() {
        let wire = recording.chunks();
        let mut walk = Walk::new(DEFAULT_CHUNK_SIZE);
        let mut rest = wire;
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(rng.random_range(1..=rest.len().min(5000)));
            walk.feed(piece);
            rest = behind;
        }
        assert_eq!(format!("{walk:?}"), format!("{:?}", walked(wire)), "{}", recording.name);
    }
}

/// A header in any form; `payload` follows it.
fn chunk(format: u8, csid: u32, fields: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Header::continuation(csid, None, &mut out);
    out[0] = out[0] & 0x3f | format << 6;
    out.extend(fields);
    out.extend(payload);
    out
}

#[test]
fn every_form_of_header_cut_anywhere() {
    let body = [7; 400];
    let type0 = [0, 0, 9, 0, 1, 44, 9, 1, 0, 0, 0]; // 300 bytes of video
    let late0 = [0xff, 0xff, 0xff, 0, 1, 44, 9, 1, 0, 0, 0, 1, 2, 3, 4];
    let type1 = [0, 0, 9, 0, 0, 200, 8];
    let late1 = [0xff, 0xff, 0xff, 0, 0, 200, 8, 1, 2, 3, 4];
    for csid in [2, 63, 64, 65, 319, 320, 4000, 65_599] {
        let rest = |n: usize| chunk(3, csid, &[], &body[..n]);
        let late_rest = |n: usize| chunk(3, csid, &[1, 2, 3, 4], &body[..n]);
        let wire = [
            chunk(0, csid, &type0, &body[..128]),
            // Another message in between, on another chunk stream.
            chunk(0, 90, &type1_of_four_bytes(), &[1, 2, 3, 4]),
            rest(128),
            rest(44),
            chunk(1, csid, &type1, &body[..128]),
            chunk(1, csid, &type1, &body[..72]), // goes on in type 1, as some do
            chunk(2, csid, &[0, 0, 1], &body[..128]),
            rest(72),
            rest(128), // type 3 begins a message
            rest(72),
            chunk(0, csid, &late0, &body[..128]),
            late_rest(128),
            late_rest(44),
            chunk(1, csid, &late1, &body[..128]),
            late_rest(72),
            chunk(0, csid, &[0, 0, 9, 0, 0, 0, 8, 1, 0, 0, 0], &[]), // empty
            chunk(0, csid, &type0, &body[..128]),
            rest(128),
            rest(44),
        ]
        .concat();
        for at in 0..=wire.len() {
            check_cut(&wire, at, &format!("chunk stream {csid}"));
        }
    }
}

fn type1_of_four_bytes() -> [u8; 11] {
    [0, 0, 0, 0, 0, 4, 9, 1, 0, 0, 0]
}

#[test]
fn control_messages_cut_anywhere_are_padded_to_a_value_that_players_take() {
    let control = |kind: u8, body: &[u8]| {
        let len = u8::try_from(body.len()).unwrap();
        chunk(0, 2, &[0, 0, 0, 0, 0, len, kind, 0, 0, 0, 0], body)
    };
    let wire = [
        control(kind::SET_CHUNK_SIZE, &4096u32.to_be_bytes()),
        control(kind::SET_CHUNK_SIZE, &200u32.to_be_bytes()),
        control(kind::SET_CHUNK_SIZE, &0x7fff_ffffu32.to_be_bytes()),
        control(kind::WINDOW_ACK_SIZE, &5_000_000u32.to_be_bytes()),
        control(kind::SET_PEER_BANDWIDTH, &[0, 0, 1, 0, 2]),
        control(kind::ABORT, &7u32.to_be_bytes()),
        control(kind::USER_CONTROL, &[0, 6, 1, 2, 3, 4]),
    ]
    .concat();
    for at in 0..=wire.len() {
        check_cut(&wire, at, "control messages");
        let mut padded = wire[..at].to_vec();
        walked(&padded).pad(&mut padded);
        for (_, _, kind, _, body) in read(&mut ChunkReader::new(), &padded, "control messages") {
            if matches!(kind, kind::WINDOW_ACK_SIZE | kind::SET_PEER_BANDWIDTH) {
                let word = u32::from_be_bytes([body[0], body[1], body[2], body[3]]);
                assert!((1..=0x7fff_ffff).contains(&word), "cut at {at}: window {word}");
            }
        }
    }
}

#[test]
fn abort_closes_a_message() {
    let mut wire = chunk(0, 6, &[0, 0, 9, 0, 1, 44, 9, 1, 0, 0, 0], &[7; 128]);
    assert_eq!(walked(&wire).open().collect::<Vec<_>>(), [(6, 9, 172)]);
    wire.extend(chunk(0, 2, &[0, 0, 0, 0, 0, 4, 2, 0, 0, 0, 0], &[0, 0, 0, 6]));
    assert!(walked(&wire).is_at_border());
}

#[test]
fn what_no_reader_takes_is_not_followed() {
    let type0 = [0, 0, 9, 0, 1, 44, 9, 1, 0, 0, 0];
    let streams: Vec<u8> = (2..36).flat_map(|csid| chunk(0, csid, &[0; 11], &[])).collect();
    let late0 = [0xff, 0xff, 0xff, 0, 1, 44, 9, 1, 0, 0, 0, 1, 2, 3, 4];
    let cases: [(&str, Vec<u8>); 7] = [
        (
            "an extended timestamp that is not repeated",
            [chunk(0, 6, &late0, &[0; 128]), chunk(3, 6, &[], &[7; 128])].concat(),
        ),
        ("type 3 on a new chunk stream", chunk(3, 6, &[], &[1])),
        ("type 2 on a new chunk stream", chunk(2, 6, &[0; 3], &[1])),
        ("type 0 inside a message", [&type0, &type0].map(|f| chunk(0, 6, f, &[0; 128])).concat()),
        ("chunk size 0", chunk(0, 2, &[0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0], &[0; 4])),
        ("chunk size of 2 bytes", chunk(0, 2, &[0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0], &[0; 2])),
        ("too many chunk streams", streams),
    ];
    for (name, wire) in cases {
        let walk = walked(&wire);
        assert!(walk.is_lost(), "{name}");
        let mut padding = Vec::new();
        walk.pad(&mut padding);
        assert!(padding.is_empty(), "{name}");
    }
}
