//! Recordings of real clients and servers, see `tests/golden/README.md`, and what an independent
//! decoder makes of them and of our own bytes.
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Timestamp;
use super::chunk::{ChunkReader, Message, encode};
use super::message::{Control, kind};

/// One direction of a recorded connection.
pub(crate) struct Recording {
    /// The file's name: `X.c2s` for what the TCP client sent, `X.s2c` for what the server sent.
    pub(crate) name: String,
    path: PathBuf,
    /// All bytes, the handshake of 3073 included.
    pub(crate) bytes: Vec<u8>,
}

impl Recording {
    /// What follows the handshake.
    pub(crate) fn chunks(&self) -> &[u8] {
        self.bytes.get(HANDSHAKE..).unwrap_or_default()
    }
}

/// All recordings, both directions, by name.
pub(crate) fn recordings() -> Vec<Recording> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let mut recordings: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "c2s" || e == "s2c"))
        .map(|path| Recording {
            name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            bytes: std::fs::read(&path).unwrap(),
            path,
        })
        .collect();
    recordings.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(recordings.len() > 60, "recordings are missing from {}", folder.display());
    recordings
}

/// Length of C0 C1 C2 and of S0 S1 S2.
const HANDSHAKE: usize = 1 + 2 * 1536;

/// A message with its payload owned.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owned {
    csid: u32,
    timestamp: u32,
    kind: u8,
    msid: u32,
    payload: Vec<u8>,
}

impl Owned {
    fn as_message(&self) -> Message<'_> {
        Message {
            csid: self.csid,
            timestamp: Timestamp(self.timestamp),
            kind: self.kind,
            msid: self.msid,
            payload: &self.payload,
        }
    }
}

impl From<Message<'_>> for Owned {
    fn from(m: Message<'_>) -> Self {
        let payload = m.payload.to_vec();
        Self { csid: m.csid, timestamp: m.timestamp.0, kind: m.kind, msid: m.msid, payload }
    }
}

/// What our reader makes of bytes fed in these pieces.
fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Owned> {
    let (mut reader, mut messages) = (ChunkReader::new(), Vec::new());
    for mut piece in pieces {
        while let Some(message) = reader.read(&mut piece).unwrap() {
            messages.push(message.into());
        }
        assert!(piece.is_empty());
    }
    messages
}

/// Cuts `bytes` into pieces of up to `longest` bytes, always in the same places for a `seed`.
fn pieces(mut bytes: &[u8], longest: usize, seed: u64) -> impl Iterator<Item = &[u8]> {
    let mut state = seed;
    std::iter::from_fn(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let n = (1 + (state >> 33) as usize % longest).min(bytes.len());
        let (piece, rest) = bytes.split_at(n);
        bytes = rest;
        (n > 0).then_some(piece)
    })
}

/// What `tests/tools/rtmpdec.py` makes of these files.
fn decoded_independently<'a>(files: impl IntoIterator<Item = &'a Path>) -> Vec<Vec<Owned>> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/tools");
    let output = Command::new("python3")
        .args(["-c", DUMP])
        .args(files)
        .env("PYTHONPATH", tools)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("python3 has to be installed: the independent decoder is written in Python");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the independent decoder failed:\n{errors}");
    let mut dump = &output.stdout[..];
    let word = |dump: &mut &[u8]| {
        let (&word, rest) = dump.split_first_chunk().unwrap();
        *dump = rest;
        u32::from_be_bytes(word)
    };
    let mut files = Vec::new();
    while !dump.is_empty() {
        let count = word(&mut dump);
        let message = |_| {
            let [csid, timestamp, kind, msid, len] = std::array::from_fn(|_| word(&mut dump));
            let (payload, rest) = dump.split_at(len as usize);
            dump = rest;
            let kind = u8::try_from(kind).unwrap();
            Owned { csid, timestamp, kind, msid, payload: payload.to_vec() }
        };
        files.push((0..count).map(message).collect());
    }
    files
}

/// Prints the messages of each file: their number; then csid, timestamp, type, message stream id
/// and length of each, and its payload; all numbers of 32 bits, big-endian.
///
/// The decoder takes 0 as the delta of a type 3 message after a type 0 one, where we take the
/// timestamp itself if it is small: the same for timestamp 0, and no recording has another.
const DUMP: &str = "
import struct, sys, rtmpdec
for name in sys.argv[1:]:
    messages, last = [], {}
    for _, csid, fmt, ts, length, kind, msid, payload, _, _ in rtmpdec.chunks(open(name, 'rb').read()):
        if fmt == 3:
            assert last[csid] != 0 or ts == 0, 'type 3 after type 0 at %d ms in %s' % (ts, name)
        else:
            last[csid] = fmt
        assert length == len(payload)
        messages.append(struct.pack('>5I', csid, ts, kind, msid, length) + payload)
    sys.stdout.buffer.write(struct.pack('>I', len(messages)) + b''.join(messages))
";

fn assert_same(ours: &[Owned], theirs: &[Owned], name: &str) {
    for (index, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        assert_eq!(ours, theirs, "{name}, message {index}");
    }
    assert_eq!(ours.len(), theirs.len(), "{name}: messages");
}

#[test]
fn recordings_read_the_same_however_they_are_cut() {
    for recording in recordings() {
        let chunks = recording.chunks();
        let whole = read([chunks]);
        assert_same(&read(chunks.chunks(1)), &whole, &recording.name);
        for (seed, longest) in [7, 20, 150, 5_000].into_iter().enumerate() {
            let cut = read(pieces(chunks, longest, seed as u64));
            assert_same(&cut, &whole, &recording.name);
        }
    }
}

#[test]
fn independent_decoder_reads_the_recordings_as_we_do() {
    let recordings = recordings();
    let theirs = decoded_independently(recordings.iter().map(|r| &*r.path));
    assert_eq!(theirs.len(), recordings.len());
    for (recording, theirs) in recordings.iter().zip(theirs) {
        assert_same(&read([recording.chunks()]), &theirs, &recording.name);
    }
}

#[test]
fn independent_decoder_reads_what_we_encode() {
    // All messages of all recordings, but for the chunk sizes that were right for other bytes.
    let messages: Vec<_> = recordings()
        .iter()
        .flat_map(|recording| read([recording.chunks()]))
        .filter(|message| message.kind != kind::SET_CHUNK_SIZE)
        .collect();
    let folder = tempfile::tempdir().unwrap();
    // The times moved across the limit of 24 bits, not at all, and across that of 32 bits.
    let streams = [(128, 0xff_f000), (4096, 0), (65_536, 0xffff_f000)].map(|(size, offset)| {
        let mut wire = vec![0; HANDSHAKE];
        Control::SetChunkSize(size).encode(&mut wire);
        let mut expected = read([&wire[HANDSHAKE..]]);
        expected.extend(messages.iter().cloned());
        for message in &mut expected[1..] {
            message.timestamp = message.timestamp.wrapping_add(offset);
            encode(&message.as_message(), size, &mut |bytes| wire.extend_from_slice(bytes));
        }
        let path = folder.path().join(format!("chunks-of-{size}"));
        std::fs::write(&path, &wire).unwrap();
        (path, wire, expected)
    });
    let theirs = decoded_independently(streams.iter().map(|(path, ..)| &**path));
    for ((path, wire, expected), theirs) in streams.iter().zip(theirs) {
        let name = path.display().to_string();
        assert_same(&theirs, expected, &name);
        assert_same(&read(pieces(&wire[HANDSHAKE..], 20_000, 1)), expected, &name);
    }
}
