//! Whether the peer of a socket that takes nothing takes something itself.
//!
//! A socket is writable again when a third of its queue is free (Linux, `sk_stream_is_writeable`).
//! The kernel lets that grow to megabytes, and then a slow reader needs longer for a third of it than
//! one that is gone is given: what tells them apart is what the peer acknowledges.

use std::cell::Cell;
use std::os::fd::AsFd as _;
use std::rc::Rc;
use std::time::Instant;

use tokio::net::TcpStream;

use crate::splice::TcpCounters;

/// What the peer of a socket has taken, as far as anybody looked.
#[derive(Debug)]
pub struct Taking {
    io: Rc<TcpStream>,
    /// While it is blocked: when the peer was last seen to have taken more, and all it has taken.
    seen: Cell<Option<(Instant, u64)>>,
    /// At the last look of [`Self::is_moving`].
    before: Cell<u64>,
}

impl Taking {
    /// Looks at the peer of `io`.
    pub fn new(io: Rc<TcpStream>) -> Self {
        Self { io, seen: Cell::default(), before: Cell::default() }
    }

    /// Since when the peer has taken nothing, for a socket that is blocked since `blocked`. To be
    /// asked when that begins, and then several times within the longest silence that is allowed.
    pub fn nothing_since(&self, blocked: Option<Instant>, now: Instant) -> Option<Instant> {
        let seen = blocked.map(|blocked| {
            let taken = self.taken();
            match self.seen.get() {
                Some((at, before)) if before == taken => (at, taken),
                Some(_) => (now, taken),
                None => (blocked, taken),
            }
        });
        self.seen.set(seen);
        seen.map(|(at, _)| at)
    }

    /// Whether the peer has taken anything since this was asked last.
    pub fn is_moving(&self) -> bool {
        let taken = self.taken();
        self.before.replace(taken) != taken
    }

    /// Nothing, for a kernel that does not say: then the socket alone counts.
    fn taken(&self) -> u64 {
        TcpCounters::read(self.io.as_fd()).map_or(0, |counters| counters.acked)
    }
}
