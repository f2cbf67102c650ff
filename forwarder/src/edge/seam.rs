//! Where the stream of one origin is continued by another's.
//!
//! Origins fed by one master have the same messages at the same times, and a new connection begins
//! with headers and the newest GOP, most of which the players have. That may be the GOP before
//! theirs, if the new origin is a little behind. What they have is left out;
//! with the first message they do not have the stream goes on, in the middle of the GOP and with
//! nothing missing. If the origins' times differ nothing is recognised, and the stream goes on with
//! the new origin's keyframe.

use std::collections::HashSet;

use crate::hub::fingerprint;
use crate::rtmp::flv::{self, Groups};
use crate::rtmp::message::{MediaKind, MediaMessage};

/// Messages that are remembered: over that the GOP would be dropped from the log as well.
const MAX_KNOWN: usize = 5000;

/// What the readers of a stream have: the newest two GOPs, and headers.
#[derive(Debug, Default)]
pub(super) struct Seam {
    frames: HashSet<u64>,
    /// Those of the GOP before.
    before: HashSet<u64>,
    headers: HashSet<u64>,
    groups: Groups,
    /// A new connection has begun, and all it brought so far is known.
    resuming: bool,
    /// Messages left out because they were there.
    pub(super) repeated: u64,
}

impl Seam {
    /// The stream goes on from another connection.
    pub(super) fn resume(&mut self) {
        self.resuming = true;
    }

    /// The stream begins anew: its readers have nothing that counts.
    pub(super) fn forget(&mut self) {
        *self = Self { repeated: self.repeated, ..Self::default() };
    }

    /// Notes a message; false if the readers have it.
    pub(super) fn take(&mut self, media: &MediaMessage<'_>) -> bool {
        let (header, keyed) = match media.kind {
            MediaKind::Video => {
                let tag = flv::video(media.payload);
                (tag.header.is_some(), tag.keyframe.then_some(tag.tracks))
            }
            MediaKind::Audio => (flv::audio(media.payload).header.is_some(), None),
            MediaKind::Data => (true, None),
        };
        let id = fingerprint(media, !header);
        if self.resuming {
            let known = match header {
                true => self.headers.contains(&id),
                false => self.frames.contains(&id) || self.before.contains(&id),
            };
            if known {
                self.repeated += 1;
                return false;
            }
            // A header that is new says nothing about the frames behind it.
            self.resuming = header;
        }
        let begins = keyed.is_some_and(|tracks| self.groups.begins(tracks));
        let known = if header { &mut self.headers } else { &mut self.frames };
        if begins || known.len() >= MAX_KNOWN {
            let old = std::mem::take(known);
            if !header {
                self.before = old;
            }
        }
        known.insert(id);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtmp::Timestamp;

    const VIDEO_HEADER: &[u8] = &[0x17, 0, 0, 0, 0, 1];
    const AUDIO_HEADER: &[u8] = &[0xaf, 0, 0x12, 0x10];

    fn take(seam: &mut Seam, kind: MediaKind, ms: u32, payload: &[u8]) -> bool {
        seam.take(&MediaMessage { kind, timestamp: Timestamp(ms), msid: 1, payload })
    }

    /// The messages from `from` to `to`, a keyframe every ten; those that were passed on.
    fn play(seam: &mut Seam, from: u32, to: u32, shift: u32) -> Vec<u32> {
        _ = take(seam, MediaKind::Video, from + shift, VIDEO_HEADER);
        _ = take(seam, MediaKind::Audio, from + shift, AUDIO_HEADER);
        let mut passed = Vec::new();
        for n in from..to {
            let first = if n % 10 == 0 { 0x17 } else { 0x27 };
            let video = [first, 1, 0, 0, 0, 9, 9];
            let all = [
                take(seam, MediaKind::Video, n + shift, &video),
                take(seam, MediaKind::Audio, n + shift, &[0xaf, 1, 7]),
            ];
            assert_eq!(all[0], all[1], "at {n}");
            passed.extend(all[0].then_some(n));
        }
        passed
    }

    #[test]
    fn the_same_timeline_goes_on_without_a_gap() {
        for (behind, ahead) in [(30, 0), (40, 0), (43, 3), (50, 10)] {
            let mut seam = Seam::default();
            assert_eq!(play(&mut seam, 0, 47, 0).len(), 47);
            seam.resume();
            let passed = play(&mut seam, behind, 60, 0);
            let first = if ahead == 10 { 50 } else { 47 };
            assert_eq!(passed, (first..60).collect::<Vec<_>>(), "resumed at {behind}");
        }
    }

    #[test]
    fn renditions_that_are_keyed_together_are_recognised_together() {
        // three tracks, each with a keyframe every ten
        let message = |n: u32, track: u8| {
            let first = if n.is_multiple_of(10) { 0x96 } else { 0xa6 };
            [&[first, 0x03][..], b"hvc1", &[track, 9, 9]].concat()
        };
        let mut seam = Seam::default();
        let play = |seam: &mut Seam, from, to| {
            let all = (from..to).flat_map(|n| (0..3).map(move |track| (n, track)));
            let new =
                all.filter(|(n, track)| take(seam, MediaKind::Video, *n, &message(*n, *track)));
            new.collect::<Vec<_>>()
        };
        assert_eq!(play(&mut seam, 0, 47).len(), 3 * 47);
        seam.resume();
        let new = play(&mut seam, 30, 50);
        assert_eq!((new.len(), new[0]), (3 * 3, (47, 0)));
    }

    #[test]
    fn another_timeline_goes_on_with_its_keyframe() {
        let mut seam = Seam::default();
        play(&mut seam, 0, 47, 0);
        seam.resume();
        assert_eq!(play(&mut seam, 40, 50, 7), (40..50).collect::<Vec<_>>());
    }

    #[test]
    fn headers_are_passed_on_when_they_are_new() {
        let mut seam = Seam::default();
        play(&mut seam, 0, 5, 0);
        assert!(take(&mut seam, MediaKind::Video, 5, VIDEO_HEADER), "a repeat of the publisher's");
        seam.resume();
        assert!(!take(&mut seam, MediaKind::Video, 99, VIDEO_HEADER));
        assert!(take(&mut seam, MediaKind::Audio, 99, &[0xaf, 0, 0x13, 0x90]));
        assert!(!take(&mut seam, MediaKind::Video, 4, &[0x27, 1, 0, 0, 0, 9, 9]), "still resuming");
        seam.forget();
        assert!(take(&mut seam, MediaKind::Video, 99, VIDEO_HEADER));
        assert_eq!(seam.repeated, 2);
    }
}
