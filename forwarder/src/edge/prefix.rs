//! The first messages of an encoder, read on their way: what late joiners have to have is
//! remembered, for the day its origin dies.

use crate::conn::OwnedMedia;
use crate::rtmp::Timestamp;
use crate::rtmp::chunk::{ChunkError, ChunkReader, Message};
use crate::rtmp::flv::{self, HeaderKind, Tracks};
use crate::rtmp::message::{Aggregate, data_name, data_payload, kind};
use crate::splice::Walk;

/// After so many messages all headers have come: two seconds of audio and video.
const ENOUGH: usize = 120;

/// Most headers remembered, and their bytes.
const MAX_HEADERS: usize = 16;
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
    pub(super) fn into_parts(self) -> Option<(ChunkReader, Vec<OwnedMedia>)> {
        (!self.headers.overflown).then(|| (self.reader, self.headers.into_media()))
    }

    /// A reader that stands where `walk` does, and the headers; `None` if `walk` does not know, or
    /// has seen headers that are not among these.
    pub(super) fn resume(self, walk: &Walk) -> Option<(ChunkReader, Vec<OwnedMedia>)> {
        let position = walk.position().filter(|_| !walk.passed_header())?;
        Some((ChunkReader::resume(&position), self.headers.into_media()))
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

    fn into_media(self) -> Vec<OwnedMedia> {
        self.all.into_iter().map(|header| header.media).collect()
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
