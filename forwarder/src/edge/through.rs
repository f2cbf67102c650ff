//! A publisher whose bytes go to an origin unchanged.
//!
//! What the encoder has said is said again to an origin, and when that says Publish.Start the
//! encoder is told so. Its first messages are read on their way, for their headers; then a leg
//! moves its bytes, and only that writes to the origin. What the origin says is told to the encoder
//! by its connection. When the origin is lost the connection reads again, from the very byte at
//! which the leg stopped, and the stream goes on through the hub and a relay.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::carrier::{Carrier, End};
use super::outlet::{NoOutlet, Outlet, Words};
use super::relay::{By, Place, Relay, already_published};
use super::{Edges, feed, refusal};
use crate::config::{Destination, Vhost};
use crate::conn::{Encoder, EncoderNews, Handover, Learned, Refusal, Shard};
use crate::hub::Source;
use crate::rtmp::chunk::ChunkReader;
use crate::rtmp::session::Goal;
use crate::rtmp::url::{StreamKey, escaped};

/// Pause after all origins failed, at most.
const PAUSE: Duration = Duration::from_millis(400);

/// A carrier to be.
pub(super) struct Through {
    pub(super) edges: Arc<Edges>,
    pub(super) vhost: Vhost,
    pub(super) key: StreamKey,
    pub(super) source: Source,
    /// Cancelled when the encoder is gone.
    pub(super) leave: CancellationToken,
}

/// Why no origin takes the stream by a leg.
enum Missed {
    Refused(Refusal),
    Unfit(&'static str),
}

/// The reading that the encoder's connection gets back.
struct Back {
    reader: ChunkReader,
    unread: Vec<u8>,
    /// As [`Handover::learned`].
    learned: Option<Learned>,
}

impl Through {
    pub(super) fn new(
        edges: Arc<Edges>,
        vhost: &Vhost,
        (key, source): (StreamKey, Source),
        leave: CancellationToken,
    ) -> Self {
        Self { edges, vhost: vhost.clone(), key, source, leave }
    }

    /// Serves `encoder` to the end.
    pub(super) async fn run(self, shard: Rc<Shard>, encoder: Encoder) {
        let news = encoder.news.clone();
        let entered = tokio::select! {
            entered = self.edges.relays.enter(&self.key, &self.leave, By::Leg) => entered,
            () = self.leave.cancelled() => return,
        };
        let Some(place) = entered else {
            // The connection may be gone.
            _ = news.send(EncoderNews::Refused(already_published())).await;
            return;
        };
        if let Some(back) = self.serve(&shard, encoder).await {
            self.relay(&shard, place, back, news).await;
        }
    }

    /// Goes on without a leg.
    async fn relay(
        &self,
        shard: &Rc<Shard>,
        place: Place<'_>,
        back: Back,
        news: mpsc::Sender<EncoderNews>,
    ) {
        let (reply, answer) = oneshot::channel();
        let (edges, stream) = (Arc::clone(&self.edges), (self.key.clone(), self.source.clone()));
        let relay = Relay::new(edges, &self.vhost, stream, self.leave.clone(), reply);
        let Back { reader, unread, learned } = back;
        let accepted = learned.is_some();
        let handover = Handover { reader, unread, learned, answer };
        if news.send(EncoderNews::Relay(Box::new(handover))).await.is_err() {
            return;
        }
        if accepted {
            relay.resume_at(place, shard).await;
        } else {
            relay.run_at(place, shard).await;
        }
    }

    /// Carries the encoder's bytes as long as that goes; `Some`: without a leg it may go on.
    async fn serve(&self, shard: &Rc<Shard>, encoder: Encoder) -> Option<Back> {
        let Encoder { io, peer, msid, transcript, reader, unread, news } = encoder;
        let entry = self.edges.legs.enter_publisher(&self.key);
        entry.serves(peer);
        let back = |reader, unread| Some(Back { reader, unread, learned: None });
        let Some((transcript, position)) = transcript.zip(reader.position()) else {
            debug!(%peer, stream = %self.key, "no leg: it said too much, or half a message");
            return back(reader, unread);
        };
        if transcript.publishes() != feed::stream_name(&self.key, &self.source.param) {
            debug!(%peer, stream = %self.key, "no leg: to an origin it would be another name");
            return back(reader, unread);
        }
        let words = Words { transcript, position, msid };
        let stop = shard.context().stop.clone();
        let found = tokio::select! {
            found = self.search(shard, &words) => found,
            () = stop.cancelled() => return None,
            () = self.leave.cancelled() => return None,
        };
        let outlet = match found {
            Ok(outlet) => outlet,
            Err(Missed::Unfit(why)) => {
                info!(%peer, stream = %self.key, why, "no leg fits this encoder");
                return back(reader, unread);
            }
            Err(Missed::Refused(refusal)) => {
                _ = news.send(EncoderNews::Refused(refusal)).await;
                return None;
            }
        };
        news.send(EncoderNews::Accepted).await.ok()?;
        let origin = outlet.origin.clone();
        info!(%peer, stream = %self.key, %origin, "publisher's leg connected");
        let carrier = Carrier::new(self, shard, (io, news.clone()), (outlet, msid), entry);
        match carrier.run(words, reader, unread).await {
            End::Told => None,
            End::Lost { why, hung, left } => {
                if hung {
                    self.edges.origins.failed(&origin, Instant::now());
                }
                info!(%peer, stream = %self.key, %origin, why = %escaped(&why), "publisher's leg lost");
                let Some((reader, learned)) = left else {
                    let why = "its origin is lost, and the stream cannot go on from here";
                    _ = news.send(EncoderNews::Closed(why)).await;
                    return None;
                };
                Some(Back { reader, unread: Vec::new(), learned: Some(learned) })
            }
        }
    }

    /// Whether `origin` may have it by now.
    pub(super) fn may_go_to(&self, origin: &Destination) -> bool {
        self.edges.has(&self.vhost, origin)
    }

    /// An origin that has taken the stream.
    async fn search(&self, shard: &Rc<Shard>, words: &Words) -> Result<Outlet, Missed> {
        let edge = &self.vhost.edge;
        let rounds = async {
            loop {
                for origin in self.edges.order(&self.vhost, &self.key) {
                    match self.attempt(shard, words, &origin).await {
                        Ok(outlet) => return Ok(outlet),
                        Err(missed) => missed.map_or(Ok(()), Err)?,
                    }
                }
                sleep(PAUSE.mul_f64(rand::rng().random_range(0.25..1.0))).await;
            }
        };
        tokio::select! {
            found = rounds => found,
            () = sleep_until((Instant::now() + edge.failover_timeout).into()) => {
                Err(Missed::Refused(Refusal::new("NetStream.Failed", "no origin answers")))
            }
        }
    }

    /// Asks `origin`; `Err(None)`: another may be asked.
    async fn attempt(
        &self,
        shard: &Rc<Shard>,
        words: &Words,
        origin: &Destination,
    ) -> Result<Outlet, Option<Missed>> {
        let (edge, source) = (&self.vhost.edge, &self.source);
        let ask = (&self.key, &*source.param, &*source.path);
        let mut config = feed::client_config(edge, self.vhost.chunk_size, ask, shard, origin);
        config.goal = Goal::Introduce;
        let hung = self.vhost.forward.hung_timeout;
        match Outlet::open(origin, config, words, hung, shard).await {
            Ok(outlet) => {
                self.edges.origins.works(&self.vhost.name, origin);
                Ok(outlet)
            }
            Err(NoOutlet::Unfit(why)) => Err(Some(Missed::Unfit(why))),
            Err(NoOutlet::Failed(failure)) => {
                debug!(%origin, why = failure.why, "no leg");
                match &failure.refusal {
                    Some(told) => Err(Some(Missed::Refused(refusal::of_publish(told)))),
                    None => {
                        self.edges.origins.failed(origin, Instant::now());
                        Err(None)
                    }
                }
            }
        }
    }
}
