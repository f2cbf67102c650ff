//! Forwarding: each live stream to each destination of its vhost, one supervised task a pair.
//!
//! A destination is a player that we dial: once it said Publish.Start its socket is a subscriber of
//! the stream like any other. What fails here never reaches the publisher or another destination.

mod backend;
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

use crate::config::{BackendFailure, Config, Destination, Forward, ForwardTarget};
use crate::conn::{Context, Shards};
use crate::hub::{Phase, Stream};
use crate::status::{BackendStatus, NameStatus};

use backend::{Backends, Question};
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
    backends: Backends,
    /// Rung when a look at all streams is worth it.
    changed: Arc<Notify>,
}

impl Forwards {
    /// Nothing is forwarded yet.
    pub fn new(context: &Arc<Context>) -> Self {
        let changed = Arc::<Notify>::default();
        let discovery = Discovery::new(Arc::clone(context), Arc::clone(&changed));
        let backends = Backends::new(Arc::clone(context), Arc::clone(&changed));
        Self { registry: Arc::default(), discovery, backends, changed }
    }

    /// Forgets forwards and questions whose streams are over. To be called each second or so.
    pub fn forget_done(&self) {
        self.registry.forget_done();
        if self.backends.forget_ended() {
            self.changed.notify_one();
        }
    }

    /// Asks nobody any more.
    fn rest(&self) {
        self.discovery.follow(&HashSet::new());
        self.backends.follow(Vec::new());
    }

    /// Has backends asked at once where the streams called `stream` go, or all, and then names looked
    /// up too; how many.
    pub fn refresh(&self, stream: Option<&str>) -> usize {
        let names = if stream.is_none() { self.discovery.refresh() } else { 0 };
        names + self.backends.refresh(stream)
    }

    /// The streams whose backends are asked.
    pub fn backends(&self) -> Vec<BackendStatus> {
        self.backends.status()
    }

    /// Questions to backends without an answer.
    pub fn backend_failures(&self) -> u64 {
        self.backends.failures()
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
                () = stop.cancelled() => return self.shared.rest(),
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
        let mut streams = self.context.hub.list();
        streams.retain(|stream| matches!(stream.phase(), Phase::Live | Phase::Grace(_)));
        self.follow(&config, &streams);
        for stream in &streams {
            let Some(forward) = forward_of(&config, stream) else {
                registry.keep(stream, &[]);
                continue;
            };
            let places = self.places(stream, forward);
            registry.keep(stream, &places);
            if self.waits(stream, forward) {
                continue;
            }
            for place in places {
                self.start(stream, place, forward).await;
            }
        }
    }

    /// Has backends asked and names looked up: those that are needed, and no others.
    fn follow(&self, config: &Config, streams: &[Arc<Stream>]) {
        let questions = streams.iter().filter_map(|stream| {
            let (backend, source) = (forward_of(config, stream)?.asks()?, stream.source());
            // What another server forwards to us was asked for there. A backend that names us would
            // be asked again and again.
            let is_ours = source.path.is_empty();
            is_ours.then(|| (Arc::clone(stream), Question { backend, source }))
        });
        self.shared.backends.follow(questions.collect());
        let forwards = config.vhosts.iter().filter(|vhost| vhost.enabled && vhost.forward.enabled);
        let configured = forwards.flat_map(|vhost| vhost.forward.targets()).filter_map(Name::of);
        let mut names: HashSet<Name> = configured.collect();
        names.extend(self.shared.backends.all_targets().iter().filter_map(Name::of));
        self.shared.discovery.follow(&names);
    }

    /// Whether a backend has to say first that `stream` goes anywhere. What goes already goes on: the
    /// backend is new to it.
    fn waits(&self, stream: &Arc<Stream>, forward: &Forward) -> bool {
        let asked = forward.asks().filter(|_| stream.source().path.is_empty());
        asked.is_some_and(|it| it.failure == BackendFailure::Refuse)
            && self.shared.backends.targets(stream).is_none()
    }

    /// Where `stream` shall go.
    fn places(&self, stream: &Arc<Stream>, forward: &Forward) -> Vec<Place> {
        let mut places = Vec::new();
        let answer = self.shared.backends.targets(stream);
        for (target, pass_param) in forward.of(stream.key()) {
            self.add_places(target, pass_param, "", &mut places);
        }
        for target in answer.iter().flatten() {
            self.add_places(target, target.url.passes_param(), "backend", &mut places);
        }
        places
    }

    fn add_places(
        &self,
        target: &ForwardTarget,
        pass_param: bool,
        found_by: &str,
        places: &mut Vec<Place>,
    ) {
        let url = &target.url;
        let Some(name) = Name::of(target) else {
            return places.push(Place::fixed(url, pass_param, found_by));
        };
        let found = self.shared.discovery.found(&name);
        places.extend(found.iter().map(|it| Place::found(url, pass_param, it, &name)));
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

/// How `stream` is forwarded, if it is.
fn forward_of<'a>(config: &'a Config, stream: &Stream) -> Option<&'a Forward> {
    let vhost = config.vhost(stream.key().vhost())?;
    Some(&vhost.forward).filter(|forward| forward.enabled)
}
