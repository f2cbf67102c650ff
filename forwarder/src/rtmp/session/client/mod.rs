//! The client's side of a connection: publish to a server, or play from one.

mod reply;

pub use reply::refusal;

use std::time::{Duration, Instant};

use super::held::Held;
use super::link::Link;
use super::{ConnectRequest, SessionError, status};
use crate::rtmp::Timestamp;
use crate::rtmp::amf0::Value;
use crate::rtmp::chunk::{self, ChunkReader, DEFAULT_CHUNK_SIZE, Position};
use crate::rtmp::handshake::ClientHandshake;
use crate::rtmp::message::{MediaKind, MediaMessage, csid, kind};

/// What we call ourselves when publishing; servers look for "FMLE".
const FLASH_VER_PUBLISH: &str = "FMLE/3.0 (compatible; forwarder)";
/// What we call ourselves when playing, as FFmpeg and librtmp do.
const FLASH_VER_PLAY: &str = "LNX 9,0,124,2";
/// Buffer a player announces, milliseconds; servers of live streams take no notice.
const BUFFER_LENGTH: u32 = 1000;
/// `start` of `play`: live only, milliseconds as FFmpeg and nginx-rtmp write it.
const LIVE_ONLY: f64 = -1000.0;

/// What the connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// FMLE-style: releaseStream, FCPublish, createStream, publish "live".
    Publish,
    /// createStream, play, SetBufferLength.
    Play,
    /// Only to hear what the server says to `connect`.
    Connect,
    /// Only to `connect` as a publisher, for somebody who then says the rest.
    Introduce,
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
    /// Chunk size we send with, bytes; publishing only.
    pub chunk_size: u32,
    /// Send a C1 with a digest.
    pub digest: bool,
    /// Loop guard: our instance id and the hop count, put into the command object as
    /// `forwarder: {id, hops}`; none for servers that are not ours to tell.
    pub forwarder: Option<(String, u32)>,
    /// How long handshake and commands may take in all.
    pub deadline: Duration,
}

/// What happened.
#[derive(Debug, PartialEq)]
#[non_exhaustive]
pub enum ClientEvent<'a> {
    /// A message was dealt with inside; call `read` again.
    Progress,
    /// The server accepted `connect`, and that was all ([`Goal::Connect`]).
    Connected,
    /// The server said Publish.Start on our msid: media may follow.
    Publishing(u32),
    /// The server said Play.Start (or sent media).
    Playing(u32),
    /// `play` is all that is left to say on this message stream ([`ClientSession::hold`]).
    Ready(u32),
    /// Media of the stream we play.
    Media(MediaMessage<'a>),
    /// The stream is over: Play.UnpublishNotify, Play.Stop, Unpublish.Success, StreamEOF.
    /// Some servers go on with the next publish; its media is reported as before.
    Finished,
    /// The server acknowledged so many bytes (modulo 2^32) of ours.
    Acknowledged(u32),
    /// The server is about to stop and asks us to connect again: at this tcUrl, if it says where.
    /// It serves us until we go, or for a while. Told to who said that it does so
    /// ([`ClientSession::reconnect`]).
    Reconnect(Option<String>),
    /// Any other status: code.
    Status(String),
}

/// A connection's client side.
#[derive(Debug)]
pub struct ClientSession {
    /// Gone when done.
    handshake: Option<Box<ClientHandshake>>,
    reader: ChunkReader,
    /// What is left of an aggregate, or media that came before Play.Start.
    held: Option<Box<Held>>,
    /// The last chunk size, window or bandwidth the server named, as it would be written again.
    control: Vec<u8>,
    core: Core,
}

impl ClientSession {
    /// `random`: at least 1,528 random bytes. C0 and C1 are in the output at once.
    pub fn new(config: ClientConfig, random: Box<[u8]>, now: Instant) -> Self {
        let mut link = Link::new(0, now);
        let mut handshake = Box::new(ClientHandshake::new(random, 0, config.digest));
        handshake.start(&mut link.out);
        Self {
            handshake: Some(handshake),
            reader: ChunkReader::new(),
            held: None,
            control: Vec::new(),
            core: Core {
                link,
                deadline: Some(now + config.deadline),
                config,
                client: None,
                phase: Phase::Connecting,
                msid: 0,
                calls: 0,
                awaited: 0,
                finished: false,
                holds: false,
                reconnects: false,
                sent_ack_window: 0,
                now,
            },
        }
    }

    /// Says in `connect` what a client of ours has said: page, SWF and arguments. To be called
    /// before the first `read`.
    pub fn speak_for(&mut self, client: ConnectRequest) {
        self.core.client = Some(Box::new(client));
    }

    /// Says in `connect` that [`ClientEvent::Reconnect`] is understood. To be called before the
    /// first `read`.
    pub fn reconnect(&mut self) {
        self.core.reconnects = true;
    }

    /// Stops right before `play`, when the server has nothing to say: [`ClientEvent::Ready`] is
    /// told, and [`Self::play`] goes on. A server of ours is told that nobody here reads what comes
    /// then. To be called before the first `read`.
    pub fn hold(&mut self) {
        self.core.holds = true;
    }

    /// Queues `play` and SetBufferLength, after [`ClientEvent::Ready`].
    pub fn play(&mut self) {
        self.core.ask();
    }

    /// The reader of what the server says next, for whoever goes on after [`Goal::Introduce`].
    pub fn into_reader(self) -> ChunkReader {
        self.reader
    }

    /// Queues `pause`, behind [`Self::play`].
    pub fn pause(&mut self, paused: bool) {
        self.core.call_stream("pause", vec![Value::Boolean(paused), Value::Number(0.0)]);
    }

    /// Queues `receiveAudio`, behind [`Self::play`].
    pub fn receive_audio(&mut self, wanted: bool) {
        self.core.call_stream("receiveAudio", vec![Value::Boolean(wanted)]);
    }

    /// Queues `receiveVideo`, behind [`Self::play`].
    pub fn receive_video(&mut self, wanted: bool) {
        self.core.call_stream("receiveVideo", vec![Value::Boolean(wanted)]);
    }

    /// Where the reader of what the server says stands, if at a border.
    pub fn position(&self) -> Option<Position> {
        self.reader.position()
    }

    /// As [`ChunkReader::leans`], of the server.
    pub fn leans(&self) -> bool {
        self.reader.leans()
    }

    /// The last chunk size, window or bandwidth that the server named, as a message; empty if it
    /// named none. To say it twice does no harm.
    pub fn last_control(&self) -> &[u8] {
        &self.control
    }

    /// Whether nothing of a message was received that is not whole.
    pub fn is_at_border(&self) -> bool {
        !self.reader.is_mid_message() && self.reader.partial_bytes() == 0
    }

    /// Chunk size of what is received, bytes.
    pub fn received_chunk_size(&self) -> u32 {
        self.reader.chunk_size()
    }

    /// The window that the server wants acknowledged, bytes; 0 if it named none.
    pub fn ack_window(&self) -> u32 {
        self.core.link.ack_window()
    }

    /// As [`super::ServerSession::read`]. Refusals are errors.
    pub fn read<'a, 'i: 'a>(
        &'a mut self,
        now: Instant,
        input: &mut &'i [u8],
    ) -> Result<Option<ClientEvent<'a>>, SessionError> {
        self.core.now = now;
        if self.handshake.is_some() && !self.shake(now, input)? {
            return Ok(None);
        }
        if self.held.as_ref().is_some_and(|held| held.is_empty()) {
            self.held = None;
        }
        if let Some(ref mut held) = self.held {
            return Ok(held.next().map(|message| self.core.receive_media(message)));
        }
        if !self.reader.is_mid_message() {
            self.core.link.begin_message(now);
        }
        let before = input.len();
        let message = self.reader.read(input)?;
        self.core.link.count_received(now, before - input.len());
        let Some(message) = message else {
            return Ok(None);
        };
        self.core.link.begin_message(now);
        if matches!(
            message.kind,
            kind::SET_CHUNK_SIZE | kind::WINDOW_ACK_SIZE | kind::SET_PEER_BANDWIDTH
        ) && message.csid < 64
        {
            self.control.clear();
            let control = &mut self.control;
            chunk::encode(&message, DEFAULT_CHUNK_SIZE, &mut |piece| {
                control.extend_from_slice(piece);
            });
        }
        if message.kind == kind::AGGREGATE && self.core.is_ours(message.msid) {
            self.held = Some(Box::new(Held::split(&message)));
            return Ok(Some(ClientEvent::Progress));
        }
        if self.core.is_early_media(&message) {
            let part = (message.kind, message.timestamp, message.payload);
            self.held = Some(Box::new(Held::new(message.msid, [part])));
            return Ok(Some(self.core.start()));
        }
        self.core.receive(message).map(Some)
    }

    /// Takes the handshake's bytes; true when it is done, with `connect` behind C2.
    fn shake(&mut self, now: Instant, input: &mut &[u8]) -> Result<bool, SessionError> {
        let Some(handshake) = &mut self.handshake else {
            return Ok(true);
        };
        let before = input.len();
        let done = handshake.read(input, &mut self.core.link.out)?;
        self.core.link.count_received(now, before - input.len());
        if done {
            self.handshake = None;
            self.core.connect();
        }
        Ok(done)
    }

    /// Bytes to send, in order; empties the buffer.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.core.link.out)
    }

    /// Queues a media message on our msid (Publishing only).
    pub fn send_media(&mut self, kind: MediaKind, timestamp: Timestamp, payload: &[u8]) {
        let core = &mut self.core;
        debug_assert!(core.config.goal == Goal::Publish && core.phase == Phase::Running);
        core.link.send_message((kind.csid(), core.msid), kind.type_id(), timestamp, payload);
    }

    /// Queues the polite end of a publish: FCUnpublish and deleteStream; of a play: deleteStream.
    ///
    /// Nothing is queued before there is a stream to end.
    pub fn finish(&mut self) {
        let core = &mut self.core;
        if !matches!(core.phase, Phase::Starting | Phase::Running) {
            return;
        }
        if core.config.goal == Goal::Publish {
            let name = Value::string(&*core.config.stream);
            core.call("FCUnpublish", vec![name]);
        }
        let msid = Value::Number(f64::from(core.msid));
        core.call("deleteStream", vec![msid]);
        core.phase = Phase::Finishing;
    }

    /// Checks the deadlines that are due.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), SessionError> {
        self.core.now = now;
        if self.core.deadline.is_some_and(|at| now >= at) {
            return Err(SessionError::Timeout(match (&self.handshake, self.core.phase) {
                (Some(_), _) => "handshake not finished",
                (None, Phase::Connecting) => "no answer to connect",
                (None, Phase::Creating) => "no answer to createStream",
                _ => match self.core.config.goal {
                    Goal::Publish => "no answer to publish",
                    Goal::Play => "no answer to play",
                    Goal::Connect | Goal::Introduce => "no answer to connect",
                },
            }));
        }
        if self.reader.is_mid_message() && now >= self.core.link.message_deadline() {
            return Err(SessionError::Timeout("a message begun was not finished"));
        }
        Ok(())
    }

    /// When `handle_timeout` is to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let message = self.reader.is_mid_message().then(|| self.core.link.message_deadline());
        message.into_iter().chain(self.core.deadline).min()
    }

    /// Whether `take_output` would give something.
    pub fn has_output(&self) -> bool {
        !self.core.link.out.is_empty()
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
    config: ClientConfig,
    /// Whose `connect` it is, if not our own.
    client: Option<Box<ConnectRequest>>,
    phase: Phase,
    /// Until the stream starts.
    deadline: Option<Instant>,
    /// Our message stream, once there is one.
    msid: u32,
    /// Calls made so far; the next one's transaction is one more, as FMLE and FFmpeg count.
    calls: u32,
    /// Transaction of the call whose answer the phase waits for.
    awaited: u32,
    /// `Finished` was told, and no media came since.
    finished: bool,
    /// To stop before `play`.
    holds: bool,
    /// A request to connect again is understood.
    reconnects: bool,
    /// The last WindowAckSize sent, bytes.
    sent_ack_window: u32,
    /// The latest time told.
    now: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Shaking hands, then waiting for the answer to `connect`.
    Connecting,
    /// Waiting for the answer to `createStream`.
    Creating,
    /// Waiting for Publish.Start or Play.Start.
    Starting,
    Running,
    /// We have said goodbye.
    Finishing,
}

impl Core {
    /// Queues SetChunkSize and `connect`.
    fn connect(&mut self) {
        let config = &self.config;
        let text = |s: &str| Value::string(s);
        let mut object = vec![("app", text(&config.app))];
        match config.goal {
            Goal::Publish | Goal::Introduce => {
                object.push(("type", text("nonprivate")));
                object.push(("flashVer", text(FLASH_VER_PUBLISH)));
                object.push(("tcUrl", text(&config.tc_url)));
            }
            Goal::Play | Goal::Connect => {
                object.push(("flashVer", text(FLASH_VER_PLAY)));
                object.push(("tcUrl", text(&config.tc_url)));
                object.push(("fpad", Value::Boolean(false)));
                object.push(("capabilities", Value::Number(15.0)));
                object.push(("audioCodecs", Value::Number(4071.0)));
                object.push(("videoCodecs", Value::Number(252.0)));
                object.push(("videoFunction", Value::Number(1.0)));
            }
        }
        object.push(("fourCcList", Value::StrictArray(vec![text("*")])));
        object.push(("videoFourCcInfoMap", status::any_codec()));
        object.push(("audioFourCcInfoMap", status::any_codec()));
        object.push(("capsEx", status::caps_ex(self.reconnects)));
        if let Some((id, hops)) = &config.forwarder {
            let mut said = vec![("id", text(id)), ("hops", Value::Number(f64::from(*hops)))];
            said.extend(self.holds.then_some(("unread", Value::Boolean(true))));
            object.push(("forwarder", Value::object(said)));
        }
        if config.goal == Goal::Publish {
            self.link.set_chunk_size(config.chunk_size);
        }
        let mut arguments = None;
        if let Some(client) = self.client.take() {
            object.push(("pageUrl", Value::string(client.page_url)));
            object.push(("swfUrl", Value::string(client.swf_url)));
            arguments = client.args;
        }
        let args = std::iter::once(Value::object(object)).chain(arguments).collect();
        self.awaited = self.call_with((csid::COMMAND, 0), "connect", args);
    }

    /// Queues a call about the connection, with a null command object.
    fn call(&mut self, name: &str, mut args: Vec<Value>) -> u32 {
        args.insert(0, Value::Null);
        self.call_with((csid::COMMAND, 0), name, args)
    }

    /// Queues a call about our message stream, with a null command object.
    fn call_stream(&mut self, name: &str, mut args: Vec<Value>) -> u32 {
        args.insert(0, Value::Null);
        self.call_with((csid::STREAM, self.msid), name, args)
    }

    /// Queues a call and returns its transaction.
    fn call_with(&mut self, on: (u32, u32), name: &str, args: Vec<Value>) -> u32 {
        self.calls += 1;
        self.link.send_command(on, name, f64::from(self.calls), args);
        self.calls
    }
}
