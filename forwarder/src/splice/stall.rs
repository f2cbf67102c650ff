//! How long a target has taken nothing.

use std::os::fd::AsFd;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::socket::TcpCounters;

/// Remembers when a target last made progress.
#[derive(Debug, Default)]
pub(super) struct Stall {
    /// Bytes acknowledged then, and when that was first seen.
    last: Option<(u64, Instant)>,
}

impl Stall {
    /// The target took something, or is asked for nothing.
    pub(super) fn clear(&mut self) {
        self.last = None;
    }

    /// Since when the target's peer has acknowledged nothing: now, if it has since the last look.
    pub(super) fn look(&mut self, target: &TcpStream) -> Instant {
        // A socket whose counters cannot be read makes no progress.
        let acked = TcpCounters::read(target.as_fd()).map_or(0, |counters| counters.acked);
        self.see(acked)
    }

    /// As [`Self::look`], for who knows what is acknowledged.
    pub(super) fn see(&mut self, acked: u64) -> Instant {
        match self.last {
            Some((last, since)) if last == acked => since,
            _ => {
                let now = Instant::now();
                self.last = Some((acked, now));
                now
            }
        }
    }
}
