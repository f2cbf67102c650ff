//! What a late joiner needs before its first frame: metadata and sequence headers.

use bytes::Bytes;

use crate::rtmp::Timestamp;
use crate::rtmp::chunk::{self, Message};
use crate::rtmp::flv::{self, HeaderKind, Tracks};
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

/// What a kept header is for. The order is the order of sending: audio first, as SRS does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    /// 0 audio, 1 video.
    medium: u8,
    kind: HeaderKind,
    tracks: Tracks,
}

impl Slot {
    /// The slot of an audio or video header.
    pub fn new(medium: MediaKind, tracks: Tracks, kind: HeaderKind) -> Self {
        Self { medium: u8::from(medium == MediaKind::Video), kind, tracks }
    }

    /// Whether a header for `self` takes the place of one for `other`.
    fn replaces(self, other: Self) -> bool {
        let same = self.medium == other.medium && self.kind == other.kind;
        same && self.tracks.covers(other.tracks)
    }

    fn media_kind(self) -> MediaKind {
        if self.medium == 0 { MediaKind::Audio } else { MediaKind::Video }
    }
}

impl Headers {
    /// Keeps a sequence header. False: it is what is kept already, or it cannot be kept.
    pub fn set(&mut self, slot: Slot, payload: &[u8]) -> bool {
        if payload.len() > MAX_HEADER_BYTES {
            return false;
        }
        if self.slots.iter().any(|(kept, bytes)| *kept == slot && bytes == payload) {
            return false;
        }
        self.slots.retain(|(kept, _)| !slot.replaces(*kept));
        let kept: usize = self.slots.iter().map(|(_, bytes)| bytes.len()).sum();
        if self.slots.len() >= MAX_HEADERS || kept + payload.len() > MAX_HEADERS_BYTES {
            return false;
        }
        let at = self.slots.partition_point(|(kept, _)| *kept < slot);
        self.slots.insert(at, (slot, Bytes::copy_from_slice(payload)));
        true
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

    /// Keeps `media` if it is metadata or a sequence header. False: it is neither, or as for
    /// [`Self::set`].
    pub fn keep(&mut self, media: &MediaMessage<'_>) -> bool {
        let (tracks, header) = match media.kind {
            MediaKind::Video => {
                let tag = flv::video(media.payload);
                (tag.tracks, tag.header)
            }
            MediaKind::Audio => {
                let tag = flv::audio(media.payload);
                (tag.tracks, tag.header)
            }
            MediaKind::Data => {
                return is_metadata(media.payload) && self.set_metadata(media.payload);
            }
        };
        header.is_some_and(|kind| self.set(Slot::new(media.kind, tracks, kind), media.payload))
    }

    /// What of this is not the same in `other`, in the order of sending.
    pub fn beyond(&self, other: &Self) -> Vec<(MediaKind, Bytes)> {
        let metadata = self.metadata.iter().filter(|_| self.metadata != other.metadata);
        let slots = self.slots.iter().filter(|slot| !other.slots.contains(slot));
        let metadata = metadata.map(|payload| (MediaKind::Data, payload.clone()));
        metadata.chain(slots.map(|(slot, bytes)| (slot.media_kind(), bytes.clone()))).collect()
    }

    /// Whether there is a video header.
    pub fn has_video(&self) -> bool {
        self.slots.iter().any(|(slot, _)| slot.medium == 1)
    }

    /// `onMetaData`, as the publisher wrote it.
    pub fn metadata(&self) -> Option<&Bytes> {
        self.metadata.as_ref()
    }

    /// The sequence header of audio or video: of several tracks' one.
    pub fn sequence_start(&self, medium: MediaKind) -> Option<&Bytes> {
        let is_it =
            |slot: &Slot| slot.media_kind() == medium && slot.kind == HeaderKind::SequenceStart;
        self.slots.iter().find(|(slot, _)| is_it(slot)).map(|(_, payload)| payload)
    }

    /// Appends metadata at time 0 and the sequence headers at `timestamp`, as chunks, to `out`.
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
            target.encode(slot.media_kind(), timestamp, payload, out);
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
    /// Chunk size, bytes.
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
        chunk::encode(&message, self.chunk_size, &mut |piece| out.extend_from_slice(piece));
    }
}

/// The AMF0 string `@setDataFrame`.
const SET_DATA_FRAME: &[u8] = b"\x02\x00\x0d@setDataFrame";
