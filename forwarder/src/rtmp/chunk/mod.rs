//! The chunk layer (RTMP 1.0 section 5.3): messages cut into chunks and put together again.

mod header;
mod position;
mod reader;
mod stream;
mod writer;

pub use position::{Position, StreamPosition};
pub use reader::{
    ChunkError, ChunkReader, MAX_CHUNK_SIZE, MAX_CHUNK_STREAMS, MAX_PARTIAL_BYTES, MIN_CHUNK_SIZE,
};
pub use writer::{encode, encoded_len};

use super::Timestamp;
use super::message::kind;

/// Chunk size in force until a SetChunkSize (RTMP 1.0 section 5.4.1).
pub const DEFAULT_CHUNK_SIZE: u32 = 128;

/// The largest value of a 24-bit time field: says that an extended timestamp follows (RTMP 1.0
/// section 5.3.1.3).
const EXTENDED: u32 = 0xff_ffff;

/// A whole message, its payload borrowed from the input or from the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Chunk stream it came on, 2..=65599.
    pub csid: u32,
    /// Absolute time, milliseconds modulo 2^32.
    pub timestamp: Timestamp,
    /// Message type id, see [`crate::rtmp::message::kind`].
    pub kind: u8,
    /// Message stream id.
    pub msid: u32,
    /// The body.
    pub payload: &'a [u8],
}

impl Message<'_> {
    /// Whether it is of a type that carries commands.
    pub fn is_command(&self) -> bool {
        matches!(self.kind, kind::COMMAND_AMF0 | kind::COMMAND_AMF3)
    }
}
