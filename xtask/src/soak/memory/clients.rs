//! Publishers and players that come, stay for a while, and leave in all the ways there are.
//!
//! Each has a place with a part of its own (a stream's shape, a way of reading), so that the load is
//! the same all the time although everybody in it changes.
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;
use forwarder::rtmp::message::MediaKind;
use forwarder::rtmp::session::{ClientEvent, Goal};
use forwarder::rtmp::url::RtmpUrl;
use serde::Serialize;
use socket2::SockRef;

use crate::load::link::Link;
use crate::load::stream::{AUDIO_HEADER, Shape, Source, VIDEO_HEADER};
use crate::net;

/// What is published: usual streams, long and short groups of pictures, keyframes of half a
/// megabyte, and one of keyframes alone.
const SHAPES: [Shape; 6] = [
    Shape { fps: 25, gop: 50, bitrate: 500_000, audio: 43 },
    Shape { fps: 30, gop: 600, bitrate: 1_000_000, audio: 43 },
    Shape { fps: 25, gop: 12, bitrate: 300_000, audio: 0 },
    Shape { fps: 2, gop: 6, bitrate: 3_000_000, audio: 43 },
    Shape { fps: 10, gop: 1, bitrate: 800_000, audio: 21 },
    Shape { fps: 25, gop: 125, bitrate: 1_500_000, audio: 43 },
];
/// Streams of the origin, which are never away for long.
const PULLED: usize = 3;
/// How long publishers stay.
const PUBLISH: (f64, f64) = (10.0, 90.0);
/// How long players stay: every other one has had enough soon.
const PLAY: (f64, f64) = (3.0, 60.0);
const GLANCE: (f64, f64) = (0.0, 1.5);
/// How long a place is empty.
const PAUSE: (f64, f64) = (0.0, 1.0);
/// Bits a second that a slow player reads, and the receive buffer of who does not read.
const SLOW: u64 = 200_000;
const SMALL_BUFFER: usize = 32 << 10;

/// All of them.
pub struct Clients {
    server: u16,
    origin: u16,
    places: Vec<Place>,
    counts: Counts,
    buffer: Vec<u8>,
}

/// What became of them.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Counts {
    /// Publishers that came.
    pub publishes: u64,
    /// Those that were let publish.
    pub published: u64,
    /// Those that were closed.
    pub lost: u64,
    /// Players that came to stay.
    pub plays: u64,
    /// Those that got media.
    pub played: u64,
    /// Players that left at once, whatever they had.
    pub glances: u64,
    /// Bytes that all players read.
    pub read: u64,
}

#[derive(Clone, Copy)]
enum Part {
    /// Publishes to the server, or to the origin it pulls from.
    Publish(Shape, To),
    Play(Reading, To),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    Server,
    Origin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    All,
    Slow,
    Nothing,
}

struct Place {
    part: Part,
    /// Publishers that were here.
    turn: u64,
    here: Option<Client>,
    /// When the one who is here leaves, or the next one comes.
    next: Instant,
}

struct Client {
    link: Link,
    begin: Instant,
    source: Option<Source>,
    /// Publishes, or has had media.
    is_served: bool,
    stays: bool,
    read: u64,
}

impl Clients {
    /// Nobody yet. `server` and `origin` are ports.
    pub fn new(server: u16, origin: u16, publishers: usize, players: usize) -> Self {
        let shape = |n: usize| SHAPES[n % SHAPES.len()];
        let publish = |n| Part::Publish(shape(n), To::Server);
        let pulled = (0..PULLED).map(|n| Part::Publish(shape(n), To::Origin));
        let play = |n: usize| match n % 8 {
            0 => Part::Play(Reading::Slow, To::Server),
            1 => Part::Play(Reading::Nothing, To::Server),
            2 | 5 => Part::Play(Reading::All, To::Origin),
            _ => Part::Play(Reading::All, To::Server),
        };
        let parts = (0..publishers).map(publish).chain(pulled).chain((0..players).map(play));
        let now = Instant::now();
        let place = |part| Place { part, turn: 0, here: None, next: after(now, PAUSE) };
        Self {
            server,
            origin,
            places: parts.map(place).collect(),
            counts: Counts::default(),
            buffer: vec![0; 256 << 10],
        }
    }

    /// Lets each do what is due.
    pub fn drive(&mut self, now: Instant) -> Result<()> {
        for at in 0..self.places.len() {
            let is_due = self.places[at].next <= now;
            match (self.places[at].here.take(), is_due) {
                (None, true) => self.come(at, now)?,
                (Some(client), true) => {
                    self.forget(client);
                    self.places[at].next = after(now, PAUSE);
                }
                (Some(mut client), false) => {
                    if client.drive(self.places[at].part, now, &mut self.buffer).is_ok() {
                        self.places[at].here = Some(client);
                    } else {
                        // A stream may end under its players, and a stuck one is closed.
                        let is_publisher = client.source.is_some();
                        self.counts.lost += u64::from(is_publisher && client.is_served);
                        self.forget(client);
                        self.places[at].next = after(now, PAUSE);
                    }
                }
                (None, false) => {}
            }
        }
        Ok(())
    }

    /// Sends all away.
    pub fn leave(&mut self) {
        let now = Instant::now();
        for at in 0..self.places.len() {
            self.places[at].next = after(now, PAUSE);
            if let Some(client) = self.places[at].here.take() {
                self.forget(client);
            }
        }
    }

    /// What became of all so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn come(&mut self, at: usize, now: Instant) -> Result<()> {
        let (goal, port, stream, stays) = match self.places[at].part {
            Part::Publish(_, To::Server) => (Goal::Publish, self.server, self.name(at), PUBLISH),
            Part::Publish(_, To::Origin) => (Goal::Publish, self.origin, self.name(at), PUBLISH),
            Part::Play(_, to) => {
                let stays = if rand::random_range(0..2) == 0 { PLAY } else { GLANCE };
                (Goal::Play, self.server, self.choose(to), stays)
            }
        };
        let url: RtmpUrl = format!("rtmp://127.0.0.1:{port}/live/{stream}").parse()?;
        let place = &mut self.places[at];
        let (source, buffer) = match place.part {
            Part::Publish(shape, _) => (Some(Source::new(shape, &stream)), None),
            Part::Play(Reading::All, _) => (None, None),
            Part::Play(..) => (None, Some(SMALL_BUFFER)),
        };
        let link = Link::dial(net::loopback(port), &url, goal, buffer)?;
        let stay = stays != GLANCE;
        place.here =
            Some(Client { link, begin: now, source, is_served: false, stays: stay, read: 0 });
        place.next = after(now, stays);
        let count = match goal {
            Goal::Publish => &mut self.counts.publishes,
            _ if stay => &mut self.counts.plays,
            _ => &mut self.counts.glances,
        };
        *count += 1;
        Ok(())
    }

    /// A name for the next stream from `at`. Those of the server are new each time.
    fn name(&mut self, at: usize) -> String {
        let place = &mut self.places[at];
        match place.part {
            Part::Publish(_, To::Server) => {
                place.turn += 1;
                format!("s{at}-{}", place.turn)
            }
            _ => format!("o{at}"),
        }
    }

    /// A stream to play: one that is there, or now and then one that nobody publishes.
    fn choose(&self, to: To) -> String {
        let fits = |place: &&Place| matches!(place.part, Part::Publish(_, its) if its == to);
        let places: Vec<(usize, &Place)> =
            self.places.iter().enumerate().filter(|(_, place)| fits(place)).collect();
        let pick = rand::random_range(0..places.len().max(1));
        match (to, places.get(pick)) {
            (To::Origin, Some((at, _))) => format!("o{at}?vhost=edge"),
            (To::Server, Some((at, place))) if rand::random_range(0..20) > 0 => {
                format!("s{at}-{}", place.turn.max(1))
            }
            _ => format!("nobody-{}", rand::random::<u32>()),
        }
    }

    /// Counts one, and lets it go in one of three ways.
    fn forget(&mut self, mut client: Client) {
        self.counts.read += client.read;
        if client.is_served {
            let is_player = client.source.is_none();
            self.counts.published += u64::from(!is_player);
            self.counts.played += u64::from(is_player && client.stays);
        }
        match rand::random_range(0..3) {
            // Whoever does not hear it sees the connection end.
            0 => _ = client.link.finish(),
            1 => {}
            _ => _ = SockRef::from(&client.link).set_linger(Some(Duration::ZERO)),
        }
    }
}

impl Client {
    fn drive(&mut self, part: Part, now: Instant, buffer: &mut [u8]) -> Result<()> {
        self.link.connected()?;
        self.link.check(now)?;
        self.link.flush()?;
        let most = match part {
            Part::Play(Reading::Nothing, _) if self.is_served => return Ok(()),
            Part::Play(Reading::Slow, _) => {
                let seconds = now.saturating_duration_since(self.begin).as_secs().max(1);
                usize::try_from((SLOW / 8 * seconds).saturating_sub(self.read)).unwrap_or(0)
            }
            _ => usize::MAX,
        };
        let most = most.min(buffer.len());
        let buffer = buffer.get_mut(..most).unwrap_or_default();
        let mut is_agreed = false;
        if !buffer.is_empty() {
            self.read += self.link.receive(buffer, |event, _| {
                is_agreed |= matches!(event, ClientEvent::Publishing(_) | ClientEvent::Media(_));
            })? as u64;
        }
        if is_agreed && !std::mem::replace(&mut self.is_served, true) && self.source.is_some() {
            self.begin = now;
            self.link.send(MediaKind::Video, 0, VIDEO_HEADER)?;
            self.link.send(MediaKind::Audio, 0, AUDIO_HEADER)?;
        }
        let (true, Some(source)) = (self.is_served, &mut self.source) else { return Ok(()) };
        while source.due() <= now.saturating_duration_since(self.begin) {
            let (kind, timestamp, body) = source.next_message();
            self.link.send(kind, timestamp, body)?;
        }
        Ok(())
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { publishes, published, lost, plays, played, glances, read } = self;
        write!(
            f,
            "{publishes} publishers, {published} published, {lost} of them were closed; {plays} \
             players, {played} got media; {glances} left at once; {} MiB read",
            read >> 20
        )
    }
}

/// A time between two numbers of seconds from `now` on.
fn after(now: Instant, (least, most): (f64, f64)) -> Instant {
    now + Duration::from_secs_f64(rand::random_range(least..most))
}
