//! What a late joiner needs before its first frame: metadata and sequence headers.

use bytes::Bytes;

use super::form::Form;
use crate::rtmp::Timestamp;
use crate::rtmp::chunk::Message;
use crate::rtmp::flv::{self, Codec, HeaderKind, Tracks};
use crate::rtmp::message::{MediaKind, MediaMessage};

/// Largest header that is kept. A real one has tens of bytes; something larger is no header.
pub const MAX_HEADER_BYTES: usize = 256 << 10;

/// Most bytes of headers that are kept in all: each joiner gets them.
const MAX_HEADERS_BYTES: usize = 2 * MAX_HEADER_BYTES;

/// Most header slots of a stream: tracks times kinds. More are passed on and not kept.
pub const MAX_HEADERS: usize = 32;

/// The headers in force at one point of a stream. Never changed once shared: a change makes a new
/// epoch with a set of its own, so that a joiner of an old GOP gets the headers of that GOP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    metadata: Option<Bytes>,
    slots: Vec<(Slot, Bytes)>,
}

/// What a kept header is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    medium: MediaKind,
    kind: HeaderKind,
    tracks: Tracks,
    /// Of several tracks with a codec each the first one's.
    codec: Codec,
}

impl Slot {
    /// The slot of an audio or video header.
    pub fn new(medium: MediaKind, tracks: Tracks, kind: HeaderKind, codec: Codec) -> Self {
        Self { medium, kind, tracks, codec }
    }

    /// Whether headers for `self` and `other` take each other's place, on tracks that both have: a
    /// track begins in one way only.
    fn is_like(&self, other: &Self) -> bool {
        self.medium == other.medium && self.is_start() == other.is_start()
    }

    fn is_start(&self) -> bool {
        self.kind != HeaderKind::Metadata
    }

    /// In order of sending: audio first, as SRS does, and how a track begins before what is said
    /// about it. What is equal is sent as it came: of two headers for a track the later one counts.
    fn rank(&self) -> (bool, bool) {
        (self.medium == MediaKind::Video, !self.is_start())
    }

    /// Whether it is of the one track of a message with this codec, and of another codec, so that it
    /// says nothing any more. Messages of several tracks may have several codecs.
    fn is_outdated(&self, medium: MediaKind, tracks: Tracks, codec: Codec) -> bool {
        let same = self.medium == medium && self.tracks == tracks && tracks.len() == 1;
        same && !self.codec.is_same(codec)
    }
}

impl Headers {
    /// Keeps a sequence header. False: it is what is kept already, or it cannot be kept.
    ///
    /// One that cannot be kept takes those it replaces with it: no header is better than an old one.
    pub fn set(&mut self, slot: Slot, payload: &[u8]) -> bool {
        let kept = self.slots.iter().position(|(kept, bytes)| *kept == slot && bytes == payload);
        if let Some(at) = kept {
            let mut newer = self.slots.iter().skip(at + 1).filter(|(kept, _)| kept.is_like(&slot));
            if !newer.any(|(kept, _)| kept.tracks.meets(slot.tracks)) {
                return false;
            }
        }
        let before = self.slots.len();
        self.drop_replaced(slot);
        self.drop_outdated(slot.medium, slot.tracks, slot.codec);
        let all: usize = self.slots.iter().map(|(_, bytes)| bytes.len()).sum();
        if payload.len() > MAX_HEADER_BYTES
            || self.slots.len() >= MAX_HEADERS
            || all + payload.len() > MAX_HEADERS_BYTES
        {
            return self.slots.len() < before;
        }
        let at = self.slots.partition_point(|(kept, _)| kept.rank() <= slot.rank());
        self.slots.insert(at, (slot, Bytes::copy_from_slice(payload)));
        true
    }

    /// Whether [`Self::drop_outdated`] would drop something.
    pub fn has_outdated(&self, medium: MediaKind, tracks: Tracks, codec: Codec) -> bool {
        self.slots.iter().any(|(kept, _)| kept.is_outdated(medium, tracks, codec))
    }

    /// Drops what is of a track whose codec is now another: there are codecs without a header that
    /// would take its place.
    pub fn drop_outdated(&mut self, medium: MediaKind, tracks: Tracks, codec: Codec) {
        self.slots.retain(|(kept, _)| !kept.is_outdated(medium, tracks, codec));
    }

    /// Drops headers of whose tracks each has a newer one, that for `slot` being the newest.
    fn drop_replaced(&mut self, slot: Slot) {
        let mut newer = slot.tracks;
        for at in (0..self.slots.len()).rev() {
            let (kept, _) = &self.slots[at];
            if !kept.is_like(&slot) {
                continue;
            }
            if newer.covers(kept.tracks) {
                self.slots.remove(at);
            } else {
                newer = newer.union(kept.tracks);
            }
        }
    }

    /// Keeps `onMetaData`, bytes as the publisher wrote them. False as for [`Self::set`].
    pub fn set_metadata(&mut self, payload: &[u8]) -> bool {
        let same = self.metadata.as_ref().is_some_and(|kept| kept == payload);
        if same || payload.len() > MAX_HEADER_BYTES {
            return false;
        }
        self.metadata = Some(Bytes::copy_from_slice(payload));
        true
    }

    /// Those of the kinds that a form has.
    pub(super) fn only(&self, form: Form) -> Self {
        let mut headers = self.clone();
        headers.slots.retain(|(slot, _)| form.has(slot.medium));
        headers
    }

    /// Keeps `media` if it is metadata or a sequence header. False: it is neither, or as for
    /// [`Self::set`]. A frame of another codec drops the header of the one before.
    pub fn keep(&mut self, media: &MediaMessage<'_>) -> bool {
        let (header, transient, tracks, codec) = match media.kind {
            MediaKind::Video => {
                let tag = flv::video(media.payload);
                (tag.header, tag.transient, tag.tracks, tag.codec)
            }
            MediaKind::Audio => {
                let tag = flv::audio(media.payload);
                (tag.header, tag.transient, tag.tracks, tag.codec)
            }
            MediaKind::Data => {
                return is_metadata(media.payload) && self.set_metadata(media.payload);
            }
        };
        let Some(kind) = header else {
            if !transient && matches!(codec, Codec::FourCc(_)) {
                self.drop_outdated(media.kind, tracks, codec);
            }
            return false;
        };
        self.set(Slot::new(media.kind, tracks, kind, codec), media.payload)
    }

    /// What of this is not the same in `other`, in the order of sending.
    pub fn beyond(&self, other: &Self) -> Vec<(MediaKind, Bytes)> {
        let metadata = self.metadata.iter().filter(|_| self.metadata != other.metadata);
        let slots = self.slots.iter().filter(|slot| !other.slots.contains(slot));
        let metadata = metadata.map(|payload| (MediaKind::Data, payload.clone()));
        metadata.chain(slots.map(|(slot, bytes)| (slot.medium, bytes.clone()))).collect()
    }

    /// Whether there is a video header.
    pub fn has_video(&self) -> bool {
        self.slots.iter().any(|(slot, _)| slot.medium == MediaKind::Video)
    }

    /// `onMetaData`, as the publisher wrote it.
    pub fn metadata(&self) -> Option<&Bytes> {
        self.metadata.as_ref()
    }

    /// The sequence header of audio or video: of several tracks' the first one's.
    pub fn sequence_start(&self, medium: MediaKind) -> Option<&Bytes> {
        let is_it = |slot: &Slot| slot.medium == medium && slot.kind == HeaderKind::SequenceStart;
        let starts = self.slots.iter().filter(|(slot, _)| is_it(slot));
        starts.min_by_key(|(slot, _)| slot.tracks).map(|(_, payload)| payload)
    }

    /// Appends metadata at time 0 and the sequence headers at `timestamp`, to `out`.
    ///
    /// `publish`: for a server we publish to, which expects metadata behind `@setDataFrame`.
    /// Metadata goes out at time 0 whatever the stream's time is: with another one FFmpeg makes a
    /// subtitle stream of it.
    pub fn encode(&self, timestamp: Timestamp, target: Target, out: &mut Vec<u8>) {
        if let Some(metadata) = &self.metadata {
            let wrapped;
            let payload = if target.publish {
                wrapped = [SET_DATA_FRAME, metadata].concat();
                &wrapped[..]
            } else {
                &metadata[..]
            };
            target.encode(MediaKind::Data, Timestamp(0), payload, out);
        }
        for (slot, payload) in &self.slots {
            target.encode(slot.medium, timestamp, payload, out);
        }
    }
}

/// Whether a data message's first value is the AMF0 string `onMetaData`.
pub(super) fn is_metadata(payload: &[u8]) -> bool {
    payload.starts_with(b"\x02\x00\x0aonMetaData")
}

/// Who a message is encoded for, when it is not taken from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// What its messages are made of.
    pub form: Form,
    /// Size of chunks, bytes.
    pub chunk_size: u32,
    /// Message stream id.
    pub msid: u32,
    /// We publish to it, instead of playing for it.
    pub publish: bool,
}

impl Target {
    fn encode(self, kind: MediaKind, timestamp: Timestamp, payload: &[u8], out: &mut Vec<u8>) {
        let (csid, kind) = (kind.csid(), kind.type_id());
        let message = Message { csid, timestamp, kind, msid: self.msid, payload };
        self.form.encode(&message, self.chunk_size, &mut |piece| out.extend_from_slice(piece));
    }
}

/// The AMF0 string `@setDataFrame`.
const SET_DATA_FRAME: &[u8] = b"\x02\x00\x0d@setDataFrame";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtmp::flv;
    use MediaKind::{Audio, Video};

    fn set(headers: &mut Headers, medium: MediaKind, payload: &[u8]) -> bool {
        let (kind, tracks, codec) = match medium {
            Video => {
                let tag = flv::video(payload);
                (tag.header, tag.tracks, tag.codec)
            }
            _ => {
                let tag = flv::audio(payload);
                (tag.header, tag.tracks, tag.codec)
            }
        };
        headers.set(Slot::new(medium, tracks, kind.expect("a header"), codec), payload)
    }

    /// What a late joiner gets.
    fn kept(headers: &Headers) -> Vec<&[u8]> {
        headers.slots.iter().map(|(_, payload)| &payload[..]).collect()
    }

    /// A sequence start of HEVC for these tracks, which says `tag` of each.
    fn start(tracks: &[u8], tag: u8) -> Vec<u8> {
        let bodies = tracks.iter().flat_map(|track| [*track, 0, 0, 1, tag]);
        b"\x96\x10hvc1".iter().copied().chain(bodies).collect()
    }

    #[test]
    fn tracks_keep_headers_of_their_own() {
        let mut headers = Headers::default();
        let aac: &[u8] = b"\xaf\0\x12\x10";
        let second: &[u8] = b"\x95\x00mp4a\x01\x12\x10";
        let layout: &[u8] = b"\x95\x04mp4a\x01\0\x01";
        let colour: &[u8] = b"\xd4hvc1\x02\0\x09colorInfo";
        let hevc: &[u8] = b"\x90hvc1\x01";
        for (medium, payload) in
            [(Video, colour), (Video, hevc), (Audio, aac), (Audio, layout), (Audio, second)]
        {
            assert!(set(&mut headers, medium, payload));
            assert!(!set(&mut headers, medium, payload), "again");
        }
        // audio first, and how a track begins first
        assert_eq!(kept(&headers), [aac, second, layout, hevc, colour]);
        let changed: &[u8] = b"\x95\x00mp4a\x01\x13\x90";
        assert!(set(&mut headers, Audio, changed));
        assert_eq!(kept(&headers), [aac, changed, layout, hevc, colour]);
    }

    #[test]
    fn the_later_of_two_headers_for_a_track_is_sent_last() {
        let mut headers = Headers::default();
        let (both, second) = (start(&[0, 1], 1), start(&[1], 2));
        assert!(set(&mut headers, Video, &both) && set(&mut headers, Video, &second));
        assert_eq!(kept(&headers), [&both[..], &second]);
        assert!(set(&mut headers, Video, &both), "what was said of track 1 holds again");
        assert_eq!(kept(&headers), [&both[..]]);
        // each track of `both` has a newer one
        assert!(set(&mut headers, Video, &second) && set(&mut headers, Video, &start(&[0, 2], 3)));
        assert_eq!(kept(&headers), [&second[..], &start(&[0, 2], 3)]);
    }

    #[test]
    fn another_codec_takes_what_was_said_of_the_one_before() {
        let mut headers = Headers::default();
        let avc: &[u8] = b"\x17\0\0\0\0\x01";
        let colour: &[u8] = b"\x94hvc1\x02";
        let other: &[u8] = b"\x96\x00hvc1\x01\x01";
        assert!(set(&mut headers, Video, b"\x90hvc1\x01") && set(&mut headers, Video, colour));
        assert!(set(&mut headers, Video, other) && set(&mut headers, Video, avc));
        assert_eq!(kept(&headers), [other, avc], "that of the other track is kept");
        assert!(
            set(&mut headers, Video, b"\x95av01\x80") && set(&mut headers, Video, b"\x90av01\x81")
        );
        assert_eq!(kept(&headers), [other, b"\x90av01\x81"], "one way to begin");
        // AC-3 has no header
        let ac3 = flv::audio(b"\x91ac-3\x0b\x77");
        assert!(set(&mut headers, Audio, b"\x90OpusOpusHead"));
        assert!(headers.has_outdated(Audio, ac3.tracks, ac3.codec));
        headers.drop_outdated(Audio, ac3.tracks, ac3.codec);
        assert_eq!(kept(&headers).len(), 2);
        let aac = flv::audio(b"\x91mp4a\x21");
        assert!(set(&mut headers, Audio, b"\xaf\0\x12\x10"));
        assert!(!headers.has_outdated(Audio, aac.tracks, aac.codec), "two names of one codec");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut headers = Headers::default();
        let large =
            |track, len: usize| [start(&[], 0), vec![track, 0, 0, 0], vec![7; len]].concat();
        for track in 0..=255 {
            let one = start(&[track], 1);
            assert_eq!(set(&mut headers, Video, &one), usize::from(track) < MAX_HEADERS);
        }
        assert_eq!(headers.slots.len(), MAX_HEADERS);
        assert!(set(&mut headers, Video, &start(&[3], 2)), "one that is there may change");
        let slot = Slot::new(Video, Tracks::single(3), HeaderKind::SequenceStart, Codec::default());
        assert!(
            headers.set(slot, &large(3, MAX_HEADER_BYTES)),
            "the old one is not right any more"
        );
        assert_eq!(headers.slots.len(), MAX_HEADERS - 1);
        assert!(!headers.set(slot, &large(3, MAX_HEADER_BYTES)));
        let mut headers = Headers::default();
        for track in 0..9 {
            let slot = Slot { tracks: Tracks::single(track), ..slot };
            headers.set(slot, &large(track, MAX_HEADER_BYTES / 2));
        }
        let bytes: usize = kept(&headers).iter().map(|payload| payload.len()).sum();
        assert!(bytes <= MAX_HEADERS_BYTES && headers.slots.len() == 3, "{bytes}");
    }
}
