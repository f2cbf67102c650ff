//! A connection while the process is about to stop.

use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::Connection;
use super::role::Role;
use crate::conn::Shard;
use crate::conn::end::End;
use crate::conn::leaving::{Movable, Stage};
use crate::conn::legged::Order;
use crate::rtmp::session::ConnectRequest;

impl Stage {
    /// Cancelled when it begins. Every connection asks this whenever it is woken.
    pub(super) fn token(self, shard: &Shard) -> &CancellationToken {
        match self {
            Self::Players => shard.leave(),
            Self::Publishers => &shard.context().leaving.publishers,
            Self::Stop => shard.stop(),
        }
    }
}

impl Connection {
    /// Notes whether the client can be asked to go.
    pub(super) fn note_movable(&mut self, connect: &ConnectRequest) {
        let can_go = connect.reconnects || connect.unread;
        self.movable = can_go.then(|| Movable::new(self.shard.context()));
    }

    /// `stage` has begun. The next one; `None`: there is none, the process stops.
    pub(super) fn on_stage(&mut self, stage: Stage) -> Result<Option<Stage>, End> {
        match stage {
            Stage::Players => {
                self.ask_player()?;
                Ok(Some(Stage::Publishers))
            }
            Stage::Publishers => {
                if self.movable.is_some() && self.publishes() {
                    self.ask_to_leave();
                }
                Ok(Some(Stage::Stop))
            }
            Stage::Stop => Ok(None),
        }
    }

    fn publishes(&self) -> bool {
        matches!(
            self.role,
            Role::Publishing { .. } | Role::AskedPublish { .. } | Role::Carried { .. }
        )
    }

    fn ask_player(&mut self) -> Result<(), End> {
        let publishes = self.publishes();
        let Some(movable) = &mut self.movable else { return Ok(()) };
        if publishes {
            movable.publishes();
            return Ok(());
        }
        let is_unread = self.connect.as_ref().is_some_and(|connect| connect.unread);
        match &self.role {
            Role::Legged { .. } if is_unread => self.leave_leg()?,
            // What is said to it is its origin's, so its leg has to say this in between.
            Role::Legged { .. } => self.pass_on_then(Order::Leave(self.where_to()))?,
            // Its player must not hear that the stream is over: the edge has others to ask, and goes
            // on from the message border at which this ends.
            _ if is_unread => {
                self.stop_playing()?;
                self.close_at = Some(Instant::now());
            }
            _ => self.ask_to_leave(),
        }
        Ok(())
    }

    /// Asks the client to connect again, in the app it is in.
    fn ask_to_leave(&mut self) {
        let to = self.where_to();
        self.session.request_reconnect(to.as_deref());
    }

    fn where_to(&self) -> Option<String> {
        let config = self.shard.context().config();
        let to = config.drain_to.as_deref().zip(self.connect.as_ref());
        to.map(|(to, connect)| format!("{to}/{}", connect.app))
    }

    /// Whether it is the leg of an edge that is to go: its end is all that it is told.
    pub(super) fn is_to_end_unread(&self) -> bool {
        let is_unread = self.connect.as_ref().is_some_and(|connect| connect.unread);
        is_unread && self.movable.is_some() && self.shard.leave().is_cancelled()
    }
}
