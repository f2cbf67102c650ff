//! The client's side of a connection: publish to a server, or play from one.
use std::time::Instant;

use super::SessionError;
use crate::rtmp::Timestamp;
use crate::rtmp::message::{MediaKind, MediaMessage};

/// What the connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// FMLE-style: releaseStream, FCPublish, createStream, publish "live".
    Publish,
    /// createStream, play, SetBufferLength.
    Play,
}

/// What a client session needs to know.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// What it is for.
    pub goal: Goal,
    /// tcUrl to send.
    pub tc_url: String,
    /// App to send.
    pub app: String,
    /// Stream name with its parameters.
    pub stream: String,
    /// Chunk size we send with, bytes.
    pub chunk_size: u32,
    /// Send a C1 with a digest.
    pub digest: bool,
    /// Loop guard: our instance id and the hop count, put into the command object as
    /// `forwarder: {id, hops}`; none for servers that are not ours to tell.
    pub forwarder: Option<(String, u32)>,
    /// How long handshake and commands may take in all.
    pub deadline: std::time::Duration,
}

/// What happened.
#[derive(Debug, PartialEq)]
#[non_exhaustive]
pub enum ClientEvent<'a> {
    /// A message was dealt with inside; call `read` again.
    Progress,
    /// The server said Publish.Start on our msid: media may follow.
    Publishing(u32),
    /// The server said Play.Start (or sent media).
    Playing(u32),
    /// Media of the stream we play.
    Media(MediaMessage<'a>),
    /// The stream is over: Play.UnpublishNotify, Play.Stop, Unpublish.Success, StreamEOF.
    Finished,
    /// The server acknowledged so many bytes (modulo 2^32) of ours.
    Acknowledged(u32),
    /// Any other status: code.
    Status(String),
}

/// A connection's client side.
#[derive(Debug)]
pub struct ClientSession {}

impl ClientSession {
    /// `random`: at least 1,528 random bytes. C0 and C1 are in the output at once.
    pub fn new(_config: ClientConfig, _random: Box<[u8]>, _now: Instant) -> Self {
        todo!()
    }
    /// As [`super::ServerSession::read`]. Refusals are errors.
    pub fn read<'a>(
        &'a mut self,
        _now: Instant,
        _input: &mut &'a [u8],
    ) -> Result<Option<ClientEvent<'a>>, SessionError> {
        todo!()
    }
    /// Bytes to send, in order; empties the buffer.
    pub fn take_output(&mut self) -> Vec<u8> {
        todo!()
    }
    /// Whether `take_output` would give something.
    pub fn has_output(&self) -> bool {
        todo!()
    }
    /// Queues a media message on our msid (Publishing only).
    pub fn send_media(&mut self, _kind: MediaKind, _timestamp: Timestamp, _payload: &[u8]) {
        todo!()
    }
    /// Queues the polite end of a publish: FCUnpublish and deleteStream; of a play: deleteStream.
    pub fn finish(&mut self) {
        todo!()
    }
    /// When `handle_timeout` is to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        todo!()
    }
    /// Checks the deadlines that are due.
    pub fn handle_timeout(&mut self, _now: Instant) -> Result<(), SessionError> {
        todo!()
    }
    /// Bytes received, handshake included.
    pub fn bytes_received(&self) -> u64 {
        todo!()
    }
}
