//! FLV files and what their tags are, written without the library that is under test.
use std::path::Path;

/// FLV tag type and RTMP message type of audio.
pub const AUDIO: u8 = 8;
/// Of video.
pub const VIDEO: u8 = 9;
/// Of AMF0 data.
pub const DATA: u8 = 18;

/// One FLV tag, or one media message.
#[derive(Clone, PartialEq, Eq)]
pub struct Tag {
    /// [`AUDIO`], [`VIDEO`] or [`DATA`].
    pub kind: u8,
    /// Milliseconds, all 32 bits.
    pub timestamp: u32,
    /// Tag body.
    pub body: Vec<u8>,
}

impl std::fmt::Debug for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let start = &self.body[..self.body.len().min(12)];
        write!(
            f,
            "type {} at {} ms, {} bytes {start:02x?}",
            self.kind,
            self.timestamp,
            self.body.len()
        )
    }
}

impl Tag {
    /// The packet type of an enhanced message, of its tracks if it has several; `ModEx` is not
    /// looked behind.
    fn enhanced(&self) -> Option<u8> {
        let (&first, multitrack) = match self.kind {
            VIDEO => (self.body.first().filter(|first| **first & 0x80 != 0)?, 6),
            AUDIO => (self.body.first().filter(|first| **first >> 4 == 9)?, 5),
            _ => return None,
        };
        match first & 15 {
            packet if packet == multitrack => self.body.get(1).map(|second| second & 15),
            packet => Some(packet),
        }
    }

    /// A sequence header, colour info, or channels. FFmpeg 9 writes its first Opus frame as channels,
    /// which of one track take 11 bytes, or 13 in a multitrack message.
    pub fn is_header(&self) -> bool {
        match (self.kind, self.enhanced()) {
            (VIDEO, Some(packet)) => matches!(packet, 0 | 4 | 5),
            // AC-3 has no header
            (AUDIO, Some(0)) => self.body.get(1..5) != Some(b"ac-3"),
            (AUDIO, Some(packet)) => packet == 4 && self.body.len() <= 13,
            (VIDEO, None) => matches!(self.body[..], [0x17, 0, ..]),
            (AUDIO, None) => matches!(self.body[..], [b, 0, ..] if b >> 4 == 10),
            _ => false,
        }
    }

    /// End of sequence, which librtmp never and GStreamer not always passes on.
    pub fn is_end_of_sequence(&self) -> bool {
        match self.enhanced() {
            Some(packet) => packet == 2,
            None => self.kind == VIDEO && matches!(self.body[..], [0x17 | 0x27, 2, ..]),
        }
    }

    /// Coded audio or video: neither a header, nor the end, nor data.
    pub fn is_frame(&self) -> bool {
        let media = self.kind == AUDIO || self.kind == VIDEO;
        media && !self.body.is_empty() && !self.is_header() && !self.is_end_of_sequence()
    }

    /// A video frame that decoding can start at.
    pub fn is_keyframe(&self) -> bool {
        self.kind == VIDEO && self.is_frame() && self.body[0] >> 4 & 7 == 1
    }

    /// Data named `onMetaData`.
    pub fn is_metadata(&self) -> bool {
        self.kind == DATA && self.body.starts_with(b"\x02\0\x0aonMetaData")
    }
}

/// Reads a file. A tag cut off at its end is left out, as a player that was stopped leaves one.
#[track_caller]
pub fn read(path: &Path) -> Vec<Tag> {
    let data = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(
        data.starts_with(b"FLV\x01"),
        "{} is no FLV file ({} bytes)",
        path.display(),
        data.len()
    );
    let u24 = |b: &[u8]| u32::from_be_bytes([0, b[0], b[1], b[2]]);
    let mut rest = &data[13..];
    let mut tags = Vec::new();
    while let Some((head, tail)) = rest.split_at_checked(11) {
        let len = usize::try_from(u24(&head[1..4])).unwrap();
        let Some((body, tail)) = tail.split_at_checked(len) else {
            break;
        };
        let timestamp = u24(&head[4..7]) | u32::from(head[7]) << 24;
        tags.push(Tag { kind: head[0], timestamp, body: body.to_vec() });
        rest = tail.get(4..).unwrap_or_default();
    }
    tags
}
