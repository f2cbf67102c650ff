//! The order of what is done for one client.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

/// What is done for one client, one after the other.
#[derive(Debug, Default)]
pub struct Line {
    last: Mutex<Option<oneshot::Receiver<Infallible>>>,
    sent: AtomicU64,
    received: AtomicU64,
}

/// A place in it. The next one comes when this is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    before: Option<oneshot::Receiver<Infallible>>,
    /// Nothing is ever sent.
    _done: oneshot::Sender<Infallible>,
}

impl Line {
    /// The place behind all that were taken before.
    pub(super) fn queue(&self) -> Turn {
        let (done, next) = oneshot::channel();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        Turn { before: last.replace(next), _done: done }
    }

    /// So many bytes were sent to the client and received from it.
    pub fn moved(&self, sent: u64, received: u64) {
        self.sent.store(sent, Ordering::Relaxed);
        self.received.store(received, Ordering::Relaxed);
    }

    /// Bytes sent to the client, as told last.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes received from it.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Turn {
    /// Waits for those before.
    pub(super) async fn come(mut self) -> Self {
        if let Some(before) = self.before.take() {
            // An error: it is done.
            _ = before.await;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::task::{JoinSet, yield_now};

    use super::*;

    #[tokio::test]
    async fn each_comes_when_the_one_before_is_done() {
        let (line, order) = (Line::default(), Arc::new(Mutex::new(Vec::new())));
        let turns: Vec<Turn> = (0..20).map(|_| line.queue()).collect();
        let mut tasks = JoinSet::new();
        for (i, turn) in turns.into_iter().enumerate().rev() {
            let order = Arc::clone(&order);
            tasks.spawn(async move {
                let _turn = turn.come().await;
                order.lock().expect("a lock").push((i, "begun"));
                yield_now().await;
                order.lock().expect("a lock").push((i, "done"));
            });
        }
        tasks.join_all().await;
        let want: Vec<_> = (0..20).flat_map(|i| [(i, "begun"), (i, "done")]).collect();
        assert_eq!(*order.lock().expect("a lock"), want);
    }
}
