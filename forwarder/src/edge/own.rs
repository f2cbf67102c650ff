//! A player with a connection to an origin of its own.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tracing::{debug, info};

use super::legs::Entry;
use super::uplink::Uplink;
use super::{Edges, REMOVED, feed, refusal};
use crate::config::{Destination, Vhost};
use crate::conn::{LeggedPlayer, News, Order, PlayAsk, Refusal, Shard, Taking, Totals, Wish};
use crate::forward::Failure;
use crate::rtmp::chunk::StreamPosition;
use crate::rtmp::message::Control;
use crate::rtmp::url::StreamKey;
use crate::splice::{Ended, Leg, LegOptions, LegStatus, Walk};

/// How often a leg is looked at: for acknowledgements, figures and silence.
const LOOK: Duration = Duration::from_millis(250);

/// A player that is written to without a leg is looked at so often within `write_timeout`.
const LOOKS: u32 = 4;

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
    /// The process stops.
    Stopping,
    /// The player is gone, or is to go.
    Player(Option<News>),
}

/// The player's side, and what was moved to it.
struct Carrier {
    io: Rc<TcpStream>,
    write_timeout: Duration,
    orders: mpsc::Receiver<Order>,
    /// What the player reads with.
    chunk_size: u32,
    /// What its reader knows of each chunk stream.
    heard: Vec<StreamPosition>,
    wishes: Wishes,
    /// By the legs before this one: bytes, and returns from the kernel.
    moved: (u64, u64),
}

/// What the player wants, told to each origin.
#[derive(Clone, Copy)]
struct Wishes {
    paused: bool,
    audio: bool,
    video: bool,
}

impl Wishes {
    /// Of a player that has said nothing.
    const PLAIN: Self = Self { paused: false, audio: true, video: true };

    fn note(&mut self, wish: Wish) {
        match wish {
            Wish::Pause(paused) => self.paused = paused,
            Wish::Audio(wanted) => self.audio = wanted,
            Wish::Video(wanted) => self.video = wanted,
        }
    }

    /// Tells an origin that was just asked to play.
    fn tell(self, uplink: &mut Uplink) -> Result<(), Failure> {
        if !self.audio {
            uplink.ask(|session| session.receive_audio(false))?;
        }
        if !self.video {
            uplink.ask(|session| session.receive_video(false))?;
        }
        if self.paused {
            uplink.ask(|session| session.pause(true))?;
        }
        Ok(())
    }
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
                Stopped::Asked => return Some(carrier.end(false)),
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
        let options = LegOptions {
            chunk_size: uplink.chunk_size(),
            walk: true,
            soft_limit: self.vhost.edge.leg_soft_limit,
            hard_limit: self.vhost.edge.leg_hard_limit,
            write_timeout: carrier.write_timeout,
        };
        let splice = &shard.context().splice;
        let mut leg = Leg::new(splice, Rc::clone(&uplink.io), Rc::clone(&carrier.io), options);
        if let Some(position) = uplink.position() {
            leg = leg.following(Walk::resume(&position));
        }
        leg.arm();
        // Where it is carried is to be known as soon as its origin is.
        self.account(shard, carrier, &leg);
        self.entry.moves_to(Some(&uplink.origin));
        let stopped = self.drive(shard, carrier, uplink, &mut leg, on_trial).await;
        let stopped = match stopped {
            Stopped::Player(_) => stopped,
            stopped => match leg.stop().await {
                Ok(()) | Err(Ended::Source(_)) => stopped,
                Err(ended) => Stopped::Player(Some(told(ended))),
            },
        };
        let figures = self.account(shard, carrier, &leg);
        carrier.moved.0 += figures.bytes;
        carrier.moved.1 += figures.unsplices;
        if matches!(stopped, Stopped::Lost(_)) {
            self.edges.origins.failed(&uplink.origin, Instant::now());
        }
        if matches!(stopped, Stopped::Player(_)) {
            return stopped;
        }
        match carrier.mend(&leg).await {
            Ok(()) => stopped,
            Err(last) => Stopped::Player(Some(last)),
        }
    }

    async fn drive(
        &self,
        shard: &Shard,
        carrier: &mut Carrier,
        uplink: &mut Uplink,
        leg: &mut Leg,
        on_trial: &mut Option<Instant>,
    ) -> Stopped {
        if let Err(failure) = uplink.play().and_then(|()| carrier.wishes.tell(uplink)) {
            return Stopped::Lost(failure.why);
        }
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
                    uplink.acknowledge(moved).and(judged)
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

impl Carrier {
    /// Writes all of `bytes`. Errors: what to tell the connection.
    async fn write(&self, bytes: Vec<u8>) -> Result<(), News> {
        // What the leg wrote may keep the socket from being writable for longer than a player that
        // is gone is given.
        let taking = Taking::new(Rc::clone(&self.io));
        let (mut rest, mut blocked) = (&*bytes, None);
        while !rest.is_empty() {
            let now = Instant::now();
            match self.io.try_write(rest) {
                Ok(n) => (rest, blocked) = (rest.get(n..).unwrap_or_default(), None),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    blocked.get_or_insert(now);
                }
                Err(error) => return Err(News::Gone(Some(error))),
            }
            let Some(since) = taking.nothing_since(blocked, now) else { continue };
            let left = (since + self.write_timeout).saturating_duration_since(now);
            if left.is_zero() {
                return Err(News::Stuck);
            }
            // Who is slow may take its time, but not beyond its connection.
            if self.orders.is_closed() {
                return Err(News::Gone(None));
            }
            let look = left.min(self.write_timeout / LOOKS);
            let ready = timeout(look, self.io.writable()).await;
            ready.unwrap_or(Ok(())).map_err(|error| News::Gone(Some(error)))?;
        }
        Ok(())
    }

    /// The chunk size of `uplink`, if the player has another, as a message.
    fn new_chunk_size(&self, uplink: &Uplink) -> Vec<u8> {
        let mut message = Vec::new();
        if self.chunk_size != uplink.chunk_size() {
            Control::SetChunkSize(uplink.chunk_size()).encode(&mut message);
        }
        message
    }

    /// What the player's reader knows after `message`.
    fn heard_after(&self, message: &[u8]) -> Vec<StreamPosition> {
        let mut heard = self.heard.clone();
        hear(&mut heard, StreamPosition::after(message));
        heard
    }

    /// Whether the player can be made to read on as a reader of `uplink` would.
    fn fits(&self, uplink: &Uplink) -> bool {
        uplink.mirror(&self.heard_after(&self.new_chunk_size(uplink))).is_some()
    }

    /// Has the player read on as a reader of `uplink` would.
    async fn prepare(&mut self, uplink: &Uplink) -> Result<(), News> {
        let mut message = self.new_chunk_size(uplink);
        self.heard = self.heard_after(&message);
        self.chunk_size = uplink.chunk_size();
        let missing = uplink.mirror(&self.heard).unwrap_or_default();
        hear(&mut self.heard, StreamPosition::after(missing));
        message.extend_from_slice(missing);
        self.write(message).await
    }

    /// Makes whole what `leg` left open.
    async fn mend(&mut self, leg: &Leg) -> Result<(), News> {
        let walk = leg.open();
        if walk.is_lost() {
            return Err(News::Gone(Some(io::Error::other("the origin's chunks made no sense"))));
        }
        let mut rest = Vec::new();
        self.chunk_size = walk.pad(&mut rest);
        let mut walk = walk.clone();
        walk.feed(&rest);
        let streams = walk.position().map(|position| position.streams);
        hear(&mut self.heard, streams.into_iter().flatten());
        self.write(rest).await
    }

    /// Waits, with no origin, for the player to go or to be taken back.
    async fn interrupted(&mut self) -> Option<News> {
        loop {
            match self.orders.recv().await {
                // There is nobody to tell.
                Some(Order::Say(_)) => {}
                Some(Order::Wish(wish)) => self.wishes.note(wish),
                Some(Order::Stop) => return Some(self.end(false)),
                None => return None,
            }
        }
    }

    fn end(&self, finished: bool) -> News {
        let heard = self.heard.clone();
        News::Ended { chunk_size: self.chunk_size, heard, sent: self.moved.0, finished }
    }
}

/// Notes what was said last on chunk streams.
fn hear(heard: &mut Vec<StreamPosition>, now: impl IntoIterator<Item = StreamPosition>) {
    for now in now {
        heard.retain(|before| before.csid != now.csid);
        heard.push(now);
    }
}

/// How a leg's end at the player's side is told.
fn told(ended: Ended) -> News {
    match ended {
        Ended::Source(error) | Ended::Target(error) => News::Gone(error),
        Ended::Stuck | Ended::OverLimit => News::Stuck,
    }
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    /// A player whose socket is full, its end, its connection, and what it was sent.
    async fn full(write_timeout: Duration) -> (Carrier, TcpStream, mpsc::Sender<Order>, usize) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // As on a network: with the MSS of loopback, small windows close for long.
        SockRef::from(&listener).set_tcp_mss(1400).unwrap();
        SockRef::from(&listener).set_recv_buffer_size(32 << 10).unwrap();
        let io = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (player, _) = listener.accept().await.unwrap();
        SockRef::from(&io).set_send_buffer_size(4 << 20).unwrap();
        let mut sent = 0;
        while let Ok(n) = {
            io.writable().await.unwrap();
            io.try_write(&[1; 64 << 10])
        } {
            sent += n;
        }
        let ((connection, orders), heard) = (mpsc::channel(1), Vec::new());
        let (io, wishes, moved) = (Rc::new(io), Wishes::PLAIN, (0, 0));
        let chunk_size = 128;
        let carrier = Carrier { io, write_timeout, orders, chunk_size, heard, wishes, moved };
        (carrier, player, connection, sent)
    }

    #[tokio::test]
    async fn a_player_that_takes_little_at_a_time_is_not_stuck() {
        let (carrier, mut player, _connection, sent) = full(Duration::from_secs(1)).await;
        let mut got = Vec::new();
        let read = async {
            let slow_until = Instant::now() + 2 * carrier.write_timeout;
            let mut piece = [0; 8 << 10];
            while got.len() < sent + 3 {
                let n = player.read(&mut piece).await.unwrap();
                assert!(n > 0, "closed after {}", got.len());
                got.extend_from_slice(&piece[..n]);
                if Instant::now() < slow_until {
                    sleep(carrier.write_timeout / 20).await;
                }
            }
        };
        let (wrote, ()) = tokio::join!(carrier.write(vec![2; 3]), async {
            tokio::select! {
                () = read => {}
                () = sleep(30 * carrier.write_timeout) => {}
            }
        });
        assert!(wrote.is_ok(), "it is taken for one that is gone");
        assert!(got[..sent].iter().all(|byte| *byte == 1) && got[sent..] == [2; 3]);
    }

    #[tokio::test]
    async fn a_player_that_takes_nothing_is_stuck() {
        let (carrier, _player, _connection, _) = full(Duration::from_millis(200)).await;
        assert!(matches!(carrier.write(vec![2; 3]).await, Err(News::Stuck)));
    }

    #[tokio::test]
    async fn nobody_writes_for_a_connection_that_is_over() {
        let (carrier, _player, connection, _) = full(Duration::from_secs(3600)).await;
        drop(connection);
        assert!(matches!(carrier.write(vec![2; 3]).await, Err(News::Gone(None))));
    }
}
