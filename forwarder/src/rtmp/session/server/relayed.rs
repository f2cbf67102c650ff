//! A player that another server speaks to: what it says goes there.

use super::streams::State;
use super::{Core, ServerEvent};
use crate::rtmp::Timestamp;
use crate::rtmp::amf0::Value;
use crate::rtmp::chunk::{self, DEFAULT_CHUNK_SIZE, Message};
use crate::rtmp::message::{Command, Control, UserControl, csid, kind};
use crate::rtmp::session::{SessionError, whole};

impl Core {
    /// Deals with one whole message of such a player.
    ///
    /// Acknowledgements, windows and chunk sizes are about this connection and stay here.
    pub(super) fn relay<'a>(
        &mut self,
        message: &Message<'a>,
    ) -> Result<ServerEvent<'a>, SessionError> {
        match message.kind {
            kind::SET_CHUNK_SIZE..=kind::SET_PEER_BANDWIDTH => {
                let control = self.link.receive_control(self.now, message)?;
                if let Some(Control::User(
                    UserControl::SetBufferLength { .. } | UserControl::PingResponse(_),
                )) = control
                {
                    self.keep(csid::CONTROL, message);
                }
                // A ping is answered here, but nothing may be sent.
                self.link.out.clear();
                Ok(ServerEvent::Progress)
            }
            kind::COMMAND_AMF0 | kind::COMMAND_AMF3 => {
                self.count_command()?;
                // What cannot be read is for the other server to judge.
                let command = Command::parse(message.kind, message.payload).ok().flatten();
                self.relay_command(message, command.as_ref())
            }
            _ => self.receive_media(*message),
        }
    }

    fn relay_command<'a>(
        &mut self,
        message: &Message<'a>,
        command: Option<&Command>,
    ) -> Result<ServerEvent<'a>, SessionError> {
        let ended = match command.map(|command| command.name.as_str()) {
            Some(name @ ("connect" | "publish" | "FCPublish" | "releaseStream")) => {
                return Err(SessionError::Protocol(format!("`{name}` of a player")));
            }
            // It plays already; another stream is not the other server's to choose.
            Some("play") => return Ok(ServerEvent::Progress),
            Some("closeStream") => Some(message.msid),
            Some("deleteStream") => {
                let msid = command.and_then(|command| command.args.get(1)).and_then(whole);
                msid.or_else(|| self.streams.only_one_in_use())
            }
            _ => None,
        };
        self.keep(if message.msid == 0 { csid::COMMAND } else { csid::STREAM }, message);
        let wanted = command.and_then(|command| command.args.get(1)).and_then(Value::as_bool);
        match (command.map_or("", |command| &*command.name), wanted) {
            ("pause" | "pauseRaw", paused) => {
                return Ok(ServerEvent::Pause(message.msid, paused.unwrap_or(true)));
            }
            ("receiveAudio", Some(wanted)) => {
                return Ok(ServerEvent::ReceiveAudio(message.msid, wanted));
            }
            ("receiveVideo", Some(wanted)) => {
                return Ok(ServerEvent::ReceiveVideo(message.msid, wanted));
            }
            _ => {}
        }
        let Some(stream) = ended.and_then(|msid| self.streams.get_mut(msid)) else {
            return Ok(ServerEvent::Progress);
        };
        stream.state = State::Idle;
        let msid = stream.msid;
        self.watch_idle();
        Ok(ServerEvent::StopPlay(msid))
    }

    fn keep(&mut self, csid: u32, message: &Message<'_>) {
        let Some(out) = &mut self.relayed else { return };
        let message = Message { csid, timestamp: Timestamp(0), ..*message };
        chunk::encode(&message, DEFAULT_CHUNK_SIZE, &mut |piece| out.extend_from_slice(piece));
    }
}
