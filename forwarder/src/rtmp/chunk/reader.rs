//! Chunks to messages.
use super::Message;

/// Why a chunk stream was refused: always the peer's fault and final.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkError {
    /// SetChunkSize of 0, over 0x7fffffff, or below 64.
    #[error("chunk size {0} refused")]
    ChunkSize(u32),
    // ... one variant per reason, with the values inside
}

/// Puts messages together from chunks, fed in pieces of any size.
///
/// Applies SetChunkSize and Abort itself and still returns them.
#[derive(Debug)]
pub struct ChunkReader {}

impl ChunkReader {
    /// A reader at the default chunk size of 128 bytes.
    pub fn new() -> Self {
        todo!()
    }
    /// Takes bytes from the front of `input` until one message is whole.
    ///
    /// `Ok(None)`: all of `input` was taken and more is needed; what was taken is kept inside, so
    /// the caller may drop its buffer. A message that lies in `input` in one piece is borrowed from
    /// there, any other from the reader.
    pub fn read<'a>(
        &'a mut self,
        _input: &mut &'a [u8],
    ) -> Result<Option<Message<'a>>, ChunkError> {
        todo!()
    }
    /// Chunk size in force for what is read, bytes.
    pub fn chunk_size(&self) -> u32 {
        todo!()
    }
    /// Bytes of unfinished messages held.
    pub fn partial_bytes(&self) -> usize {
        todo!()
    }
    /// Whether a message (or a header) has begun and is not whole.
    pub fn is_mid_message(&self) -> bool {
        todo!()
    }
}
impl Default for ChunkReader {
    fn default() -> Self {
        Self::new()
    }
}
