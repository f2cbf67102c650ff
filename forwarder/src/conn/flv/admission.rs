//! Whether a player may come: what is known here, and then what backends say.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tracing::warn;

use super::{No, Refused, Visitor, Wanted};
use crate::access::{self, Action, Visit};
use crate::config::OnFailure;
use crate::conn::Totals;
use crate::conn::end::End;
use crate::hooks::{Answer, Guest, Hook, Inquiry, Line, Ticket};
use crate::rtmp::url::escaped;
use crate::splice;

/// What backends have let a player do. They are told when it is over, first of the play.
#[derive(Default)]
pub(super) struct Tickets {
    pub(super) line: Arc<Line>,
    play: Option<Ticket>,
    connected: Option<Ticket>,
}

impl Visitor {
    /// Lets the player in, as one of RTMP would be.
    pub(super) async fn admit(&mut self, wanted: &Wanted) -> Result<(), No> {
        let Wanted { key, param, vhost, connect } = wanted;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (from, page_url, now) = (self.peer.ip(), &*connect.page_url, since.as_secs());
        let visit = Visit { action: Action::Play, from, page_url, key, param, now };
        if let Err(denied) = access::check(vhost, &visit) {
            Totals::add(&self.shard.context().totals.denied, 1);
            return Err(self.deny("not allowed", &format!("play of {key}: {denied}")));
        }
        if !vhost.hooks.enabled {
            return Ok(());
        }
        let guest = Guest {
            id: self.client.id().to_string(),
            peer: self.peer,
            tc_url: connect.tc_url.clone(),
            page_url: connect.page_url.clone(),
            key: key.clone(),
            param: param.clone(),
        };
        let inquiry = Inquiry {
            guest: Arc::new(guest),
            line: Arc::clone(&self.tickets.line),
            config: Arc::new(vhost.hooks.clone()),
        };
        let answer = self.shard.context().hooks.ask(inquiry, Hook::Play, true);
        let answer = tokio::select! {
            answer = answer => answer.ok(),
            () = splice::closed(&self.io) => return Err(End::Closed("closed by peer").into()),
        };
        let Some(Answer { admitted, connected }) = answer else {
            return match vhost.hooks.on_failure {
                OnFailure::Allow => Ok(()),
                OnFailure::Refuse => Err(self.deny("not allowed", "hooks cannot be asked")),
            };
        };
        self.tickets.connected = connected;
        match admitted {
            Ok(ticket) => {
                self.tickets.play = Some(ticket);
                Ok(())
            }
            Err(why) => Err(self.deny("refused by a hook", &why)),
        }
    }

    /// The player is told `what`, the log `why`.
    fn deny(&self, what: &str, why: &str) -> No {
        if let Some(unsaid) = self.shard.context().may_complain(Instant::now()) {
            let why = escaped(why);
            warn!(peer = %self.peer, %why, unsaid, "refused");
        }
        Refused::new(403, what).into()
    }
}
