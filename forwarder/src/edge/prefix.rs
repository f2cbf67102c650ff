//! The first messages of an encoder, read on their way: what late joiners have to have is
//! remembered, for the day its origin dies.

use crate::conn::{Learned, Missing, OwnedMedia};
use crate::rtmp::Timestamp;
use crate::rtmp::chunk::{ChunkError, ChunkReader, Message};
use crate::rtmp::flv::{self, HeaderKind, Tracks};
use crate::rtmp::message::{Aggregate, data_name, data_payload, kind};
use crate::splice::Walk;

/// After so many messages all headers have come: two seconds of audio and video.
const ENOUGH: usize = 120;

/// Most headers remembered, and their bytes.
const MAX_HEADERS: usize = 32;
const MAX_HEADER_BYTES: usize = 512 << 10;

/// Reads what an encoder sends behind `publish`.
pub(super) struct Prefix {
    reader: ChunkReader,
    walk: Walk,
    msid: u32,
    headers: Headers,
}

/// What was learned of a stream so far.
#[derive(Default)]
struct Headers {
    all: Vec<Header>,
    has_audio: bool,
    has_video: bool,
    messages: usize,
    /// More headers than are remembered.
    overflown: bool,
}

struct Header {
    /// Of audio and video; metadata has none.
    slot: Option<(HeaderKind, Tracks)>,
    media: OwnedMedia,
}

impl Prefix {
    /// `reader` and `walk` stand at the same byte; the stream is published on `msid`.
    pub(super) fn new(reader: ChunkReader, walk: Walk, msid: u32) -> Self {
        Self { reader, walk, msid, headers: Headers::default() }
    }

    /// Reads on. Errors: the encoder's chunks make no sense.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), ChunkError> {
        self.walk.feed(bytes);
        while let Some(message) = self.reader.read(&mut bytes)? {
            if message.msid == self.msid {
                self.headers.see(&message);
            }
        }
        Ok(())
    }

    /// Whether nothing more is to be learned, and it is known where the bytes stand.
    pub(super) fn is_over(&self) -> bool {
        let Headers { has_audio, has_video, messages, overflown, .. } = self.headers;
        let all = (has_audio && has_video) || messages >= ENOUGH;
        all && !overflown && !self.walk.is_lost()
    }

    /// Where the bytes stand, all headers so far being known.
    pub(super) fn walk(&self) -> Walk {
        let mut walk = self.walk.clone();
        walk.forget_headers();
        walk
    }

    /// The reader as it is, and the headers so far; `None` if some had no room.
    pub(super) fn into_parts(self) -> Option<(ChunkReader, Learned)> {
        let overflown = self.headers.overflown;
        (!overflown).then(|| (self.reader, self.headers.learned(Missing::default())))
    }

    /// A reader that stands where `walk` does, and the headers, without those of which `walk` may
    /// have seen newer ones; `None` if `walk` does not know where it stands.
    pub(super) fn resume(self, walk: &Walk) -> Option<(ChunkReader, Learned)> {
        let reader = ChunkReader::resume(&walk.position()?);
        let (audio, video) = walk.passed_headers();
        Some((reader, self.headers.learned(Missing { audio, video })))
    }
}

impl Headers {
    fn see(&mut self, message: &Message<'_>) {
        self.messages += 1;
        if message.kind != kind::AGGREGATE {
            return self.see_media(message.kind, message.timestamp, message.payload);
        }
        for (kind, timestamp, payload) in Aggregate::new(message.timestamp, message.payload) {
            self.see_media(kind, timestamp, payload);
        }
    }

    fn see_media(&mut self, kind: u8, timestamp: Timestamp, payload: &[u8]) {
        let slot = match kind {
            kind::AUDIO => {
                let tag = flv::audio(payload);
                self.has_audio |= tag.header.is_none() && !payload.is_empty();
                tag.header.map(|header| (header, tag.tracks))
            }
            kind::VIDEO => {
                let tag = flv::video(payload);
                self.has_video |= tag.header.is_none() && !payload.is_empty();
                tag.header.map(|header| (header, tag.tracks))
            }
            kind::DATA_AMF0 | kind::DATA_AMF3 => {
                let name = data_payload(kind, payload).and_then(data_name);
                if name != Some("onMetaData") {
                    return;
                }
                None
            }
            _ => return,
        };
        let is_data = !matches!(kind, kind::AUDIO | kind::VIDEO);
        if slot.is_some() || is_data {
            self.remember(Header {
                slot,
                media: OwnedMedia { kind, timestamp, payload: payload.to_vec() },
            });
        }
    }

    fn remember(&mut self, header: Header) {
        self.all.retain(|old| !header.replaces(old));
        let bytes: usize = self.all.iter().map(|old| old.media.payload.len()).sum();
        if self.all.len() == MAX_HEADERS || bytes + header.media.payload.len() > MAX_HEADER_BYTES {
            self.overflown = true;
            return;
        }
        self.all.push(header);
    }

    fn learned(self, missing: Missing) -> Learned {
        let all = self.all.into_iter().map(|header| header.media);
        let is_missing = |media: &OwnedMedia| match media.kind {
            kind::AUDIO => missing.audio,
            kind::VIDEO => missing.video,
            _ => false,
        };
        Learned { headers: all.filter(|media| !is_missing(media)).collect(), missing }
    }
}

impl Header {
    fn replaces(&self, old: &Self) -> bool {
        match (&self.slot, &old.slot) {
            (None, None) => true,
            (Some((kind, tracks)), Some((old_kind, old_tracks))) => {
                self.media.kind == old.media.kind && kind == old_kind && tracks.covers(*old_tracks)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtmp::chunk::{DEFAULT_CHUNK_SIZE, encode};

    fn wire(kind: u8, msid: u32, payload: &[u8]) -> Vec<u8> {
        let message = Message { csid: 4, timestamp: Timestamp(7), kind, msid, payload };
        let mut bytes = Vec::new();
        encode(&message, DEFAULT_CHUNK_SIZE, &mut |piece| bytes.extend_from_slice(piece));
        bytes
    }

    fn prefix() -> Prefix {
        Prefix::new(ChunkReader::new(), Walk::new(DEFAULT_CHUNK_SIZE), 1)
    }

    const VIDEO_HEADER: &[u8] = &[0x17, 0, 0, 0, 0, 1, 2];
    const OTHER_VIDEO_HEADER: &[u8] = &[0x17, 0, 0, 0, 0, 1, 3];
    const AUDIO_HEADER: &[u8] = &[0xaf, 0, 0x12, 0x10];
    const METADATA: &[u8] = b"\x02\0\x0aonMetaData\x08\0\0\0\0\0\0\x09";
    const VIDEO: &[u8] = &[0x17, 1, 0, 0, 0, 9];
    const AUDIO: &[u8] = &[0xaf, 1, 9];

    #[test]
    fn the_newest_header_of_each_kind_is_remembered() {
        let mut prefix = prefix();
        for (kind, msid, payload) in [
            (kind::DATA_AMF0, 1, METADATA),
            (kind::VIDEO, 1, VIDEO_HEADER),
            (kind::AUDIO, 1, AUDIO_HEADER),
            (kind::VIDEO, 5, VIDEO_HEADER), // of another stream
            (kind::VIDEO, 1, VIDEO),
            (kind::VIDEO, 1, OTHER_VIDEO_HEADER),
        ] {
            assert!(!prefix.is_over());
            prefix.feed(&wire(kind, msid, payload)).unwrap();
        }
        prefix.feed(&wire(kind::AUDIO, 1, AUDIO)).unwrap();
        assert!(prefix.is_over(), "a frame of both has come");
        let (_, learned) = prefix.into_parts().unwrap();
        let payloads: Vec<&[u8]> = learned.headers.iter().map(|header| &*header.payload).collect();
        assert_eq!(payloads, [METADATA, AUDIO_HEADER, OTHER_VIDEO_HEADER]);
    }

    #[test]
    fn a_stream_of_one_kind_is_known_after_a_while() {
        let mut prefix = prefix();
        for _ in 0..ENOUGH {
            assert!(!prefix.is_over());
            prefix.feed(&wire(kind::AUDIO, 1, AUDIO)).unwrap();
        }
        assert!(prefix.is_over());
    }

    #[test]
    fn headers_that_may_have_changed_later_are_missing() {
        let (audio, video) = (AUDIO_HEADER, VIDEO_HEADER);
        let of = |audio, video| Missing { audio, video };
        let cases = [
            (kind::VIDEO, VIDEO, of(false, false), vec![METADATA, video, audio]),
            (kind::VIDEO, video, of(false, true), vec![METADATA, audio]),
            (kind::AUDIO, audio, of(true, false), vec![METADATA, video]),
            (kind::AGGREGATE, &[0], of(true, true), vec![METADATA]),
        ];
        for (kind, payload, missing, headers) in cases {
            let mut prefix = prefix();
            prefix.feed(&wire(kind::DATA_AMF0, 1, METADATA)).unwrap();
            prefix.feed(&wire(kind::VIDEO, 1, VIDEO_HEADER)).unwrap();
            prefix.feed(&wire(kind::AUDIO, 1, AUDIO_HEADER)).unwrap();
            let mut walk = prefix.walk();
            walk.feed(&wire(kind, 1, payload));
            let (_, learned) = prefix.resume(&walk).unwrap();
            let payloads: Vec<&[u8]> =
                learned.headers.iter().map(|header| &*header.payload).collect();
            assert_eq!((learned.missing, payloads), (missing, headers), "{kind} {payload:?}");
        }
    }

    #[test]
    fn more_headers_than_are_remembered_keep_the_stream_here() {
        let mut prefix = prefix();
        for track in 0..=u8::try_from(MAX_HEADERS).unwrap() {
            // an enhanced multitrack sequence start of one track
            let payload = [0x96, 0x00, b'h', b'v', b'c', b'1', track, 1, 2, 3];
            prefix.feed(&wire(kind::VIDEO, 1, &payload)).unwrap();
        }
        for _ in 0..ENOUGH {
            prefix.feed(&wire(kind::AUDIO, 1, AUDIO)).unwrap();
        }
        assert!(!prefix.is_over() && prefix.into_parts().is_none());
    }
}
