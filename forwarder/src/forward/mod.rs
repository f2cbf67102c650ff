//! Forwarding: each live stream to each destination of its vhost, one supervised task a pair.
//!
//! A destination is a player that we dial: once it said Publish.Start its socket is a subscriber of
//! the stream like any other. What fails here never reaches the publisher or another destination.

mod backoff;
mod dial;
mod discovery;
mod leg;
mod place;
mod status;
mod task;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tracing::warn;

use crate::config::{Destination, Forward};
use crate::conn::{Context, Shards};
use crate::hub::{Phase, Stream};
use crate::status::NameStatus;

use discovery::{Discovery, Name};
use place::Place;

pub use status::{Entry, Registry};

pub(crate) use backoff::{Backoff, Health};
pub(crate) use dial::dial;
pub(crate) use leg::{Failure, Leg, Route};
pub(crate) use status::State;

/// Servers a stream may come through before we do not forward it any further.
const MAX_HOPS: usize = 4;

/// Starts the forwards that should run, and ends those that should not.
#[derive(Debug)]
pub struct Supervisor {
    context: Arc<Context>,
    shards: Arc<Shards>,
    shared: Arc<Forwards>,
    health: Mutex<HashMap<Destination, Arc<backoff::Health>>>,
}

/// What others see of forwarding.
#[derive(Debug)]
pub struct Forwards {
    /// Each stream to each destination.
    pub registry: Arc<Registry>,
    discovery: Discovery,
    /// Rung when a look at all streams is worth it.
    changed: Arc<Notify>,
}

impl Forwards {
    /// Nothing is forwarded yet.
    pub fn new(context: &Arc<Context>) -> Self {
        let changed = Arc::<Notify>::default();
        let discovery = Discovery::new(Arc::clone(context), Arc::clone(&changed));
        Self { registry: Arc::default(), discovery, changed }
    }

    /// Has names looked up at once; how many.
    pub fn refresh(&self) -> usize {
        self.discovery.refresh()
    }

    /// The names that destinations are found by.
    pub fn names(&self) -> Vec<NameStatus> {
        self.discovery.status()
    }
}

impl Supervisor {
    /// A supervisor that registers what it starts in `shared`.
    pub fn new(context: Arc<Context>, shards: Arc<Shards>, shared: Arc<Forwards>) -> Self {
        Self { context, shards, shared, health: Mutex::default() }
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
                () = stop.cancelled() => return self.shared.discovery.follow(&HashSet::new()),
                changed = changes.changed() => if changed.is_err() { return },
                changed = configs.changed() => if changed.is_err() { return },
                () = self.shared.changed.notified() => {}
            }
        }
    }

    async fn reconcile(&self) {
        let registry = &self.shared.registry;
        registry.forget_done();
        let config = self.context.config();
        let forwards = config.vhosts.iter().filter(|vhost| vhost.enabled && vhost.forward.enabled);
        let names = forwards.flat_map(|vhost| vhost.forward.targets()).filter_map(Name::of);
        self.shared.discovery.follow(&names.collect());
        for stream in self.context.hub.list() {
            if !matches!(stream.phase(), Phase::Live | Phase::Grace(_)) {
                continue;
            }
            let vhost = config.vhost(stream.key().vhost());
            let forward = vhost.map(|vhost| &vhost.forward).filter(|forward| forward.enabled);
            let places = forward.map_or_else(Vec::new, |forward| self.places(&stream, forward));
            registry.keep(&stream, &places);
            if let Some(forward) = forward {
                for place in places {
                    self.start(&stream, place, forward).await;
                }
            }
        }
    }

    /// Where `stream` shall go.
    fn places(&self, stream: &Stream, forward: &Forward) -> Vec<Place> {
        let mut places = Vec::new();
        for (target, pass_param) in forward.of(stream.key()) {
            let url = &target.url;
            match Name::of(target) {
                None => places.push(Place::fixed(url, pass_param)),
                Some(name) => {
                    let found = self.shared.discovery.found(&name);
                    let found = found.iter().map(|it| Place::found(url, pass_param, it, &name));
                    places.extend(found);
                }
            }
        }
        places
    }

    async fn start(&self, stream: &Arc<Stream>, place: Place, forward: &Forward) {
        let Some(entry) = self.shared.registry.begin(stream, &place) else { return };
        if stream.source().path.len() >= MAX_HOPS {
            entry.failed("it came through too many servers");
            entry.set(State::Stopped);
            return warn!(stream = %stream.key(), "not forwarded: it came through too many servers");
        }
        let task = task::Task {
            health: self.health(&place.url.at),
            entry,
            place,
            forward: forward.clone(),
            over: Arc::clone(&self.shared.changed),
        };
        self.shards.least_loaded().spawn(move |shard| task.run(shard)).await;
    }

    fn health(&self, destination: &Destination) -> Arc<backoff::Health> {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        // Addresses come and go.
        health.retain(|_, health| Arc::strong_count(health) > 1);
        Arc::clone(health.entry(destination.clone()).or_default())
    }
}
