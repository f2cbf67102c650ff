//! Forwarding: each live stream to each destination of its vhost, one supervised task a pair.
//!
//! A destination is a player that we dial: once it said Publish.Start its socket is a subscriber of
//! the stream like any other. What fails here never reaches the publisher or another destination.

mod backoff;
mod dial;
mod leg;
mod status;
mod task;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::warn;

use crate::config::{Destination, Forward, ForwardUrl};
use crate::conn::{Context, Shards};
use crate::hub::{Phase, Stream};

pub use status::{Entry, Registry};

pub(crate) use backoff::{Backoff, Health};
pub(crate) use dial::dial;
pub(crate) use leg::{Failure, Leg, Route};
pub(crate) use status::State;

/// Servers a stream may come through before we do not forward it any further.
const MAX_HOPS: usize = 4;

/// Starts the forwards that should run.
#[derive(Debug)]
pub struct Supervisor {
    context: Arc<Context>,
    shards: Arc<Shards>,
    registry: Arc<Registry>,
    health: Mutex<HashMap<Destination, Arc<backoff::Health>>>,
}

impl Supervisor {
    /// A supervisor that registers what it starts in `registry`.
    pub fn new(context: Arc<Context>, shards: Arc<Shards>, registry: Arc<Registry>) -> Self {
        Self { context, shards, registry, health: Mutex::default() }
    }

    /// Looks at what is published, and where it should go, whenever that changes, until the process
    /// stops.
    pub async fn run(self) {
        let mut changes = self.context.hub.changes();
        let mut configs = self.context.live.changes();
        let stop = self.context.stop.clone();
        loop {
            changes.mark_unchanged();
            configs.mark_unchanged();
            self.reconcile().await;
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
                changed = configs.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn reconcile(&self) {
        self.registry.forget_done();
        let config = self.context.config();
        for stream in self.context.hub.list() {
            if !matches!(stream.phase(), Phase::Live | Phase::Grace(_)) {
                continue;
            }
            let Some(vhost) = config.vhost(stream.key().vhost()) else { continue };
            if !vhost.forward.enabled {
                continue;
            }
            for (url, pass_param) in vhost.forward.of(stream.key()) {
                self.start(&stream, url, pass_param, &vhost.forward).await;
            }
        }
    }

    async fn start(
        &self,
        stream: &Arc<Stream>,
        url: &ForwardUrl,
        pass_param: bool,
        forward: &Forward,
    ) {
        if stream.source().path.len() >= MAX_HOPS {
            return warn!(stream = %stream.key(), "not forwarded: it came through too many servers");
        }
        let Some(entry) = self.registry.begin(stream, url) else { return };
        let task = task::Task {
            health: self.health(&url.at),
            entry,
            url: url.clone(),
            pass_param,
            forward: forward.clone(),
        };
        self.shards.least_loaded().spawn(move |shard| task.run(shard)).await;
    }

    fn health(&self, destination: &Destination) -> Arc<backoff::Health> {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(health.entry(destination.clone()).or_default())
    }
}
