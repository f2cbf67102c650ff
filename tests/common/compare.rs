//! Whether what a player got is what was published.
use super::flv::{AUDIO, Tag, VIDEO};

/// Where a player's copy must begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the first frame published.
    First,
    /// With any keyframe and nothing from before it: the player joined late.
    Keyframe,
    /// Anywhere: a server of others on the way began when it was ready.
    Anywhere,
}

/// Frames of one kind, in order.
fn frames(tags: &[Tag], kind: u8) -> Vec<&Tag> {
    tags.iter().filter(|t| t.kind == kind && t.is_frame()).collect()
}

/// Every frame from `start` to the end is there once, in order, byte for byte, at its time.
///
/// Audio and video are compared apart because players that re-multiplex (FFmpeg) may order a pair
/// of equal times their own way.
#[track_caller]
pub fn assert_same_media(label: &str, published: &[Tag], got: &[Tag], start: Start) {
    let first = frames(got, VIDEO).first().map_or(0, |t| t.timestamp);
    for kind in [VIDEO, AUDIO] {
        let mut want = frames(published, kind);
        let got = frames(got, kind);
        assert!(!got.is_empty(), "{label}: no frame of type {kind} arrived");
        if start != Start::First {
            let at = want.iter().position(|t| *t == got[0]);
            let at = at.unwrap_or_else(|| panic!("{label}: starts with unpublished {:?}", got[0]));
            want.drain(..at);
        }
        if start == Start::Keyframe {
            assert!(kind == AUDIO || got[0].is_keyframe(), "{label}: starts with {:?}", got[0]);
            assert!(got[0].timestamp >= first, "{label}: audio from before the keyframe");
        }
        for (i, (want, got)) in want.iter().zip(&got).enumerate() {
            assert!(want.body == got.body, "{label}: frame {i}: want {want:?}, got {got:?}");
            assert_eq!(got.timestamp, want.timestamp, "{label}: time of frame {i} of type {kind}");
        }
        assert_eq!(got.len(), want.len(), "{label}: number of frames of type {kind}");
    }
}

/// As [`assert_same_media`] from the first frame on, for a player that builds frames anew, as VLC
/// does: its pictures are made of the same NAL units, parameter sets and delimiters aside. The last
/// audio frames it may keep.
#[track_caller]
pub fn assert_same_pictures(label: &str, published: &[Tag], got: &[Tag]) {
    for kind in [VIDEO, AUDIO] {
        let (want, got) = (frames(published, kind), frames(got, kind));
        let kept = want.len() - got.len().min(want.len());
        let may_keep = if kind == AUDIO { 8 } else { 0 };
        assert!(
            kept <= may_keep && got.len() <= want.len(),
            "{label}: {} of {}",
            got.len(),
            want.len()
        );
        for (i, (want, got)) in want.iter().zip(&got).enumerate() {
            assert_eq!(got.timestamp, want.timestamp, "{label}: time of frame {i} of type {kind}");
            let same = match kind {
                VIDEO => nal_units(want) == nal_units(got),
                _ => want.body == got.body,
            };
            assert!(same, "{label}: frame {i}: want {want:?}, got {got:?}");
        }
    }
}

/// NAL units of an AVC frame that are part of its picture (H.264 table 7-1).
fn nal_units(frame: &Tag) -> Vec<&[u8]> {
    let mut units = Vec::new();
    let mut rest = &frame.body[5..];
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap();
        let (unit, tail) = tail.split_at(length);
        // SPS, PPS, access unit delimiter
        if !matches!(unit.first().map(|first| first & 0x1f), Some(7..=9)) {
            units.push(unit);
        }
        rest = tail;
    }
    units
}

/// As [`assert_same_media`], and audio and video are ordered among each other as published.
#[track_caller]
pub fn assert_same_sequence(label: &str, published: &[Tag], got: &[Tag], start: Start) {
    let skips = assert_whole_messages(label, published, got);
    assert_eq!(skips, 0, "{label}: messages are missing in the middle");
    let last = |tags: &[Tag]| tags.iter().rfind(|t| t.is_frame()).cloned();
    assert_eq!(last(got), last(published), "{label}: the end is missing");
    let first = got.iter().find(|t| t.is_frame()).expect("frames");
    match start {
        Start::First => {
            let want = published.iter().find(|t| t.is_frame()).expect("frames");
            assert_eq!(first, want, "{label}: the beginning is missing");
        }
        Start::Keyframe => assert!(first.is_keyframe(), "{label}: starts with {first:?}"),
        Start::Anywhere => {}
    }
}

/// `got` is `published` with runs of whole messages left out; after each such run it goes on with a
/// keyframe. How many runs were left out between its first and its last message.
#[track_caller]
pub fn assert_whole_messages(label: &str, published: &[Tag], got: &[Tag]) -> usize {
    let mut skips = 0;
    let mut rest = published.iter().filter(|t| t.is_frame());
    let mut before: Option<&Tag> = None;
    for tag in got.iter().filter(|t| t.is_frame()) {
        let skipped = rest.position(|t| t == tag);
        let skipped = skipped.unwrap_or_else(|| {
            panic!("{label}: {tag:?} after {before:?} was not published, or came twice")
        });
        if skipped > 0 && before.is_some() {
            skips += 1;
            assert!(tag.is_keyframe(), "{label}: goes on with {tag:?} after a skip");
        }
        before = Some(tag);
    }
    skips
}

/// Sequence headers come once each, before the first frame, as published, stamped with the time of
/// the first frame; metadata comes at time 0.
#[track_caller]
pub fn assert_headers_once(label: &str, published: &[Tag], got: &[Tag]) {
    for kind in [VIDEO, AUDIO] {
        let bodies = |tags: &[Tag]| -> Vec<Vec<u8>> {
            let headers = tags.iter().filter(|t| t.kind == kind && t.is_header());
            headers.map(|t| t.body.clone()).collect()
        };
        let (got_headers, mut want) = (bodies(got), bodies(published));
        want.dedup();
        assert_eq!(got_headers, want, "{label}: sequence headers of type {kind}");
        let header = got.iter().position(|t| t.kind == kind && t.is_header());
        let frame = got.iter().position(|t| t.kind == kind && t.is_frame());
        assert!(header < frame || header.is_none(), "{label}: header of type {kind} is late");
    }
    for tag in got.iter().filter(|t| t.is_metadata()) {
        assert_eq!(tag.timestamp, 0, "{label}: metadata must be at time 0 for FFmpeg");
    }
}

/// Times never step back within a kind; sequence headers and metadata aside.
#[track_caller]
pub fn assert_monotonic(label: &str, got: &[Tag]) {
    for kind in [VIDEO, AUDIO] {
        for pair in frames(got, kind).windows(2) {
            let step = pair[1].timestamp.wrapping_sub(pair[0].timestamp).cast_signed();
            assert!(step >= 0, "{label}: {:?} after {:?}", pair[1], pair[0]);
        }
    }
}
