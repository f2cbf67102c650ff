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
    /// An AVC or AAC sequence header.
    pub fn is_header(&self) -> bool {
        match self.kind {
            VIDEO => matches!(self.body[..], [0x17, 0, ..]),
            AUDIO => matches!(self.body[..], [b, 0, ..] if b >> 4 == 10),
            _ => false,
        }
    }

    /// AVC end of sequence, which librtmp never and GStreamer not always passes on.
    pub fn is_end_of_sequence(&self) -> bool {
        self.kind == VIDEO && matches!(self.body[..], [0x17 | 0x27, 2, ..])
    }

    /// Coded audio or video: neither a header, nor the end, nor data.
    pub fn is_frame(&self) -> bool {
        let media = self.kind == AUDIO || self.kind == VIDEO;
        media && !self.body.is_empty() && !self.is_header() && !self.is_end_of_sequence()
    }

    /// A video frame that decoding can start at.
    pub fn is_keyframe(&self) -> bool {
        self.kind == VIDEO && self.is_frame() && self.body[0] >> 4 == 1
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
