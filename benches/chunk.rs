//! Cost of the chunk layer: what a publisher's bytes cost to parse, and a message to encode.
//!
//! `cargo bench -p forwarder --bench chunk`

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use forwarder::rtmp::Timestamp;
use forwarder::rtmp::chunk::{self, ChunkReader, Message};
use forwarder::rtmp::message::kind;

/// Chunk sizes on the wire: the default, FFmpeg's echo of nginx-rtmp's, ours, SRS's.
const CHUNK_SIZES: [u32; 4] = [128, 4096, 16384, 60000];

/// An inter frame at 500 kbit/s, and a keyframe at 4 Mbit/s.
const PAYLOADS: [usize; 2] = [2_500, 80_000];

fn message(payload: &[u8]) -> Message<'_> {
    Message { csid: 6, timestamp: Timestamp(40), kind: kind::VIDEO, msid: 1, payload }
}

fn encoded(payload: &[u8], chunk_size: u32) -> Vec<u8> {
    let mut out = Vec::new();
    chunk::encode(&message(payload), chunk_size, &mut |piece| out.extend_from_slice(piece));
    out
}

/// A reader that was told `chunk_size`.
fn reader(chunk_size: u32) -> ChunkReader {
    let mut reader = ChunkReader::new();
    let size = chunk_size.to_be_bytes();
    let control = Message { csid: 2, timestamp: Timestamp(0), kind: 1, msid: 0, payload: &size };
    let mut bytes = Vec::new();
    chunk::encode(&control, 128, &mut |piece| bytes.extend_from_slice(piece));
    let told = reader.read(&mut &bytes[..]).is_ok_and(|message| message.is_some());
    assert!(told, "SetChunkSize was not taken");
    reader
}

fn read(c: &mut Criterion) {
    let mut group = c.benchmark_group("chunk_read");
    for len in PAYLOADS {
        for chunk_size in CHUNK_SIZES {
            let bytes = encoded(&vec![0x27; len], chunk_size);
            let mut reader = reader(chunk_size);
            group.throughput(Throughput::Bytes(bytes.len() as u64));
            group.bench_function(BenchmarkId::new(format!("{len}B"), chunk_size), |b| {
                b.iter(|| {
                    let mut input = &bytes[..];
                    reader.read(&mut input).map(|m| m.map_or(0, |m| m.payload.len()))
                });
            });
        }
    }
    group.finish();
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("chunk_encode");
    for len in PAYLOADS {
        for chunk_size in CHUNK_SIZES {
            let payload = vec![0x27; len];
            let mut out = Vec::with_capacity(2 * len);
            group.throughput(Throughput::Bytes(len as u64));
            group.bench_function(BenchmarkId::new(format!("{len}B"), chunk_size), |b| {
                b.iter(|| {
                    out.clear();
                    let put = &mut |piece: &[u8]| out.extend_from_slice(piece);
                    chunk::encode(&message(&payload), chunk_size, put);
                    out.len()
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, read, encode);
criterion_main!(benches);
