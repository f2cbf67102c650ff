//! An encoder's connection while its bytes go to an origin unchanged.

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracing::info;

use super::role::{Role, Waiting};
use super::{BAD_NAME, Connection};
use crate::conn::encoder::{
    ENCODER_NEWS, Encoder, EncoderLaunch, EncoderNews, Handover, Learned, OwnedMedia,
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
            Some(EncoderNews::Control(event)) => self.session.pass_control(event),
            Some(EncoderNews::Command(kind, msid, payload)) => {
                self.session.pass_command(kind, msid, &payload);
            }
            Some(EncoderNews::Relay(handover)) => self.end_carrying(*handover, now),
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
    fn end_carrying(&mut self, handover: Handover, now: Instant) {
        let Role::Carried { waiting, .. } = std::mem::replace(&mut self.role, Role::None) else {
            return;
        };
        let Handover { reader, unread, learned, answer } = handover;
        self.session.return_reader(now, reader);
        self.unread = unread;
        let learned = learned.unwrap_or_default();
        self.role = Role::AskedPublish { waiting, learned, answer };
    }

    /// Has the hub know what the publisher sent while others read it.
    pub(super) fn append_learned(
        &mut self,
        msid: u32,
        learned: &Learned,
        now: Instant,
    ) -> Result<(), End> {
        for OwnedMedia { kind, timestamp, payload } in &learned.headers {
            let message = Message { csid: 0, timestamp: *timestamp, kind: *kind, msid, payload };
            if let Some(media) = session::media(&message) {
                self.role.append(&media, now)?;
            }
        }
        if let Role::Publishing { missing, .. } = &mut self.role {
            *missing = learned.missing.any().then(|| (learned.missing, now + HEADER_WAIT));
        }
        Ok(())
    }
}

/// How long an encoder may take to send headers again that nobody here knows: that of a long GOP.
const HEADER_WAIT: Duration = Duration::from_secs(10);
