//! Messages to chunks: format 0 for each message, contiguous, so any message boundary is a start.
use super::Message;

/// Appends `message`, cut into chunks of `chunk_size` bytes, piece by piece to `put`.
///
/// Format 0 header; format 3 continuations; the extended timestamp, when there is one, is repeated
/// in each continuation as FFmpeg, librtmp and SRS do. csid must be 2..=63.
pub fn encode(_message: &Message<'_>, _chunk_size: u32, _put: &mut impl FnMut(&[u8])) {
    todo!()
}

/// How many bytes [`encode`] makes of a payload of `len` bytes.
pub fn encoded_len(_len: usize, _timestamp: super::super::Timestamp, _chunk_size: u32) -> usize {
    todo!()
}
