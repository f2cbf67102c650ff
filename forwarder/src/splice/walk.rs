//! Where in RTMP's chunks a relayed byte stream stands (RTMP 1.0 section 5.3), without keeping a
//! byte of its messages.
//!
//! A leg moves bytes and may end anywhere: inside a message, inside a chunk header. Whoever then
//! goes on writing to the target has to finish what is open. Cutting messages short does not work:
//! FFmpeg and GStreamer lose the stream on an Abort; all players accept a message whose tail is
//! zero.

use forwarder_ebpf::{
    AUDIO_HEADER_PASSED, VIDEO_HEADER_PASSED, first_delta, header_passed, is_header,
};

use crate::rtmp::chunk::{
    DEFAULT_CHUNK_SIZE, MAX_CHUNK_SIZE, MAX_CHUNK_STREAMS, MIN_CHUNK_SIZE, Position,
    StreamPosition as ChunkStream,
};
use crate::rtmp::message::kind;

mod header;
mod kernel;

use header::Header;

/// Follows the chunks of one direction, fed in pieces of any size.
#[derive(Clone, Debug)]
pub struct Walk {
    chunk_size: u32,
    /// Of the open chunk; of the last one if `chunk_left` is 0.
    csid: u32,
    /// Payload bytes to come of the open chunk.
    chunk_left: u32,
    /// The part of a chunk header that has come; empty outside of headers.
    header: Header,
    streams: Vec<ChunkStream>,
    /// Of which kinds sequence headers were among what it walked over, as the kernel's walk says it.
    passed_headers: u32,
    lost: bool,
}

impl Walk {
    /// At the start of a chunk, no chunk stream having said anything, with this chunk size in
    /// force.
    pub fn new(chunk_size: u32) -> Self {
        Self {
            chunk_size: chunk_size.clamp(1, MAX_CHUNK_SIZE),
            csid: 0,
            chunk_left: 0,
            header: Header::default(),
            streams: Vec::new(),
            passed_headers: 0,
            lost: false,
        }
    }

    /// One that goes on at `position`.
    pub fn resume(position: &Position) -> Self {
        let mut walk = Self::new(position.chunk_size);
        (walk.csid, walk.chunk_left) = position.open.unwrap_or_default();
        position.header.iter().for_each(|&byte| walk.header.push(byte));
        walk.streams.clone_from(&position.streams);
        walk
    }

    /// Where it stands; `None` if it is lost.
    pub fn position(&self) -> Option<Position> {
        (!self.lost).then(|| Position {
            chunk_size: self.chunk_size,
            open: (self.chunk_left > 0).then_some((self.csid, self.chunk_left)),
            header: self.header.as_slice().to_vec(),
            streams: self.streams.iter().copied().map(without_old_word).collect(),
        })
    }

    /// One that knows nothing.
    pub(super) fn lost() -> Self {
        Self { lost: true, ..Self::new(DEFAULT_CHUNK_SIZE) }
    }

    /// Walks over `bytes`.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !self.lost && !bytes.is_empty() {
            bytes = if self.chunk_left > 0 { self.payload(bytes) } else { self.header(bytes) };
        }
    }

    /// Appends what makes everything that is open whole: the rest of a chunk header, zeros for the
    /// messages that are open, in type 3 chunks. Returns the chunk size in force behind it, which
    /// differs from [`Self::chunk_size`] only where a SetChunkSize itself was open.
    ///
    /// Nothing is appended to a walk that is at a border or lost.
    pub fn pad(&self, out: &mut Vec<u8>) -> u32 {
        let mut walk = self.clone();
        let mut piece = Vec::new();
        while !walk.lost && !walk.is_at_border() {
            piece.clear();
            walk.next_pad(&mut piece);
            walk.feed(&piece);
            out.extend_from_slice(&piece);
        }
        walk.chunk_size
    }

    /// Whether all messages that have begun are whole.
    pub fn is_at_border(&self) -> bool {
        self.header.is_empty() && self.streams.iter().all(|stream| stream.left == 0)
    }

    /// So many bytes may come before it can be at a border; 0 inside of a header, and at a border.
    pub fn sure(&self) -> u32 {
        self.chunk_left
    }

    /// The chunk size in force for the next header.
    pub fn chunk_size(&self) -> u32 {
        self.chunk_size
    }

    /// Whether the bytes could not be followed: then nothing else said here is true. They broke
    /// the rules, used more than [`MAX_CHUNK_STREAMS`] chunk streams, or were not looked at.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Whether what decoders of audio and of video are set up with may have changed on the way: by a
    /// sequence header, or by an aggregate, in which there may be one.
    pub fn passed_headers(&self) -> (bool, bool) {
        let passed = |flag| self.passed_headers & flag != 0;
        (passed(AUDIO_HEADER_PASSED), passed(VIDEO_HEADER_PASSED))
    }

    /// Takes it that whoever asks [`Self::passed_headers`] knows all headers so far.
    pub fn forget_headers(&mut self) {
        self.passed_headers = 0;
    }

    /// Messages that are partly there: chunk stream id, message type, bytes missing.
    pub fn open(&self) -> impl Iterator<Item = (u32, u8, u32)> {
        let open = self.streams.iter().filter(|stream| stream.left > 0);
        open.map(|stream| (stream.csid, stream.kind, stream.left))
    }

    /// Takes payload of the open chunk from the front of `bytes`, returns the rest.
    fn payload<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let all = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let n = self.chunk_left.min(all);
        let (payload, rest) = bytes.split_at(n as usize);
        let csid = self.csid;
        let Some(stream) = self.stream_mut(csid) else {
            self.lost = true;
            return rest;
        };
        let seen = (stream.len - stream.left) as usize;
        for (to, &byte) in stream.word.iter_mut().skip(seen).zip(payload) {
            *to = byte;
        }
        stream.left -= n;
        let [first, second, ..] = stream.word;
        let has_both = seen < 2 && stream.seen() >= 2;
        let kind = u32::from(stream.kind);
        let is_header = has_both && is_header(kind, first, second);
        let ended = (stream.left == 0).then_some(*stream);
        if is_header {
            self.passed_headers |= header_passed(kind);
        }
        self.chunk_left -= n;
        if let Some(stream) = ended {
            self.end_message(stream);
        }
        rest
    }

    /// Does what a whole message asks of the chunk layer.
    fn end_message(&mut self, stream: ChunkStream) {
        let word = u32::from_be_bytes(stream.word);
        match stream.kind {
            kind::SET_CHUNK_SIZE | kind::ABORT if stream.len < 4 => self.lost = true,
            kind::SET_CHUNK_SIZE if matches!(word, 1..=0x7fff_ffff) => {
                self.chunk_size = word.min(MAX_CHUNK_SIZE);
            }
            kind::SET_CHUNK_SIZE => self.lost = true,
            kind::ABORT => {
                if let Some(stream) = self.stream_mut(word) {
                    stream.left = 0;
                }
            }
            _ => {}
        }
    }

    /// Takes bytes of a chunk header from the front of `bytes`, returns the rest.
    fn header<'a>(&mut self, mut bytes: &'a [u8]) -> &'a [u8] {
        while let Some((&byte, rest)) = bytes.split_first() {
            bytes = rest;
            self.header.push(byte);
            if self.header.missing(|csid| self.is_extended(csid)) == 0 {
                let header = std::mem::take(&mut self.header);
                if self.begin_chunk(&header).is_none() {
                    self.lost = true;
                }
                break;
            }
        }
        bytes
    }

    /// Takes a whole header; `None` if it breaks the rules.
    fn begin_chunk(&mut self, header: &Header) -> Option<()> {
        let csid = header.csid()?;
        let (format, body, extended) = (header.format(), header.len_and_kind(), header.extended());
        let (time, msid) = (header.time(), header.msid());
        let stream = match self.streams.iter().position(|stream| stream.csid == csid) {
            Some(index) => &mut self.streams[index],
            None if format <= 1 && self.streams.len() < MAX_CHUNK_STREAMS => {
                self.streams.push(ChunkStream { csid, ..ChunkStream::default() });
                self.streams.last_mut()?
            }
            None => return None,
        };
        if stream.left == 0 {
            (stream.len, stream.kind) = body.unwrap_or((stream.len, stream.kind));
            stream.left = stream.len;
            stream.msid = msid.unwrap_or(stream.msid);
            match (format, time) {
                (0, Some(time)) => (stream.timestamp, stream.delta) = (time, first_delta(time)),
                _ => {
                    stream.delta = time.unwrap_or(stream.delta);
                    stream.timestamp = stream.timestamp.wrapping_add(stream.delta);
                }
            }
            if stream.kind == kind::AGGREGATE {
                self.passed_headers |= header_passed(kind::AGGREGATE.into());
            }
        } else if format == 0 || body.is_some_and(|body| body != (stream.len, stream.kind)) {
            return None;
        }
        if format == 3 && extended != stream.extended {
            // Who does not repeat the timestamp (old librtmp) has payload here.
            return None;
        }
        stream.extended = extended;
        let (left, whole) = (stream.left, (stream.left == 0).then_some(*stream));
        // RTMP 1.0 section 5.4.1: the size in force now, also for messages under way.
        self.chunk_left = left.min(self.chunk_size);
        self.csid = csid;
        if let Some(stream) = whole {
            self.end_message(stream);
        }
        Some(())
    }

    /// The next bytes of [`Self::pad`]: the rest of a header, of a chunk, or a new header.
    fn next_pad(&self, out: &mut Vec<u8>) {
        if !self.header.is_empty() {
            let last = |csid| self.streams.iter().find(|stream| stream.csid == csid);
            let mut header = self.header;
            if !header.choose_csid(&self.streams) {
                // A type 2 or 3 header for which there is no chunk stream: `feed` gets lost on it.
                header.push(0);
            }
            let stream = header.csid().and_then(last).copied().unwrap_or_default();
            header.finish(&stream, |csid| self.is_extended(csid));
            out.extend_from_slice(header.rest_after(&self.header));
        } else if self.chunk_left > 0 {
            let stream = self.streams.iter().find(|stream| stream.csid == self.csid);
            let at = out.len();
            out.resize(at + self.chunk_left as usize, 0);
            if let Some(stream) = stream {
                fill(stream, self.chunk_size, out.get_mut(at..).unwrap_or_default());
            }
        } else if let Some(stream) = self.streams.iter().find(|stream| stream.left > 0) {
            Header::continuation(stream.csid, stream.extended, out);
        }
    }

    fn is_extended(&self, csid: u32) -> bool {
        self.streams.iter().any(|stream| stream.csid == csid && stream.extended.is_some())
    }

    fn stream_mut(&mut self, csid: u32) -> Option<&mut ChunkStream> {
        self.streams.iter_mut().find(|stream| stream.csid == csid)
    }
}

/// Of a message that is whole nobody wants to know how it began.
fn without_old_word(stream: ChunkStream) -> ChunkStream {
    if stream.left > 0 { stream } else { ChunkStream { word: [0; 4], ..stream } }
}

/// Zeros do for all but three control messages: a chunk size, window or bandwidth of 0 makes
/// players close. `payload` is what comes next of the open message, all zero.
fn fill(stream: &ChunkStream, chunk_size: u32, payload: &mut [u8]) {
    let usual = match stream.kind {
        kind::SET_CHUNK_SIZE => chunk_size,
        kind::WINDOW_ACK_SIZE | kind::SET_PEER_BANDWIDTH => USUAL_WINDOW,
        _ => return,
    };
    let seen = stream.seen() as usize;
    let with = |rest: [u8; 4]| {
        let mut word = stream.word;
        for (to, from) in word.iter_mut().zip(rest).skip(seen) {
            *to = from;
        }
        word
    };
    let usual = usual.to_be_bytes();
    let fits = stream.word.iter().zip(usual).take(seen).all(|(&seen, usual)| seen == usual);
    let valid =
        |word: &[u8; 4]| (MIN_CHUNK_SIZE..=0x7fff_ffff).contains(&u32::from_be_bytes(*word));
    let word = match with([0; 4]) {
        _ if fits => with(usual),
        zeros if valid(&zeros) => zeros,
        _ => with([0xff; 4]),
    };
    for (to, from) in payload.iter_mut().zip(word.into_iter().skip(seen)) {
        *to = from;
    }
}

/// What most servers announce, SRS and nginx-rtmp among them, bytes.
const USUAL_WINDOW: u32 = 2_500_000;

#[cfg(test)]
mod resumed;
#[cfg(test)]
mod tests;
