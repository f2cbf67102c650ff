//! Whether a client may publish or play: what is known here, and then what backends say.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;

use super::{Context, Totals};
use crate::access::{self, Action, Visit};
use crate::config::Vhost;
use crate::hooks::{Answer, Guest, Hook, Inquiry, Line, Ticket};
use crate::rtmp::url::StreamKey;

/// A client and what it wants.
pub(super) struct Applicant<'a> {
    /// Its id.
    pub(super) id: u64,
    pub(super) peer: SocketAddr,
    pub(super) tc_url: &'a str,
    pub(super) page_url: &'a str,
    pub(super) action: Action,
    pub(super) key: &'a StreamKey,
    /// Parameters without the `?`.
    pub(super) param: &'a str,
    pub(super) vhost: &'a Vhost,
}

/// What backends have let a client do. They are told when it is over.
#[derive(Default)]
pub(super) struct Tickets {
    line: Arc<Line>,
    /// What the connection is used for.
    stay: Option<Ticket>,
    connected: Option<Ticket>,
}

impl Applicant<'_> {
    /// Whether it may by what is known here; if not, in words for the log why.
    pub(super) fn may_come(&self, context: &Context) -> Result<(), String> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let Self { action, page_url, key, param, .. } = *self;
        let from = self.peer.ip();
        let visit = Visit { action, from, page_url, key, param, now: since.as_secs() };
        access::check(self.vhost, &visit).map_err(|denied| {
            Totals::add(&context.totals.denied, 1);
            format!("{action} of {key}: {denied}")
        })
    }

    /// Asks backends for it, if there are any. The answer is for [`Tickets::take`]; without one
    /// nobody could be asked.
    pub(super) fn ask(
        &self,
        context: &Context,
        tickets: &Tickets,
    ) -> Option<oneshot::Receiver<Answer>> {
        if !self.vhost.hooks.enabled {
            return None;
        }
        let new = tickets.connected.as_ref().is_none_or(|it| it.vhost() != self.vhost.name);
        let guest = Guest {
            id: self.id.to_string(),
            peer: self.peer,
            tc_url: self.tc_url.to_owned(),
            page_url: self.page_url.to_owned(),
            key: self.key.clone(),
            param: self.param.to_owned(),
        };
        let inquiry = Inquiry {
            guest: Arc::new(guest),
            line: Arc::clone(&tickets.line),
            config: Arc::new(self.vhost.hooks.clone()),
        };
        let what = match self.action {
            Action::Publish => Hook::Publish,
            Action::Play => Hook::Play,
        };
        Some(context.hooks.ask(inquiry, what, new))
    }
}

impl Tickets {
    /// Takes what backends let the client do; or says in words for the log why it may not.
    pub(super) fn take(&mut self, answer: Answer) -> Result<(), String> {
        let Answer { admitted, connected } = answer;
        if connected.is_some() {
            self.connected = connected;
        }
        self.stay = Some(admitted?);
        Ok(())
    }

    /// What the connection was used for is over.
    pub(super) fn leave(&mut self) {
        self.stay = None;
    }

    /// So many bytes were sent to the client and received from it, as backends are told at its end.
    pub(super) fn moved(&self, sent: u64, received: u64) {
        self.line.moved(sent, received);
    }
}
