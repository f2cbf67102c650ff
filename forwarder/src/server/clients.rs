//! Clients as the API shows them: what the shards say of connections, with what the hub knows of
//! publishers and the edge of legs.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::reload::Reloads;
use super::snapshot::Sampler;
use super::srs;
use super::summary::Summaries;
use crate::config::DEFAULT_VHOST;
use crate::conn::{ClientState, Shards, Speaks};
use crate::http::{Facts, Options};
use crate::hub::Phase;
use crate::status::reload::Outcome;
use crate::status::srs::{SrsStream, SrsVhost, Summary, id_of};
use crate::status::{
    ClientPage, ClientQuery, ClientStatus, Kbps, LegStatus, ProcessStatus, Snapshot,
};

/// How long shards have to answer.
const WITHIN: Duration = Duration::from_secs(1);

/// Asks the parts of the server.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) sampler: Arc<Sampler>,
    pub(super) summaries: Arc<Summaries>,
    /// Weak: shards end when the last handle on them is gone.
    pub(super) shards: Weak<Shards>,
    pub(super) reloads: Reloads,
}

/// The state of a publisher that stands by.
pub(super) const STANDBY: &str = "standby";

/// What a client does.
enum Doing {
    Plays([String; 3], &'static str),
    Publishes([String; 3], &'static str),
    Leg(LegStatus),
}

impl Facts for Source {
    fn snapshot(&self) -> Snapshot {
        self.sampler.snapshot()
    }

    fn options(&self) -> Options {
        let config = self.sampler.config();
        let (api, exporter) = (&config.http_api, &config.exporter);
        Options {
            series_of_streams: exporter.streams,
            crossdomain: api.crossdomain,
            token: api.token.clone(),
            raw_reload: api.raw_reload,
            identity: self.sampler.identity(),
        }
    }

    async fn reload(&self) -> Outcome {
        self.reloads.ask().await
    }

    fn process(&self) -> ProcessStatus {
        super::process::usage()
    }

    fn is_ready(&self) -> bool {
        self.sampler.is_ready()
    }

    async fn clients(&self, query: ClientQuery) -> ClientPage {
        let (clients, unanswered) = self.all().await;
        query.page(clients, unanswered)
    }

    async fn client(&self, id: &str) -> Option<ClientStatus> {
        self.all().await.0.into_iter().find(|client| client.id == id)
    }

    async fn kick(&self, id: &str) -> bool {
        let (Ok(id), Some(shards)) = (id.parse(), self.shards.upgrade()) else { return false };
        shards.kick(id, WITHIN).await
    }

    fn refresh_forwards(&self, stream: Option<&str>) -> usize {
        self.sampler.refresh_forwards(stream)
    }

    async fn streams(&self) -> Vec<SrsStream> {
        let (clients, _) = self.all().await;
        srs::streams(&self.sampler, &clients)
    }

    async fn vhosts(&self) -> Vec<SrsVhost> {
        srs::vhosts(&self.sampler.config(), &self.streams().await)
    }

    fn summary(&self) -> Summary {
        self.summaries.look(&self.sampler.snapshot())
    }
}

impl Source {
    /// Has the shards note what their clients' rates are taken from.
    pub(super) async fn sample(&self) {
        if let Some(shards) = self.shards.upgrade() {
            shards.clients(WITHIN).await;
        }
    }

    /// All that play or publish, as they came, and how many shards did not answer.
    async fn all(&self) -> (Vec<ClientStatus>, usize) {
        let Some(shards) = self.shards.upgrade() else { return (Vec::new(), 0) };
        let (states, unanswered) = shards.clients(WITHIN).await;
        drop(shards);
        let mut publishers = self.publishers(Instant::now());
        let mut legs: HashMap<String, LegStatus> =
            self.sampler.legs().into_iter().map(|leg| (leg.peer.clone(), leg)).collect();
        let now = Instant::now();
        let clients = states.into_iter().filter_map(|state| {
            let peer = state.peer.to_string();
            let doing = match &state.playing {
                Some((stream, playing)) => {
                    let key = stream.key();
                    let names = [key.vhost(), key.app(), key.stream()].map(str::to_owned);
                    let how = match playing {
                        playing if playing.blocked_since.is_some() => "blocked",
                        playing if playing.live => "playing",
                        _ => "waiting",
                    };
                    Doing::Plays(names, how)
                }
                None => match legs.remove(&peer) {
                    Some(leg) => Doing::Leg(leg),
                    None => {
                        let (names, how) = publishers.remove(&peer)?;
                        Doing::Publishes(names, how)
                    }
                },
            };
            Some(shown(&state, peer, doing, now))
        });
        (clients.collect(), unanswered)
    }

    /// What is published, by the address of who does or stands by.
    fn publishers(&self, now: Instant) -> HashMap<String, ([String; 3], &'static str)> {
        let mut publishers = HashMap::new();
        for stream in self.sampler.streams() {
            let key = stream.key();
            let names = [key.vhost(), key.app(), key.stream()].map(str::to_owned);
            if stream.phase() == Phase::Live {
                publishers.insert(stream.source().peer, (names.clone(), "publishing"));
            }
            for standby in stream.standbys(now) {
                publishers.insert(standby.source.peer, (names.clone(), STANDBY));
            }
        }
        publishers
    }
}

fn shown(client: &ClientState, peer: String, doing: Doing, now: Instant) -> ClientStatus {
    let (mut sent, mut received) = (client.sent, client.received);
    let (publish, [vhost, app, name], state) = match doing {
        Doing::Plays(names, how) => (false, names, how.to_owned()),
        Doing::Publishes(names, how) => (true, names, how.to_owned()),
        Doing::Leg(leg) => {
            let publish = leg.kind == "publish";
            *(if publish { &mut received } else { &mut sent }) += leg.bytes;
            (publish, [leg.vhost, leg.app, leg.stream], leg.path)
        }
    };
    let connect = client.connect.as_deref();
    let text = |part: Option<&String>| part.cloned().unwrap_or_default();
    let playing = client.playing.as_ref().map(|(_, playing)| playing);
    let since = |at: Instant| now.saturating_duration_since(at);
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let kind = match (client.speaks, publish) {
        (Speaks::Http, _) => "flv-play",
        (Speaks::Rtmp, true) => "fmle-publish",
        (Speaks::Rtmp, false) => "rtmp-play",
    };
    let prefix = if vhost == DEFAULT_VHOST { "" } else { &*vhost };
    ClientStatus {
        id: client.id.to_string(),
        stream: id_of(&[&vhost, &app, &name]),
        ip: client.peer.ip().to_canonical().to_string(),
        page_url: text(connect.map(|connect| &connect.page_url)),
        swf_url: text(connect.map(|connect| &connect.swf_url)),
        tc_url: text(connect.map(|connect| &connect.tc_url)),
        url: format!("{prefix}/{app}/{name}"),
        kind: kind.to_owned(),
        alive: since(client.since).as_secs_f64(),
        send_bytes: sent,
        recv_bytes: received,
        kbps: Kbps { recv_30s: client.bps.received / 1000, send_30s: client.bps.sent / 1000 },
        lag_ms: playing.map_or(0, |playing| millis(playing.lag)),
        skips: playing.map_or(0, |playing| playing.skips),
        blocked_ms: playing.and_then(|p| p.blocked_since).map_or(0, |at| millis(since(at))),
        vhost: id_of(&[&vhost]),
        name,
        publish,
        state,
        peer,
    }
}
