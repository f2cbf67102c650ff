//! What each forward does, for the status.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::config::ForwardUrl;
use crate::hub::Stream;
use crate::status::ForwardStatus;

/// One stream's forward to one destination, as others see it.
#[derive(Debug)]
pub struct Entry {
    pub(crate) stream: Arc<Stream>,
    /// As it may be shown.
    pub(crate) destination: String,
    /// Of a forward; a relay has none.
    url: Option<ForwardUrl>,
    pub(crate) attempt: AtomicU32,
    pub(crate) connects: AtomicU64,
    pub(crate) sent_bytes: AtomicU64,
    pub(crate) lag_ms: AtomicU64,
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
            url: None,
            attempt: AtomicU32::new(0),
            connects: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            lag_ms: AtomicU64::new(0),
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
        self.lock().1 = error.to_owned();
    }

    fn lock(&self) -> MutexGuard<'_, (State, String)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self, now: Instant) -> ForwardStatus {
        let (state, last_error) = self.lock().clone();
        let (name, wait) = match state {
            State::Connecting => ("connecting", 0),
            State::Forwarding if self.stalled.load(Ordering::Relaxed) => ("stalled", 0),
            State::Forwarding => ("forwarding", 0),
            State::Waiting(until) => {
                ("waiting", until.saturating_duration_since(now).as_millis() as u64)
            }
            State::Stopped => ("stopped", 0),
        };
        ForwardStatus {
            destination: self.destination.clone(),
            state: name.into(),
            attempt: self.attempt.load(Ordering::Relaxed),
            connects: self.connects.load(Ordering::Relaxed),
            next_retry_ms: wait,
            last_error,
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            lag_ms: self.lag_ms.load(Ordering::Relaxed),
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
    entries: Mutex<Vec<Arc<Entry>>>,
}

impl Registry {
    /// The forwards of `stream`.
    pub fn of(&self, stream: &Arc<Stream>, now: Instant) -> Vec<ForwardStatus> {
        let entries = self.lock();
        let its = entries.iter().filter(|entry| Arc::ptr_eq(&entry.stream, stream));
        its.map(|entry| entry.status(now)).collect()
    }

    /// Registers a forward; `None` if there is one already.
    pub(super) fn begin(&self, stream: &Arc<Stream>, url: &ForwardUrl) -> Option<Arc<Entry>> {
        let mut entries = self.lock();
        let running = |entry: &&Arc<Entry>| {
            Arc::ptr_eq(&entry.stream, stream) && entry.url.as_ref() == Some(url)
        };
        if entries.iter().find(running).is_some() {
            return None;
        }
        let entry = Arc::new(Entry { url: Some(url.clone()), ..Entry::new(stream, url) });
        entries.push(Arc::clone(&entry));
        Some(entry)
    }

    /// Registers what somebody else begins.
    pub(crate) fn add(&self, entry: &Arc<Entry>) {
        self.lock().push(Arc::clone(entry));
    }

    /// Forgets the forwards whose streams are over.
    pub fn forget_done(&self) {
        self.lock().retain(|entry| !entry.done.load(Ordering::Relaxed));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
