//! A client that has to go although it, its stream and the process are well.

use std::time::Instant;

use super::role::{Role, Waiting};
use super::{Connection, END_LINGER, PLAY_FAILED};
use crate::conn::end::{DISMISSED, End};

const PUBLISH_DENIED: &str = "NetStream.Publish.Denied";

impl Connection {
    /// Its vhost is not served any more: it is told in the words it knows. Whoever has a leg is
    /// closed, as nothing may be said in the middle of what the leg moves.
    pub(super) fn on_dismissed(&mut self) -> Result<(), End> {
        let now = Instant::now();
        match &self.role {
            Role::Playing { msid, .. } => {
                let msid = *msid;
                self.stop_playing()?;
                self.session.finish_play(msid);
                self.close_at = Some(now + END_LINGER);
            }
            Role::Publishing { msid, .. }
            | Role::AskedPublish { waiting: Waiting { msid, .. }, .. } => {
                let msid = *msid;
                self.role = Role::None;
                self.refuse(msid, PUBLISH_DENIED, DISMISSED, now);
            }
            Role::AskedPlay { asked, .. } => {
                let msid = asked.request.msid;
                self.role = Role::None;
                self.refuse(msid, PLAY_FAILED, DISMISSED, now);
            }
            Role::Legged { .. } | Role::Carried { .. } => return Err(End::Closed(DISMISSED)),
            Role::AskedHooks { .. } => return Err(End::Closed(DISMISSED)),
            Role::None => self.close_soon(now),
        }
        Ok(())
    }
}
