//! Whether a client may publish or play, and what happens then.

use std::time::Instant;

use tracing::warn;

use super::role::Role;
use super::{Connection, PLAY_FAILED};
use crate::access::Action;
use crate::config::{OnFailure, Vhost};
use crate::conn::admission::Applicant;
use crate::conn::end::End;
use crate::hooks::Answer;
use crate::hub::Source;
use crate::rtmp::session::PlayRequest;
use crate::rtmp::url::{StreamKey, escaped};

/// What a client wants, once it is clear what that is.
pub(super) enum Entry {
    Publish { key: StreamKey, source: Source, vhost: Vhost, msid: u32 },
    Play { key: StreamKey, param: String, vhost: Vhost, request: PlayRequest },
}

impl Entry {
    fn action(&self) -> Action {
        match self {
            Self::Publish { .. } => Action::Publish,
            Self::Play { .. } => Action::Play,
        }
    }

    /// The stream, its parameters and its vhost.
    fn stream(&self) -> (&StreamKey, &str, &Vhost) {
        match self {
            Self::Publish { key, source, vhost, .. } => (key, &source.param, vhost),
            Self::Play { key, param, vhost, .. } => (key, param, vhost),
        }
    }

    fn msid(&self) -> u32 {
        match self {
            Self::Publish { msid, .. } => *msid,
            Self::Play { request, .. } => request.msid,
        }
    }
}

impl Connection {
    /// Lets the client in, or asks backends first, or refuses it.
    pub(super) fn admit(&mut self, entry: Entry, now: Instant) -> Result<(), End> {
        self.leave();
        let (key, param, vhost) = entry.stream();
        let connect = self.connect.as_deref();
        let applicant = Applicant {
            id: self.client.id(),
            peer: self.peer,
            tc_url: connect.map_or("", |connect| &connect.tc_url),
            page_url: connect.map_or("", |connect| &connect.page_url),
            action: entry.action(),
            key,
            param,
            vhost,
        };
        let context = self.shard.context();
        if let Err(why) = applicant.may_come(context) {
            self.deny(&entry, "not allowed", &why, now);
            return Ok(());
        }
        let Some(answer) = applicant.ask(context, &self.tickets) else {
            return self.enter(entry, now);
        };
        self.role = Role::AskedHooks { entry: Box::new(entry), answer };
        Ok(())
    }

    /// Backends have answered; `None`: nobody could be asked.
    pub(super) fn on_answer(
        &mut self,
        entry: Entry,
        answer: Option<Answer>,
        now: Instant,
    ) -> Result<(), End> {
        self.count_moved();
        let (_, _, vhost) = entry.stream();
        let verdict = match answer {
            Some(answer) => self.tickets.take(answer),
            None if vhost.hooks.on_failure == OnFailure::Allow => Ok(()),
            None => Err("hooks cannot be asked".to_owned()),
        };
        match verdict {
            Ok(()) => self.enter(entry, now),
            Err(why) => {
                self.deny(&entry, "refused by a hook", &why, now);
                Ok(())
            }
        }
    }

    fn enter(&mut self, entry: Entry, now: Instant) -> Result<(), End> {
        match entry {
            Entry::Publish { key, source, vhost, msid } => {
                self.place_publish(key, source, vhost, msid, now);
                Ok(())
            }
            Entry::Play { key, param, vhost, request } if vhost.edge.enabled => {
                self.ask_play(&request, (key, param, vhost), false, now);
                Ok(())
            }
            Entry::Play { key, vhost, request, .. } => {
                self.begin_play(&request, key, &vhost, None, now)
            }
        }
    }

    /// The client is told `what`, the log `why`.
    fn deny(&mut self, entry: &Entry, what: &str, why: &str, now: Instant) {
        let code = match entry {
            Entry::Publish { .. } => PUBLISH_DENIED,
            Entry::Play { .. } => PLAY_FAILED,
        };
        if let Some(unsaid) = self.shard.context().may_complain(now) {
            let why = escaped(why);
            warn!(peer = %self.peer, code, %why, unsaid, "refused");
        }
        self.turn_away(entry.msid(), code, what, now);
    }

    /// Whatever the connection was used for is over, if it is used for nothing now.
    pub(super) fn leave(&mut self) {
        if matches!(self.role, Role::None) {
            self.tickets.leave();
        }
    }

    /// What backends are told of it at its end.
    pub(super) fn count_moved(&self) {
        self.tickets.moved(self.client.sent(), self.session.bytes_received());
    }
}

pub(super) const PUBLISH_DENIED: &str = "NetStream.Publish.Denied";
