//! How often something happens.

use std::time::{Duration, Instant};

/// Counts events in windows of one second that begin with the first event after the last window.
#[derive(Debug)]
pub(super) struct Rate {
    since: Instant,
    count: u32,
}

impl Rate {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, count: 0 }
    }

    /// Counts one event; false when it is over `limit` in this second.
    pub(super) fn allow(&mut self, now: Instant, limit: u32) -> bool {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            *self = Self::new(now);
        }
        self.count = self.count.saturating_add(1);
        self.count <= limit
    }
}
