//! An encoder's connection while its bytes go to an origin unchanged.

use std::io;
use std::rc::Rc;
use std::time::Instant;

use tokio::sync::mpsc;
use tracing::info;

use super::role::{Role, Waiting};
use super::{BAD_NAME, Connection};
use crate::conn::encoder::{
    ENCODER_NEWS, Encoder, EncoderLaunch, EncoderNews, Handover, OwnedMedia,
};
use crate::conn::end::End;
use crate::rtmp::chunk::Message;
use crate::rtmp::session;

impl Connection {
    /// Leaves the reading to a carrier.
    pub(super) fn begin_carrying(&mut self, waiting: Waiting, launch: EncoderLaunch) {
        let (news, told) = mpsc::channel(ENCODER_NEWS);
        let encoder = Encoder {
            io: Rc::clone(&self.io),
            peer: self.peer,
            msid: waiting.msid,
            transcript: self.session.take_transcript(),
            reader: self.session.lend_reader(),
            unread: std::mem::take(&mut self.unread),
            news,
        };
        launch.start(Rc::clone(&self.shard), encoder);
        self.role = Role::Carried { waiting, news: told };
    }

    /// `None`: the carrier was dropped.
    pub(super) fn on_encoder_news(
        &mut self,
        news: Option<EncoderNews>,
        now: Instant,
    ) -> Result<(), End> {
        let Role::Carried { waiting, .. } = &mut self.role else { return Ok(()) };
        let msid = waiting.msid;
        match news {
            Some(EncoderNews::Accepted) => {
                waiting.accepted = true;
                let stream = waiting.key.clone();
                info!(peer = %self.peer, %stream, "publish by a leg");
                self.session.accept_publish(msid, now);
                self.did = Some(("publish", stream));
            }
            Some(EncoderNews::Moved(bytes)) => self.session.count_carried(now, bytes),
            Some(EncoderNews::Ping(stamp)) => self.session.pass_ping(stamp),
            Some(EncoderNews::Command(kind, msid, payload)) => {
                self.session.pass_command(kind, msid, &payload);
            }
            Some(EncoderNews::Relay(handover)) => self.end_carrying(*handover),
            Some(EncoderNews::Refused(refusal)) => {
                self.role = Role::None;
                self.refuse(msid, &refusal.code, &refusal.description, now);
            }
            Some(EncoderNews::Gone(None)) => return Err(End::Closed("closed by peer")),
            Some(EncoderNews::Gone(Some(error))) => return Err(End::Io(error)),
            Some(EncoderNews::Broken(error)) => return Err(error.into()),
            Some(EncoderNews::Closed(why)) => return Err(End::Closed(why)),
            None if waiting.accepted => return Err(End::Io(io::Error::other("the leg broke"))),
            None => {
                self.role = Role::None;
                self.refuse(msid, BAD_NAME, "the edge stops", now);
            }
        }
        Ok(())
    }

    /// Takes the reading back, and waits for a place in the hub.
    fn end_carrying(&mut self, handover: Handover) {
        let Role::Carried { waiting, .. } = std::mem::replace(&mut self.role, Role::None) else {
            return;
        };
        let Handover { reader, unread, headers, answer } = handover;
        self.session.return_reader(reader);
        self.unread = unread;
        self.role = Role::AskedPublish { waiting, headers: headers.unwrap_or_default(), answer };
    }

    /// Has the hub know what the publisher sent while others read it.
    pub(super) fn append_headers(
        &mut self,
        msid: u32,
        headers: &[OwnedMedia],
        now: Instant,
    ) -> Result<(), End> {
        for OwnedMedia { kind, timestamp, payload } in headers {
            let message = Message { csid: 0, timestamp: *timestamp, kind: *kind, msid, payload };
            if let Some(media) = session::media(&message) {
                self.role.append(&media, now)?;
            }
        }
        Ok(())
    }
}
