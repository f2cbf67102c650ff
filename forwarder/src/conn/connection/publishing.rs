//! A publisher's connection: who may publish, and how that begins.

use std::time::Instant;

use tokio::sync::oneshot;
use tracing::info;

use super::admission::{Entry, PUBLISH_DENIED};
use super::role::{Relay, Role, Silence, Waiting};
use super::{BAD_NAME, Connection};
use crate::config::Vhost;
use crate::conn::end::End;
use crate::conn::upstream::Refusal;
use crate::conn::{publish_rules, stream_options};
use crate::hub::{Publisher, Source};
use crate::rtmp::session::PublishRequest;
use crate::rtmp::url::StreamKey;

impl Connection {
    pub(super) fn on_publish(&mut self, request: &PublishRequest, now: Instant) -> Result<(), End> {
        if self.close_at.is_some() {
            return Ok(());
        }
        let msid = request.msid;
        match self.may_publish(request) {
            Ok((key, source, vhost)) => {
                self.admit(Entry::Publish { key, source, vhost, msid }, now)
            }
            Err((code, description)) => {
                self.refuse(msid, code, &description, now);
                Ok(())
            }
        }
    }

    /// Looks for a place for a publisher that may come.
    pub(super) fn place_publish(
        &mut self,
        key: StreamKey,
        source: Source,
        vhost: Vhost,
        msid: u32,
        now: Instant,
    ) {
        if vhost.edge.enabled {
            return self.ask_publish(key, source, vhost, msid);
        }
        let context = self.shard.context();
        let lost = vhost.forward.may_refuse().then(|| context.refusals.watch(&source.peer));
        let (options, rules) = (stream_options(&vhost), publish_rules(&vhost));
        match context.hub.compete(&key, options, source, rules, now) {
            Ok(publisher) => {
                let waiting = Waiting { key, msid, vhost, accepted: false, guard: None };
                self.begin_publish(publisher, waiting, lost, now);
            }
            Err(busy) => self.refuse(msid, BAD_NAME, &busy.to_string(), now),
        }
    }

    pub(super) fn begin_publish(
        &mut self,
        publisher: Publisher,
        waiting: Waiting,
        lost: Option<oneshot::Receiver<Refusal>>,
        now: Instant,
    ) {
        let Waiting { vhost, msid, accepted, guard, .. } = waiting;
        if !accepted {
            let stream = publisher.stream().key().clone();
            if publisher.stands_by() {
                info!(peer = %self.peer, %stream, "publish: stands by");
            } else {
                info!(peer = %self.peer, %stream, "publish");
            }
            self.session.accept_publish(msid, now);
            self.did = Some(("publish", stream));
        }
        let silence = Silence::of(&vhost);
        let relay = lost.map(|lost| Relay { _guard: guard, lost });
        self.role = Role::Publishing { publisher, msid, last: now, silence, relay, missing: None };
    }

    fn may_publish(
        &self,
        request: &PublishRequest,
    ) -> Result<(StreamKey, Source, Vhost), (&'static str, String)> {
        if !matches!(self.role, Role::None) {
            return Err((BAD_NAME, "this connection has a stream already".into()));
        }
        let (key, param, vhost) = self.resolve(&request.stream).map_err(|why| (BAD_NAME, why))?;
        let path = self.path().map_err(|why| (PUBLISH_DENIED, why.to_owned()))?;
        let connect = self.connect.as_ref();
        let tc_url = connect.map_or_else(String::new, |connect| connect.tc_url.clone());
        let (client, peer) = (self.client.id().to_string(), self.peer.to_string());
        Ok((key, Source { peer, client, tc_url, param, path }, vhost))
    }
}
