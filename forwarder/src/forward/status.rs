//! What each forward does, for the status.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::config::Destination;
use crate::hub::Stream;
use crate::status::ForwardStatus;

/// One stream's forward to one destination, as others see it.
#[derive(Debug)]
pub struct Entry {
    pub(super) stream: Arc<Stream>,
    pub(super) destination: Destination,
    pub(super) attempt: AtomicU32,
    pub(super) connects: AtomicU64,
    pub(super) sent_bytes: AtomicU64,
    pub(super) lag_ms: AtomicU64,
    pub(super) skips: AtomicU64,
    pub(super) done: AtomicBool,
    state: Mutex<(State, String)>,
}

/// Where a forward stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Connecting,
    Forwarding,
    Waiting(Instant),
    Stopped,
}

impl Entry {
    pub(super) fn set(&self, state: State) {
        self.lock().0 = state;
    }

    pub(super) fn failed(&self, error: &str) {
        self.lock().1 = error.to_owned();
    }

    fn lock(&self) -> MutexGuard<'_, (State, String)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self, now: Instant) -> ForwardStatus {
        let (state, last_error) = self.lock().clone();
        let (name, wait) = match state {
            State::Connecting => ("connecting", 0),
            State::Forwarding => ("forwarding", 0),
            State::Waiting(until) => {
                ("waiting", until.saturating_duration_since(now).as_millis() as u64)
            }
            State::Stopped => ("stopped", 0),
        };
        ForwardStatus {
            destination: self.destination.to_string(),
            state: name.into(),
            attempt: self.attempt.load(Ordering::Relaxed),
            connects: self.connects.load(Ordering::Relaxed),
            next_retry_ms: wait,
            last_error,
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            lag_ms: self.lag_ms.load(Ordering::Relaxed),
            skips: self.skips.load(Ordering::Relaxed),
        }
    }
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
    pub(super) fn begin(
        &self,
        stream: &Arc<Stream>,
        destination: &Destination,
    ) -> Option<Arc<Entry>> {
        let mut entries = self.lock();
        let running = |entry: &&Arc<Entry>| {
            Arc::ptr_eq(&entry.stream, stream) && entry.destination == *destination
        };
        if entries.iter().find(running).is_some() {
            return None;
        }
        let entry = Arc::new(Entry {
            stream: Arc::clone(stream),
            destination: destination.clone(),
            attempt: AtomicU32::new(0),
            connects: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            lag_ms: AtomicU64::new(0),
            skips: AtomicU64::new(0),
            done: AtomicBool::new(false),
            state: Mutex::new((State::Connecting, String::new())),
        });
        entries.push(Arc::clone(&entry));
        Some(entry)
    }

    /// Forgets the forwards whose streams are over.
    pub fn forget_done(&self) {
        self.lock().retain(|entry| !entry.done.load(Ordering::Relaxed));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
