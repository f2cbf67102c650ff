//! Cost of the media log without sockets: an append, and one subscriber's part of a pass.
//!
//! `cargo bench -p forwarder --bench hub`

use std::io::IoSlice;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use forwarder::hub::{Hub, LogLimits, Publisher, Source, StreamOptions, Wake};
use forwarder::rtmp::Timestamp;
use forwarder::rtmp::message::{MediaKind, MediaMessage};
use forwarder::rtmp::url::StreamKey;

struct Quiet;

impl Wake for Quiet {
    fn wake(&self) {}
}

fn publisher() -> Option<Publisher> {
    let log = LogLimits { chunk_size: 16384, gop_bytes: 32 << 20, gop_messages: 2500 };
    let options = StreamOptions { log, grace: Duration::ZERO };
    let key = StreamKey::new("__defaultVhost__", "live", "bench").ok()?;
    Hub::new().publish(&key, options, Source::default(), Instant::now()).ok()
}

fn frame(payload: &mut [u8], n: u32) -> MediaMessage<'_> {
    payload[0] = if n.is_multiple_of(50) { 0x17 } else { 0x27 };
    payload[1] = 1;
    MediaMessage { kind: MediaKind::Video, timestamp: Timestamp(n * 40), msid: 1, payload }
}

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("log_append");
    for len in [400, 2_500, 25_000, 80_000] {
        let Some(mut publisher) = publisher() else { return };
        let (mut payload, mut n, now) = (vec![0; len], 0, Instant::now());
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::from_parameter(len), |b| {
            b.iter(|| {
                n += 1;
                publisher.append(&frame(&mut payload, n), now)
            });
        });
    }
    group.finish();
}

fn pass(c: &mut Criterion) {
    let Some(mut publisher) = publisher() else { return };
    let mut view = publisher.stream().view(Box::new(Quiet));
    let mut payload = vec![0; 2_500];
    for n in 0..100 {
        if publisher.append(&frame(&mut payload, n), Instant::now()).is_err() {
            return;
        }
    }
    view.refresh();
    let from = view.head() - 2_600;
    c.bench_function("slices_of_one_subscriber", |b| {
        b.iter(|| {
            let mut slices = [IoSlice::new(&[]); 16];
            view.slices(from, view.head(), &mut slices)
        });
    });
}

criterion_group!(benches, append, pass);
criterion_main!(benches);
