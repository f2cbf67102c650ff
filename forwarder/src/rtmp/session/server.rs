//! The server's side of a connection.
use std::time::Instant;

use super::SessionError;
use crate::rtmp::amf0::Value;
use crate::rtmp::message::MediaMessage;

/// What a server session needs to know.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Chunk size we send with, 128..=65536 bytes.
    pub chunk_size: u32,
    /// WindowAckSize and SetPeerBandwidth announced, bytes.
    pub out_ack_size: u32,
    /// Send an acknowledgement each so many bytes; 0: as the peer asks.
    pub in_ack_size: u32,
}

/// What `connect` carried.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectRequest {
    /// App as sent.
    pub app: String,
    /// tcUrl as sent.
    pub tc_url: String,
    /// Page that holds the player; may be empty.
    pub page_url: String,
    /// SWF's URL; may be empty.
    pub swf_url: String,
    /// Client's name of itself; may be empty.
    pub flash_ver: String,
    /// `fourCcList` or the info maps were there: Enhanced RTMP.
    pub enhanced: bool,
    /// The second argument object, if any (forwarding servers put their ids there).
    pub args: Option<Value>,
    /// The command object's own key `forwarder` (id and hop count), see [`super::ClientConfig`].
    pub forwarder: Option<(String, u32)>,
}

/// What `publish` carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishRequest {
    /// Message stream it is for.
    pub msid: u32,
    /// Stream name as sent, with parameters.
    pub stream: String,
}

/// What `play` carried.
#[derive(Clone, Debug, PartialEq)]
pub struct PlayRequest {
    /// Message stream it is for.
    pub msid: u32,
    /// Stream name as sent, with parameters.
    pub stream: String,
    /// Whether Play.Reset is to be sent.
    pub reset: bool,
}

/// What happened.
#[derive(Debug, PartialEq)]
#[non_exhaustive]
pub enum ServerEvent<'a> {
    /// A message was dealt with inside; call `read` again.
    Progress,
    /// `connect`: answer with `accept_connect` or `reject_connect`.
    Connect(ConnectRequest),
    /// `publish`: answer with `accept_publish` or `reject`.
    Publish(PublishRequest),
    /// `play`: answer with `accept_play` or `reject`.
    Play(PlayRequest),
    /// Audio, video or data of a stream that is being published.
    Media(MediaMessage<'a>),
    /// The publish on this msid ended (FCUnpublish, closeStream, deleteStream); replies are queued.
    Unpublish(u32),
    /// The play on this msid ended (closeStream, deleteStream).
    StopPlay(u32),
    /// `pause`: true stops, false goes on; replies are queued.
    Pause(u32, bool),
    /// `receiveAudio`.
    ReceiveAudio(u32, bool),
    /// `receiveVideo`.
    ReceiveVideo(u32, bool),
}

/// A connection's server side: handshake, commands, media in.
#[derive(Debug)]
pub struct ServerSession {}

impl ServerSession {
    /// `random`: at least 1,528 random bytes for the handshake.
    pub fn new(_config: ServerConfig, _random: Box<[u8]>, _now: Instant) -> Self {
        todo!()
    }
    /// Takes bytes from the front of `input`; `None` when all were taken.
    pub fn read<'a>(
        &'a mut self,
        _now: Instant,
        _input: &mut &'a [u8],
    ) -> Result<Option<ServerEvent<'a>>, SessionError> {
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
    /// Answers `connect`.
    pub fn accept_connect(&mut self) {
        todo!()
    }
    /// Refuses `connect`: `_error` with `NetConnection.Connect.Rejected`; then close.
    pub fn reject_connect(&mut self, _description: &str) {
        todo!()
    }
    /// Answers `publish` with onFCPublish and Publish.Start.
    pub fn accept_publish(&mut self, _msid: u32, _now: Instant) {
        todo!()
    }
    /// Answers `play`: StreamBegin, Play.Reset if asked, Play.Start, |RtmpSampleAccess.
    pub fn accept_play(&mut self, _request: &PlayRequest, _now: Instant) {
        todo!()
    }
    /// Refuses `publish` or `play` with an onStatus error such as `NetStream.Publish.BadName`.
    pub fn reject(&mut self, _msid: u32, _code: &str, _description: &str) {
        todo!()
    }
    /// Tells a player that the stream is over: StreamEOF and Play.UnpublishNotify.
    pub fn finish_play(&mut self, _msid: u32) {
        todo!()
    }
    /// Queues a PingRequest carrying `stamp`.
    pub fn ping(&mut self, _stamp: u32) {
        todo!()
    }
    /// When `handle_timeout` is to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        todo!()
    }
    /// Checks the deadlines of section 6 that are due.
    pub fn handle_timeout(&mut self, _now: Instant) -> Result<(), SessionError> {
        todo!()
    }
    /// Bytes received, handshake included.
    pub fn bytes_received(&self) -> u64 {
        todo!()
    }
}
