//! What a client session does with the messages it receives.

use super::{BUFFER_LENGTH, ClientEvent, Core, Goal, LIVE_ONLY, Phase};
use crate::rtmp::amf0::{Amf0Error, Value};
use crate::rtmp::chunk::Message;
use crate::rtmp::message::{Command, Control, MediaKind, UserControl, data_name, kind};
use crate::rtmp::session::status::RECONNECT_REQUEST;
use crate::rtmp::session::{SessionError, held, whole};

/// Statuses that end it, whatever their level says.
const REFUSALS: [&str; 10] = [
    "NetConnection.Connect.Rejected",
    "NetConnection.Connect.InvalidApp",
    "NetConnection.Connect.Failed",
    "NetConnection.Connect.Closed",
    "NetStream.Publish.BadName",
    "NetStream.Publish.Denied",
    "NetStream.Publish.Rejected",
    "NetStream.Play.StreamNotFound",
    "NetStream.Play.Failed",
    "NetStream.Failed",
];

/// Data that servers address to their player: to hand it on would tell other players lies.
const FOR_PLAYER: [&str; 3] = ["|RtmpSampleAccess", "onStatus", "onPlayStatus"];

impl Core {
    /// Deals with one whole message.
    pub(super) fn receive<'a>(
        &mut self,
        message: Message<'a>,
    ) -> Result<ClientEvent<'a>, SessionError> {
        match message.kind {
            kind::SET_CHUNK_SIZE..=kind::SET_PEER_BANDWIDTH => self.receive_control(&message),
            kind::COMMAND_AMF0 | kind::COMMAND_AMF3 => {
                match Command::parse(message.kind, message.payload) {
                    Ok(Some(command)) => self.receive_command(message.msid, &command),
                    Ok(None) | Err(Amf0Error::Amf3(_)) => Ok(ClientEvent::Progress),
                    Err(error) => Err(error.into()),
                }
            }
            _ => Ok(self.receive_media(message)),
        }
    }

    /// Whether this is media of our stream from a server that has not said Play.Start.
    pub(super) fn is_early_media(&self, message: &Message<'_>) -> bool {
        self.phase == Phase::Starting
            && self.config.goal == Goal::Play
            && message.msid == self.msid
            && matches!(message.kind, kind::AUDIO | kind::VIDEO)
    }

    /// Whether media on `msid` is of the stream we play.
    pub(super) fn is_ours(&self, msid: u32) -> bool {
        self.config.goal == Goal::Play && self.phase == Phase::Running && msid == self.msid
    }

    /// Passes on media of the stream we play.
    pub(super) fn receive_media<'a>(&mut self, message: Message<'a>) -> ClientEvent<'a> {
        match held::media(&message) {
            Some(media)
                if self.is_ours(media.msid) && !is_for_player(media.kind, media.payload) =>
            {
                self.finished = false;
                ClientEvent::Media(media)
            }
            _ => ClientEvent::Progress,
        }
    }

    /// The stream has started.
    pub(super) fn start<'a>(&mut self) -> ClientEvent<'a> {
        self.phase = Phase::Running;
        self.deadline = None;
        match self.config.goal {
            Goal::Publish => ClientEvent::Publishing(self.msid),
            Goal::Play => ClientEvent::Playing(self.msid),
            Goal::Connect | Goal::Introduce => ClientEvent::Connected,
        }
    }

    fn receive_control<'a>(
        &mut self,
        message: &Message<'_>,
    ) -> Result<ClientEvent<'a>, SessionError> {
        let control = self.link.receive_control(self.now, message)?;
        Ok(match control {
            Some(Control::Acknowledgement(bytes)) => ClientEvent::Acknowledged(bytes),
            Some(Control::SetPeerBandwidth(bytes, _)) if bytes != self.sent_ack_window => {
                // RTMP 1.0 section 5.4.5: answered if it differs from the last one sent
                self.sent_ack_window = bytes;
                self.link.send(&Control::WindowAckSize(bytes));
                ClientEvent::Progress
            }
            Some(Control::User(UserControl::StreamEof(msid)))
                if msid == self.msid && self.phase == Phase::Running =>
            {
                self.stream_over()
            }
            _ => ClientEvent::Progress,
        })
    }

    fn receive_command<'a>(
        &mut self,
        msid: u32,
        command: &Command,
    ) -> Result<ClientEvent<'a>, SessionError> {
        match command.name.as_str() {
            "_result" => self.receive_result(command),
            "_error" => self.receive_error(command),
            "onStatus" if msid == 0 || msid == self.msid => self.receive_status(command),
            "close" => Err(SessionError::Refused {
                code: "close".to_owned(),
                description: "the server asked us to close".to_owned(),
            }),
            "onBWDone" => {
                self.call("_checkbw", Vec::new());
                Ok(ClientEvent::Progress)
            }
            // onFCPublish says nothing that onStatus does not: SRS sends it before it refuses
            _ => Ok(ClientEvent::Progress),
        }
    }

    fn receive_result<'a>(&mut self, command: &Command) -> Result<ClientEvent<'a>, SessionError> {
        if command.transaction != f64::from(self.awaited) {
            return Ok(ClientEvent::Progress);
        }
        match self.phase {
            Phase::Connecting => {
                if let Some(info) = command.args.get(1)
                    && is_refusal(info)
                {
                    return Err(refused(info));
                }
                if matches!(self.config.goal, Goal::Connect | Goal::Introduce) {
                    self.phase = Phase::Finishing;
                    self.deadline = None;
                    return Ok(ClientEvent::Connected);
                }
                self.phase = Phase::Creating;
                if self.config.goal == Goal::Publish {
                    let name = Value::string(&*self.config.stream);
                    self.call("releaseStream", vec![name.clone()]);
                    self.call("FCPublish", vec![name]);
                }
                self.awaited = self.call("createStream", Vec::new());
            }
            Phase::Creating => {
                let msid = command.args.get(1).and_then(whole);
                self.msid = msid.filter(|msid| *msid != 0).ok_or_else(|| {
                    SessionError::Protocol("createStream gave no message stream id".to_owned())
                })?;
                self.phase = Phase::Starting;
                if self.holds {
                    self.deadline = None;
                    return Ok(ClientEvent::Ready(self.msid));
                }
                self.ask();
            }
            // some servers answer publish and play with a _result besides the status
            Phase::Starting | Phase::Running | Phase::Finishing => {}
        }
        Ok(ClientEvent::Progress)
    }

    /// Queues `publish` or `play`.
    pub(super) fn ask(&mut self) {
        let name = Value::string(&*self.config.stream);
        match self.config.goal {
            Goal::Publish => {
                self.awaited = self.call_stream("publish", vec![name, Value::string("live")]);
            }
            Goal::Connect | Goal::Introduce => {}
            Goal::Play => {
                self.awaited = self.call_stream("play", vec![name, Value::Number(LIVE_ONLY)]);
                self.link.send(&Control::User(UserControl::SetBufferLength {
                    msid: self.msid,
                    ms: BUFFER_LENGTH,
                }));
            }
        }
    }

    fn receive_error<'a>(&mut self, command: &Command) -> Result<ClientEvent<'a>, SessionError> {
        if command.transaction != f64::from(self.awaited) {
            // releaseStream, FCPublish and _checkbw may fail: FFmpeg goes on too
            return Ok(ClientEvent::Progress);
        }
        Err(refused(command.args.get(1).unwrap_or(&Value::Null)))
    }

    fn receive_status<'a>(&mut self, command: &Command) -> Result<ClientEvent<'a>, SessionError> {
        let Some(info) = command.args.get(1) else {
            return Ok(ClientEvent::Progress);
        };
        if is_refusal(info) {
            return Err(refused(info));
        }
        let code = info.get("code").and_then(Value::as_str).unwrap_or_default();
        let start = match self.config.goal {
            Goal::Publish | Goal::Introduce => "NetStream.Publish.Start",
            Goal::Play | Goal::Connect => "NetStream.Play.Start",
        };
        Ok(match code {
            _ if code == start && self.phase == Phase::Starting => self.start(),
            "NetStream.Play.Stop"
            | "NetStream.Play.Complete"
            | "NetStream.Play.UnpublishNotify"
            | "NetStream.Unpublish.Success" => self.stream_over(),
            RECONNECT_REQUEST if self.reconnects => {
                let tc_url = info.get("tcUrl").and_then(Value::as_str);
                ClientEvent::Reconnect(tc_url.map(str::to_owned))
            }
            _ => ClientEvent::Status(code.to_owned()),
        })
    }

    /// The stream is over; told once.
    fn stream_over<'a>(&mut self) -> ClientEvent<'a> {
        if std::mem::replace(&mut self.finished, true) {
            return ClientEvent::Progress;
        }
        ClientEvent::Finished
    }
}

fn is_for_player(kind: MediaKind, payload: &[u8]) -> bool {
    kind == MediaKind::Data && data_name(payload).is_some_and(|name| FOR_PLAYER.contains(&name))
}

/// Whether a status says no.
fn is_refusal(info: &Value) -> bool {
    let text = |key| info.get(key).and_then(Value::as_str);
    text("level") == Some("error") || text("code").is_some_and(|code| REFUSALS.contains(&code))
}

/// Why the server refuses, if this argument of a status says so.
pub fn refusal(info: &Value) -> Option<SessionError> {
    is_refusal(info).then(|| refused(info))
}

fn refused(info: &Value) -> SessionError {
    let text = |key| info.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    SessionError::Refused { code: text("code"), description: text("description") }
}
