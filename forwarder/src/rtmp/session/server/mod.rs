//! The server's side of a connection.

mod carried;
mod command;
mod event;
mod relayed;
mod streams;
mod transcript;

use std::time::{Duration, Instant};

pub use event::{ConnectRequest, PlayRequest, PublishRequest, ServerEvent};
pub use transcript::Transcript;

use self::streams::{State, Streams};
use super::held::Held;
use super::link::Link;
use super::{SessionError, status};
use crate::rtmp::Timestamp;
use crate::rtmp::amf0::{self, Value};
use crate::rtmp::chunk::{ChunkReader, StreamPosition};
use crate::rtmp::handshake::ServerHandshake;
use crate::rtmp::message::{Control, UserControl, csid, kind};

use super::rate::Rate;

/// How long a peer may take to send its first byte.
const FIRST_BYTE_DEADLINE: Duration = Duration::from_secs(5);
/// How long the whole handshake may take.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// How long `connect` may take after the handshake.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// How long a connection may be without a publish or a play.
const IDLE_DEADLINE: Duration = Duration::from_secs(20);
/// How long a peer may stay after it was rejected: librtmp ignores `NetStream.Publish.BadName`.
const REJECTED_DEADLINE: Duration = Duration::from_secs(2);
/// Media messages on streams that are not published before the connection ends.
const MAX_STRAY_MEDIA: u32 = 1000;
/// The limit type of SetPeerBandwidth: dynamic, as SRS and nginx-rtmp say.
const LIMIT_DYNAMIC: u8 = 2;

/// What a server session needs to know.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Chunk size we send with, 128..=65536 bytes.
    pub chunk_size: u32,
    /// WindowAckSize and SetPeerBandwidth announced, bytes.
    pub out_ack_size: u32,
    /// Window of which each half is acknowledged, bytes; 0: as the peer asks.
    pub in_ack_size: u32,
}

/// A connection's server side: handshake, commands, media in.
#[derive(Debug)]
pub struct ServerSession {
    /// Gone when done.
    handshake: Option<Box<ServerHandshake>>,
    reader: ChunkReader,
    /// What is left of an aggregate.
    held: Option<Box<Held>>,
    /// What the client has said, as long as somebody may want to say it again.
    transcript: Option<Box<Transcript>>,
    core: Core,
}

impl ServerSession {
    /// `random`: at least 1,528 random bytes for the handshake.
    pub fn new(config: ServerConfig, random: Box<[u8]>, now: Instant) -> Self {
        Self {
            // the time field of S1: from zero at the start of the connection
            handshake: Some(Box::new(ServerHandshake::new(random, 0))),
            reader: ChunkReader::new(),
            held: None,
            transcript: Some(Box::default()),
            core: Core {
                link: Link::new(config.in_ack_size, now),
                config,
                phase: Phase::Handshake { started: now },
                deadline: Some((now + FIRST_BYTE_DEADLINE, Deadline::FirstByte)),
                streams: Streams::default(),
                commands: Rate::new(now),
                stray_media: 0,
                said_fc_publish: false,
                last_media: None,
                relayed: None,
                now,
            },
        }
    }

    /// Takes bytes from the front of `input`; `None` when all were taken.
    ///
    /// An event that asks for an answer is to be answered before the next `read`. On an error,
    /// what `take_output` gives is still to be sent, then the connection closed.
    pub fn read<'a, 'i: 'a>(
        &'a mut self,
        now: Instant,
        input: &mut &'i [u8],
    ) -> Result<Option<ServerEvent<'a>>, SessionError> {
        self.core.now = now;
        if self.handshake.is_some() && !self.shake(now, input)? {
            return Ok(None);
        }
        if self.held.as_ref().is_some_and(|held| held.is_empty()) {
            self.held = None;
        }
        if let Some(ref mut held) = self.held {
            return held.next().map(|message| self.core.receive_media(message)).transpose();
        }
        if !self.reader.is_mid_message() {
            self.core.link.begin_message(now);
        }
        let before = input.len();
        let chunk_size = self.reader.chunk_size();
        let message = self.reader.read(input)?;
        self.core.link.count_received(now, before - input.len());
        let Some(message) = message else {
            return Ok(None);
        };
        self.core.link.begin_message(now);
        let is_connect = matches!(self.core.phase, Phase::Shaken) && message.is_command();
        if let Some(transcript) = &mut self.transcript
            && !is_connect
            && !transcript.add(&message, chunk_size)
        {
            self.transcript = None;
        }
        if message.kind == kind::AGGREGATE && self.core.streams.is_publishing(message.msid) {
            self.held = Some(Box::new(Held::split(&message)));
            return Ok(Some(ServerEvent::Progress));
        }
        self.core.receive(message).map(Some)
    }

    /// Takes the handshake's bytes; true when it is done.
    fn shake(&mut self, now: Instant, input: &mut &[u8]) -> Result<bool, SessionError> {
        let Some(handshake) = &mut self.handshake else {
            return Ok(true);
        };
        let before = input.len();
        let done = handshake.read(input, &mut self.core.link.out)?;
        self.core.link.count_received(now, before - input.len());
        if done {
            self.handshake = None;
        }
        self.core.note_handshake(done);
        Ok(done)
    }

    /// Bytes to send, in order; empties the buffer.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.core.link.out)
    }

    /// Answers `connect`.
    ///
    /// SetChunkSize goes before the `_result` and never again: OBS does not read while it
    /// streams, and FFmpeg takes over the size it is told.
    pub fn accept_connect(&mut self) {
        let core = &mut self.core;
        let Phase::Deciding(asked) = core.phase else {
            debug_assert!(false, "no connect to answer");
            return;
        };
        core.phase = Phase::Connected;
        core.link.send(&Control::WindowAckSize(core.config.out_ack_size));
        core.link.send(&Control::SetPeerBandwidth(core.config.out_ack_size, LIMIT_DYNAMIC));
        core.link.set_chunk_size(core.config.chunk_size);
        let result = status::connect_result(asked.object_encoding, asked.enhanced);
        core.reply("_result", asked.transaction, result);
        core.watch_idle();
    }

    /// From now on another server speaks to this player: what the player says is no longer
    /// answered, but kept for that server ([`Self::take_relayed`]).
    pub fn begin_relay(&mut self, msid: u32) {
        self.transcript = None;
        if let Some(stream) = self.core.streams.get_mut(msid) {
            stream.state = State::Playing;
        }
        self.core.relayed = Some(Vec::new());
        self.core.watch_idle();
    }

    /// What the player said to the other server, in chunks of 128 bytes; empties the buffer.
    pub fn take_relayed(&mut self) -> Vec<u8> {
        self.core.relayed.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The other server speaks no more, and has left the player reading with this chunk size, and
    /// with this knowledge of each chunk stream.
    pub fn end_relay(&mut self, chunk_size: u32, spoken: Vec<StreamPosition>) {
        self.core.relayed = None;
        self.core.link.assume(chunk_size, spoken);
        self.core.config.chunk_size = chunk_size;
    }

    /// What the client's reader knows of each chunk stream that the session used. Media that others
    /// sent is not considered.
    pub fn spoken(&self) -> &[StreamPosition] {
        self.core.link.spoken()
    }

    /// Chunk size of what is sent, bytes.
    pub fn sent_chunk_size(&self) -> u32 {
        self.core.config.chunk_size
    }

    /// Changes what is announced with the answer to `connect`, which must not be given yet.
    pub fn configure(&mut self, config: ServerConfig) {
        self.core.link.set_in_ack_size(config.in_ack_size);
        self.core.config = config;
    }

    /// Sets the chunk size of a player whose stream has another one than was announced.
    pub fn set_chunk_size(&mut self, size: u32) {
        let core = &mut self.core;
        if core.config.chunk_size != size {
            core.link.set_chunk_size(size);
            core.config.chunk_size = size;
        }
    }

    /// Refuses `connect`: `_error` with `NetConnection.Connect.Rejected`; then close.
    ///
    /// If the caller does not, `handle_timeout` ends the session two seconds later.
    pub fn reject_connect(&mut self, description: &str) {
        if let Phase::Deciding(asked) = &self.core.phase {
            let transaction = asked.transaction;
            self.core.refuse_connect(transaction, description);
        }
    }

    /// Answers `publish` with onFCPublish (if there was an FCPublish) and Publish.Start.
    pub fn accept_publish(&mut self, msid: u32, now: Instant) {
        self.transcript = None;
        let core = &mut self.core;
        core.now = now;
        let Some(stream) = core.streams.get_mut(msid) else {
            return;
        };
        let State::AskedPublish(name) = &mut stream.state else {
            debug_assert!(false, "no publish to answer");
            return;
        };
        let name = std::mem::take(name);
        let details = name.to_string();
        stream.state = State::Publishing(name);
        core.last_media = Some(now);
        let (code, text) = ("NetStream.Publish.Start", "Started publishing stream.");
        if core.said_fc_publish {
            core.notify(msid, "onFCPublish", status::status(code, text));
        }
        core.notify(msid, "onStatus", status::stream_status(code, text, &details));
        core.watch_idle();
    }

    /// Answers `play`: StreamBegin, Play.Reset if asked, Play.Start, |RtmpSampleAccess.
    ///
    /// Media may follow, after these and on the same msid.
    pub fn accept_play(&mut self, request: &PlayRequest, now: Instant) {
        self.transcript = None;
        let core = &mut self.core;
        core.now = now;
        let PlayRequest { msid, ref stream, reset } = *request;
        let Some(entry) = core.streams.get_mut(msid) else {
            return;
        };
        entry.state = State::Playing;
        core.link.send(&Control::User(UserControl::StreamBegin(msid)));
        if reset {
            let (code, text) = ("NetStream.Play.Reset", "Playing and resetting stream.");
            core.notify(msid, "onStatus", status::stream_status(code, text, stream));
        }
        let (code, text) = ("NetStream.Play.Start", "Started playing stream.");
        core.notify(msid, "onStatus", status::stream_status(code, text, stream));
        let mut access = Vec::new();
        amf0::write(&Value::string("|RtmpSampleAccess"), &mut access);
        amf0::write(&Value::Boolean(true), &mut access);
        amf0::write(&Value::Boolean(true), &mut access);
        core.link.send_message((csid::STREAM, msid), kind::DATA_AMF0, Timestamp(0), &access);
        core.watch_idle();
    }

    /// Refuses `publish` or `play` with an onStatus error such as `NetStream.Publish.BadName`.
    ///
    /// Unless another of its message streams is in use, the connection is to be closed; if the
    /// caller does not, `handle_timeout` ends the session two seconds later.
    pub fn reject(&mut self, msid: u32, code: &str, description: &str) {
        self.transcript = None;
        if let Some(stream) = self.core.streams.get_mut(msid) {
            stream.state = State::Idle;
        }
        self.core.notify(msid, "onStatus", status::error(code, description));
        if !self.core.streams.any_in_use() {
            self.core.close_soon();
        }
    }

    /// Tells a player that the stream is over: StreamEOF and Play.UnpublishNotify.
    pub fn finish_play(&mut self, msid: u32) {
        if let Some(stream) = self.core.streams.get_mut(msid) {
            stream.state = State::Idle;
        }
        self.core.link.send(&Control::User(UserControl::StreamEof(msid)));
        let (code, text) = ("NetStream.Play.UnpublishNotify", "Stream is now unpublished.");
        self.core.notify(msid, "onStatus", status::status(code, text));
        self.core.watch_idle();
    }

    /// Queues a [`reconnect_request`](status::reconnect_request).
    pub fn request_reconnect(&mut self, tc_url: Option<&str>) {
        let request = status::reconnect_request(tc_url);
        self.core.link.send_command((csid::COMMAND, 0), &request.name, 0.0, request.args);
    }

    /// Queues a PingRequest carrying `stamp`; players only: OBS and librtmp publishers do not
    /// answer.
    pub fn ping(&mut self, stamp: u32) {
        self.core.link.send(&Control::User(UserControl::PingRequest(stamp)));
    }

    /// Checks the deadlines that are due.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), SessionError> {
        self.core.now = now;
        if self.reader.is_mid_message() && now >= self.core.link.message_deadline() {
            return Err(SessionError::Timeout("a message begun was not finished"));
        }
        match self.core.deadline {
            Some((at, deadline)) if now >= at => Err(deadline.error()),
            _ => Ok(()),
        }
    }

    /// When `handle_timeout` is to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let message = self.reader.is_mid_message().then(|| self.core.link.message_deadline());
        let phase = self.core.deadline.map(|(at, _)| at);
        message.into_iter().chain(phase).min()
    }

    /// Whether `take_output` would give something.
    pub fn has_output(&self) -> bool {
        !self.core.link.out.is_empty()
    }

    /// When the last media message came, or the publish began; for the caller's own limit on
    /// silent publishers.
    pub fn last_media(&self) -> Option<Instant> {
        self.core.last_media
    }

    /// Bytes received, handshake included.
    pub fn bytes_received(&self) -> u64 {
        self.core.link.received()
    }
}

/// Everything but the reader, so that a message borrowed from there can be dealt with.
#[derive(Debug)]
struct Core {
    link: Link,
    config: ServerConfig,
    phase: Phase,
    deadline: Option<(Instant, Deadline)>,
    streams: Streams,
    commands: Rate,
    stray_media: u32,
    /// FCPublish came: the encoder is of FMLE's kind and may wait for onFCPublish.
    said_fc_publish: bool,
    last_media: Option<Instant>,
    /// What the peer says to another server, if it is served by that.
    relayed: Option<Vec<u8>>,
    /// The latest time told.
    now: Instant,
}

#[derive(Debug)]
enum Phase {
    Handshake {
        started: Instant,
    },
    /// Waiting for `connect`.
    Shaken,
    /// `connect` waits for the caller's answer.
    Deciding(Asked),
    Connected,
}

/// What the answer to `connect` depends on.
#[derive(Clone, Copy, Debug)]
struct Asked {
    transaction: f64,
    object_encoding: f64,
    enhanced: bool,
}

#[derive(Clone, Copy, Debug)]
enum Deadline {
    FirstByte,
    Handshake,
    Connect,
    Idle,
    Rejected,
}

impl Deadline {
    fn error(self) -> SessionError {
        SessionError::Timeout(match self {
            Self::FirstByte => "no byte came",
            Self::Handshake => "handshake not finished",
            Self::Connect => "no connect after the handshake",
            Self::Idle => "neither publish nor play",
            Self::Rejected => return SessionError::Rejected("not closed by the peer".to_owned()),
        })
    }
}
