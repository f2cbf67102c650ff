//! A player with a connection to an origin of its own.

mod player;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt;
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};
use tracing::{debug, info};

use self::player::{Carrier, Wishes};
use super::legs::Entry;
use super::uplink::Uplink;
use super::{Edges, REMOVED, feed, refusal};
use crate::config::{Destination, Vhost};
use crate::conn::{LeggedPlayer, News, Order, PlayAsk, Refusal, Shard, Totals};
use crate::forward::Failure;
use crate::rtmp::url::StreamKey;
use crate::splice::{Ended, Leg, LegOptions, LegStatus, Walk};

/// How often a leg is looked at: for acknowledgements, figures and silence.
const LOOK: Duration = Duration::from_millis(250);

/// Pause after all origins failed, at most.
const PAUSE: Duration = Duration::from_millis(400);

/// Origins say less than this to a `play`, and more as soon as there is media.
const ANSWER_TO_PLAY: u64 = 2048;

/// A leg to be.
pub(super) struct Own {
    edges: Arc<Edges>,
    vhost: Vhost,
    key: StreamKey,
    param: String,
    path: Vec<String>,
    entry: Entry,
}

/// Why bytes no longer come from an origin.
enum Stopped {
    /// It is gone, or silent.
    Lost(String),
    /// The player's connection wants the writing back.
    Asked,
    /// The player is to be asked to connect again, there if this says where; then they go on.
    Leaving(Option<String>),
    /// The process stops.
    Stopping,
    /// The player is gone, or is to go.
    Player(Option<News>),
}

impl Own {
    pub(super) fn new(edges: Arc<Edges>, vhost: &Vhost, ask: &PlayAsk, entry: Entry) -> Self {
        Self {
            edges,
            vhost: vhost.clone(),
            key: ask.key.clone(),
            param: ask.param.clone(),
            path: ask.path.clone(),
            entry,
        }
    }

    /// Serves `player` to the end.
    pub(super) async fn run(self, shard: Rc<Shard>, player: LeggedPlayer) {
        self.entry.serves(player.peer);
        let news = player.news.clone();
        if let Some(last) = self.serve(&shard, player).await {
            // The connection may be gone.
            _ = news.send(last).await;
        }
    }

    async fn serve(&self, shard: &Rc<Shard>, player: LeggedPlayer) -> Option<News> {
        let LeggedPlayer { io, peer, request, chunk_size, lead, heard, orders, news } = player;
        let write_timeout = self.vhost.play.write_timeout;
        let wishes = Wishes::PLAIN;
        let moved = (0, 0);
        let mut carrier = Carrier { io, write_timeout, orders, chunk_size, heard, wishes, moved };
        let stop = shard.context().stop.clone();
        let found = tokio::select! {
            found = self.search(shard) => found,
            () = stop.cancelled() => return None,
            () = news.closed() => return None,
        };
        let mut uplink = match found {
            Ok(uplink) if uplink.msid == request.msid && carrier.fits(&uplink) => uplink,
            Ok(_) => return Some(News::Unfit(lead)),
            Err(refusal) => return Some(News::Refused(lead, refusal)),
        };
        if let Err(last) = carrier.write(lead).await {
            return Some(last);
        }
        // It must know before the player hears anything.
        news.send(News::Carried).await.ok()?;
        info!(%peer, stream = %self.key, origin = %uplink.origin, "leg connected");
        let mut on_trial = None;
        loop {
            match self.carry(shard, &mut carrier, &mut uplink, &mut on_trial).await {
                Stopped::Lost(why) => debug!(%peer, origin = %uplink.origin, why, "leg lost"),
                // After the request to leave it has gone on by itself.
                Stopped::Asked | Stopped::Leaving(_) => return Some(carrier.end(false)),
                Stopped::Stopping => return Some(carrier.end(true)),
                Stopped::Player(last) => return last,
            }
            self.entry.moves_to(None);
            let until = *on_trial.get_or_insert(Instant::now() + self.vhost.edge.failover_timeout);
            drop(uplink);
            let found = tokio::select! {
                found = self.search_until(shard, until) => found.ok(),
                ordered = carrier.interrupted() => return ordered,
                () = stop.cancelled() => None,
            };
            let fits = |next: &Uplink| next.msid == request.msid && carrier.fits(next);
            let Some(next) = found.filter(fits) else {
                return Some(carrier.end(true));
            };
            info!(%peer, stream = %self.key, origin = %next.origin, "leg connected again");
            uplink = next;
        }
    }

    /// Moves bytes from `uplink` to the player until that is over, and leaves the player at a
    /// message border. `on_trial`: by then there must be media.
    async fn carry(
        &self,
        shard: &Shard,
        carrier: &mut Carrier,
        uplink: &mut Uplink,
        on_trial: &mut Option<Instant>,
    ) -> Stopped {
        if let Err(last) = carrier.prepare(uplink).await {
            return Stopped::Player(Some(last));
        }
        let walk = uplink.position().map(|position| Walk::resume(&position));
        let mut leg = self.leg(shard, carrier, uplink, walk);
        // Where it is carried is to be known as soon as its origin is.
        self.entry.moves_to(Some(&uplink.origin));
        let asked = uplink.play(carrier.moved.0).and_then(|()| carrier.wishes.tell(uplink));
        let mut stopped = match asked {
            Ok(()) => self.drive(shard, carrier, uplink, &mut leg, on_trial).await,
            Err(failure) => Stopped::Lost(failure.why),
        };
        loop {
            stopped = self.stop(shard, carrier, &mut leg, stopped).await;
            let mut walk = leg.open().clone();
            let left = match &stopped {
                Stopped::Player(_) => return stopped,
                Stopped::Lost(_) => {
                    self.edges.origins.failed(&uplink.origin, Instant::now());
                    carrier.mend(&walk).await
                }
                Stopped::Asked | Stopped::Stopping => {
                    match carrier.complete(uplink, &mut walk).await {
                        Ok(()) => carrier.mend(&walk).await,
                        Err(last) => Err(last),
                    }
                }
                Stopped::Leaving(to) => {
                    let told = carrier.ask_to_leave(uplink, &mut walk, to.as_deref()).await;
                    if told.is_ok() {
                        leg = self.leg(shard, carrier, uplink, Some(walk));
                        stopped = self.drive(shard, carrier, uplink, &mut leg, on_trial).await;
                        continue;
                    }
                    told
                }
            };
            return match left {
                Ok(()) => stopped,
                Err(last) => Stopped::Player(Some(last)),
            };
        }
    }

    /// A leg from `uplink`, which stands at `walk`, or says something for the first time.
    fn leg(&self, shard: &Shard, carrier: &Carrier, uplink: &Uplink, walk: Option<Walk>) -> Leg {
        let options = LegOptions {
            chunk_size: uplink.chunk_size(),
            walk: true,
            soft_limit: self.vhost.edge.leg_soft_limit,
            hard_limit: self.vhost.edge.leg_hard_limit,
            write_timeout: carrier.write_timeout,
        };
        let splice = &shard.context().splice;
        let mut leg = Leg::new(splice, Rc::clone(&uplink.io), Rc::clone(&carrier.io), options);
        if let Some(walk) = walk {
            leg = leg.following(walk);
        }
        leg.arm();
        self.account(shard, carrier, &leg);
        leg
    }

    /// Stops a leg, for a player that is of interest yet, and says why.
    async fn stop(
        &self,
        shard: &Shard,
        carrier: &mut Carrier,
        leg: &mut Leg,
        why: Stopped,
    ) -> Stopped {
        let why = match why {
            Stopped::Player(_) => why,
            why => match (leg.stop().await, &why) {
                (Err(Ended::Source(_)), Stopped::Leaving(_)) => {
                    Stopped::Lost("closed by the origin".to_owned())
                }
                (Ok(()) | Err(Ended::Source(_)), _) => why,
                (Err(ended), _) => Stopped::Player(Some(told(ended))),
            },
        };
        let figures = self.account(shard, carrier, leg);
        carrier.moved.0 += figures.bytes;
        carrier.moved.1 += figures.unsplices;
        why
    }

    async fn drive(
        &self,
        shard: &Shard,
        carrier: &mut Carrier,
        uplink: &mut Uplink,
        leg: &mut Leg,
        on_trial: &mut Option<Instant>,
    ) -> Stopped {
        let stop = shard.context().stop.clone();
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut heard, mut moved) = (Instant::now(), 0);
        loop {
            let io = Rc::clone(&uplink.io);
            let done = tokio::select! {
                ended = leg.run() => return match ended {
                    Ended::Source(error) => Stopped::Lost(
                        error.map_or("closed by the origin".into(), |error| error.to_string()),
                    ),
                    ended => Stopped::Player(Some(told(ended))),
                },
                order = carrier.orders.recv() => match order {
                    Some(Order::Say(messages)) => uplink.say(&messages),
                    Some(Order::Wish(wish)) => {
                        carrier.wishes.note(wish);
                        Ok(())
                    }
                    Some(Order::Leave(to)) => return Stopped::Leaving(to),
                    Some(Order::Stop) => return Stopped::Asked,
                    None => return Stopped::Player(None),
                },
                ready = io.writable(), if uplink.is_blocked() => {
                    ready.map_err(Failure::from).and_then(|()| uplink.flush())
                }
                _ = look.tick() => {
                    let figures = self.account(shard, carrier, leg);
                    let paused = carrier.wishes.paused;
                    if figures.bytes != moved || figures.backlog > 0 || paused {
                        (heard, moved) = (Instant::now(), figures.bytes);
                    }
                    if paused {
                        *on_trial = None;
                    }
                    let judged = self.judge(&uplink.origin, moved, heard, on_trial);
                    uplink.acknowledge(carrier.moved.0 + moved).and(judged)
                }
                () = stop.cancelled() => return Stopped::Stopping,
            };
            if let Err(failure) = done {
                return Stopped::Lost(failure.why);
            }
        }
    }

    /// Whether an origin that has said so much, and nothing since `heard`, is to be kept.
    fn judge(
        &self,
        origin: &Destination,
        moved: u64,
        heard: Instant,
        on_trial: &mut Option<Instant>,
    ) -> Result<(), Failure> {
        if !self.edges.has(&self.vhost, origin) {
            return Err(Failure::new(REMOVED));
        }
        if moved < ANSWER_TO_PLAY {
            return match *on_trial {
                Some(until) if Instant::now() >= until => Err(Failure::new("no media in time")),
                _ => Ok(()),
            };
        }
        *on_trial = None;
        // With nobody else to ask, the stream may as well come back here.
        if heard.elapsed() >= self.vhost.edge.idle_timeout
            && self.edges.has_others(&self.vhost, origin)
        {
            return Err(Failure::new("nothing came for too long"));
        }
        Ok(())
    }

    fn account(&self, shard: &Shard, carrier: &Carrier, leg: &Leg) -> LegStatus {
        let figures = leg.status();
        let new = self.entry.account(carrier.moved, &figures);
        shard.count_received(new);
        Totals::add(&shard.context().totals.sent_bytes, new);
        figures
    }

    async fn search(&self, shard: &Rc<Shard>) -> Result<Uplink, Refusal> {
        self.search_until(shard, Instant::now() + self.vhost.edge.failover_timeout).await
    }

    /// An origin that would play.
    async fn search_until(&self, shard: &Rc<Shard>, until: Instant) -> Result<Uplink, Refusal> {
        let origins = &self.edges.origins;
        let rounds = async {
            loop {
                let mut order = self.edges.order(&self.vhost, &self.key);
                if order.is_empty() {
                    return Err(Refusal::new("NetStream.Play.Failed", REMOVED));
                }
                let now = Instant::now();
                order.sort_by_key(|o| (origins.rests(o, now), self.edges.legs.load(o)));
                let mut refused = None;
                for origin in order {
                    let (edge, chunk) = (&self.vhost.edge, self.vhost.chunk_size);
                    let ask = (&self.key, &*self.param, &*self.path);
                    let config = feed::client_config(edge, chunk, ask, shard, &origin);
                    match Uplink::open(&origin, config, shard).await {
                        Ok(uplink) => {
                            origins.works(&self.vhost.name, &origin);
                            return Ok(uplink);
                        }
                        Err(failure) => {
                            debug!(%origin, why = failure.why, "no leg");
                            match &failure.refusal {
                                Some(said) => refused = Some(refusal::of_play(said)),
                                None => origins.failed(&origin, Instant::now()),
                            }
                        }
                    }
                }
                if let Some(refusal) = refused {
                    return Err(refusal);
                }
                sleep(PAUSE.mul_f64(rand::rng().random_range(0.25..1.0))).await;
            }
        };
        tokio::select! {
            found = rounds => found,
            () = sleep_until(until.into()) => {
                Err(Refusal::new("NetStream.Play.Failed", "no origin answers"))
            }
        }
    }
}

/// How a leg's end at the player's side is told.
fn told(ended: Ended) -> News {
    match ended {
        Ended::Source(error) | Ended::Target(error) => News::Gone(error),
        Ended::Stuck | Ended::OverLimit => News::Stuck,
    }
}
