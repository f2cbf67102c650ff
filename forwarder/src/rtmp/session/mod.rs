//! Sessions: what an RTMP connection says after the handshake, as state machines.
//!
//! Both sessions are driven the same way: feed bytes with `read` until it returns `None`, doing
//! what each event asks before the next `read`; then send what `take_output` gives; and call
//! `handle_timeout` when `poll_timeout` says so.

mod client;
mod held;
mod link;
mod rate;
mod server;
mod status;
#[cfg(test)]
mod tests;

pub use client::{ClientConfig, ClientEvent, ClientSession, Goal, refusal};
pub use held::media;
pub use server::{
    ConnectRequest, PlayRequest, PublishRequest, ServerConfig, ServerEvent, ServerSession,
    Transcript,
};
pub use status::{RECONNECT_REQUEST, reconnect_request};

use super::{
    amf0::{Amf0Error, Value},
    chunk::ChunkError,
    handshake::HandshakeError,
};

/// Why a session ended. Final; the connection is to be closed after what was put out is sent.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The handshake failed.
    #[error("handshake: {0}")]
    Handshake(#[from] HandshakeError),
    /// The chunk stream is broken.
    #[error("chunk stream: {0}")]
    Chunk(#[from] ChunkError),
    /// A command could not be read.
    #[error("command: {0}")]
    Amf0(#[from] Amf0Error),
    /// The peer did what its state does not allow.
    #[error("protocol: {0}")]
    Protocol(String),
    /// The peer went over a limit.
    #[error("limit: {0}")]
    Limit(String),
    /// A deadline passed.
    #[error("timeout: {0}")]
    Timeout(&'static str),
    /// We refused the peer (server role) and told it so; nothing is broken.
    #[error("rejected: {0}")]
    Rejected(String),
    /// The peer refused us (client role): code and description.
    #[error("refused: {code}: {description}")]
    Refused {
        /// Status code, such as `NetStream.Publish.BadName`.
        code: String,
        /// The peer's words.
        description: String,
    },
}

/// A number as a whole number of 32 bits, if it is one.
fn whole(value: &Value) -> Option<u32> {
    let number = value.as_number()?;
    // every u32 is exact in an f64
    let whole = number as u32;
    (f64::from(whole) == number).then_some(whole)
}
