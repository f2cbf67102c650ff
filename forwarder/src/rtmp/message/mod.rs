//! Messages: their type ids, control messages and commands.

mod command;
mod control;
mod media;

pub use command::Command;
pub use control::{Control, UserControl};
pub use media::{Aggregate, MAX_AGGREGATED, data_name, data_payload};

/// Message type ids (RTMP 1.0 sections 5.4, 7.1).
#[expect(missing_docs, reason = "the names are the specification's")]
pub mod kind {
    pub const SET_CHUNK_SIZE: u8 = 1;
    pub const ABORT: u8 = 2;
    pub const ACKNOWLEDGEMENT: u8 = 3;
    pub const USER_CONTROL: u8 = 4;
    pub const WINDOW_ACK_SIZE: u8 = 5;
    pub const SET_PEER_BANDWIDTH: u8 = 6;
    pub const AUDIO: u8 = 8;
    pub const VIDEO: u8 = 9;
    pub const DATA_AMF3: u8 = 15;
    pub const COMMAND_AMF3: u8 = 17;
    pub const DATA_AMF0: u8 = 18;
    pub const COMMAND_AMF0: u8 = 20;
    pub const AGGREGATE: u8 = 22;
}

/// Chunk streams we send on. One per kind, so that every receiver of a stream gets the same bytes.
#[expect(missing_docs, reason = "the names say it")]
pub mod csid {
    pub const CONTROL: u32 = 2;
    pub const COMMAND: u32 = 3;
    pub const AUDIO: u32 = 4;
    /// Statuses and data messages.
    pub const STREAM: u32 = 5;
    pub const VIDEO: u32 = 6;
}

/// What a media message carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MediaKind {
    /// Type 8.
    Audio,
    /// Type 9.
    Video,
    /// Type 18: AMF0 data; `@setDataFrame` already removed, first value a string.
    Data,
}

impl MediaKind {
    /// The message type id, see [`kind`].
    pub fn type_id(self) -> u8 {
        match self {
            Self::Audio => kind::AUDIO,
            Self::Video => kind::VIDEO,
            Self::Data => kind::DATA_AMF0,
        }
    }

    /// The chunk stream it travels on, see [`csid`].
    pub fn csid(self) -> u32 {
        match self {
            Self::Audio => csid::AUDIO,
            Self::Video => csid::VIDEO,
            Self::Data => csid::STREAM,
        }
    }
}

/// One audio, video or data message of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediaMessage<'a> {
    /// What it carries.
    pub kind: MediaKind,
    /// The publisher's absolute time, milliseconds modulo 2^32; never rebased.
    pub timestamp: super::Timestamp,
    /// The message stream it came on.
    pub msid: u32,
    /// FLV tag body.
    pub payload: &'a [u8],
}
