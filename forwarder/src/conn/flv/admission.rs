//! Whether a player over HTTP may come, as one of RTMP may.

use std::time::Instant;

use tracing::warn;

use super::{No, Refused, Visitor, Wanted};
use crate::access::Action;
use crate::config::OnFailure;
use crate::conn::admission::Applicant;
use crate::conn::end::End;
use crate::rtmp::url::escaped;
use crate::splice;

impl Visitor {
    /// Lets the player in, perhaps after backends were asked.
    pub(super) async fn admit(&mut self, wanted: &Wanted) -> Result<(), No> {
        let Wanted { key, param, vhost, connect } = wanted;
        let applicant = Applicant {
            id: self.client.id(),
            peer: self.peer,
            tc_url: &connect.tc_url,
            page_url: &connect.page_url,
            action: Action::Play,
            key,
            param,
            vhost,
        };
        let context = self.shard.context();
        applicant.may_come(context).map_err(|why| self.deny("not allowed", &why))?;
        let Some(answer) = applicant.ask(context, &self.tickets) else { return Ok(()) };
        let answer = tokio::select! {
            answer = answer => answer.ok(),
            () = splice::closed(&self.io) => return Err(End::Closed("closed by peer").into()),
        };
        let verdict = match answer {
            Some(answer) => self.tickets.take(answer),
            None if vhost.hooks.on_failure == OnFailure::Allow => Ok(()),
            None => Err("hooks cannot be asked".to_owned()),
        };
        verdict.map_err(|why| self.deny("refused by a hook", &why))
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
