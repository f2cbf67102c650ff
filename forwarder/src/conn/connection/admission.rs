//! Whether a client may publish or play: what is known here, and then what backends say.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tracing::warn;

use super::role::Role;
use super::{Connection, PLAY_FAILED};
use crate::access::{self, Action, Visit};
use crate::config::{OnFailure, Vhost};
use crate::conn::Totals;
use crate::conn::end::End;
use crate::hooks::{Answer, Guest, Hook, Inquiry, Line, Ticket};
use crate::hub::Source;
use crate::rtmp::session::PlayRequest;
use crate::rtmp::url::{StreamKey, escaped};

/// What a client wants, once it is clear what that is.
pub(super) enum Entry {
    Publish { key: StreamKey, source: Source, vhost: Vhost, msid: u32 },
    Play { key: StreamKey, param: String, vhost: Vhost, request: PlayRequest },
}

/// What backends have let a client do. They are told when it is over.
#[derive(Default)]
pub(super) struct Tickets {
    line: Arc<Line>,
    /// What the connection is used for.
    stay: Option<Ticket>,
    connected: Option<Ticket>,
}

impl Entry {
    fn action(&self) -> Action {
        match self {
            Self::Publish { .. } => Action::Publish,
            Self::Play { .. } => Action::Play,
        }
    }

    fn hook(&self) -> Hook {
        match self {
            Self::Publish { .. } => Hook::Publish,
            Self::Play { .. } => Hook::Play,
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
        let page_url = self.connect.as_ref().map_or("", |connect| &connect.page_url);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (action, from, now_s) = (entry.action(), self.peer.ip(), since.as_secs());
        let visit = Visit { action, from, page_url, key, param, now: now_s };
        if let Err(denied) = access::check(vhost, &visit) {
            Totals::add(&self.shard.context().totals.denied, 1);
            let why = format!("{action} of {key}: {denied}");
            self.deny(&entry, "not allowed", &why, now);
            return Ok(());
        }
        if !vhost.hooks.enabled {
            return self.enter(entry, now);
        }
        let new = self.tickets.connected.as_ref().is_none_or(|it| it.vhost() != vhost.name);
        let guest = Guest {
            id: self.client.id().to_string(),
            peer: self.peer,
            tc_url: self.connect.as_ref().map_or_else(String::new, |it| it.tc_url.clone()),
            page_url: page_url.to_owned(),
            key: key.clone(),
            param: param.to_owned(),
        };
        let inquiry = Inquiry {
            guest: Arc::new(guest),
            line: Arc::clone(&self.tickets.line),
            config: Arc::new(vhost.hooks.clone()),
        };
        let answer = self.shard.context().hooks.ask(inquiry, entry.hook(), new);
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
        let (_, _, vhost) = entry.stream();
        let Some(Answer { admitted, connected }) = answer else {
            if vhost.hooks.on_failure == OnFailure::Allow {
                return self.enter(entry, now);
            }
            self.deny(&entry, "not allowed", "hooks cannot be asked", now);
            return Ok(());
        };
        if let Some(connected) = connected {
            self.count_moved();
            self.tickets.connected = Some(connected);
        }
        match admitted {
            Ok(ticket) => {
                self.tickets.stay = Some(ticket);
                self.enter(entry, now)
            }
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
            self.tickets.stay = None;
        }
    }

    /// What backends are told of it at its end.
    pub(super) fn count_moved(&self) {
        self.tickets.line.moved(self.client.sent(), self.session.bytes_received());
    }
}

pub(super) const PUBLISH_DENIED: &str = "NetStream.Publish.Denied";
