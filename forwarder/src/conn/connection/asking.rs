//! A connection to an edge: what it does while an origin is asked, and with the answer.

use std::time::Instant;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::role::{Asked, Change, Role, Waiting};
use super::{Connection, PLAY_FAILED};
use crate::config::Vhost;
use crate::conn::encoder::Learned;
use crate::conn::end::End;
use crate::conn::upstream::{Ask, Grant, PlayAsk, PublishAsk, PublishGrant};
use crate::hub::Source;
use crate::rtmp::session::{ConnectRequest, PlayRequest};
use crate::rtmp::url::StreamKey;

impl Connection {
    /// Asks for an origin that takes what is published here.
    pub(super) fn ask_publish(&mut self, key: StreamKey, source: Source, vhost: Vhost, msid: u32) {
        let (reply, answer) = oneshot::channel();
        let connect = self.to_show(&vhost);
        let leave = CancellationToken::new();
        let guard = Some(leave.clone().drop_guard());
        let ask = PublishAsk { key: key.clone(), connect, source, leave, reply };
        self.shard.context().upstream.ask(Ask::Publish(ask));
        let waiting = Waiting { key, msid, vhost, accepted: false, guard };
        self.role = Role::AskedPublish { waiting, learned: Learned::default(), answer };
    }

    /// Asks for an origin that has the stream.
    pub(super) fn ask_play(
        &mut self,
        request: &PlayRequest,
        (key, param, vhost): (StreamKey, String, Vhost),
        shared: bool,
        now: Instant,
    ) {
        let path = match self.path() {
            Ok(path) => path,
            Err(why) => return self.refuse(request.msid, PLAY_FAILED, why, now),
        };
        let (reply, answer) = oneshot::channel();
        let connect = self.to_show(&vhost);
        let ask = PlayAsk { key: key.clone(), connect, param: param.clone(), path, shared, reply };
        self.shard.context().upstream.ask(Ask::Play(ask));
        let asked = Asked { request: request.clone(), key, param, vhost };
        self.role = Role::AskedPlay { asked, answer };
    }

    /// What an origin shall hear of the client.
    fn to_show(&self, vhost: &Vhost) -> Option<Box<ConnectRequest>> {
        let connect = self.connect.as_deref().filter(|_| vhost.edge.token_traverse);
        connect.map(|connect| Box::new(connect.clone()))
    }

    pub(super) fn on_role_change(&mut self, change: Change) -> Result<(), End> {
        let now = Instant::now();
        match (std::mem::replace(&mut self.role, Role::None), change) {
            (role, Change::Fanout) => {
                self.role = role;
                return self.on_change();
            }
            (Role::AskedHooks { entry, .. }, Change::Answered(answer)) => {
                self.on_answer(*entry, answer, now)?;
            }
            (Role::AskedPublish { waiting, learned, .. }, Change::Published(Ok(grant))) => {
                match grant {
                    PublishGrant::Relayed(relayed) => {
                        let msid = waiting.msid;
                        self.begin_publish(relayed.publisher, waiting, Some(relayed.lost), now);
                        self.append_learned(msid, &learned, now)?;
                    }
                    PublishGrant::Carried(launch) => self.begin_carrying(waiting, launch),
                }
            }
            (role @ Role::Carried { .. }, Change::Carrier(news)) => {
                self.role = role;
                self.on_encoder_news(news, now)?;
            }
            (Role::AskedPlay { asked, .. }, Change::Played(Ok(grant))) => match grant {
                Grant::Shared(interest) => {
                    let Asked { request, key, vhost, .. } = asked;
                    self.begin_play(&request, key, &vhost, Some(interest), now)?;
                }
                Grant::Own(launch) => self.begin_leg(asked, launch)?,
            },
            (role @ Role::Legged { .. }, Change::Leg(news)) => {
                self.role = role;
                self.on_news(news, now)?;
            }
            (
                Role::AskedPublish { waiting: Waiting { msid, .. }, .. },
                Change::Published(Err(refusal)),
            )
            | (Role::Publishing { msid, .. }, Change::Lost(refusal)) => {
                self.refuse(msid, &refusal.code, &refusal.description, now);
            }
            (Role::AskedPlay { asked, .. }, Change::Played(Err(refusal))) => {
                self.refuse(asked.request.msid, &refusal.code, &refusal.description, now);
            }
            (role, _) => self.role = role,
        }
        if self.role.is_asking() {
            return Ok(());
        }
        let unread = std::mem::take(&mut self.unread);
        self.take(&unread, now)?;
        self.flush();
        Ok(())
    }
}
