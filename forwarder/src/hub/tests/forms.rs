//! Readers of the same messages in another form.

use super::*;
use crate::rtmp::flv::encode_tag;

const TAGS: Form = Form::Tags { audio: true, video: true };
const AAC: [u8; 4] = [0xaf, 0, 0x12, 0x10];

type Media = (u8, u32, Vec<u8>);

/// (type, timestamp, payload) of each tag.
fn tags(mut bytes: &[u8]) -> Vec<Media> {
    let mut all = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<11>() {
        let len = u32::from_be_bytes([0, head[1], head[2], head[3]]) as usize;
        let time = u32::from_be_bytes([head[7], head[4], head[5], head[6]]);
        assert_eq!(rest[len..len + 4], (len as u32 + 11).to_be_bytes());
        all.push((head[0], time, rest[..len].to_vec()));
        bytes = &rest[len + 4..];
    }
    assert!(bytes.is_empty(), "the end of a tag is missing");
    all
}

impl Bench {
    fn tags(&self, form: Form) -> View {
        self.publisher.stream().view_as(form, Box::<Bell>::default())
    }
}

/// What a joiner gets.
fn joined(view: &mut View, form: Form) -> Vec<Media> {
    let Start::At { offset, headers } = view.start(Wish::Join { gop_cache: true }) else {
        panic!("nothing to start at");
    };
    let mut bytes = Vec::new();
    let target = Target { form, chunk_size: 0, msid: 1, publish: false };
    if let Some((headers, timestamp)) = headers {
        headers.encode(timestamp, target, &mut bytes);
    }
    bytes.extend(read(view, offset));
    tags(&bytes)
}

#[test]
fn the_first_reader_of_tags_gets_the_group_of_pictures_and_what_follows() {
    for with_extended_times in [0, 0x0100_0000] {
        let at = |time: u32| with_extended_times + time;
        let mut bench = Bench::new();
        bench.put(MediaKind::Data, 500, b"\x02\x00\x0aonMetaData\x05");
        bench.header(1);
        bench.put(MediaKind::Audio, 0, &AAC);
        bench.keyframe(at(0), 10);
        let mut want = vec![
            (18, 0, b"\x02\x00\x0aonMetaData\x05".to_vec()),
            (8, at(1000), AAC.to_vec()),
            (9, at(1000), vec![0x17, 0, 0, 0, 0, 1]),
        ];
        bench.keyframe(at(1000), 3 * SEGMENT_BYTES);
        want.push((9, at(1000), video(0x17, at(1000), 3 * SEGMENT_BYTES)));
        for n in 1..40 {
            // Bodies of whole chunks too, and of one byte.
            let (time, len) = (at(1000 + n * 40), (n as usize % 3) * CHUNK as usize + 7);
            bench.frame(time, len);
            bench.put(MediaKind::Audio, time, &[0xaf]);
            want.push((9, time, video(0x27, time, len)));
            want.push((8, time, vec![0xaf]));
        }
        let mut view = bench.tags(TAGS);
        assert_eq!(view.seen(), Seen { audio: true, video: true, sure: true });
        assert!(joined(&mut view, TAGS) == want, "when it joins");
        bench.header(2);
        bench.frame(at(9000), 5);
        want.push((9, 0, vec![0x17, 0, 0, 0, 0, 2]));
        want.push((9, at(9000), video(0x27, at(9000), 5)));
        let mut second = bench.tags(TAGS);
        assert!(joined(&mut second, TAGS) == want, "with a log that is there");
        let mut chunks = bench.view();
        assert_eq!(decode(&join(&mut chunks).1).len(), 3, "the log of chunks is what it was");
    }
}

#[test]
fn a_log_of_audio_has_no_video_and_needs_no_keyframe() {
    let form = Form::Tags { audio: true, video: false };
    let mut bench = Bench::new();
    bench.header(1);
    bench.put(MediaKind::Audio, 0, &AAC);
    bench.keyframe(0, 100);
    let mut view = bench.tags(form);
    assert_eq!(view.seen(), Seen { audio: true, video: false, sure: false });
    assert_eq!(joined(&mut view, form), [(8, 0, AAC.to_vec())]);
    bench.keyframe(40, 100);
    bench.put(MediaKind::Audio, 45, &[0xaf, 1]);
    view.refresh();
    assert_eq!(tags(&read(&view, 0)), [(8, 45, vec![0xaf, 1])]);
}

#[test]
fn a_log_that_nobody_reads_is_let_go_of_and_made_again() {
    let mut bench = Bench::new();
    bench.header(1);
    bench.keyframe(0, 200_000);
    let stream = Arc::clone(bench.publisher.stream());
    let chunks = stream.log_bytes();
    let view = bench.tags(TAGS);
    let both = stream.log_bytes();
    assert!(both > chunks + 200_000);
    let later = |seconds| bench.now + Duration::from_secs(seconds);
    bench.hub.sweep(later(100));
    assert_eq!(stream.log_bytes(), both, "it has a reader");
    drop(view);
    bench.hub.sweep(later(101));
    bench.hub.sweep(later(104));
    assert_eq!(stream.log_bytes(), both, "somebody may come back");
    bench.hub.sweep(later(107));
    assert_eq!(stream.log_bytes(), chunks);
    let mut view = bench.tags(TAGS);
    assert_eq!(joined(&mut view, TAGS).len(), 2);
}

#[test]
fn readers_of_tags_are_told_of_the_end_and_of_what_comes_after() {
    let mut bench = Bench::new();
    bench.header(1);
    bench.keyframe(0, 10);
    let mut view = bench.tags(TAGS);
    assert_eq!(joined(&mut view, TAGS).len(), 2);
    let Bench { hub, publisher, now } = bench;
    drop(publisher);
    view.refresh();
    assert!(matches!(view.phase(), Phase::Grace(_)));
    assert_eq!(view.seen(), Seen::default());
    let publisher = hub.publish(&key(), options(), Source::default(), now).unwrap();
    let mut bench = Bench { hub, publisher, now };
    let head = view.head();
    bench.header(2);
    view.refresh();
    let mut want = Vec::new();
    encode_tag(9, Timestamp(0), &[0x17, 0, 0, 0, 0, 2], &mut |piece| want.extend_from_slice(piece));
    assert_eq!(read(&view, head), want);
}
