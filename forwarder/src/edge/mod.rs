//! The edge: streams that players ask for are pulled from an origin, once for all of them, and what
//! is published here is published there.
//!
//! A pull publishes into the hub and a relay reads from it, so players and publishers of an edge
//! are served by the same code as those of an origin.

mod admission;
mod carrier;
mod feed;
mod legs;
mod origins;
mod outlet;
mod own;
mod prefix;
mod pull;
mod refusal;
mod relay;
mod seam;
mod through;
mod uplink;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::config::{Config, Destination, Edge, Vhost, When};
use crate::conn::{
    Ask, Context, EncoderLaunch, Grant, Interest, Launch, PlayAsk, PublishAsk, PublishGrant,
    Refusal, ShardHandle, Shards,
};
use crate::forward::Registry;
use crate::rtmp::url::StreamKey;
use crate::status::{LegStatus, LegTotals, PullStatus};

use legs::Legs;
use origins::Origins;
use own::Own;
use pull::{Outcome, Pull};
use relay::{Relay, Relays};
use through::Through;

/// Why an origin that is well is left.
const REMOVED: &str = "it is no origin any more";

/// What fails again and again is logged at most this often.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// What is pulled and relayed, and what is known about the origins.
#[derive(Debug)]
pub struct Edges {
    context: Arc<Context>,
    forwards: Arc<Registry>,
    origins: Origins,
    pulls: Pulls,
    relays: Relays,
    legs: Arc<Legs>,
}

impl Edges {
    /// None yet. Relays are registered in `forwards`.
    pub fn new(context: Arc<Context>, forwards: Arc<Registry>) -> Self {
        Self {
            context,
            forwards,
            origins: Origins::default(),
            pulls: Pulls::default(),
            relays: Relays::default(),
            legs: Arc::default(),
        }
    }

    /// Answers connections that need an origin, until the process stops.
    pub async fn run(self: Arc<Self>, shards: Arc<Shards>) {
        let Some(mut asks) = self.context.upstream.connect() else { return };
        loop {
            let ask = tokio::select! {
                () = self.context.stop.cancelled() => return,
                ask = asks.recv() => ask,
            };
            let Some(ask) = ask else { return };
            let (key, connect) = match &ask {
                Ask::Play(ask) => (&ask.key, &ask.connect),
                Ask::Publish(ask) => (&ask.key, &ask.connect),
            };
            // Dropped with its reply if there is no such vhost.
            let Some(vhost) = self.vhost(key) else { continue };
            let (edges, shard) = (Arc::clone(&self), shards.least_loaded());
            let unjudged = connect.is_some();
            match ask {
                ask if unjudged => {
                    shard.spawn(move |shard| admission::run(edges, vhost, ask, shard)).await;
                }
                Ask::Play(ask) => self.play(ask, &vhost, shard).await,
                Ask::Publish(ask) if vhost.edge.splice == When::Never => {
                    let relay =
                        Relay::new(edges, &vhost, (ask.key, ask.source), ask.leave, ask.reply);
                    shard.spawn(move |shard| relay.run(shard)).await;
                }
                Ask::Publish(ask) => self.carry(ask, &vhost),
            }
        }
    }

    /// What is pulled.
    pub fn status(&self) -> Vec<PullStatus> {
        let mut all: Vec<_> = self.pulls.lock().values().map(|pull| pull.status()).collect();
        all.sort_by(|a, b| (&a.vhost, &a.app, &a.stream).cmp(&(&b.vhost, &b.app, &b.stream)));
        all
    }

    fn vhost(&self, key: &StreamKey) -> Option<Vhost> {
        self.context.config().vhost(key.vhost()).filter(|vhost| vhost.edge.enabled).cloned()
    }

    /// The origins of `vhost` as it is configured now, in the order in which to ask them for `key`;
    /// none if it is no edge any more.
    fn order(&self, vhost: &Vhost, key: &StreamKey) -> Vec<Destination> {
        let config = self.context.config();
        let edge = edge_of(&config, &vhost.name);
        edge.map_or_else(Vec::new, |edge| self.origins.order(edge, key, Instant::now()))
    }

    /// The origin of `vhost` that a tcUrl names, if it is one by now.
    fn named(&self, vhost: &Vhost, tc_url: Option<&str>) -> Option<Destination> {
        let config = self.context.config();
        edge_of(&config, &vhost.name).and_then(|edge| origins::named(edge, tc_url))
    }

    /// Whether there is another origin of `vhost` than `origin`.
    fn has_others(&self, vhost: &Vhost, origin: &Destination) -> bool {
        let config = self.context.config();
        edge_of(&config, &vhost.name)
            .is_some_and(|edge| edge.origin.iter().any(|other| other != origin))
    }

    /// Whether `origin` is one of `vhost` by now.
    fn has(&self, vhost: &Vhost, origin: &Destination) -> bool {
        let config = self.context.config();
        edge_of(&config, &vhost.name).is_some_and(|edge| edge.origin.contains(origin))
    }

    /// Waits until `origin` is none of `vhost` any more.
    async fn removed(&self, vhost: &Vhost, origin: &Destination) {
        self.changed_until(|| !self.has(vhost, origin)).await;
    }

    /// Waits until `vhost` is no edge any more.
    async fn ended(&self, vhost: &Vhost) {
        self.changed_until(|| edge_of(&self.context.config(), &vhost.name).is_none()).await;
    }

    async fn changed_until(&self, is_so: impl Fn() -> bool) {
        let mut configs = self.context.live.changes();
        loop {
            configs.mark_unchanged();
            // It cannot fail while the context is here.
            if is_so() || configs.changed().await.is_err() {
                return;
            }
        }
    }

    /// Gives the player a leg; the ask comes back if it is to have none.
    fn own(self: &Arc<Self>, ask: PlayAsk, vhost: &Vhost) -> Option<PlayAsk> {
        let only = match vhost.edge.splice {
            // What is published here is played from here.
            _ if ask.shared || self.relays.has(&ask.key) => return Some(ask),
            When::Never => return Some(ask),
            When::Auto if self.pulls.lock().contains_key(&ask.key) => return Some(ask),
            When::Auto => true,
            When::Always => false,
        };
        let Some(entry) = self.legs.enter(&ask.key, only) else { return Some(ask) };
        let own = Own::new(Arc::clone(self), vhost, &ask, entry);
        let launch = Launch::new(|shard, player| {
            shard.clone().spawn(own.run(shard, player));
        });
        // If the player is gone, so is its leg.
        _ = ask.reply.send(Ok(Grant::Own(launch)));
        None
    }

    /// Gives the publisher a leg.
    fn carry(self: &Arc<Self>, ask: PublishAsk, vhost: &Vhost) {
        let through = Through::new(Arc::clone(self), vhost, (ask.key, ask.source), ask.leave);
        let launch = EncoderLaunch::new(|shard, encoder| {
            shard.clone().spawn(through.run(shard, encoder));
        });
        // If the encoder is gone, so is its leg.
        _ = ask.reply.send(Ok(PublishGrant::Carried(launch)));
    }

    /// Players and encoders with a leg.
    pub fn legs(&self) -> Vec<LegStatus> {
        self.legs.status()
    }

    /// What all legs moved since start.
    pub fn leg_totals(&self) -> LegTotals {
        self.legs.totals()
    }

    async fn play(self: &Arc<Self>, ask: PlayAsk, vhost: &Vhost, shard: &ShardHandle) {
        let Some(ask) = self.own(ask, vhost) else { return };
        let (pull, interest, is_new) = self.pulls.join(&ask, vhost);
        if is_new {
            let (pull, edges) = (Arc::clone(&pull), Arc::clone(self));
            shard.run(move |shard| shard.clone().spawn(pull.run(edges, shard))).await;
        }
        tokio::spawn(answer(pull, interest, ask));
    }
}

fn edge_of<'a>(config: &'a Config, vhost: &str) -> Option<&'a Edge> {
    let mut vhosts = config.vhosts.iter();
    let vhost = vhosts.find(|other| other.name == vhost)?;
    (vhost.enabled && vhost.edge.enabled).then_some(&vhost.edge)
}

/// Tells a player what comes of the pull.
async fn answer(pull: Arc<Pull>, interest: Interest, ask: PlayAsk) {
    let PlayAsk { mut reply, .. } = ask;
    let mut outcome = pull.outcome.subscribe();
    let known = async {
        let known = outcome.wait_for(|outcome| *outcome != Outcome::Open).await;
        known.map_or(Outcome::Open, |known| known.clone())
    };
    let outcome = tokio::select! {
        // The player is gone.
        () = reply.closed() => return,
        outcome = timeout(pull.vhost.edge.failover_timeout, known) => outcome,
    };
    // If the player is gone, so is its interest.
    _ = reply.send(match outcome {
        Ok(Outcome::Playing) => Ok(Grant::Shared(interest)),
        Ok(Outcome::Refused(refusal)) => Err(refusal),
        Ok(Outcome::Open) | Err(_) => {
            Err(Refusal::new("NetStream.Play.Failed", "no origin answers"))
        }
    });
}

/// Every pull, by its stream.
#[derive(Debug, Default)]
struct Pulls(Mutex<HashMap<StreamKey, Arc<Pull>>>);

impl Pulls {
    /// The pull that `ask` wants, and whether it is to be started.
    fn join(&self, ask: &PlayAsk, vhost: &Vhost) -> (Arc<Pull>, Interest, bool) {
        let mut pulls = self.lock();
        let mut is_new = false;
        let pull = pulls.entry(ask.key.clone()).or_insert_with(|| {
            is_new = true;
            Arc::new(Pull::new(ask, vhost))
        });
        (Arc::clone(pull), pull.interests.add(), is_new)
    }

    /// Makes the pull of `key`, if any, leave the stream to a publisher.
    fn give_way(&self, key: &StreamKey) {
        let pull = self.lock().get(key).cloned();
        pull.inspect(|pull| pull.release());
    }

    /// Forgets a pull that nobody wants; false if somebody does.
    fn remove_unwanted(&self, key: &StreamKey) -> bool {
        // An interest is only ever added under this lock.
        let mut pulls = self.lock();
        let unwanted = pulls.get(key).is_none_or(|pull| pull.interests.count() == 0);
        if unwanted {
            pulls.remove(key);
        }
        unwanted
    }

    fn remove(&self, key: &StreamKey) {
        self.lock().remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StreamKey, Arc<Pull>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
