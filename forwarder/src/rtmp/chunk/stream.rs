//! One chunk stream: what its headers said last, and the message under way.
use super::header::{Fields, Time};
use super::{ChunkError, Message, StreamPosition};
use crate::rtmp::Timestamp;
use crate::rtmp::message::kind;

/// State of one chunk stream id, kept from its first header to the end of the connection.
#[derive(Debug)]
pub(super) struct ChunkStream {
    pub(super) csid: u32,
    timestamp: u32,
    /// What a type 3 header that begins a message adds to `timestamp`.
    delta: u32,
    len: usize,
    kind: u8,
    msid: u32,
    /// The extended timestamp of the last header of type 0, 1 or 2, if it had one.
    extended: Option<u32>,
    /// Between the first header of a message and its last byte.
    mid_message: bool,
    /// The beginning of the message under way was read by somebody else: nobody gets it.
    passed_over: bool,
    /// 0 <= body.len() <= len. Keeps the bytes of a whole message while they are lent out.
    body: Vec<u8>,
}

/// Whether an extended timestamp follows a type 3 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LookAhead {
    /// It follows, with this value.
    Present(u32),
    Absent,
    /// The bytes there are do not tell yet.
    Undecided,
}

impl ChunkStream {
    pub(super) fn new(csid: u32) -> Self {
        Self {
            csid,
            timestamp: 0,
            delta: 0,
            len: 0,
            kind: 0,
            msid: 0,
            extended: None,
            mid_message: false,
            passed_over: false,
            body: Vec::new(),
        }
    }

    /// One that goes on at `position`; of what has come of an open message zeros stand for all but
    /// the first bytes.
    pub(super) fn resume(position: &StreamPosition) -> Self {
        let open = position.left > 0;
        let mut body = vec![0; if open { position.seen() as usize } else { 0 }];
        for (to, from) in body.iter_mut().zip(position.word) {
            *to = from;
        }
        Self {
            timestamp: position.timestamp,
            delta: position.delta,
            len: position.len as usize,
            kind: position.kind,
            msid: position.msid,
            extended: position.extended,
            mid_message: open,
            passed_over: !body.is_empty(),
            body,
            ..Self::new(position.csid)
        }
    }

    /// Where it stands, if no message is open.
    pub(super) fn position(&self) -> StreamPosition {
        StreamPosition {
            csid: self.csid,
            timestamp: self.timestamp,
            delta: self.delta,
            // The field of the header has 24 bits.
            len: u32::try_from(self.len).unwrap_or(u32::MAX),
            kind: self.kind,
            msid: self.msid,
            extended: self.extended,
            left: 0,
            word: [0; 4],
        }
    }

    /// Takes one header, which begins a message or continues the one under way. `repeated` is the
    /// extended timestamp found behind a type 3 header.
    pub(super) fn take_header(
        &mut self,
        fields: Fields,
        repeated: Option<u32>,
    ) -> Result<(), ChunkError> {
        if self.mid_message {
            return self.continue_message(fields);
        }
        match fields {
            Fields::Type0 { time, len, kind, msid } => {
                self.timestamp = time.ms;
                self.delta = first_delta(time.ms);
                (self.len, self.kind, self.msid) = (len, kind, msid);
                self.extended = time.extended();
            }
            // librtmp and FFmpeg begin chunk streams with type 1: message stream 0, time 0.
            Fields::Type1 { time, len, kind } => {
                (self.len, self.kind) = (len, kind);
                self.advance(time);
            }
            Fields::Type2 { time } => self.advance(time),
            Fields::Type3 => match repeated {
                // SRS repeats the absolute time, everyone else the value of the last header.
                Some(absolute) if self.extended != repeated => self.timestamp = absolute,
                _ => self.timestamp = self.timestamp.wrapping_add(self.delta),
            },
        }
        let limit = max_len(self.kind);
        if self.len > limit {
            return Err(ChunkError::MessageTooLong { kind: self.kind, len: self.len, limit });
        }
        self.mid_message = true;
        Ok(())
    }

    /// A header inside a message: type 3, or (nobody should, but SRS takes it) type 1 or 2 that
    /// says the same length and type again; the clock stays.
    fn continue_message(&mut self, fields: Fields) -> Result<(), ChunkError> {
        match fields {
            Fields::Type3 => {}
            Fields::Type1 { time, len, kind } if (len, kind) == (self.len, self.kind) => {
                self.extended = time.extended();
            }
            Fields::Type2 { time } => self.extended = time.extended(),
            Fields::Type0 { .. } | Fields::Type1 { .. } => {
                let format = fields.format();
                return Err(ChunkError::HeaderInsideMessage { format, csid: self.csid });
            }
        }
        Ok(())
    }

    fn advance(&mut self, delta: Time) {
        self.delta = delta.ms;
        self.timestamp = self.timestamp.wrapping_add(delta.ms);
        self.extended = delta.extended();
    }

    /// Appends `bytes` to the message under way; at most [`Self::missing`] of them.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        let needed = self.body.len() + bytes.len();
        if needed > self.body.capacity() {
            // Grows with what has come, not to what was announced.
            let target = needed.max(self.body.capacity() * 2).max(MIN_BODY).min(self.len);
            self.body.reserve_exact(target - self.body.len());
        }
        self.body.extend_from_slice(bytes);
    }

    /// Ends the message: whole, or given up. The body stays until [`Self::recycle`].
    pub(super) fn end_message(&mut self) {
        self.mid_message = false;
        self.passed_over = false;
    }

    /// Empties the body and gives back the memory that a large message took.
    pub(super) fn recycle(&mut self) {
        self.body.clear();
        if self.body.capacity() > MAX_IDLE_BODY {
            self.body.shrink_to(MAX_IDLE_BODY);
        }
    }

    /// Whether the 4 bytes behind a type 3 header, `bytes` as far as they are there, are a repeated
    /// extended timestamp.
    ///
    /// RTMP 1.0 section 5.3.1.3 wants it, FFmpeg, librtmp and SRS write it, old librtmp does not;
    /// so the value has to show it. A payload that happens to have the very value is misread, once
    /// in 2^32. Without all 4 bytes the answer is given as soon as the ones there rule a timestamp
    /// out: a peer that leaves it out, ends a message with 1 to 3 bytes that look like the start of
    /// one, and then falls silent, has that message wait for its next byte.
    pub(super) fn look_ahead(&self, bytes: &[u8]) -> LookAhead {
        let Some(last) = self.extended else {
            return LookAhead::Absent;
        };
        let (mut low, mut high) = ([0x00; 4], [0xff; 4]);
        for ((low, high), &byte) in low.iter_mut().zip(&mut high).zip(bytes) {
            (*low, *high) = (byte, byte);
        }
        let (low, high) = (u32::from_be_bytes(low), u32::from_be_bytes(high));
        let possible = low..=high;
        let fits = possible.contains(&last)
            || if self.mid_message {
                possible.contains(&self.timestamp)
            } else {
                // An absolute time after the last one, modulo 2^32.
                let next = self.timestamp.wrapping_add(1);
                possible.contains(&next) || low.wrapping_sub(next) < MAX_STEP
            };
        match (fits, bytes.len()) {
            (false, _) => LookAhead::Absent,
            (true, 0..4) => LookAhead::Undecided,
            (true, _) => LookAhead::Present(low),
        }
    }

    /// Bytes that the message under way still lacks.
    pub(super) fn missing(&self) -> usize {
        self.len - self.body.len()
    }

    pub(super) fn is_passed_over(&self) -> bool {
        self.passed_over
    }

    pub(super) fn is_mid_message(&self) -> bool {
        self.mid_message
    }

    pub(super) fn kind(&self) -> u8 {
        self.kind
    }

    pub(super) fn body(&self) -> &[u8] {
        &self.body
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.body.capacity()
    }

    pub(super) fn message<'a>(&self, payload: &'a [u8]) -> Message<'a> {
        Message {
            csid: self.csid,
            timestamp: Timestamp(self.timestamp),
            kind: self.kind,
            msid: self.msid,
            payload,
        }
    }
}

/// The delta of a type 3 message after a type 0 one: RTMP 1.0 section 5.3.1.2.4 has the type 0
/// timestamp, and FFmpeg and GStreamer write it so. Old librtmp and nginx-rtmp mean "same
/// timestamp". A large one can only be the latter.
pub(super) fn first_delta(timestamp: u32) -> u32 {
    if timestamp < MAX_FIRST_DELTA { timestamp } else { 0 }
}

impl Time {
    fn extended(self) -> Option<u32> {
        self.extended.then_some(self.ms)
    }
}

/// Longest message of a type, bytes: video up to several times a 4K keyframe, nginx-rtmp's
/// default being 1 MiB and gortmplib's 10 MiB; commands and data as large as any seen in the field.
fn max_len(kind: u8) -> usize {
    match kind {
        kind::AUDIO | kind::VIDEO | kind::AGGREGATE => 8 << 20,
        kind::DATA_AMF0 | kind::DATA_AMF3 => 256 << 10,
        kind::SET_CHUNK_SIZE
        | kind::ABORT
        | kind::ACKNOWLEDGEMENT
        | kind::WINDOW_ACK_SIZE
        | kind::SET_PEER_BANDWIDTH => 16,
        _ => 64 << 10,
    }
}

/// Type 0 timestamps from here on are not believed to be a delta as well, milliseconds.
const MAX_FIRST_DELTA: u32 = 10_000;
/// How far ahead of the last message an absolute time behind a type 3 header may be, milliseconds.
const MAX_STEP: u32 = 60_000;
/// First allocation for a body, if the message is that long, bytes.
const MIN_BODY: usize = 4 << 10;
/// Memory that a chunk stream keeps between messages, bytes.
const MAX_IDLE_BODY: usize = 64 << 10;
