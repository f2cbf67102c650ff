//! Chunks to messages.
use super::header::{Fields, Header, MAX_HEADER};
use super::stream::{ChunkStream, LookAhead};
use super::{DEFAULT_CHUNK_SIZE, Message, Position};
use crate::rtmp::message::kind;

/// Chunk streams that one connection may use. Encoders use 2 to 5; nginx-rtmp stops at 32 too.
pub const MAX_CHUNK_STREAMS: usize = 32;
/// Bytes of unfinished messages that one connection may have us hold.
pub const MAX_PARTIAL_BYTES: usize = 16 << 20;
/// Smallest chunk size accepted: below it the headers outweigh the payload and our time goes into
/// them. SRS refuses anything under 128.
pub const MIN_CHUNK_SIZE: u32 = 64;
/// Largest chunk size that means anything: no message is longer (RTMP 1.0 section 5.4.1).
pub const MAX_CHUNK_SIZE: u32 = 0xff_ffff;

/// Why a chunk stream was refused: always the peer's fault and final.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkError {
    /// SetChunkSize of 0, over 0x7fffffff, or below [`MIN_CHUNK_SIZE`].
    #[error("chunk size {0} refused")]
    ChunkSize(u32),
    /// SetChunkSize or Abort without its four bytes.
    #[error("control message of type {kind} is too short")]
    ShortControl {
        /// Message type id.
        kind: u8,
    },
    /// A header of type 2 or 3 on a chunk stream that had no other before.
    #[error("chunk header of type {format} begins chunk stream {csid}")]
    NoPreviousHeader {
        /// Header format, 2 or 3.
        format: u8,
        /// Chunk stream id.
        csid: u32,
    },
    /// A header of type 0, or of type 1 with another length or type, before the message was whole.
    #[error("chunk header of type {format} inside a message on chunk stream {csid}")]
    HeaderInsideMessage {
        /// Header format, 0 or 1.
        format: u8,
        /// Chunk stream id.
        csid: u32,
    },
    /// A message longer than its type may be.
    #[error("message of type {kind} with {len} bytes is over the limit of {limit}")]
    MessageTooLong {
        /// Message type id.
        kind: u8,
        /// Announced length, bytes.
        len: usize,
        /// Limit for the type, bytes.
        limit: usize,
    },
    /// More than [`MAX_CHUNK_STREAMS`] chunk streams.
    #[error("more than {MAX_CHUNK_STREAMS} chunk streams")]
    TooManyChunkStreams,
    /// More than [`MAX_PARTIAL_BYTES`] of unfinished messages.
    #[error("more than {MAX_PARTIAL_BYTES} bytes of unfinished messages")]
    TooManyPartialBytes,
}

/// Puts messages together from chunks, fed in pieces of any size: the messages, and where an error
/// strikes, depend on the bytes alone and not on how they were cut.
///
/// Applies SetChunkSize and Abort itself and still returns them.
#[derive(Debug)]
pub struct ChunkReader {
    /// In order of appearance; never removed, so that an index stays good.
    streams: Vec<ChunkStream>,
    chunk_size: u32,
    /// The chunk whose header is read and whose payload is not.
    open: Option<OpenChunk>,
    /// The stream whose body the last message returned was borrowed from.
    lent: Option<usize>,
    /// Sum of the bodies under way.
    partial: usize,
    stash: Stash,
    /// Some message began with another header than one of type 0.
    leans: bool,
}

impl ChunkReader {
    /// A reader at the default chunk size of 128 bytes.
    pub fn new() -> Self {
        Self {
            streams: Vec::new(),
            chunk_size: DEFAULT_CHUNK_SIZE,
            open: None,
            lent: None,
            partial: 0,
            stash: Stash::default(),
            leans: false,
        }
    }

    /// One that goes on at `position`. The rest of a message of which a part was read before is
    /// passed over, but takes effect if it is for the chunk layer.
    pub fn resume(position: &Position) -> Self {
        let used = position.streams.iter().take(MAX_CHUNK_STREAMS);
        let streams: Vec<ChunkStream> = used.map(ChunkStream::resume).collect();
        let index = |csid| streams.iter().position(|stream| stream.csid == csid);
        let open = position.open.and_then(|(csid, left)| {
            let (index, left) = (index(csid)?, left as usize);
            Some(OpenChunk { index, left: left.min(streams[index].missing()) })
        });
        Self {
            chunk_size: position.chunk_size,
            open,
            lent: None,
            partial: streams.iter().map(|stream| stream.body().len()).sum(),
            stash: Stash::of(&position.header),
            leans: false,
            streams,
        }
    }

    /// Where it stands; `None` inside of a message or a header.
    pub fn position(&self) -> Option<Position> {
        (!self.is_mid_message()).then(|| Position {
            chunk_size: self.chunk_size,
            open: None,
            header: Vec::new(),
            streams: self.streams.iter().map(ChunkStream::position).collect(),
        })
    }

    /// Takes bytes from the front of `input` until one message is whole.
    ///
    /// `Ok(None)`: all of `input` was taken and more is needed; what was taken is kept inside, so
    /// the caller may drop its buffer. A message that is one chunk and lies whole in `input` is
    /// borrowed from there, any other from the reader. After an error the connection is to be
    /// closed: what the reader would return then means nothing.
    pub fn read<'a, 'i: 'a>(
        &'a mut self,
        input: &mut &'i [u8],
    ) -> Result<Option<Message<'a>>, ChunkError> {
        if let Some(index) = self.lent.take() {
            self.streams[index].recycle();
        }
        loop {
            let chunk = match self.open.take() {
                Some(chunk) => chunk,
                None => match self.begin_chunk(input)? {
                    Some(chunk) => chunk,
                    None => return Ok(None),
                },
            };
            if let Some(payload) = self.whole_message(chunk, input) {
                self.end_message(chunk.index, first_word(payload))?;
                return Ok(Some(self.streams[chunk.index].message(payload)));
            }
            let left = self.fill(chunk, input)?;
            if left > 0 {
                self.open = Some(OpenChunk { left, ..chunk });
                return Ok(None);
            }
            let stream = &self.streams[chunk.index];
            if stream.missing() == 0 {
                self.partial -= stream.body().len();
                self.lent = Some(chunk.index);
                let passed_over = stream.is_passed_over();
                self.end_message(chunk.index, first_word(stream.body()))?;
                if passed_over {
                    self.lent = None;
                    self.streams[chunk.index].recycle();
                    continue;
                }
                let stream = &self.streams[chunk.index];
                return Ok(Some(stream.message(stream.body())));
            }
        }
    }

    /// Takes one chunk header; `None` if it is not all there.
    fn begin_chunk(&mut self, input: &mut &[u8]) -> Result<Option<OpenChunk>, ChunkError> {
        let joined;
        let bytes = if self.stash.is_empty() {
            *input
        } else {
            joined = self.stash.joined(input);
            joined.as_slice()
        };
        let Some((header, repeated)) = self.parse_header(bytes)? else {
            // Only fewer than MAX_HEADER bytes leave a header open, so these are all there are.
            self.stash = Stash::of(bytes);
            *input = &[];
            return Ok(None);
        };
        let size = header.size + if repeated.is_some() { 4 } else { 0 };
        let from_input = size.saturating_sub(self.stash.len);
        self.stash.skip(size - from_input);
        *input = input.get(from_input..).unwrap_or_default();

        let index = self.stream(header)?;
        let stream = &mut self.streams[index];
        self.leans |= !stream.is_mid_message() && header.fields.format() != 0;
        stream.take_header(header.fields, repeated)?;
        // RTMP 1.0 section 5.4.1: one chunk size for all chunk streams, from the next header on,
        // also for messages under way.
        let left = stream.missing().min(self.chunk_size as usize);
        Ok(Some(OpenChunk { index, left }))
    }

    /// The header at the front of `bytes`, and the extended timestamp repeated behind one of
    /// type 3.
    fn parse_header(&self, bytes: &[u8]) -> Result<Option<(Header, Option<u32>)>, ChunkError> {
        let Some(header) = Header::parse(bytes) else {
            return Ok(None);
        };
        if header.fields != Fields::Type3 {
            return Ok(Some((header, None)));
        }
        let Some(stream) = self.streams.iter().find(|s| s.csid == header.csid) else {
            return Err(ChunkError::NoPreviousHeader { format: 3, csid: header.csid });
        };
        Ok(match stream.look_ahead(bytes.get(header.size..).unwrap_or_default()) {
            LookAhead::Present(value) => Some((header, Some(value))),
            LookAhead::Absent => Some((header, None)),
            LookAhead::Undecided => None,
        })
    }

    /// The index of the header's chunk stream, made if new.
    fn stream(&mut self, header: Header) -> Result<usize, ChunkError> {
        if let Some(index) = self.streams.iter().position(|s| s.csid == header.csid) {
            return Ok(index);
        }
        let format = header.fields.format();
        if format > 1 {
            return Err(ChunkError::NoPreviousHeader { format, csid: header.csid });
        }
        if self.streams.len() == MAX_CHUNK_STREAMS {
            return Err(ChunkError::TooManyChunkStreams);
        }
        self.streams.push(ChunkStream::new(header.csid));
        Ok(self.streams.len() - 1)
    }

    /// The message of `chunk`, if it is all of the message and lies in `input`.
    fn whole_message<'a>(&self, chunk: OpenChunk, input: &mut &'a [u8]) -> Option<&'a [u8]> {
        let stream = &self.streams[chunk.index];
        if !stream.body().is_empty() || stream.missing() != chunk.left || !self.stash.is_empty() {
            return None;
        }
        let (payload, rest) = input.split_at_checked(chunk.left)?;
        *input = rest;
        Some(payload)
    }

    /// Copies what there is of the chunk's payload; returns how many bytes are still to come.
    fn fill(&mut self, chunk: OpenChunk, input: &mut &[u8]) -> Result<usize, ChunkError> {
        let stash = self.stash;
        let (stashed, _) = stash.as_slice().split_at(chunk.left.min(stash.len));
        let (payload, rest) = input.split_at((chunk.left - stashed.len()).min(input.len()));
        let taken = stashed.len() + payload.len();
        if self.partial + taken > MAX_PARTIAL_BYTES {
            return Err(ChunkError::TooManyPartialBytes);
        }
        let stream = &mut self.streams[chunk.index];
        if !stashed.is_empty() {
            stream.append(stashed);
            self.stash.skip(stashed.len());
        }
        stream.append(payload);
        *input = rest;
        self.partial += taken;
        Ok(chunk.left - taken)
    }

    /// Ends the message on a stream and does what it asks of the chunk layer; `word` is the first
    /// four bytes of its body.
    fn end_message(&mut self, index: usize, word: Option<u32>) -> Result<(), ChunkError> {
        let stream = &mut self.streams[index];
        stream.end_message();
        match (stream.kind(), word) {
            (kind::SET_CHUNK_SIZE, Some(size @ MIN_CHUNK_SIZE..=0x7fff_ffff)) => {
                self.chunk_size = size.min(MAX_CHUNK_SIZE);
            }
            (kind::SET_CHUNK_SIZE, Some(size)) => return Err(ChunkError::ChunkSize(size)),
            (kind::ABORT, Some(csid)) => self.abort(csid),
            (kind @ (kind::SET_CHUNK_SIZE | kind::ABORT), None) => {
                return Err(ChunkError::ShortControl { kind });
            }
            _ => {}
        }
        Ok(())
    }

    /// Drops the unfinished message on `csid`, if there is one; its headers stay in force (RTMP 1.0
    /// section 5.4.2).
    fn abort(&mut self, csid: u32) {
        let stream = self.streams.iter_mut().find(|s| s.csid == csid && s.is_mid_message());
        if let Some(stream) = stream {
            self.partial -= stream.body().len();
            stream.end_message();
            stream.recycle();
        }
    }

    /// Whether any message has begun with a header that leans on the one before. Who writes several
    /// messages of the same kind without does not.
    pub fn leans(&self) -> bool {
        self.leans
    }

    /// Chunk size in force for what is read, bytes.
    pub fn chunk_size(&self) -> u32 {
        self.chunk_size
    }

    /// Bytes of unfinished messages held.
    pub fn partial_bytes(&self) -> usize {
        self.partial
    }

    /// Whether a message (or a header) has begun and is not whole.
    pub fn is_mid_message(&self) -> bool {
        !self.stash.is_empty() || self.streams.iter().any(ChunkStream::is_mid_message)
    }
}

impl Default for ChunkReader {
    fn default() -> Self {
        Self::new()
    }
}

/// The first four bytes of a body.
fn first_word(body: &[u8]) -> Option<u32> {
    body.first_chunk().map(|&word| u32::from_be_bytes(word))
}

/// A chunk whose header is read.
#[derive(Clone, Copy, Debug)]
struct OpenChunk {
    /// Of its stream in [`ChunkReader::streams`].
    index: usize,
    /// Payload bytes of this chunk to come.
    left: usize,
}

/// Bytes taken from the input before they could be used: the start of a header, or up to 3 bytes
/// looked at behind a type 3 header that turned out to be payload.
#[derive(Clone, Copy, Debug, Default)]
struct Stash {
    bytes: [u8; MAX_HEADER],
    /// 0 <= len <= MAX_HEADER.
    len: usize,
}

impl Stash {
    /// The first [`MAX_HEADER`] of `bytes`.
    fn of(bytes: &[u8]) -> Self {
        Self::default().joined(bytes)
    }

    /// This and then as much of `more` as has room.
    fn joined(mut self, more: &[u8]) -> Self {
        for (to, &byte) in self.bytes.iter_mut().skip(self.len).zip(more) {
            *to = byte;
        }
        self.len = MAX_HEADER.min(self.len + more.len());
        self
    }

    /// Drops the first `n` bytes.
    fn skip(&mut self, n: usize) {
        if n > 0 {
            *self = Self::of(self.as_slice().get(n..).unwrap_or_default());
        }
    }

    fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests;
