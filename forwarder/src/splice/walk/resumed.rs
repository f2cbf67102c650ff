//! A reader that goes on where a walk stands reads what one would that had read all.
use super::*;
use crate::rtmp::Timestamp;
use crate::rtmp::chunk::{ChunkReader, Message, encode};
use crate::rtmp::golden::{Recording, recordings};

type Owned = (u32, u32, u8, u32, Vec<u8>);

fn owned(m: Message<'_>) -> Owned {
    (m.csid, m.timestamp.0, m.kind, m.msid, m.payload.to_vec())
}

/// The first messages of `wire`, at most `most`.
fn read(reader: &mut ChunkReader, wire: &[u8], most: usize) -> Vec<Owned> {
    let mut messages = Vec::new();
    for mut piece in wire.chunks(1 << 12) {
        while let Some(message) = reader.read(&mut piece).unwrap() {
            messages.push(owned(message));
            if messages.len() == most {
                return messages;
            }
        }
    }
    messages
}

/// Goes on at `position`, `at` bytes into `wire`, with the messages in `later` still to be whole.
fn check(position: &Position, later: &[Owned], wire: &[u8], at: usize, what: &str) {
    let mut cut: Vec<u32> = position
        .streams
        .iter()
        .filter(|stream| stream.left > 0 && stream.seen() > 0)
        .map(|stream| stream.csid)
        .collect();
    let mut want = later.iter().filter(|(csid, ..)| {
        let open = cut.iter().position(|open| open == csid);
        open.map(|index| cut.swap_remove(index)).is_none()
    });
    let mut reader = ChunkReader::resume(position);
    for got in read(&mut reader, &wire[at..], 2) {
        assert!(Some(&got) == want.next(), "{what} cut at {at}: {:?}", &got.0);
    }
}

fn publishers() -> impl Iterator<Item = Recording> {
    let is_publisher =
        |name: &str| name.ends_with(".c2s") && (name.starts_with("pub") || name.starts_with("fwd"));
    let mut all = recordings();
    all.retain(|recording| is_publisher(&recording.name));
    assert!(all.len() > 10);
    all.into_iter()
}

#[test]
fn a_reader_goes_on_at_every_byte_of_what_publishers_sent() {
    for recording in publishers() {
        let wire = recording.chunks();
        let all = read(&mut ChunkReader::new(), wire, usize::MAX);
        let (mut walk, mut reader, mut whole) =
            (Walk::new(DEFAULT_CHUNK_SIZE), ChunkReader::new(), 0);
        for at in 0..=wire.len() {
            if walk.is_lost() {
                // An extended timestamp that is not repeated.
                assert!(recording.name.contains("ext"), "{} cut at {at}", recording.name);
                break;
            }
            let position = walk.position().unwrap();
            check(&position, &all[whole..], wire, at, &recording.name);
            if let Some(there) = walk.to_kernel().filter(|_| at % 7 == 0) {
                let back = Walk::from_kernel(&there);
                assert_eq!(back.passed_header(), walk.passed_header());
                check(&back.position().unwrap(), &all[whole..], wire, at, "there and back");
            }
            if let Some(read) = reader.position() {
                assert_eq!(read, position, "{} cut at {at}", recording.name);
                assert_eq!(Walk::resume(&read).position(), Some(read));
            }
            let next = wire.get(at..).and_then(|rest| rest.get(..1)).unwrap_or_default();
            walk.feed(next);
            whole += read(&mut reader, next, usize::MAX).len();
        }
    }
}

#[test]
fn a_chunk_size_that_was_cut_takes_effect() {
    let mut wire = Vec::new();
    let mut put = |kind: u8, payload: &[u8], chunk_size: u32| {
        let message = Message { csid: 3, timestamp: Timestamp(1), kind, msid: 0, payload };
        encode(&message, chunk_size, &mut |bytes| wire.extend_from_slice(bytes));
    };
    put(kind::SET_CHUNK_SIZE, &70_000_u32.to_be_bytes(), 128);
    put(kind::VIDEO, &[7; 60_000], 70_000);
    for at in 0..16 {
        let mut walk = Walk::new(DEFAULT_CHUNK_SIZE);
        walk.feed(&wire[..at]);
        let mut reader = ChunkReader::resume(&walk.position().unwrap());
        let got = read(&mut reader, &wire[at..], usize::MAX);
        assert_eq!(got.last().map(|message| message.4.len()), Some(60_000), "cut at {at}");
    }
}

#[test]
fn headers_are_seen_however_they_are_cut() {
    let header = |kind: u8, payload: &[u8]| {
        let message = Message { csid: 4, timestamp: Timestamp(1), kind, msid: 1, payload };
        let mut wire = Vec::new();
        encode(&message, 128, &mut |bytes| wire.extend_from_slice(bytes));
        wire
    };
    let cases: [(u8, &[u8], bool); 12] = [
        (kind::VIDEO, &[0x17, 0, 0, 0, 0, 1], true),
        (kind::VIDEO, &[0x17, 1, 0, 0, 0, 1], false),
        (kind::VIDEO, &[0x22, 0, 0, 0, 0, 1], false), // Sorenson has no headers
        (kind::VIDEO, &[0x90, b'h', b'v', b'c', b'1', 1], true),
        (kind::VIDEO, &[0x91, b'h', b'v', b'c', b'1', 1], false),
        (kind::VIDEO, &[0x96, 0x10, b'h', b'v', b'c', b'1'], true),
        (kind::VIDEO, &[0x96, 0x11, b'h', b'v', b'c', b'1'], false),
        (kind::AUDIO, &[0xaf, 0, 0x12, 0x10], true),
        (kind::AUDIO, &[0xaf, 1, 0x12, 0x10], false),
        (kind::AUDIO, &[0x90, b'O', b'p', b'u', b's', 1], true),
        (kind::AUDIO, &[0x2f, 0, 1], false), // MP3
        (kind::DATA_AMF0, &[2, 0, 0], false),
    ];
    for (kind, payload, is_header) in cases {
        let wire = header(kind, payload);
        for at in 0..=wire.len() {
            let mut walk = Walk::new(DEFAULT_CHUNK_SIZE);
            walk.feed(&wire[..at]);
            let there = walk.to_kernel().unwrap();
            let mut back = Walk::from_kernel(&there);
            back.feed(&wire[at..]);
            assert_eq!(back.passed_header(), is_header, "{payload:?} cut at {at}");
        }
    }
}
