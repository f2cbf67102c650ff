//! What a server session does with the messages it receives.

use super::event::{ConnectRequest, PlayRequest, PublishRequest, ServerEvent};
use super::streams::{MAX_STREAMS, State};
use super::{
    Asked, CONNECT_DEADLINE, Core, Deadline, HANDSHAKE_DEADLINE, IDLE_DEADLINE, MAX_STRAY_MEDIA,
    Phase, REJECTED_DEADLINE,
};
use crate::rtmp::amf0::{Amf0Error, Value};
use crate::rtmp::chunk::Message;
use crate::rtmp::message::{Command, Control, UserControl, csid, kind};
use crate::rtmp::session::{SessionError, held, status, whole};

/// Commands a second. A client needs about ten to start, and each may cost a reply.
const MAX_COMMANDS: u32 = 100;
/// Longest app and tcUrl, bytes.
const MAX_URL: usize = 4096;

impl Core {
    /// Deals with one whole message.
    pub(super) fn receive<'a>(
        &mut self,
        message: Message<'a>,
    ) -> Result<ServerEvent<'a>, SessionError> {
        if self.relayed.is_some() {
            return self.relay(&message);
        }
        match message.kind {
            kind::SET_CHUNK_SIZE..=kind::SET_PEER_BANDWIDTH => {
                let control = self.link.receive_control(self.now, &message)?;
                Ok(match control {
                    Some(Control::User(UserControl::PingResponse(stamp))) => {
                        ServerEvent::Pong(stamp)
                    }
                    _ => ServerEvent::Progress,
                })
            }
            kind::COMMAND_AMF0 | kind::COMMAND_AMF3 => {
                self.count_command()?;
                match Command::parse(message.kind, message.payload) {
                    Ok(Some(command)) => self.receive_command(message.msid, command),
                    // nothing in it, or values that no command we know has
                    Ok(None) | Err(Amf0Error::Amf3(_)) => Ok(ServerEvent::Progress),
                    Err(error) => {
                        // most likely a name in another character set: say why before closing
                        let info = status::error("NetStream.Failed", "unreadable command");
                        self.notify(message.msid, "onStatus", info);
                        Err(error.into())
                    }
                }
            }
            // shared objects, and types nobody has given a meaning, fall through as no media
            _ => self.receive_media(message),
        }
    }

    /// Errors: too many of them.
    pub(super) fn count_command(&mut self) -> Result<(), SessionError> {
        if !self.commands.allow(self.now, MAX_COMMANDS) {
            return Err(SessionError::Limit(format!("over {MAX_COMMANDS} commands/s")));
        }
        Ok(())
    }

    /// Passes media on if its stream is being published.
    pub(super) fn receive_media<'a>(
        &mut self,
        message: Message<'a>,
    ) -> Result<ServerEvent<'a>, SessionError> {
        let Some(media) = held::media(&message) else {
            return Ok(ServerEvent::Progress);
        };
        if self.streams.is_publishing(media.msid) {
            self.last_media = Some(self.now);
            return Ok(ServerEvent::Media(media));
        }
        self.stray_media += 1;
        if self.stray_media > MAX_STRAY_MEDIA {
            return Err(SessionError::Limit(format!(
                "over {MAX_STRAY_MEDIA} media messages without a publish"
            )));
        }
        Ok(ServerEvent::Progress)
    }

    fn receive_command<'a>(
        &mut self,
        msid: u32,
        command: Command,
    ) -> Result<ServerEvent<'a>, SessionError> {
        let connected = matches!(self.phase, Phase::Connected);
        if command.name == "connect" {
            return match self.phase {
                Phase::Shaken => self.connect(command),
                _ => Err(SessionError::Protocol("second connect".to_owned())),
            };
        }
        if !connected {
            return Err(SessionError::Protocol("command before connect".to_owned()));
        }
        match command.name.as_str() {
            "createStream" => self.create_stream(&command),
            "publish" => self.publish(msid, &command),
            "play" => self.play(msid, &command),
            "deleteStream" => Ok(self.delete_stream(&command)),
            "closeStream" => Ok(self.close_stream(msid, &command)),
            "FCPublish" => {
                self.said_fc_publish = true;
                Ok(self.acknowledge(&command, Value::Null))
            }
            "FCUnpublish" => Ok(self.fc_unpublish(&command)),
            "FCSubscribe" => Ok(self.fc_subscribe(&command)),
            "getStreamLength" => Ok(self.acknowledge(&command, Value::Number(0.0))),
            "pause" | "pauseRaw" => Ok(self.pause(msid, &command)),
            "seek" => Ok(self.seek(msid, &command)),
            "receiveAudio" => Ok(self.receive_kind(msid, &command, ServerEvent::ReceiveAudio)),
            "receiveVideo" => Ok(self.receive_kind(msid, &command, ServerEvent::ReceiveVideo)),
            "_result" | "_error" | "onStatus" => Ok(ServerEvent::Progress),
            // releaseStream, _checkbw, FCUnsubscribe, play2 and whatever else is called
            _ => Ok(self.acknowledge(&command, Value::Null)),
        }
    }

    fn connect<'a>(&mut self, command: Command) -> Result<ServerEvent<'a>, SessionError> {
        let transaction = command.transaction;
        let encoding = command.args.first().and_then(|o| o.get("objectEncoding"));
        let object_encoding = match encoding.and_then(Value::as_number) {
            Some(3.0) => 3.0,
            _ => 0.0,
        };
        let Some(request) = ConnectRequest::from_args(command.args) else {
            self.refuse_connect(transaction, "app and tcUrl are required");
            return Err(SessionError::Rejected("connect without app or tcUrl".to_owned()));
        };
        let urls = [&request.app, &request.tc_url];
        if urls.iter().any(|url| url.len() > MAX_URL) {
            return Err(SessionError::Limit(format!("app or tcUrl over {MAX_URL} bytes")));
        }
        if urls.iter().any(|url| has_control(url)) {
            self.refuse_connect(transaction, "control characters in app or tcUrl");
            return Err(SessionError::Rejected("control characters in app or tcUrl".to_owned()));
        }
        let enhanced = request.enhanced;
        self.phase = Phase::Deciding(Asked { transaction, object_encoding, enhanced });
        self.deadline = None;
        Ok(ServerEvent::Connect(request))
    }

    fn create_stream<'a>(&mut self, command: &Command) -> Result<ServerEvent<'a>, SessionError> {
        match self.streams.create() {
            Some(msid) => Ok(self.acknowledge(command, Value::Number(f64::from(msid)))),
            None => Err(SessionError::Limit(format!("over {MAX_STREAMS} message streams"))),
        }
    }

    fn publish<'a>(
        &mut self,
        msid: u32,
        command: &Command,
    ) -> Result<ServerEvent<'a>, SessionError> {
        let Some(stream) = self.begin(msid, command, "NetStream.Publish.BadName")? else {
            return Ok(ServerEvent::Progress);
        };
        self.set_state(msid, State::AskedPublish(stream.as_str().into()));
        Ok(ServerEvent::Publish(PublishRequest { msid, stream }))
    }

    fn play<'a>(&mut self, msid: u32, command: &Command) -> Result<ServerEvent<'a>, SessionError> {
        let Some(stream) = self.begin(msid, command, "NetStream.Play.Failed")? else {
            return Ok(ServerEvent::Progress);
        };
        self.set_state(msid, State::AskedPlay);
        // name, start, duration, reset: a boolean, or a number for Flash's playlists
        let reset = match command.args.get(4) {
            Some(Value::Boolean(reset)) => *reset,
            Some(Value::Number(reset)) => *reset != 0.0,
            _ => true,
        };
        Ok(ServerEvent::Play(PlayRequest { msid, stream, reset }))
    }

    /// The name `publish` or `play` carries, if its message stream is free.
    fn begin(
        &mut self,
        msid: u32,
        command: &Command,
        code: &str,
    ) -> Result<Option<String>, SessionError> {
        let problem = match self.streams.state(msid) {
            Some(State::Idle) => None,
            Some(State::AskedPublish(_) | State::Publishing(_)) => Some("already publishing"),
            Some(State::AskedPlay | State::Playing) => Some("already playing"),
            None => Some("no such message stream"),
        };
        if let Some(problem) = problem {
            self.notify(msid, "onStatus", status::error(code, problem));
            return Ok(None);
        }
        let name = command.args.get(1).and_then(Value::as_str).unwrap_or_default();
        if has_control(name) {
            let problem = "control characters in the stream name";
            self.notify(msid, "onStatus", status::error(code, problem));
            return Err(SessionError::Rejected(problem.to_owned()));
        }
        Ok(Some(name.to_owned()))
    }

    fn delete_stream<'a>(&mut self, command: &Command) -> ServerEvent<'a> {
        let msid = match command.args.get(1) {
            Some(value @ Value::Number(_)) => whole(value),
            // GStreamer sends the stream's name
            _ => self.streams.only_one_in_use(),
        };
        let event = msid.map_or(ServerEvent::Progress, |msid| {
            let event = self.end(msid);
            self.streams.delete(msid);
            event
        });
        self.acknowledge(command, Value::Null);
        event
    }

    fn close_stream<'a>(&mut self, msid: u32, command: &Command) -> ServerEvent<'a> {
        let event = self.end(msid);
        self.acknowledge(command, Value::Null);
        event
    }

    fn fc_unpublish<'a>(&mut self, command: &Command) -> ServerEvent<'a> {
        let name = command.args.get(1).and_then(Value::as_str).unwrap_or_default();
        let Some(msid) = self.streams.published_as(name) else {
            return self.acknowledge(command, Value::Null);
        };
        let code = "NetStream.Unpublish.Success";
        self.notify(msid, "onFCUnpublish", status::status(code, "Stop publishing stream."));
        self.acknowledge(command, Value::Null);
        self.end(msid)
    }

    fn fc_subscribe<'a>(&mut self, command: &Command) -> ServerEvent<'a> {
        let event = self.acknowledge(command, Value::Null);
        let info = status::status("NetStream.Play.Start", "Started playing stream.");
        let args = vec![Value::Null, Value::object(info)];
        self.link.send_command((csid::COMMAND, 0), "onFCSubscribe", 0.0, args);
        event
    }

    fn pause<'a>(&mut self, msid: u32, command: &Command) -> ServerEvent<'a> {
        let event = self.acknowledge(command, Value::Null);
        if !self.streams.is_playing(msid) {
            return event;
        }
        let paused = command.args.get(1).and_then(Value::as_bool).unwrap_or(true);
        let (code, text, control) = if paused {
            ("NetStream.Pause.Notify", "Paused stream.", UserControl::StreamEof(msid))
        } else {
            ("NetStream.Unpause.Notify", "Unpaused stream.", UserControl::StreamBegin(msid))
        };
        self.notify(msid, "onStatus", status::status(code, text));
        self.link.send(&Control::User(control));
        ServerEvent::Pause(msid, paused)
    }

    fn seek<'a>(&mut self, msid: u32, command: &Command) -> ServerEvent<'a> {
        let text = "live streams cannot be sought";
        self.notify(msid, "onStatus", status::error("NetStream.Seek.Failed", text));
        self.acknowledge(command, Value::Null)
    }

    fn receive_kind<'a>(
        &mut self,
        msid: u32,
        command: &Command,
        event: fn(u32, bool) -> ServerEvent<'a>,
    ) -> ServerEvent<'a> {
        let progress = self.acknowledge(command, Value::Null);
        match command.args.get(1).and_then(Value::as_bool) {
            Some(wanted) if self.streams.is_playing(msid) => event(msid, wanted),
            _ => progress,
        }
    }

    /// Ends what the message stream is used for; its id stays.
    fn end<'a>(&mut self, msid: u32) -> ServerEvent<'a> {
        let Some(stream) = self.streams.get_mut(msid) else {
            return ServerEvent::Progress;
        };
        let event = match std::mem::replace(&mut stream.state, State::Idle) {
            State::Publishing(name) => {
                let (code, text) = ("NetStream.Unpublish.Success", "Stream is now unpublished.");
                self.notify(msid, "onStatus", status::stream_status(code, text, &name));
                self.last_media = None;
                ServerEvent::Unpublish(msid)
            }
            State::Playing => ServerEvent::StopPlay(msid),
            // nothing ended: the time to begin something runs on
            State::Idle | State::AskedPublish(_) | State::AskedPlay => {
                return ServerEvent::Progress;
            }
        };
        self.watch_idle();
        event
    }

    fn set_state(&mut self, msid: u32, state: State) {
        if let Some(stream) = self.streams.get_mut(msid) {
            stream.state = state;
        }
        self.watch_idle();
    }

    /// `_result` with a null object and `value`, if the command wants a reply at all.
    fn acknowledge<'a>(&mut self, command: &Command, value: Value) -> ServerEvent<'a> {
        if command.transaction != 0.0 {
            self.reply("_result", command.transaction, vec![Value::Null, value]);
        }
        ServerEvent::Progress
    }

    /// Queues `_result` or `_error`.
    pub(super) fn reply(&mut self, name: &str, transaction: f64, args: Vec<Value>) {
        self.link.send_command((csid::COMMAND, 0), name, transaction, args);
    }

    /// Queues a command about a message stream that wants no reply: onStatus and its kin.
    pub(super) fn notify(&mut self, msid: u32, name: &str, info: Vec<(&'static str, Value)>) {
        let args = vec![Value::Null, Value::object(info)];
        self.link.send_command((csid::STREAM, msid), name, 0.0, args);
    }

    /// Queues the `_error` of `connect`.
    pub(super) fn refuse_connect(&mut self, transaction: f64, description: &str) {
        let info = status::error("NetConnection.Connect.Rejected", description);
        self.reply("_error", transaction, vec![Value::Null, Value::object(info)]);
        self.close_soon();
    }

    /// Moves the deadlines on as the handshake does.
    pub(super) fn note_handshake(&mut self, done: bool) {
        let Phase::Handshake { started } = self.phase else {
            return;
        };
        if done {
            self.phase = Phase::Shaken;
            self.deadline = Some((self.now + CONNECT_DEADLINE, Deadline::Connect));
        } else if self.link.received() > 0 {
            self.deadline = Some((started + HANDSHAKE_DEADLINE, Deadline::Handshake));
        }
    }

    /// Starts or stops the deadline on a connection that does nothing.
    pub(super) fn watch_idle(&mut self) {
        if matches!(self.deadline, Some((_, Deadline::Rejected))) {
            return;
        }
        self.deadline = if self.streams.any_in_use() {
            None
        } else {
            Some((self.now + IDLE_DEADLINE, Deadline::Idle))
        };
    }

    /// The peer was told no: it has a moment to read that and go.
    pub(super) fn close_soon(&mut self) {
        // a peer that asks again gains no time
        if !matches!(self.deadline, Some((_, Deadline::Rejected))) {
            self.deadline = Some((self.now + REJECTED_DEADLINE, Deadline::Rejected));
        }
    }
}

/// Whether a name has control characters, NUL among them: they end up in logs and hooks.
fn has_control(name: &str) -> bool {
    name.chars().any(char::is_control)
}
