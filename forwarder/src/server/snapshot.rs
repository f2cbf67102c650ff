//! The state of the process as one [`Snapshot`].

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::reload::Reloads;
use crate::config::Config;
use crate::conn::{Context, Gauges};
use crate::edge::Edges;
use crate::forward::Forwards;
use crate::hooks::Counters;
use crate::hub::{Phase, Standby, Stream};
use crate::rtmp::flv::Codec;
use crate::status::srs::Identity;
use crate::status::{
    HookTotals, Kbps, LegStatus, ShardStatus, Snapshot, StandbyStatus, StreamStatus, Totals,
};

/// Rates are taken over about so long.
const RATE_WINDOW: Duration = Duration::from_secs(2);
/// And those that SRS tells over so long.
const LONG_WINDOW: Duration = Duration::from_secs(30);

/// Takes snapshots, and the samples that rates need.
pub(super) struct Sampler {
    context: Arc<Context>,
    forwards: Arc<Forwards>,
    edges: Arc<Edges>,
    shards: Vec<Arc<Gauges>>,
    listen: Mutex<Vec<String>>,
    reloads: Reloads,
    rates: Mutex<HashMap<usize, Rates>>,
}

/// Of one stream.
#[derive(Clone, Copy)]
struct Rates {
    received: Rate,
    received_30s: Rate,
    sent_30s: Rate,
}

#[derive(Clone, Copy)]
struct Rate {
    since: Instant,
    bytes: u64,
    bps: u64,
}

impl Sampler {
    pub(super) fn new(
        context: Arc<Context>,
        forwards: Arc<Forwards>,
        edges: Arc<Edges>,
        shards: Vec<Arc<Gauges>>,
        reloads: Reloads,
    ) -> Self {
        let (listen, rates) = (Mutex::default(), Mutex::default());
        Self { context, forwards, edges, shards, listen, reloads, rates }
    }

    /// Where RTMP is served from now on.
    pub(super) fn listens_on(&self, addresses: Vec<String>) {
        *self.listen.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// Looks at the byte counters.
    pub(super) fn sample(&self, now: Instant) {
        self.forwards.forget_done();
        let streams = self.context.hub.list();
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = HashMap::with_capacity(streams.len());
        for stream in &streams {
            let received = stream.counters.received_bytes.load(Relaxed);
            let sent = stream.counters.sent_bytes.load(Relaxed);
            let id = Arc::as_ptr(stream) as usize;
            let begin = |bytes| Rate { since: now, bytes, bps: 0 };
            let last = rates.get(&id).copied().unwrap_or(Rates {
                received: begin(received),
                received_30s: begin(received),
                sent_30s: begin(sent),
            });
            next.insert(
                id,
                Rates {
                    received: last.received.moved(now, received, RATE_WINDOW),
                    received_30s: last.received_30s.moved(now, received, LONG_WINDOW),
                    sent_30s: last.sent_30s.moved(now, sent, LONG_WINDOW),
                },
            );
        }
        *rates = next;
    }

    /// Kilobits a second of a stream.
    pub(super) fn kbps(&self, stream: &Arc<Stream>) -> Kbps {
        let rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let rates = rates.get(&(Arc::as_ptr(stream) as usize));
        rates.map_or(Kbps::default(), |rates| Kbps {
            recv_30s: rates.received_30s.bps / 1000,
            send_30s: rates.sent_30s.bps / 1000,
        })
    }

    /// The configuration in force.
    pub(super) fn config(&self) -> Arc<Config> {
        self.context.config()
    }

    /// What the API says who answers.
    pub(super) fn identity(&self) -> Identity {
        self.context.identity.clone()
    }

    /// Whether connections are still taken.
    pub(super) fn is_ready(&self) -> bool {
        !self.context.stop.is_cancelled()
    }

    /// Has destinations looked for anew.
    pub(super) fn refresh_forwards(&self, stream: Option<&str>) -> usize {
        self.forwards.refresh(stream)
    }

    /// Every stream.
    pub(super) fn streams(&self) -> Vec<Arc<Stream>> {
        self.context.hub.list()
    }

    /// Every leg.
    pub(super) fn legs(&self) -> Vec<LegStatus> {
        self.edges.legs()
    }

    /// The process now.
    pub(super) fn snapshot(&self) -> Snapshot {
        let now = Instant::now();
        let totals = &self.context.totals;
        let backlog = self.context.splice.backlog();
        let mut streams: Vec<_> =
            self.context.hub.list().iter().map(|stream| self.stream(stream, now)).collect();
        let legs = self.edges.legs();
        count_legs(&mut streams, &legs);
        streams.sort_by(|a, b| (&a.vhost, &a.app, &a.stream).cmp(&(&b.vhost, &b.app, &b.stream)));
        Snapshot {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_s: self.context.started.elapsed().as_secs(),
            connections: totals.open.load(Relaxed),
            shards: self.shards.iter().map(|gauges| shard(gauges)).collect(),
            splice: self.context.splice.describe(),
            kernel_backlog: backlog.unwrap_or_default(),
            kernel_backlog_limit: backlog
                .map_or(0, |_| self.context.config().kernel_backlog_limit as u64),
            legs,
            listen: self.listen.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            config: self.reloads.status(),
            pulls: self.edges.status(),
            names: self.forwards.names(),
            backends: self.forwards.backends(),
            streams,
            totals: Totals {
                connections: totals.connections.load(Relaxed),
                refused: totals.refused.load(Relaxed),
                denied: totals.denied.load(Relaxed),
                errors: totals.errors.load(Relaxed),
                tls_connections: totals.tls_connections.load(Relaxed),
                tls_failures: totals.tls_failures.load(Relaxed),
                received_bytes: self.shards.iter().map(|s| s.received_bytes.load(Relaxed)).sum(),
                sent_bytes: totals.sent_bytes.load(Relaxed),
                skips: totals.skips.load(Relaxed),
                switches: self.context.hub.switches(),
                legs: self.edges.leg_totals(),
                hooks: hooks(&self.context.hooks.counters),
                backend_failures: self.forwards.backend_failures(),
            },
        }
    }

    fn stream(&self, stream: &Arc<Stream>, now: Instant) -> StreamStatus {
        let (key, counters) = (stream.key(), &stream.counters);
        let state = match stream.phase() {
            Phase::Waiting => "waiting",
            Phase::Live => "live",
            Phase::Grace(_) => "grace",
            Phase::Ended => "ended",
        };
        let (video, audio) = stream.codecs();
        let name = |codec: Codec| match codec {
            Codec::Unknown => String::new(),
            known => known.to_string(),
        };
        let rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = rates.get(&(Arc::as_ptr(stream) as usize)).map_or(0, |rates| rates.received.bps);
        StreamStatus {
            vhost: key.vhost().into(),
            app: key.app().into(),
            stream: key.stream().into(),
            state: state.into(),
            publisher: if state == "live" { stream.source().peer } else { String::new() },
            standbys: stream.standbys(now).into_iter().map(standby).collect(),
            switches: counters.switches.load(Relaxed),
            players: counters.players.load(Relaxed),
            legs: 0,
            received_bytes: counters.received_bytes.load(Relaxed),
            messages: counters.messages.load(Relaxed),
            sent_bytes: counters.sent_bytes.load(Relaxed),
            log_bytes: stream.log_bytes(),
            bitrate_bps: rate,
            video: name(video),
            audio: name(audio),
            skips: counters.skips.load(Relaxed),
            forwards: self.forwards.registry.of(stream, now),
        }
    }
}

fn standby(of: Standby) -> StandbyStatus {
    let Standby { source, ready, silent_ms, held_bytes } = of;
    StandbyStatus { peer: source.peer, ready, silent_ms, held_bytes }
}

fn shard(gauges: &Gauges) -> ShardStatus {
    ShardStatus {
        connections: gauges.connections.load(Relaxed),
        players: gauges.players.load(Relaxed),
        received_bytes: gauges.received_bytes.load(Relaxed),
    }
}

/// Adds players and publishers with legs to their streams. The hub does not know a stream that has no others.
fn count_legs(streams: &mut Vec<StreamStatus>, legs: &[LegStatus]) {
    let key = |vhost: &str, app: &str, stream: &str| [vhost, app, stream].map(str::to_owned);
    let mut counts: HashMap<[String; 3], (usize, String)> = HashMap::new();
    for leg in legs {
        let (players, publisher) =
            counts.entry(key(&leg.vhost, &leg.app, &leg.stream)).or_default();
        match &*leg.kind {
            "publish" => publisher.clone_from(&leg.peer),
            _ => *players += 1,
        }
    }
    for stream in &mut *streams {
        let key = key(&stream.vhost, &stream.app, &stream.stream);
        let (players, publisher) = counts.remove(&key).unwrap_or_default();
        stream.legs = players;
        stream.players += players;
        if !publisher.is_empty() {
            stream.publisher = publisher;
        }
    }
    streams.extend(counts.into_iter().map(|([vhost, app, stream], (legs, publisher))| {
        let state = "legs".into();
        let players = legs;
        StreamStatus { vhost, app, stream, state, publisher, players, legs, ..Default::default() }
    }));
}

impl Rate {
    fn moved(self, now: Instant, bytes: u64, window: Duration) -> Self {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed < window {
            return self;
        }
        let bits = bytes.saturating_sub(self.bytes) as f64 * 8.0;
        Self { since: now, bytes, bps: (bits / elapsed.as_secs_f64()) as u64 }
    }
}

fn hooks(counters: &Counters) -> HookTotals {
    HookTotals {
        asked: counters.asked.load(Relaxed),
        told: counters.told.load(Relaxed),
        failed: counters.failed.load(Relaxed),
        refused: counters.refused.load(Relaxed),
        dropped: counters.dropped.load(Relaxed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn players_with_legs_are_players_of_their_stream() {
        let leg = |stream: &str| LegStatus {
            app: "live".into(),
            stream: stream.into(),
            ..LegStatus::default()
        };
        let stream = StreamStatus {
            app: "live".into(),
            stream: "a".into(),
            players: 3,
            ..StreamStatus::default()
        };
        let mut streams = vec![stream];
        let encoder = LegStatus { kind: "publish".into(), peer: "e".into(), ..leg("b") };
        count_legs(&mut streams, &[leg("b"), leg("a"), encoder, leg("b")]);
        let seen: Vec<_> = streams
            .iter()
            .map(|s| (&*s.stream, &*s.state, &*s.publisher, s.players, s.legs))
            .collect();
        assert_eq!(seen, [("a", "", "", 4, 1), ("b", "legs", "e", 2, 2)]);
    }
}
