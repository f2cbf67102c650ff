//! The walk in the kernel knows where recorded sessions stand, at every cut.
use std::fs;
use std::path::{Path, PathBuf};

use forwarder_ebpf::{Walk, punt};

use super::*;
use crate::rtmp::chunk::{ChunkReader, Position};
use crate::rtmp::message::kind;

/// C0 to C2, or S0 to S2.
const HANDSHAKE: usize = 1 + 2 * 1536;

/// What the chunks of the recordings begin with.
const CHUNK_SIZE: u32 = 128;

/// Sends `bytes` through the kernel in pieces and asks where it stands.
fn walked(program: &SpliceProgram, bytes: &[u8], random: &mut SmallRng) -> Walk {
    let mut hop = Hop::new();
    let start = Walk::new(CHUNK_SIZE);
    let (source, target) = (hop.source.as_fd(), hop.target.as_fd());
    let limits = PairLimits::default();
    let pair = Pair::of(source, target).unwrap();
    program.insert(&pair, source, target, &limits, Some(&start)).unwrap();
    let most = if random.random() { 40 } else { 20_000 };
    let mut rest = bytes;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(random.random_range(1..=most).min(rest.len()));
        hop.sender.write_all(now).unwrap();
        rest = later;
    }
    let mut received = vec![0; bytes.len()];
    hop.receiver.read_exact(&mut received).unwrap();
    assert!(received == bytes);
    program.remove_source(&pair).unwrap();
    let walk = program.walk(&pair).unwrap();
    assert_eq!(hop.unsplice(program, &pair), bytes.len() as u64);
    walk
}

/// Where `walk` stands, but for bytes of messages: each keeps only those it has a use for.
fn position(walk: &crate::splice::Walk) -> Position {
    let mut position = walk.position().unwrap();
    position.streams.iter_mut().for_each(|stream| stream.word = [0; 4]);
    position.streams.sort_by_key(|stream| stream.csid);
    position
}

/// Whole messages and the chunk size in force, by the reader of our own.
fn read(bytes: &[u8]) -> (u64, u32) {
    let (mut reader, mut input) = (ChunkReader::new(), bytes);
    let (mut messages, mut chunk_size) = (0, CHUNK_SIZE);
    while let Some(message) = reader.read(&mut input).unwrap() {
        messages += 1;
        if message.kind == kind::SET_CHUNK_SIZE {
            chunk_size = u32::from_be_bytes(*message.payload.first_chunk().unwrap());
        }
    }
    (messages, chunk_size)
}

/// What ends every message that is open, as an edge does whose upstream has died.
fn padding(walk: &Walk) -> Vec<u8> {
    let mut out = vec![0; walk.chunk_left as usize];
    for (csid, stream) in (0_u8..).zip(&walk.streams) {
        let mut later = stream.later;
        while later > 0 {
            out.push(0xc0 | csid);
            if stream.extended != 0 {
                out.extend_from_slice(&stream.extended.to_be_bytes());
            }
            let run = later.min(walk.chunk_size);
            out.resize(out.len() + run as usize, 0);
            later -= run;
        }
    }
    out
}

/// Chunks of all recordings, without those that are only a handshake.
fn recordings() -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "c2s" || end == "s2c") {
            let bytes = fs::read(&path).unwrap();
            if let Some(chunks) = bytes.get(HANDSHAKE..) {
                found.push((path, chunks.to_vec()));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_walk_agrees_with_the_chunk_reader_and_its_padding_ends_every_message() {
    let Some(program) = program() else { return };
    let mut random = SmallRng::seed_from_u64(3);
    let (mut padded, mut punted) = (0, Vec::new());
    for (path, chunks) in recordings() {
        for _ in 0..8 {
            let bytes = &chunks[..random.random_range(0..=chunks.len())];
            let walk = walked(&program, bytes, &mut random);
            if walk.punt != 0 {
                assert_eq!(walk.punt, punt::EXTENDED, "{}", path.display());
                punted.push(path.file_name().unwrap().to_owned());
                continue;
            }
            let mut here = crate::splice::Walk::new(CHUNK_SIZE);
            here.feed(bytes);
            let there = crate::splice::Walk::from_kernel(&walk);
            let what = format!("{} cut at {}", path.display(), bytes.len());
            assert_eq!(position(&there), position(&here), "{what}");
            assert_eq!(there.passed_headers(), here.passed_headers(), "{what}");
            let (whole, chunk_size) = read(bytes);
            assert_eq!(walk.chunk_size, chunk_size, "{}", path.display());
            assert!(walk.messages >= whole, "{}", path.display());
            // Zeros would not do for the rest of a header or of a chunk size.
            if walk.header_len == 0 && walk.control_left == 0 {
                let ended = [bytes, &padding(&walk)].concat();
                assert_eq!(read(&ended).0, walk.messages, "{} {}", path.display(), bytes.len());
                padded += 1;
            }
        }
    }
    punted.dedup();
    println!("{padded} cuts padded, not followed: {punted:?}");
    assert!(padded > 100);
}
