//! What a connection does when nothing happens.

use std::pin::Pin;
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use super::role::Role;
use super::{Connection, WRITE_TIMEOUT, play};
use crate::conn::end::End;
use crate::rtmp::session::SessionError;

impl Connection {
    pub(super) fn on_timer(&mut self) -> Result<(), End> {
        let now = Instant::now();
        self.session.handle_timeout(now)?;
        if self.close_at.is_some_and(|at| now >= at) {
            return Err(End::Closed("closed"));
        }
        if self.out_blocked_since.is_some_and(|since| now >= since + WRITE_TIMEOUT) {
            return Err(End::Stuck);
        }
        match &mut self.role {
            Role::None
            | Role::AskedHooks { .. }
            | Role::AskedPublish { .. }
            | Role::Carried { .. }
            | Role::AskedPlay { .. }
            | Role::Legged { .. } => {}
            Role::Publishing { last, silence, missing, .. } => {
                if missing.is_some_and(|(_, until)| now >= until) {
                    let why = "its origin is lost, and its headers did not come again";
                    return Err(End::Closed(why));
                }
                if now >= *last + silence.limit() {
                    return Err(SessionError::Timeout("nothing from the publisher").into());
                }
            }
            Role::Playing { playing, last_heard, .. } => {
                playing.on_timer();
                if playing.is_stuck(now) {
                    return Err(End::Stuck);
                }
                let since = now.saturating_duration_since(*last_heard);
                if self.next_ping.is_some_and(|at| now >= at) {
                    if since >= play::PING_INTERVAL + play::PING_TIMEOUT && !playing.is_moving() {
                        return Err(SessionError::Timeout("no answer to pings").into());
                    }
                    self.session.ping(since.as_millis() as u32);
                    self.next_ping = Some(now + play::PING_INTERVAL);
                }
            }
        }
        self.on_change()
    }

    /// When something is to be done if nothing happens before.
    pub(super) fn deadline(&self) -> Instant {
        let role = match &self.role {
            Role::None
            | Role::AskedHooks { .. }
            | Role::AskedPublish { .. }
            | Role::Carried { .. }
            | Role::AskedPlay { .. }
            | Role::Legged { .. } => None,
            Role::Publishing { last, silence, missing, .. } => {
                let silent = *last + silence.limit();
                Some(missing.map_or(silent, |(_, until)| until.min(silent)))
            }
            Role::Playing { playing, .. } => playing.deadline(),
        };
        let out = self.out_blocked_since.map(|since| since + WRITE_TIMEOUT);
        [self.session.poll_timeout(), self.close_at, out, self.next_ping, role]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or_else(|| Instant::now() + IDLE_LOOK)
    }

    /// Moves the timer forward if something became due earlier than it stands; later is found out
    /// when it fires, so that a busy publisher does not touch it. Whether it was moved.
    pub(super) fn sooner(&self, timer: Pin<&mut Sleep>) -> bool {
        let deadline = self.deadline().into();
        let is_sooner = deadline < timer.deadline();
        if is_sooner {
            timer.reset(deadline);
        }
        is_sooner
    }
}

/// Without any deadline a connection looks around so often.
const IDLE_LOOK: Duration = Duration::from_secs(30);
