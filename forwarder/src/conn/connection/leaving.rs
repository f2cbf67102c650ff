//! A connection while the process is about to stop.

use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::Connection;
use super::role::Role;
use crate::conn::Shard;
use crate::conn::end::End;
use crate::conn::leaving::{Movable, Stage};
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
        match &self.connect {
            // Its player must not hear that the stream is over: the edge has others to ask, and goes
            // on from the message border at which this ends.
            Some(connect) if connect.unread => {
                self.stop_playing()?;
                self.close_at = Some(Instant::now());
            }
            // What is said to it is its origin's.
            _ if matches!(self.role, Role::Legged { .. }) => self.movable = None,
            _ => self.ask_to_leave(),
        }
        Ok(())
    }

    /// Asks the client to connect again, in the app it is in.
    fn ask_to_leave(&mut self) {
        let config = self.shard.context().config();
        let to = config.drain_to.as_deref();
        let to = to.zip(self.connect.as_ref()).map(|(to, connect)| format!("{to}/{}", connect.app));
        self.session.request_reconnect(to.as_deref());
    }
}
