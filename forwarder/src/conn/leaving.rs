//! Clients that can go elsewhere are asked to before the process stops.
//!
//! Players go first, as the streams they had are still there then, and publishers when those are
//! gone. Who cannot be asked stays until the process stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Context;

/// How far the process is with stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It takes no new clients, and players are asked to go.
    Players,
    /// Publishers too.
    Publishers,
    /// Whoever is left is sent away.
    Stop,
}

/// Who is asked when, and how many have not gone.
#[derive(Debug)]
pub struct Leaving {
    /// Cancelled when no more clients are taken, and players are to go.
    pub players: CancellationToken,
    /// Cancelled when publishers are to go.
    pub publishers: CancellationToken,
    /// Players, and who is neither.
    players_left: AtomicUsize,
    publishers_left: AtomicUsize,
    gone: Notify,
}

impl Leaving {
    /// Whoever is to leave before `stop` is also to leave then.
    pub(super) fn before(stop: &CancellationToken) -> Self {
        Self {
            players: stop.child_token(),
            publishers: stop.child_token(),
            players_left: AtomicUsize::new(0),
            publishers_left: AtomicUsize::new(0),
            gone: Notify::new(),
        }
    }

    /// Clients that can be asked to go: players and such, and publishers, as far as is known.
    pub fn left(&self) -> (usize, usize) {
        let load = |count: &AtomicUsize| count.load(Ordering::Acquire);
        (load(&self.players_left), load(&self.publishers_left))
    }

    /// Waits until all players that can be asked are gone.
    pub async fn players_gone(&self) {
        self.wait(&self.players_left).await;
    }

    /// Waits until all publishers that can be asked are gone.
    pub async fn publishers_gone(&self) {
        self.wait(&self.publishers_left).await;
    }

    async fn wait(&self, left: &AtomicUsize) {
        loop {
            // Registered before the look, so that no leave is missed.
            let mut gone = std::pin::pin!(self.gone.notified());
            gone.as_mut().enable();
            if left.load(Ordering::Acquire) == 0 {
                return;
            }
            gone.await;
        }
    }
}

/// A client that can be asked to go elsewhere, until it has gone.
#[derive(Debug)]
pub(super) struct Movable {
    context: Arc<Context>,
    publishes: bool,
}

impl Movable {
    pub(super) fn new(context: &Arc<Context>) -> Self {
        context.leaving.players_left.fetch_add(1, Ordering::AcqRel);
        Self { context: Arc::clone(context), publishes: false }
    }

    /// It is a publisher.
    pub(super) fn publishes(&mut self) {
        if !std::mem::replace(&mut self.publishes, true) {
            let leaving = &self.context.leaving;
            leaving.publishers_left.fetch_add(1, Ordering::AcqRel);
            leaving.players_left.fetch_sub(1, Ordering::AcqRel);
            leaving.gone.notify_waiters();
        }
    }
}

impl Drop for Movable {
    fn drop(&mut self) {
        let leaving = &self.context.leaving;
        let left = if self.publishes { &leaving.publishers_left } else { &leaving.players_left };
        left.fetch_sub(1, Ordering::AcqRel);
        leaving.gone.notify_waiters();
    }
}
