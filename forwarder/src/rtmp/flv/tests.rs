//! Tables of bodies: each codec, and each way to be broken.
use super::HeaderKind::{Metadata, Mpeg2TsSequenceStart, SequenceStart};
use proptest::prelude::*;

use super::*;

/// What a row of the tables expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    Frame,
    Key,
    Header(HeaderKind),
    Transient,
}

fn video_is(tag: VideoTag) -> Is {
    match (tag.keyframe, tag.header, tag.transient) {
        (false, None, false) => Is::Frame,
        (true, None, false) => Is::Key,
        (false, Some(kind), false) => Is::Header(kind),
        (false, None, true) => Is::Transient,
        other => panic!("two things at once: {other:?}"),
    }
}

fn audio_is(tag: AudioTag) -> Is {
    match (tag.header, tag.transient) {
        (None, false) => Is::Frame,
        (Some(kind), false) => Is::Header(kind),
        (None, true) => Is::Transient,
        other => panic!("two things at once: {other:?}"),
    }
}

fn set(ids: &[u8]) -> Tracks {
    ids.iter().fold(Tracks::default(), |mut tracks, &id| {
        tracks.insert(id);
        tracks
    })
}

#[test]
#[rustfmt::skip] // a row a line
fn legacy_video_is_told_apart() {
    for (name, body, is, codec) in [
        ("AVC sequence header", b"\x17\0\0\0\0\x01\x64" as &[u8], Is::Header(SequenceStart), "H.264"),
        ("AVC header on an inter frame", b"\x27\0\0\0\0\x01", Is::Header(SequenceStart), "H.264"),
        ("AVC header without data", b"\x17\0\0\0\0", Is::Frame, "H.264"),
        ("AVC keyframe", b"\x17\x01\0\0\x50\0", Is::Key, "H.264"),
        ("AVC keyframe without data", b"\x17\x01\0\0\0", Is::Frame, "H.264"),
        ("AVC keyframe cut off", b"\x17\x01\0", Is::Frame, "H.264"),
        ("AVC packet type cut off", b"\x17", Is::Frame, "H.264"),
        ("AVC inter frame", b"\x27\x01\0\0\0\0", Is::Frame, "H.264"),
        ("AVC disposable frame", b"\x37\x01\0\0\0\0", Is::Frame, "H.264"),
        ("AVC generated keyframe", b"\x47\x01\0\0\0\0", Is::Frame, "H.264"),
        ("AVC end of sequence", b"\x17\x02\0\0\0", Is::Transient, "H.264"),
        ("AVC end of sequence, cut off", b"\x17\x02", Is::Transient, "H.264"),
        ("AVC unknown packet type", b"\x17\x03\0\0\0\0", Is::Frame, "H.264"),
        ("command frame", b"\x57\0", Is::Transient, "H.264"),
        ("command frame alone", b"\x52", Is::Transient, "Sorenson H.263"),
        ("HEVC sequence header", b"\x1c\0\0\0\0\x01", Is::Header(SequenceStart), "HEVC"),
        ("HEVC keyframe", b"\x1c\x01\0\0\0\0", Is::Key, "HEVC"),
        ("H.263 keyframe", b"\x12\0\0\x84", Is::Key, "Sorenson H.263"),
        ("H.263 inter frame", b"\x22\0\0\x84", Is::Frame, "Sorenson H.263"),
        ("H.263 first byte alone", b"\x12", Is::Frame, "Sorenson H.263"),
        ("screen keyframe", b"\x13\0", Is::Key, "Screen Video"),
        ("VP6 keyframe", b"\x14\0", Is::Key, "VP6"),
        ("VP6 alpha keyframe", b"\x15\0", Is::Key, "VP6 with alpha"),
        ("screen 2 keyframe", b"\x16\0", Is::Key, "Screen Video 2"),
        ("unknown codec's keyframe", b"\x1d\0", Is::Key, "video codec 13"),
        ("zeros", b"\0\0\0\0\0", Is::Frame, "video codec 0"),
    ] {
        let tag = video(body);
        assert_eq!(video_is(tag), is, "{name}");
        assert_eq!(tag.codec.to_string(), codec, "{name}");
        assert_eq!(tag.tracks, set(&[0]), "{name}");
    }
}

#[test]
#[rustfmt::skip] // a row a line
fn legacy_audio_is_told_apart() {
    for (name, body, is, codec) in [
        ("AAC sequence header", b"\xaf\0\x12\x10" as &[u8], Is::Header(SequenceStart), "AAC"),
        ("AAC header without data", b"\xaf\0", Is::Frame, "AAC"),
        ("AAC frame", b"\xaf\x01\0", Is::Frame, "AAC"),
        ("AAC first byte alone", b"\xaf", Is::Frame, "AAC"),
        ("MP3 whose frame begins with zero", b"\x2f\0\0", Is::Frame, "MP3"),
        ("MP3 at 8 kHz", b"\xef\0\0", Is::Frame, "MP3"),
        ("PCM", b"\x0f\0\0", Is::Frame, "PCM"),
        ("ADPCM", b"\x1f\0\0", Is::Frame, "ADPCM"),
        ("little-endian PCM", b"\x3f\0\0", Is::Frame, "PCM"),
        ("Nellymoser at 16 kHz", b"\x4f\0\0", Is::Frame, "Nellymoser"),
        ("Nellymoser at 8 kHz", b"\x5f\0\0", Is::Frame, "Nellymoser"),
        ("Nellymoser", b"\x6f\0\0", Is::Frame, "Nellymoser"),
        ("A-law", b"\x72\0\0", Is::Frame, "G.711 A-law"),
        ("mu-law", b"\x82\0\0", Is::Frame, "G.711 mu-law"),
        ("Speex", b"\xb2\0\0", Is::Frame, "Speex"),
        ("device specific", b"\xf2\0\0", Is::Frame, "sound format 15"),
    ] {
        let tag = audio(body);
        assert_eq!(audio_is(tag), is, "{name}");
        assert_eq!(tag.codec.to_string(), codec, "{name}");
        assert_eq!(tag.tracks, set(&[0]), "{name}");
    }
}

#[test]
#[rustfmt::skip] // a row a line
fn enhanced_video_is_told_apart() {
    for (name, body, is, codec) in [
        ("HEVC start", b"\x90hvc1\x01" as &[u8], Is::Header(SequenceStart), "HEVC"),
        ("AVC start", b"\x90avc1\x01", Is::Header(SequenceStart), "H.264"),
        ("VVC start", b"\x90vvc1\x01", Is::Header(SequenceStart), "VVC"),
        ("AV1 start", b"\x90av01\x81", Is::Header(SequenceStart), "AV1"),
        ("VP9 start", b"\x90vp09\x01", Is::Header(SequenceStart), "VP9"),
        ("VP8 start", b"\x90vp08\x01", Is::Header(SequenceStart), "VP8"),
        ("start without data", b"\x90av01", Is::Frame, "AV1"),
        ("keyframe", b"\x91av01\x0a", Is::Key, "AV1"),
        ("keyframe with composition time", b"\x91hvc1\0\0\0\x26", Is::Key, "HEVC"),
        ("keyframe without composition time", b"\x93hvc1\x26", Is::Key, "HEVC"),
        ("keyframe without data", b"\x93hvc1", Is::Frame, "HEVC"),
        ("inter frame", b"\xa1hvc1\0\0\0\x02", Is::Frame, "HEVC"),
        ("end of sequence", b"\x92hvc1", Is::Transient, "HEVC"),
        ("colour info", b"\x94hvc1\x02\0\x09colorInfo", Is::Header(Metadata), "HEVC"),
        ("colour info with the type of a command", b"\xd4hvc1\x02", Is::Header(Metadata), "HEVC"),
        ("empty colour info", b"\x94hvc1", Is::Frame, "HEVC"),
        ("MPEG2-TS start", b"\x95av01\x80", Is::Header(Mpeg2TsSequenceStart), "AV1"),
        ("unknown packet type", b"\x98hvc1\x01", Is::Frame, "HEVC"),
        ("unknown codec", b"\x91xy\x1bz\x01", Is::Key, "FourCC xy\\x1bz"),
        ("one ModEx", b"\x97\x02\0\0\x07\x01hvc1\0\0\0\x26", Is::Key, "HEVC"),
        ("two ModEx", b"\x97\x02\0\0\x07\x07\x00\xff\x00hvc1\x01", Is::Header(SequenceStart), "HEVC"),
    ] {
        let tag = video(body);
        assert_eq!(video_is(tag), is, "{name}");
        assert_eq!(tag.codec.to_string(), codec, "{name}");
        assert_eq!(tag.tracks, set(&[0]), "{name}");
    }
    for (name, body) in [
        ("command", b"\xd0\0" as &[u8]),
        ("command behind ModEx", b"\xd7\0\0\x01\0"),
    ] {
        assert_eq!(
            video(body),
            VideoTag {
                transient: true,
                ..VideoTag::default()
            },
            "{name}"
        );
    }
}

#[test]
#[rustfmt::skip] // a row a line
fn enhanced_audio_is_told_apart() {
    for (name, body, is, codec) in [
        ("Opus start", b"\x90OpusOpusHead" as &[u8], Is::Header(SequenceStart), "Opus"),
        ("FLAC start", b"\x90fLaCfLaC", Is::Header(SequenceStart), "FLAC"),
        ("AAC start", b"\x90mp4a\x12\x10", Is::Header(SequenceStart), "AAC"),
        ("AAC start without data", b"\x90mp4a", Is::Frame, "AAC"),
        ("AC-3 has no start", b"\x90ac-3\x0b\x77", Is::Frame, "AC-3"),
        ("E-AC-3 has no start", b"\x90ec-3\x0b\x77", Is::Frame, "E-AC-3"),
        ("MP3 has no start", b"\x90.mp3\xff\xfb", Is::Frame, "MP3"),
        ("frame", b"\x91Opus\xfc", Is::Frame, "Opus"),
        ("end of sequence", b"\x92Opus", Is::Transient, "Opus"),
        ("channels not specified", b"\x94ac-3\0\x06", Is::Header(Metadata), "AC-3"),
        ("channels in native order", b"\x94ac-3\x01\x06\0\0\0\x3f", Is::Header(Metadata), "AC-3"),
        ("channels in an order of their own", b"\x94Opus\x02\x02\x01\0", Is::Header(Metadata), "Opus"),
        ("configuration cut off", b"\x94ac-3\x01\x06\0\0", Is::Frame, "AC-3"),
        ("configuration without its map", b"\x94Opus\x02\x02\x01", Is::Frame, "Opus"),
        ("FFmpeg's first frame of Opus", b"\x94Opus\xf8\x72\x49\x47", Is::Frame, "Opus"),
        ("unknown packet type", b"\x93Opus\x01", Is::Frame, "Opus"),
        ("ModEx", b"\x97\x02\0\0\x07\x00Opus\x01", Is::Header(SequenceStart), "Opus"),
    ] {
        let tag = audio(body);
        assert_eq!(audio_is(tag), is, "{name}");
        assert_eq!(tag.codec.to_string(), codec, "{name}");
        assert_eq!(tag.tracks, set(&[0]), "{name}");
    }
}

#[test]
#[rustfmt::skip] // a row a line
fn multitrack_names_its_tracks() {
    let header = Is::Header(SequenceStart);
    for (name, body, is, tracks, codec) in [
        ("one track", b"\x96\x00av01\x05\x81" as &[u8], header, &[5u8] as &[u8], "AV1"),
        ("one track without data", b"\x96\x00av01\x05", Is::Frame, &[5], "AV1"),
        ("one track's keyframe", b"\x96\x01av01\xff\x81", Is::Key, &[255], "AV1"),
        ("one track's inter frame", b"\xa6\x01av01\0\x81", Is::Frame, &[0], "AV1"),
        ("many tracks", b"\x96\x10hvc1\x00\0\0\x01a\x07\0\0\x02bc", header, &[0, 7], "HEVC"),
        ("many tracks, one empty", b"\x96\x10hvc1\x00\0\0\x01a\x07\0\0\0", Is::Frame, &[0, 7], "HEVC"),
        ("many codecs", b"\x96\x21avc1\x01\0\0\x01ahvc1\x82\0\0\x01b", Is::Key, &[1, 130], "H.264"),
        ("colour info", b"\x96\x04avc1\x01x", Is::Header(Metadata), &[1], "H.264"),
        ("end of sequence", b"\x96\x12avc1\x01\0\0\0\x02\0\0\0", Is::Transient, &[1, 2], "H.264"),
        ("a track twice", b"\x96\x10hvc1\x03\0\0\x01a\x03\0\0\x01b", header, &[3], "HEVC"),
        ("behind ModEx", b"\x97\x02\0\0\x01\x06\x01av01\x02\x0a", Is::Key, &[2], "AV1"),
    ] {
        let tag = video(body);
        assert_eq!(video_is(tag), is, "{name}");
        assert_eq!(tag.tracks, set(tracks), "{name}");
        assert_eq!(tag.codec.to_string(), codec, "{name}");
    }
    for (name, body, is, tracks) in [
        ("one track", b"\x95\x00Opus\x01O" as &[u8], header, &[1u8] as &[u8]),
        ("many tracks", b"\x95\x10Opus\x01\0\0\x01O\x02\0\0\x01O", header, &[1, 2]),
        ("many codecs' frames", b"\x95\x21Opus\x01\0\0\x01Omp4a\x02\0\0\x01O", Is::Frame, &[1, 2]),
        ("channels", b"\x95\x04Opus\x01\0\x01", Is::Header(Metadata), &[1]),
        ("channels of two tracks", b"\x95\x14Opus\x01\0\0\x02\0\x01\x02\0\0\x02\0\x02", Is::Header(Metadata), &[1, 2]),
        ("channels of one of two", b"\x95\x14Opus\x01\0\0\x02\0\x01\x02\0\0\x01\0", Is::Frame, &[1, 2]),
    ] {
        let tag = audio(body);
        assert_eq!((audio_is(tag), tag.tracks), (is, set(tracks)), "{name}");
    }
}

/// The bodies are of video; the audio ones differ in the packet type of multitrack.
#[test]
fn broken_enhanced_bodies_are_not_classified() {
    let mod_ex = |n: usize| -> Vec<u8> {
        let mut body = vec![0x97];
        for i in 0..n {
            body.extend_from_slice(&[0, 0, if i + 1 < n { 7 } else { 0 }]);
        }
        [&body[..], b"hvc1\x01"].concat()
    };
    assert_eq!(video(&mod_ex(8)).header, Some(SequenceStart));
    assert_eq!(audio(&mod_ex(8)).header, Some(SequenceStart));
    let long = [&b"\x97\xff\x01\x00"[..], &[0; 257], b"\x00hvc1\x01"].concat();
    assert_eq!(video(&long).header, Some(SequenceStart), "a prefix of 257 bytes");
    assert_eq!(audio(&long).header, Some(SequenceStart), "a prefix of 257 bytes");
    let too_many_tracks = [&b"\x96\x10hvc1"[..], &b"\x00\0\0\x01a".repeat(257)].concat();

    for (name, body) in [
        ("nothing", vec![]),
        ("first byte alone", b"\x90".to_vec()),
        ("FourCC cut off", b"\x90hvc".to_vec()),
        ("ModEx alone", b"\x97".to_vec()),
        ("ModEx size beyond the body", b"\x97\x20\0\0".to_vec()),
        ("ModEx without next packet type", b"\x97\x02\0\0\0".to_vec()),
        ("ModEx long size cut off", b"\x97\xff\x01".to_vec()),
        ("ModEx long size beyond the body", b"\x97\xff\xff\xff\0\0".to_vec()),
        ("ModEx without FourCC", b"\x97\x02\0\0\0\0hv".to_vec()),
        ("nine ModEx", mod_ex(9)),
        ("thousand ModEx", mod_ex(1000)),
        ("more tracks than there are ids", too_many_tracks),
        ("multitrack alone", b"\x96".to_vec()),
        ("multitrack without FourCC", b"\x96\x00".to_vec()),
        ("multitrack without tracks", b"\x96\x10hvc1".to_vec()),
        ("multitrack in multitrack", b"\x96\x06hvc1\x01a".to_vec()),
        ("ModEx in multitrack", b"\x96\x07hvc1\x01a".to_vec()),
        ("unknown multitrack type", b"\x96\x30hvc1\x01a".to_vec()),
        ("size cut off", b"\x96\x10hvc1\x01\0\0".to_vec()),
        ("size beyond the body", b"\x96\x10hvc1\x01\0\0\x02a".to_vec()),
        ("second size beyond the body", b"\x96\x10hvc1\x01\0\0\x01a\x02\xff\xff\xffa".to_vec()),
        ("second FourCC cut off", b"\x96\x20hvc1\x01\0\0\x01ahv".to_vec()),
    ] {
        assert_eq!(video(&body), VideoTag::default(), "video: {name}");
        let mut body = body;
        if let [0x96, rest @ ..] = &mut body[..] {
            if let [kind @ 6, ..] = rest {
                *kind = 5;
            }
            body[0] = 0x95;
        }
        assert_eq!(audio(&body), AudioTag::default(), "audio: {name}");
    }
}

/// Bodies as Enhanced RTMP makes them, with each part sometimes wrong.
fn enhanced_body() -> impl Strategy<Value = Vec<u8>> {
    let four_cc = prop::sample::select(vec![*b"hvc1", *b"av01", *b"Opus", *b"ac-3", *b"zzzz"]);
    let mod_ex = prop::collection::vec((0..4_u8, any::<[u8; 4]>()), 0..10);
    let tracks = prop::collection::vec((any::<u8>(), 0..5_u32, 0..5_usize), 0..6);
    (any::<u8>(), mod_ex, any::<u8>(), four_cc, tracks).prop_map(
        |(first, mod_ex, kind, four_cc, tracks)| {
            let mut body = vec![first | 0x80];
            for (size, data) in mod_ex {
                body.push(size);
                body.extend(&data[..usize::from(size) + 1]);
                body.push(first & 0x0f);
            }
            body.push(kind);
            body.extend(four_cc);
            for (id, said, len) in tracks {
                body.push(id);
                body.extend(&said.to_be_bytes()[1..]);
                body.extend(vec![7; len]);
            }
            body
        },
    )
}

proptest! {
    #[test]
    fn no_enhanced_body_does_harm_however_it_is_cut(body in enhanced_body()) {
        for end in 0..=body.len() {
            let (video, audio) = (video(&body[..end]), audio(&body[..end]));
            let _ = (video_is(video), audio_is(audio));
            prop_assert!(video.header.is_none() || !video.tracks.is_empty());
            prop_assert!(audio.header.is_none() || !audio.tracks.is_empty());
            let mut groups = Groups::default();
            prop_assert!(!video.keyframe || groups.begins(video.tracks));
            prop_assert!(!video.keyframe || groups.begins(video.tracks));
        }
    }
}

#[test]
fn every_short_body_is_taken() {
    for first in 0..=255u8 {
        for second in 0..=255u8 {
            for body in [&[first][..], &[first, second], &[first, second, second, first]] {
                let (tag, _) = (video(body), audio(body));
                assert!(!tag.keyframe || body.len() > 1);
            }
        }
    }
}

#[test]
fn a_set_of_tracks_covers_its_parts() {
    let tracks = set(&[0, 127, 128, 255]);
    assert_eq!(tracks.len(), 4);
    assert!(tracks.contains(127) && tracks.contains(128) && !tracks.contains(1));
    assert!(tracks.covers(tracks) && tracks.covers(set(&[127, 255])) && tracks.covers(set(&[])));
    assert!(!tracks.covers(set(&[127, 254])) && !set(&[0]).covers(tracks));
    assert!(Tracks::default().is_empty() && !Tracks::single(200).is_empty());
}

#[test]
fn keyframes_of_several_tracks_are_one_group() {
    let begins = |keyframes: &[&[u8]]| -> Vec<bool> {
        let mut groups = Groups::default();
        keyframes.iter().map(|ids| groups.begins(set(ids))).collect()
    };
    assert_eq!(begins(&[&[0], &[0], &[0]]), [true; 3]);
    assert_eq!(begins(&[&[0], &[1], &[2], &[0], &[1], &[2]]), [true, false, false].repeat(2));
    assert_eq!(begins(&[&[2], &[0], &[2], &[0]]), [true, false].repeat(2), "whichever is first");
    assert_eq!(begins(&[&[0, 1], &[0, 1], &[1]]), [true; 3]);
    // the first track has ended
    assert_eq!(begins(&[&[0], &[1], &[1], &[1]]), [true, false, true, true]);
    let mut groups = Groups::default();
    assert!(groups.begins(set(&[0])));
    groups.forget();
    assert!(groups.begins(set(&[1])));
}
