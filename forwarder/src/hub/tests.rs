//! Tests of the hub: what a reader gets is compared byte for byte with what was appended.

mod forms;
mod redundancy;

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::rtmp::Timestamp;
use crate::rtmp::chunk::{self, ChunkReader, Message};
use crate::rtmp::message::{MediaKind, MediaMessage, kind};

const CHUNK: u32 = 4096;
const LAG: LagLimits = LagLimits { time: Duration::from_secs(10), bytes: 16 << 20 };

#[derive(Default)]
struct Bell(Arc<AtomicUsize>);

impl Wake for Bell {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn options() -> StreamOptions {
    let log = LogLimits { chunk_size: CHUNK, gop_bytes: 4 << 20, gop_messages: 2500 };
    StreamOptions { log, grace: Duration::from_secs(10) }
}

fn key() -> StreamKey {
    StreamKey::new("__defaultVhost__", "live", "a").unwrap()
}

/// A hub with one published stream, and its clock.
struct Bench {
    hub: Hub,
    publisher: Publisher,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self::with(options())
    }

    fn with(options: StreamOptions) -> Self {
        let (hub, now) = (Hub::new(), Instant::now());
        let publisher = hub.publish(&key(), options, Source::default(), now).unwrap();
        Self { hub, publisher, now }
    }

    fn put(&mut self, kind: MediaKind, timestamp: u32, payload: &[u8]) {
        let timestamp = Timestamp(timestamp);
        let media = MediaMessage { kind, timestamp, msid: 1, payload };
        self.publisher.append(&media, self.now).unwrap();
        self.publisher.flush();
    }

    fn header(&mut self, tag: u8) {
        self.put(MediaKind::Video, 0, &[0x17, 0, 0, 0, 0, tag]);
    }

    fn keyframe(&mut self, timestamp: u32, len: usize) {
        self.put(MediaKind::Video, timestamp, &video(0x17, timestamp, len));
    }

    fn frame(&mut self, timestamp: u32, len: usize) {
        self.put(MediaKind::Video, timestamp, &video(0x27, timestamp, len));
    }

    fn view(&self) -> View {
        self.publisher.stream().view(Box::<Bell>::default())
    }
}

fn video(first: u8, seed: u32, len: usize) -> Vec<u8> {
    let body = (0..len).map(|i| (i as u32).wrapping_mul(31).wrapping_add(seed) as u8);
    [first, 1, 0, 0, 0].into_iter().chain(body).collect()
}

/// All bytes of `from..head`.
fn read(view: &View, from: u64) -> Vec<u8> {
    let (mut out, mut at) = (Vec::new(), from);
    while at < view.head() {
        let mut slices = [IoSlice::new(&[]); 3];
        let n = view.slices(at, view.head(), &mut slices);
        assert!(n > 0, "the view holds nothing at {at}");
        for slice in &slices[..n] {
            out.extend_from_slice(slice);
            at += slice.len() as u64;
        }
    }
    out
}

/// (type, timestamp, payload) of each message in chunked bytes.
fn decode(bytes: &[u8]) -> Vec<(u8, u32, Vec<u8>)> {
    let mut reader = ChunkReader::new();
    let mut lead = Vec::new();
    let size = CHUNK.to_be_bytes();
    let message = Message { csid: 2, timestamp: Timestamp(0), kind: 1, msid: 0, payload: &size };
    chunk::encode(&message, CHUNK, &mut |piece| lead.extend_from_slice(piece));
    lead.extend_from_slice(bytes);
    let (mut input, mut out) = (&lead[..], Vec::new());
    while let Some(message) = reader.read(&mut input).unwrap() {
        if message.kind != kind::SET_CHUNK_SIZE {
            out.push((message.kind, message.timestamp.0, message.payload.to_vec()));
        }
    }
    assert!(!reader.is_mid_message());
    out
}

fn join(view: &mut View) -> (u64, Vec<u8>) {
    match view.start(Wish::Join { gop_cache: true }) {
        Start::At { offset, headers } => {
            let mut lead = Vec::new();
            let target = Target { form: Form::Chunks, chunk_size: CHUNK, msid: 1, publish: false };
            if let Some((headers, timestamp)) = headers {
                headers.encode(timestamp, target, &mut lead);
            }
            (offset, lead)
        }
        Start::Keyframe { .. } => panic!("no keyframe to start at"),
    }
}

#[test]
fn readers_get_every_message_unchanged_across_segments() {
    let mut bench = Bench::new();
    let mut view = bench.view();
    let mut want = Vec::new();
    for n in 0..200u32 {
        let len = (n as usize * 977) % 60_000 + 1;
        bench.frame(n * 40, len);
        want.push((9, n * 40, video(0x27, n * 40, len)));
    }
    view.refresh();
    assert!(view.head() > 8 * SEGMENT_BYTES as u64);
    assert_eq!(decode(&read(&view, 0)), want);
}

#[test]
fn a_message_larger_than_many_segments_is_whole() {
    let mut bench = Bench::new();
    let mut view = bench.view();
    bench.keyframe(7, 5 << 20);
    bench.frame(8, 3);
    view.refresh();
    let want = vec![(9, 7, video(0x17, 7, 5 << 20)), (9, 8, video(0x27, 8, 3))];
    assert_eq!(decode(&read(&view, 0)), want);
    let inside = 3 * SEGMENT_BYTES as u64 + 17;
    assert_eq!(view.message_end(inside), view.message_end(1));
}

#[test]
fn a_late_joiner_starts_at_the_newest_keyframe_behind_its_headers() {
    let mut bench = Bench::new();
    bench.put(MediaKind::Data, 500, b"\x02\x00\x0aonMetaData\x05");
    bench.header(1);
    for n in 0..10 {
        bench.keyframe(n * 1000, 10);
        bench.frame(n * 1000 + 40, 10);
    }
    let mut view = bench.view();
    let (offset, mut bytes) = join(&mut view);
    bytes.extend(read(&view, offset));
    let got = decode(&bytes);
    assert_eq!(got[0], (18, 0, b"\x02\x00\x0aonMetaData\x05".to_vec()));
    assert_eq!(got[1], (9, 9000, vec![0x17, 0, 0, 0, 0, 1]));
    assert_eq!(got[2], (9, 9000, video(0x17, 9000, 10)));
    assert_eq!(got.len(), 4);
}

#[test]
fn a_joiner_gets_the_headers_of_the_gop_it_starts_at() {
    let mut bench = Bench::new();
    bench.header(1);
    bench.keyframe(0, 10);
    bench.header(2);
    let mut view = bench.view();
    let (offset, mut bytes) = join(&mut view);
    bytes.extend(read(&view, offset));
    let headers: Vec<_> = decode(&bytes).into_iter().filter(|m| m.2[1] == 0).collect();
    assert_eq!(headers.iter().map(|m| m.2[5]).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_late_joiner_gets_the_keyframes_and_headers_of_all_tracks() {
    let mut bench = Bench::new();
    let track = |first: u8, kind: u8, track: u8, tag: u8| -> Vec<u8> {
        [&[first, kind][..], b"hvc1", &[track, tag]].concat()
    };
    let mut want: Vec<Vec<u8>> = (0..3).map(|id| track(0x96, 0, id, 1)).collect();
    for header in &want {
        bench.put(MediaKind::Video, 0, header);
    }
    let colour = b"\xd4hvc1\x02\0\x09colorInfo".to_vec();
    bench.put(MediaKind::Video, 0, &colour);
    want.push(colour);
    for n in 0..20u32 {
        for id in 0..3 {
            let first = if n.is_multiple_of(10) { 0x96 } else { 0xa6 };
            let frame = track(first, 3, id, n as u8);
            bench.put(MediaKind::Video, n * 40, &frame);
            if n >= 10 {
                want.push(frame);
            }
        }
    }
    let mut view = bench.view();
    let (offset, mut bytes) = join(&mut view);
    bytes.extend(read(&view, offset));
    let got: Vec<Vec<u8>> = decode(&bytes).into_iter().map(|(_, _, payload)| payload).collect();
    assert_eq!(got, want);
}

#[test]
fn neither_commands_nor_ends_of_sequence_are_cached_as_media() {
    let mut bench = Bench::new();
    let keyframe: &[u8] = b"\x91av01\x0a";
    let transient = [&b"\xd1\0"[..], b"\x92av01", b"\x57\0"];
    for payload in transient {
        bench.put(MediaKind::Video, 0, payload);
    }
    let mut view = bench.view();
    assert_eq!(join(&mut view).0, view.head(), "no video to wait for");
    bench.put(MediaKind::Video, 40, keyframe);
    let mut view = bench.view();
    let (offset, lead) = join(&mut view);
    assert_eq!((lead, decode(&read(&view, offset))), (vec![], vec![(9, 40, keyframe.to_vec())]));
}

#[test]
fn without_a_keyframe_a_joiner_of_video_waits_and_of_audio_does_not() {
    let mut bench = Bench::new();
    bench.frame(0, 10);
    let mut view = bench.view();
    let Start::Keyframe { after } = view.start(Wish::Join { gop_cache: true }) else {
        panic!("started in the middle of a GOP");
    };
    assert!(!view.has_keyframe(after));
    bench.keyframe(40, 10);
    view.refresh();
    assert!(view.has_keyframe(after));
    let start = view.start(Wish::Keyframe { after });
    assert!(matches!(start, Start::At { offset, .. } if offset == after));

    let mut bench = Bench::new();
    bench.put(MediaKind::Audio, 0, &[0xaf, 0, 0x12, 0x10]);
    bench.put(MediaKind::Audio, 20, &[0xaf, 1, 1, 2, 3]);
    let mut view = bench.view();
    let (offset, lead) = join(&mut view);
    assert_eq!(offset, view.head());
    assert_eq!(decode(&lead), [(8, 20, vec![0xaf, 0, 0x12, 0x10])]);
}

#[test]
fn audio_alone_for_long_ends_the_wait_for_video() {
    let mut bench = Bench::new();
    bench.keyframe(0, 10);
    for n in 0..115 {
        bench.put(MediaKind::Audio, n * 20, &[0xaf, 1, 0]);
    }
    let mut view = bench.view();
    let (offset, _) = join(&mut view);
    assert_eq!(offset, view.head());
}

#[test]
fn a_reader_too_far_behind_goes_on_at_a_keyframe() {
    let mut bench = Bench::new();
    let mut view = bench.view();
    bench.header(1);
    bench.keyframe(0, 1000);
    for n in 1..100 {
        bench.frame(n * 40, 1000);
    }
    view.refresh();
    let inside = 1500;
    assert_eq!(view.limit(&LAG, bench.now), 0, "young and small");
    let small = LagLimits { bytes: 50_000, ..LAG };
    assert_eq!(view.limit(&small, bench.now), view.head() - 50_000);
    bench.now += Duration::from_secs(11);
    bench.keyframe(5000, 1000);
    view.refresh();
    let limit = view.limit(&LAG, bench.now);
    let end = view.message_end(inside).unwrap();
    assert!(inside < end && end < limit, "{inside} {end} {limit}");
    let epoch = view.epoch_at(end).unwrap();
    match view.start(Wish::Skip { from: end, epoch, limit }) {
        Start::At { offset, headers: None } => {
            assert_eq!(decode(&read(&view, offset)), [(9, 5000, video(0x17, 5000, 1000))]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_skip_over_new_headers_sends_them() {
    let mut bench = Bench::new();
    let mut view = bench.view();
    bench.header(1);
    bench.keyframe(0, 10);
    view.refresh();
    let from = view.head();
    let epoch = view.epoch_at(from).unwrap();
    bench.header(2);
    bench.keyframe(40, 10);
    let start = view.start(Wish::Skip { from, epoch, limit: 0 });
    assert!(matches!(start, Start::At { headers: Some(_), .. }), "{start:?}");
}

#[test]
fn message_ends_are_found_from_every_byte() {
    let mut bench = Bench::new();
    let mut view = bench.view();
    let mut ends = vec![0];
    for n in 0..40 {
        bench.frame(n, (n as usize * 7919) % 40_000);
        view.refresh();
        ends.push(view.head());
    }
    for pair in ends.windows(2) {
        assert_eq!(view.message_end(pair[0]), Some(pair[0]));
        for at in [pair[0] + 1, (pair[0] + pair[1]) / 2, pair[1] - 1] {
            assert_eq!(view.message_end(at), Some(pair[1]), "at {at}");
        }
    }
}

#[test]
fn memory_stays_bounded_without_readers_and_with_one_that_never_reads() {
    let mut bench = Bench::new();
    let mut view = bench.view();
    for n in 0..3000u32 {
        if n % 50 == 0 {
            bench.keyframe(n * 40, 20_000);
        } else {
            bench.frame(n * 40, 20_000);
        }
        // Its view is refreshed, as a shard's pass does, and let go below its lag limit.
        view.refresh();
        let limit = view.limit(&LagLimits { bytes: 1 << 20, ..LAG }, bench.now);
        view.trim(limit);
        let held = bench.publisher.stream().log_bytes();
        assert!(held < (4 << 20) + 2 * SEGMENT_BYTES as u64, "log holds {held}");
        assert!(view.held() < (1 << 20) + 2 * SEGMENT_BYTES as u64, "view holds {}", view.held());
    }
}

#[test]
fn a_shard_that_sleeps_through_too_much_finds_its_way() {
    let mut bench = Bench::new();
    let mut view = bench.view();
    bench.keyframe(0, 100_000);
    view.refresh();
    let old = view.head();
    // More than any log keeps for a reader that does not look.
    for n in 1..600u32 {
        bench.keyframe(n * 40, 100_000);
    }
    view.refresh();
    let limit = view.limit(&LAG, bench.now);
    assert!(limit > old, "the reader must skip");
    let start = view.start(Wish::Skip { from: old, epoch: 0, limit });
    let Start::At { offset, .. } = start else { panic!("{start:?}") };
    assert_eq!(decode(&read(&view, offset)), [(9, 23_960, video(0x17, 23_960, 100_000))]);
}

#[test]
fn a_gop_over_a_bound_is_not_kept() {
    let limits = LogLimits { gop_messages: 10, ..options().log };
    let mut bench = Bench::with(StreamOptions { log: limits, ..options() });
    bench.keyframe(0, 10);
    for n in 0..20 {
        bench.frame(n, 10);
    }
    let mut view = bench.view();
    let start = view.start(Wish::Join { gop_cache: true });
    assert!(matches!(start, Start::Keyframe { .. }));
}

#[test]
fn one_publisher_at_a_time_and_the_next_one_within_grace_goes_on() {
    let mut bench = Bench::new();
    let mut view = bench.view();
    let busy = bench.hub.publish(&key(), options(), Source::default(), bench.now);
    assert_eq!(busy.unwrap_err(), Busy);
    bench.keyframe(0, 10);
    let Bench { hub, publisher, now } = bench;
    drop(publisher);
    view.refresh();
    assert!(matches!(view.phase(), Phase::Grace(_)));
    let publisher = hub.publish(&key(), options(), Source::default(), now).unwrap();
    let mut bench = Bench { hub, publisher, now };
    bench.keyframe(5, 20);
    view.refresh();
    assert_eq!(view.phase(), Phase::Live);
    let want = vec![(9, 0, video(0x17, 0, 10)), (9, 5, video(0x17, 5, 20))];
    assert_eq!(decode(&read(&view, 0)), want);
}

#[test]
fn after_the_grace_time_the_stream_is_over_and_a_new_one_begins() {
    let Bench { hub, publisher, now } = Bench::new();
    let mut view = publisher.stream().view(Box::<Bell>::default());
    drop(publisher);
    hub.sweep(now + Duration::from_secs(5));
    view.refresh();
    assert!(matches!(view.phase(), Phase::Grace(_)));
    hub.sweep(Instant::now() + Duration::from_secs(11));
    view.refresh();
    assert_eq!(view.phase(), Phase::Ended);
    let again = hub.publish(&key(), options(), Source::default(), now).unwrap();
    assert!(!Arc::ptr_eq(again.stream(), view.stream()));
}

#[test]
fn unused_names_are_forgotten() {
    let (hub, now) = (Hub::new(), Instant::now());
    let stream = hub.stream(&key(), options(), now);
    hub.sweep(now);
    assert_eq!(hub.list().len(), 1, "somebody waits for it");
    drop(stream);
    hub.sweep(now);
    assert!(hub.list().is_empty());
}

#[test]
fn readers_are_woken_once_until_they_look() {
    let mut bench = Bench::new();
    let count = Arc::new(AtomicUsize::new(0));
    let mut view = bench.publisher.stream().view(Box::new(Bell(Arc::clone(&count))));
    bench.keyframe(0, 10);
    bench.keyframe(1, 10);
    assert_eq!(count.load(Ordering::Relaxed), 1);
    view.refresh();
    bench.keyframe(2, 10);
    assert_eq!(count.load(Ordering::Relaxed), 2);
}

#[test]
fn readers_are_not_woken_for_a_part_of_a_message() {
    let mut bench = Bench::new();
    let count = Arc::new(AtomicUsize::new(0));
    let _view = bench.publisher.stream().view(Box::new(Bell(Arc::clone(&count))));
    bench.publisher.flush();
    assert_eq!(count.load(Ordering::Relaxed), 0);
}

#[test]
fn the_epoch_is_known_behind_a_message_that_began_in_a_segment_that_is_gone() {
    let mut bench = Bench::new();
    let mut view = bench.view();
    bench.header(1);
    bench.keyframe(0, 3 * SEGMENT_BYTES);
    bench.frame(40, 100);
    view.refresh();
    let inside = 2 * SEGMENT_BYTES as u64 + 10;
    let end = view.message_end(inside).unwrap();
    let epoch = view.epoch_at(end);
    assert!(epoch.is_some());
    view.trim(inside);
    assert_eq!(view.epoch_at(end), epoch);
}
