//! A chunk header that comes byte by byte (RTMP 1.0 section 5.3.1), and how to finish one.

use super::ChunkStream;
use crate::rtmp::message::kind;

/// Longest header: a 3-byte basic header, an 11-byte message header, an extended timestamp.
pub(super) const MAX_HEADER: usize = 3 + 11 + 4;

/// The bytes of a header that have come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Header {
    bytes: [u8; MAX_HEADER],
    /// 0 <= len <= MAX_HEADER.
    len: usize,
}

impl Header {
    /// Appends a type 3 header; the extended timestamp is repeated as FFmpeg, librtmp, SRS and
    /// GStreamer want it.
    pub(super) fn continuation(csid: u32, extended: Option<u32>, out: &mut Vec<u8>) {
        let [.., high, low] = csid.saturating_sub(64).to_be_bytes();
        match csid {
            0..=63 => out.push(0xc0 | csid.to_be_bytes()[3]),
            64..=319 => out.extend([0xc0, low]),
            _ => out.extend([0xc1, low, high]),
        }
        if let Some(extended) = extended {
            out.extend(extended.to_be_bytes());
        }
    }

    /// Appends a byte; one that has no room is not needed.
    pub(super) fn push(&mut self, byte: u8) {
        if let Some(to) = self.bytes.get_mut(self.len) {
            *to = byte;
            self.len += 1;
        }
    }

    /// Bytes needed before more can be said; 0 if the header is whole. `is_extended`: whether a
    /// type 3 header of a chunk stream has an extended timestamp, which by RTMP 1.0 section
    /// 5.3.1.3 is the case if the header before it had.
    pub(super) fn missing(&self, is_extended: impl Fn(u32) -> bool) -> usize {
        let Some(csid) = self.csid() else {
            return self.basic().max(1) - self.len;
        };
        let message = self.basic() + FIELDS[usize::from(self.format())];
        if self.len < message {
            return message - self.len;
        }
        let extended = match self.format() {
            3 => is_extended(csid),
            _ => self.fields().starts_with(&[0xff; 3]),
        };
        (message + if extended { 4 } else { 0 }).saturating_sub(self.len)
    }

    /// Chunk stream id, if its bytes have come.
    pub(super) fn csid(&self) -> Option<u32> {
        match self.as_slice() {
            [first, ..] if first & 0x3f > 1 => Some(u32::from(first & 0x3f)),
            [first, low, ..] if first & 0x3f == 0 => Some(64 + u32::from(*low)),
            [first, low, high, ..] if first & 0x3f == 1 => {
                Some(64 + u32::from(*low) + 256 * u32::from(*high))
            }
            _ => None,
        }
    }

    /// 0 to 3.
    pub(super) fn format(&self) -> u8 {
        self.bytes[0] >> 6
    }

    /// Message length and type, if the header says them.
    pub(super) fn len_and_kind(&self) -> Option<(u32, u8)> {
        match *self.fields() {
            [_, _, _, l0, l1, l2, kind, ..] if self.format() <= 1 => {
                Some((u32::from_be_bytes([0, l0, l1, l2]), kind))
            }
            _ => None,
        }
    }

    /// The timestamp or delta of a header that is whole and has one.
    pub(super) fn time(&self) -> Option<u32> {
        match *self.fields() {
            [t0, t1, t2, ..] if self.format() <= 2 => {
                let short = u32::from_be_bytes([0, t0, t1, t2]);
                Some(if short == 0xff_ffff { self.extended().unwrap_or(short) } else { short })
            }
            _ => None,
        }
    }

    /// Message stream id, if the header says it.
    pub(super) fn msid(&self) -> Option<u32> {
        match *self.fields() {
            [_, _, _, _, _, _, _, m0, m1, m2, m3, ..] if self.format() == 0 => {
                Some(u32::from_le_bytes([m0, m1, m2, m3]))
            }
            _ => None,
        }
    }

    /// The extended timestamp of a header that is whole.
    pub(super) fn extended(&self) -> Option<u32> {
        let behind = self.basic() + FIELDS[usize::from(self.format())];
        let value = self.as_slice().get(behind..)?.first_chunk()?;
        Some(u32::from_be_bytes(*value))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What `self`, which began as `other`, has more.
    pub(super) fn rest_after(&self, other: &Self) -> &[u8] {
        self.as_slice().get(other.len..).unwrap_or_default()
    }

    /// Completes the chunk stream id so that the chunk can be a legal one; `false` if none can be.
    pub(super) fn choose_csid(&mut self, streams: &[ChunkStream]) -> bool {
        if self.csid().is_some() {
            return true;
        }
        let format = self.format();
        let fits = |csid: u32, open: bool| {
            let [.., high, low] = csid.wrapping_sub(64).to_be_bytes();
            let form = match self.as_slice() {
                [_] if self.basic() == 2 => (64..=319).contains(&csid),
                [_, first] => (64..=65_599).contains(&csid) && *first == low,
                _ => (64..=65_599).contains(&csid),
            };
            // Type 0 begins a message, and types 1 to 3 most probably go on with the open one.
            (form && open == (format != 0)).then_some([low, high])
        };
        let known = streams.iter().find_map(|stream| fits(stream.csid, stream.left > 0));
        let idle = || streams.iter().find_map(|s| (s.left == 0).then(|| fits(s.csid, format != 0)));
        let fresh = || {
            (64..=65_599).find_map(|csid| {
                let unknown = streams.iter().all(|stream| stream.csid != csid);
                if unknown && format <= 1 { fits(csid, format != 0) } else { None }
            })
        };
        let Some(bytes) = known.or_else(|| idle().flatten()).or_else(fresh) else {
            return false;
        };
        for byte in bytes.into_iter().take(self.basic() - 1).skip(self.len - 1) {
            self.push(byte);
        }
        true
    }

    /// Completes a header whose chunk stream id is there: of an open message as it has to be, of a
    /// new one with zeros.
    pub(super) fn finish(&mut self, stream: &ChunkStream, is_extended: impl Fn(u32) -> bool) {
        while self.missing(&is_extended) > 0 {
            let at = self.len - self.basic();
            let fields = FIELDS[usize::from(self.format())];
            let [_, len @ ..] = stream.len.to_be_bytes();
            let byte = match at {
                // Only a continuation of type 1 that repeats length and type is legal.
                3..=5 if at < fields && stream.left > 0 => len[at - 3],
                6 if at < fields && stream.left > 0 => stream.kind,
                // Type 0 means nothing to anybody, but readers refuse a long one.
                6 if at < fields && self.announces_much() => kind::VIDEO,
                _ if at >= fields => self.extended_byte(at - fields, stream.extended),
                _ => 0,
            };
            self.push(byte);
        }
    }

    /// The next byte of an extended timestamp: the last one's as long as they are the same.
    fn extended_byte(&self, at: usize, last: Option<u32>) -> u8 {
        let last = last.unwrap_or(0).to_be_bytes();
        let same = self.as_slice().ends_with(&last[..at]);
        if same { last[at] } else { 0 }
    }

    /// Whether the length is more than a message of unknown type may have.
    fn announces_much(&self) -> bool {
        self.fields().get(3).is_some_and(|&high| high > 0)
    }

    /// What has come behind the basic header.
    fn fields(&self) -> &[u8] {
        self.as_slice().get(self.basic()..).unwrap_or_default()
    }

    /// Length of the basic header; 1 as long as nothing has come.
    fn basic(&self) -> usize {
        match self.as_slice() {
            [first, ..] if first & 0x3f == 0 => 2,
            [first, ..] if first & 0x3f == 1 => 3,
            _ => 1,
        }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Bytes of the message header by type.
const FIELDS: [usize; 4] = [11, 7, 3, 0];
