//! Where a reader of chunks stands, for another that goes on from there.

use super::EXTENDED;
use super::stream::first_delta;

/// All that says how the next byte is to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Chunk size in force for the next header, bytes.
    pub chunk_size: u32,
    /// Chunk stream id and payload bytes to come of the chunk whose header was read, if any are.
    pub open: Option<(u32, u32)>,
    /// The part of a header that has come; empty outside of headers.
    pub header: Vec<u8>,
    /// Chunk streams that have been used, each once.
    pub streams: Vec<StreamPosition>,
}

/// What the headers of one chunk stream said last, and how much its open message lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamPosition {
    /// Chunk stream id.
    pub csid: u32,
    /// Absolute time of its last message, milliseconds modulo 2^32.
    pub timestamp: u32,
    /// What a type 3 header that begins a message adds to `timestamp`.
    pub delta: u32,
    /// Length of its last message, bytes.
    pub len: u32,
    /// Message type id.
    pub kind: u8,
    /// Message stream id.
    pub msid: u32,
    /// The last extended timestamp, if the last header of type 0, 1 or 2 had one.
    pub extended: Option<u32>,
    /// Bytes that the open message lacks; 0 if none is open.
    pub left: u32,
    /// The first four bytes of the open message, as far as they have come: `len - left` of them.
    pub word: [u8; 4],
}

impl Position {
    /// The chunk stream with this id, if it was used.
    pub fn stream(&self, csid: u32) -> Option<&StreamPosition> {
        self.streams.iter().find(|stream| stream.csid == csid)
    }
}

impl StreamPosition {
    /// After a message that our writer wrote, whose first bytes these are; `None` if they are not.
    pub fn after(written: &[u8]) -> Option<Self> {
        let &[basic, t0, t1, t2, l0, l1, l2, kind, m0, m1, m2, m3] = written.first_chunk()?;
        let timestamp = u32::from_be_bytes([0, t0, t1, t2]);
        // It writes headers of type 0; of those with extended timestamps nobody asks.
        (basic < 64 && timestamp < EXTENDED).then(|| Self {
            csid: basic.into(),
            timestamp,
            delta: first_delta(timestamp),
            len: u32::from_be_bytes([0, l0, l1, l2]),
            kind,
            msid: u32::from_le_bytes([m0, m1, m2, m3]),
            ..Self::default()
        })
    }

    /// Bytes of the open message that have come.
    pub fn seen(&self) -> u32 {
        self.len.saturating_sub(self.left)
    }
}
