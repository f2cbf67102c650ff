//! The hub: every stream of the process, its media log, and who reads it from where.
//!
//! Knows no sockets and no configuration file. A publisher appends each message once; a shard reads
//! it through a [`View`] and its subscribers are mere offsets into that.

mod form;
mod headers;
mod index;
mod log;
mod logs;
mod pool;
mod recent;
mod reserve;
mod seats;
#[expect(unsafe_code, reason = "memory that one thread appends to while others read")]
mod segment;
mod stream;
mod switch;
mod timeline;
mod view;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

pub use form::Form;
pub use headers::{Headers, Target};
pub use index::{Entry, EntryKind};
pub use log::{LOG_MSID, LogLimits, Seen, Wake};
pub use recent::fingerprint;
pub use seats::{Rules, Second};
pub use segment::SEGMENT_BYTES;
pub use stream::{Counters, Phase, Publisher, Source, Standby, Stream, StreamOptions};
pub use view::{LagLimits, Start, View, Wish};

use pool::Pool;

use crate::rtmp::url::StreamKey;

/// The stream has a publisher already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream is being published already")]
pub struct Busy;

/// Counts changes of what is published, so that one who follows can look again.
#[derive(Debug)]
pub struct Changes {
    generation: watch::Sender<u64>,
    switches: AtomicU64,
}

impl Changes {
    fn bump(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }

    fn count_switch(&self) {
        self.switches.fetch_add(1, Ordering::Relaxed);
    }
}

/// All streams.
#[derive(Debug)]
pub struct Hub {
    streams: Mutex<HashMap<StreamKey, Arc<Stream>>>,
    changes: Arc<Changes>,
    pool: Arc<Pool>,
}

impl Hub {
    /// An empty hub.
    pub fn new() -> Self {
        let (generation, switches) = (watch::Sender::new(0), AtomicU64::new(0));
        let changes = Arc::new(Changes { generation, switches });
        Self { streams: Mutex::default(), changes, pool: Pool::new() }
    }

    /// Becomes the publisher of `key`, if it has none.
    pub fn publish(
        &self,
        key: &StreamKey,
        options: StreamOptions,
        source: Source,
        now: Instant,
    ) -> Result<Publisher, Busy> {
        self.enter(key, options, source, None, now)
    }

    /// Becomes a publisher of `key`, beside another one as `rules` have it. One of whom nothing
    /// came for three seconds never is in the way.
    pub fn compete(
        &self,
        key: &StreamKey,
        options: StreamOptions,
        source: Source,
        rules: Rules,
        now: Instant,
    ) -> Result<Publisher, Busy> {
        self.enter(key, options, source, Some(rules), now)
    }

    fn enter(
        &self,
        key: &StreamKey,
        options: StreamOptions,
        source: Source,
        rules: Option<Rules>,
        now: Instant,
    ) -> Result<Publisher, Busy> {
        let mut streams = self.lock();
        loop {
            let stream = self.entry(&mut streams, key, options, now);
            match stream.begin(&source, rules, now) {
                Some(ticket) => {
                    let ticket = ticket?;
                    drop(streams);
                    return Ok(Publisher::new(stream, ticket, Arc::clone(&self.changes)));
                }
                // It ended a moment ago and was not swept yet: this publisher makes a new one.
                None => _ = streams.remove(key),
            }
        }
    }

    /// The stream `key`, made if it is not there: its readers wait for a publisher.
    pub fn stream(&self, key: &StreamKey, options: StreamOptions, now: Instant) -> Arc<Stream> {
        let mut streams = self.lock();
        if streams.get(key).is_some_and(|stream| stream.phase() == Phase::Ended) {
            streams.remove(key);
        }
        self.entry(&mut streams, key, options, now)
    }

    /// The stream `key`, if it is there.
    pub fn find(&self, key: &StreamKey) -> Option<Arc<Stream>> {
        self.lock().get(key).cloned()
    }

    /// Every stream, in no order.
    pub fn list(&self) -> Vec<Arc<Stream>> {
        self.lock().values().cloned().collect()
    }

    /// How often another publisher went on with a stream.
    pub fn switches(&self) -> u64 {
        self.changes.switches.load(Ordering::Relaxed)
    }

    /// Tells of each begin and end of a publish.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.generation.subscribe()
    }

    /// Ends streams whose grace time is over and forgets those nobody knows any more, and logs nobody
    /// reads; gives memory that none of them needs back to the system. To be called each second or so.
    pub fn sweep(&self, now: Instant) {
        self.lock().retain(|_, stream| {
            let ended = stream.expire(Some(now));
            stream.trim(now);
            // Only the map can hand out new references, and it is locked.
            let unused = Arc::strong_count(stream) == 1 && stream.phase() == Phase::Waiting;
            !ended && !unused
        });
        self.pool.trim();
    }

    /// Ends every stream that has no publisher (any more): the process stops.
    pub fn end_all(&self) {
        for stream in self.list() {
            stream.expire(None);
        }
    }

    fn entry(
        &self,
        streams: &mut HashMap<StreamKey, Arc<Stream>>,
        key: &StreamKey,
        options: StreamOptions,
        now: Instant,
    ) -> Arc<Stream> {
        let make = || Arc::new(Stream::new(key.clone(), options, &self.pool, now));
        Arc::clone(streams.entry(key.clone()).or_insert_with(make))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StreamKey, Arc<Stream>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Hub {
    fn default() -> Self {
        Self::new()
    }
}
