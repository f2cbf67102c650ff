//! What a log knows of each message: enough to find its borders, its age and a keyframe.

use crate::rtmp::message::MediaKind;

/// One message of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Offset of its first byte.
    pub offset: u64,
    /// Bytes, with the headers of chunks or tags.
    pub len: u32,
    /// Milliseconds since the log began when it arrived.
    pub arrived_ms: u64,
    /// Header epoch after it.
    pub epoch: u32,
    /// What it is.
    pub kind: EntryKind,
}

impl Entry {
    /// Offset one past its last byte.
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.len)
    }
}

/// What a message is, as far as its readers care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// Audio.
    Audio,
    /// Video.
    Video,
    /// Metadata and other data messages.
    Data,
}

impl EntryKind {
    /// The message's kind.
    pub(super) fn media(self) -> MediaKind {
        match self {
            Self::Audio => MediaKind::Audio,
            Self::Video => MediaKind::Video,
            Self::Data => MediaKind::Data,
        }
    }
}
