//! How the messages of a log are written.

use crate::rtmp::chunk::{self, Message};
use crate::rtmp::flv;
use crate::rtmp::message::MediaKind;

/// What a log is made of. Either way a message is contiguous, any border of messages is a place to
/// start at, and all readers get the same bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// RTMP chunks.
    #[default]
    Chunks,
    /// FLV tags, for readers over HTTP.
    Tags {
        /// Audio is in it.
        audio: bool,
        /// Video is in it.
        video: bool,
    },
}

impl Form {
    /// Whether messages of this kind are in it.
    pub fn has(self, kind: MediaKind) -> bool {
        match (self, kind) {
            (Self::Tags { audio, .. }, MediaKind::Audio) => audio,
            (Self::Tags { video, .. }, MediaKind::Video) => video,
            _ => true,
        }
    }

    /// Writes `message` piece by piece to `put`.
    pub(super) fn encode(
        self,
        message: &Message<'_>,
        chunk_size: u32,
        put: &mut impl FnMut(&[u8]),
    ) {
        match self {
            Self::Chunks => chunk::encode(message, chunk_size, put),
            Self::Tags { .. } => {
                flv::encode_tag(message.kind, message.timestamp, message.payload, put);
            }
        }
    }

    /// How many bytes [`Self::encode`] makes of it.
    pub(super) fn encoded_len(self, message: &Message<'_>, chunk_size: u32) -> usize {
        match self {
            Self::Chunks => {
                chunk::encoded_len(message.payload.len(), message.timestamp, chunk_size)
            }
            Self::Tags { .. } => flv::encoded_tag_len(message.payload.len()),
        }
    }
}
