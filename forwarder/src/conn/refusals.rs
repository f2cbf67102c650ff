//! Publishers that somebody may still send away after they were accepted.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::upstream::Refusal;

/// The way to their connections, by address of the peer.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<HashMap<String, oneshot::Sender<Refusal>>>);

impl Refusals {
    /// What `peer`, who is about to publish, waits for while it does.
    pub(super) fn watch(&self, peer: &str) -> oneshot::Receiver<Refusal> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.lock();
        // Those who are gone.
        waiting.retain(|_, sender| !sender.is_closed());
        waiting.insert(peer.to_owned(), sender);
        receiver
    }

    /// Sends `peer` away. False: it is gone, or nobody may.
    pub fn refuse(&self, peer: &str, refusal: Refusal) -> bool {
        let sender = self.lock().remove(peer);
        sender.is_some_and(|sender| sender.send(refusal).is_ok())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<Refusal>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
