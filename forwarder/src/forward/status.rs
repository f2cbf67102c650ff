//! What each forward does, for the status.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio_util::sync::CancellationToken;

use super::place::Place;
use crate::hub::{Phase, Stream};
use crate::status::ForwardStatus;

/// Characters of an error that are kept: servers say as much as they like.
const MAX_ERROR: usize = 300;

/// One stream's forward to one destination, as others see it.
#[derive(Debug)]
pub struct Entry {
    pub(crate) stream: Arc<Stream>,
    /// As it may be shown.
    pub(crate) destination: String,
    /// Of a forward; a relay has none.
    pub(super) place: Option<Place>,
    /// Cancelled when its place is one no more.
    pub(super) drain: CancellationToken,
    pub(crate) attempt: AtomicU32,
    pub(crate) connects: AtomicU64,
    pub(crate) sent_bytes: AtomicU64,
    pub(crate) lag_ms: AtomicU64,
    pub(crate) queue_bytes: AtomicU64,
    pub(crate) skips: AtomicU64,
    /// The destination has acknowledged nothing lately.
    pub(crate) stalled: AtomicBool,
    pub(crate) done: AtomicBool,
    state: Mutex<(State, String)>,
    /// When it last left [`State::Forwarding`], milliseconds since 1970.
    last_success_ms: AtomicU64,
}

/// Where a forward stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Connecting,
    Forwarding,
    Waiting(Instant),
    Stopped,
}

impl Entry {
    pub(crate) fn new(stream: &Arc<Stream>, destination: impl fmt::Display) -> Self {
        Self {
            stream: Arc::clone(stream),
            destination: destination.to_string(),
            place: None,
            drain: CancellationToken::new(),
            attempt: AtomicU32::new(0),
            connects: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            lag_ms: AtomicU64::new(0),
            queue_bytes: AtomicU64::new(0),
            skips: AtomicU64::new(0),
            stalled: AtomicBool::new(false),
            done: AtomicBool::new(false),
            state: Mutex::new((State::Connecting, String::new())),
            last_success_ms: AtomicU64::new(0),
        }
    }

    pub(crate) fn set(&self, state: State) {
        let before = std::mem::replace(&mut self.lock().0, state);
        if before == State::Forwarding {
            self.last_success_ms.store(unix_ms(), Ordering::Relaxed);
        }
    }

    pub(crate) fn failed(&self, error: &str) {
        self.lock().1 = error.chars().take(MAX_ERROR).collect();
    }

    /// Whether nobody needs to know of it any more.
    fn is_over(&self) -> bool {
        // One that was never begun has nobody to say that it is done.
        let idle = matches!(self.lock().0, State::Stopped) && self.stream.phase() == Phase::Ended;
        idle || self.done.load(Ordering::Relaxed)
    }

    /// Whether it waits to dial for a stream that is over.
    fn waits_in_vain(&self) -> bool {
        matches!(self.lock().0, State::Waiting(_)) && self.stream.phase() == Phase::Ended
    }

    fn lock(&self) -> MutexGuard<'_, (State, String)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self, now: Instant) -> ForwardStatus {
        let (state, last_error) = self.lock().clone();
        let (name, wait) = match state {
            State::Connecting => ("connecting", 0),
            State::Forwarding if self.drain.is_cancelled() => ("draining", 0),
            State::Forwarding if self.stalled.load(Ordering::Relaxed) => ("stalled", 0),
            State::Forwarding => ("forwarding", 0),
            State::Waiting(until) => {
                ("waiting", until.saturating_duration_since(now).as_millis() as u64)
            }
            State::Stopped => ("stopped", 0),
        };
        ForwardStatus {
            destination: self.destination.clone(),
            found_by: self.place.as_ref().map_or_else(String::new, |it| it.found_by.clone()),
            state: name.into(),
            attempt: self.attempt.load(Ordering::Relaxed),
            connects: self.connects.load(Ordering::Relaxed),
            next_retry_ms: wait,
            last_error,
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            lag_ms: self.lag_ms.load(Ordering::Relaxed),
            queue_bytes: self.queue_bytes.load(Ordering::Relaxed),
            skips: self.skips.load(Ordering::Relaxed),
            last_success_ms: match state {
                State::Forwarding => unix_ms(),
                _ => self.last_success_ms.load(Ordering::Relaxed),
            },
        }
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Every forward of the process.
#[derive(Debug, Default)]
pub struct Registry {
    /// By the address of their stream, which they keep alive.
    entries: Mutex<HashMap<usize, Vec<Arc<Entry>>>>,
}

impl Registry {
    /// The forwards of `stream`.
    pub fn of(&self, stream: &Arc<Stream>, now: Instant) -> Vec<ForwardStatus> {
        let entries = self.lock();
        let its = entries.get(&id(stream)).into_iter().flatten();
        its.map(|entry| entry.status(now)).collect()
    }

    /// Registers a forward; `None` if there is one already, even if it is taking its leave.
    pub(super) fn begin(&self, stream: &Arc<Stream>, place: &Place) -> Option<Arc<Entry>> {
        let mut entries = self.lock();
        let its = entries.entry(id(stream)).or_default();
        let is_it = |entry: &Arc<Entry>| entry.place.as_ref().is_some_and(|it| it.url == place.url);
        if its.iter().any(is_it) {
            return None;
        }
        let destination = unlike(place.url.to_string(), its);
        let place = Some(place.clone());
        let entry = Arc::new(Entry { place, ..Entry::new(stream, destination) });
        its.push(Arc::clone(&entry));
        Some(entry)
    }

    /// Has the forwards of `stream` take their leave but for those to `places`.
    pub(super) fn keep(&self, stream: &Arc<Stream>, places: &[Place]) {
        let entries = self.lock();
        for entry in entries.get(&id(stream)).into_iter().flatten() {
            let Some(place) = &entry.place else { continue };
            if !places.iter().any(|it| it.is(place)) {
                entry.drain.cancel();
            }
        }
    }

    /// Registers what somebody else begins.
    pub(crate) fn add(&self, entry: &Arc<Entry>) {
        self.lock().entry(id(&entry.stream)).or_default().push(Arc::clone(entry));
    }

    /// Forgets the forwards that are over. What is kept of a stream is not held for the length of
    /// a pause.
    pub fn forget_done(&self) {
        self.lock().retain(|_, its| {
            let in_vain = its.iter().filter(|entry| entry.waits_in_vain());
            in_vain.for_each(|entry| entry.drain.cancel());
            its.retain(|entry| !entry.is_over());
            !its.is_empty()
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<usize, Vec<Arc<Entry>>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `text`, with a number if another of `entries` is called so: URLs are shown without their keys.
fn unlike(text: String, entries: &[Arc<Entry>]) -> String {
    let is_free = |text: &String| entries.iter().all(|entry| entry.destination != *text);
    let numbered = (2..).map(|n| format!("{text} #{n}"));
    std::iter::once(text.clone()).chain(numbered).find(is_free).unwrap_or(text)
}

fn id(stream: &Arc<Stream>) -> usize {
    Arc::as_ptr(stream) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ForwardUrl;
    use crate::hub::{Hub, LogLimits, Source, StreamOptions};
    use crate::rtmp::url::StreamKey;

    #[test]
    fn nobody_waits_to_dial_for_a_stream_that_is_over() {
        let (hub, now) = (Hub::new(), Instant::now());
        let key = StreamKey::new("__defaultVhost__", "live", "a").unwrap();
        let log = LogLimits { chunk_size: 4096, gop_bytes: 1 << 20, gop_messages: 100 };
        let options = StreamOptions { log, grace: std::time::Duration::ZERO };
        let publisher = hub.publish(&key, options, Source::default(), now).unwrap();
        let stream = Arc::clone(publisher.stream());
        let url: ForwardUrl = "slave".parse().unwrap();
        let registry = Registry::default();
        let entry = registry.begin(&stream, &Place::fixed(&url, true, "")).unwrap();
        entry.set(State::Waiting(now + std::time::Duration::from_secs(3600)));
        registry.forget_done();
        assert!(!entry.drain.is_cancelled(), "the stream is live");
        drop(publisher);
        hub.end_all();
        assert_eq!(stream.phase(), Phase::Ended);
        registry.forget_done();
        assert!(entry.drain.is_cancelled());
        entry.done.store(true, Ordering::Relaxed);
        registry.forget_done();
        assert!(registry.lock().is_empty());
    }

    #[test]
    fn a_servers_words_are_kept_as_far_as_they_are_worth_it() {
        let hub = Hub::new();
        let key = StreamKey::new("__defaultVhost__", "live", "a").unwrap();
        let log = LogLimits { chunk_size: 4096, gop_bytes: 1 << 20, gop_messages: 100 };
        let options = StreamOptions { log, grace: std::time::Duration::ZERO };
        let entry = Entry::new(&hub.stream(&key, options, Instant::now()), "slave");
        entry.failed(&"ä".repeat(1 << 20));
        assert_eq!(entry.status(Instant::now()).last_error.chars().count(), MAX_ERROR);
    }

    #[test]
    fn a_place_whose_parameters_are_to_go_along_is_another_one() {
        let url: ForwardUrl = "slave".parse().unwrap();
        let [with, without] = [true, false].map(|pass| Place::fixed(&url, pass, ""));
        assert!(with.is(&with.clone()) && !with.is(&without));
        assert!(with.is(&Place::fixed(&url, true, "backend")));
    }
}
