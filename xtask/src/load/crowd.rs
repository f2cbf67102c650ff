//! All clients of a load: who is to be there, who is, and what they got.
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::engine::{Dial, Engine, News};
use super::fleet::Fleet;
use super::guest::{Role, Target};
use super::histogram::Histogram;
use super::link::Link;
use super::notes::{Joined, Mark, Seen};
use super::publishers::Publishers;
use super::stream::{Shape, Source};
use crate::process;

/// Streams that one thread publishes, if there are cores.
const STREAMS_A_THREAD: usize = 500;
/// Pause before a player that was closed or refused comes back, and what it varies by.
const COME_BACK_AFTER: Duration = Duration::from_millis(500);
const COME_BACK_SPREAD: Duration = Duration::from_millis(1000);
/// What is under way has come when nothing has for so long, and is not waited for much longer:
/// servers that gather messages send several times a second.
const QUIET: Duration = Duration::from_millis(600);
const DRAIN_WITHIN: Duration = Duration::from_secs(5);

/// All clients; see the module.
pub struct Crowd {
    slots: Vec<Slot>,
    /// Players that do not parse.
    pub fleet: Fleet,
    /// Who publishes.
    pub publishers: Publishers,
    joiner: Engine,
    prober: Engine,
    news: Receiver<News>,
    /// Bytes of bodies published, by stream; none for streams of others.
    sent: Vec<Arc<AtomicU64>>,
    shape: Shape,
    /// Players that are closed or refused come back.
    pub reconnect: bool,
    /// Times of all joins of players, probes included.
    pub joins: Joins,
}

/// Times of joining, from before the TCP connect.
#[derive(Default)]
pub struct Joins {
    /// Until the server agreed.
    pub started: Histogram,
    /// Until the first frame.
    pub frame: Histogram,
    /// Until the first keyframe.
    pub keyframe: Histogram,
    /// Players whose first video frame was a keyframe, and whose was not.
    pub keyframe_first: u64,
    /// See there.
    pub other_first: u64,
    /// When the server had agreed to the last.
    pub all_started: Option<Instant>,
    /// When the last had a keyframe.
    pub all_keyframe: Option<Instant>,
}

/// One who is to be there.
pub struct Slot {
    /// What for.
    pub role: Role,
    /// Where.
    pub target: Arc<Target>,
    /// How it is.
    pub state: State,
    /// Times that it got there.
    pub joins: u64,
    /// Attempts that failed.
    pub refused: u64,
    /// Times that it was lost afterwards.
    pub closes: u64,
    /// Why, the last time.
    pub error: Option<String>,
}

/// How one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// On its way.
    Joining,
    /// There.
    There,
    /// Refused or closed, for good.
    Gone,
}

impl Crowd {
    /// Nobody; `publishers` of streams of `shape` may come.
    pub fn new(shape: Shape, publishers: usize) -> Result<Self> {
        let (sender, news) = channel();
        let cores = process::cores()?.len();
        let threads = publishers.div_ceil(STREAMS_A_THREAD).clamp(1, cores.max(1));
        Ok(Self {
            slots: Vec::new(),
            fleet: Fleet::default(),
            publishers: Publishers::start(threads, &sender)?,
            joiner: Engine::start("join", sender.clone())?,
            prober: Engine::start("probe", sender)?,
            news,
            sent: Vec::new(),
            shape,
            reconnect: false,
            joins: Joins::default(),
        })
    }

    /// Sends for one client of each of `targets`, `ramp` a second, or all at once.
    pub fn call(&mut self, role: Role, targets: &[Arc<Target>], ramp: Option<f64>) -> Result<()> {
        let start = Instant::now();
        for (n, target) in targets.iter().enumerate() {
            let n = u32::try_from(n)?;
            let wait = ramp.map_or(Duration::ZERO, |ramp| Duration::from_secs(1).div_f64(ramp) * n);
            if role == Role::Publisher && self.sent.len() <= target.stream {
                self.sent.resize_with(target.stream + 1, Arc::default);
            }
            let target = Arc::clone(target);
            let (state, slot) = (State::Joining, self.slots.len());
            self.slots.push(Slot {
                role,
                target,
                state,
                joins: 0,
                refused: 0,
                closes: 0,
                error: None,
            });
            self.dial(slot, start + wait)?;
        }
        Ok(())
    }

    fn dial(&self, slot: usize, due: Instant) -> Result<()> {
        let Some(Slot { role, target, .. }) = self.slots.get(slot) else { return Ok(()) };
        let engine = if *role == Role::Probe { &self.prober } else { &self.joiner };
        engine.dial(Dial { slot, role: *role, target: Arc::clone(target), due })
    }

    /// Keeps all going while `go_on`, which is asked at each sweep.
    pub fn hold(&mut self, mut go_on: impl FnMut(&mut Self) -> Result<bool>) -> Result<()> {
        while go_on(self)? {
            process::check_interrupt()?;
            let begin = Instant::now();
            self.hear()?;
            let (slots, sent, mut closed) = (&self.slots, &self.sent, Vec::new());
            let shape = self.shape;
            self.fleet.sweep(|slot, mark| {
                closed.push(slot);
                let sent = sent.get(slots.get(slot)?.target.stream)?.load(Ordering::Relaxed);
                Some(sent.saturating_sub(shape.bytes_through(mark?)))
            });
            for slot in closed {
                self.lose(slot, "the server has closed the connection".to_owned())?;
            }
            thread::sleep(self.fleet.pause().saturating_sub(begin.elapsed()));
        }
        Ok(())
    }

    /// Goes on until nothing comes any more to players that take all they can.
    pub fn drain(&mut self) -> Result<()> {
        let deadline = Instant::now() + DRAIN_WITHIN;
        let (mut bytes, mut since) = (0, Instant::now());
        self.hold(|crowd| {
            let players = crowd.fleet.members().iter();
            let sum =
                players.filter(|member| member.role == Role::Player).map(|one| one.bytes).sum();
            let now = Instant::now();
            if sum != bytes {
                (bytes, since) = (sum, now);
            }
            Ok(now < deadline && now < since + QUIET)
        })
    }

    fn hear(&mut self) -> Result<()> {
        while let Ok(news) = self.news.try_recv() {
            match news {
                News::There { slot, joined, link } => self.welcome(slot, &joined, link)?,
                News::Failed { slot, error } => self.lose(slot, format!("{error:#}"))?,
            }
        }
        Ok(())
    }

    fn welcome(&mut self, at: usize, joined: &Joined, link: Option<Box<Link>>) -> Result<()> {
        let Some(slot) = self.slots.get_mut(at) else { return Ok(()) };
        slot.state = State::There;
        slot.joins += 1;
        let role = slot.role;
        if matches!(role, Role::Player | Role::Probe) {
            self.joins.add(joined);
        }
        let Some(link) = link else { return Ok(()) };
        if role == Role::Publisher {
            let stream = slot.target.stream;
            let source = Source::new(self.shape, &slot.target.url.stream);
            let sent = self.sent.get(stream).cloned().unwrap_or_default();
            return self.publishers.add(at, *link, source, sent);
        }
        let received = link.received();
        self.fleet.add(at, role, link.into_stream(), received, joined.mark);
        Ok(())
    }

    /// Takes in a connection that came to us and is fed like a player's. `received`: bytes so far.
    pub fn adopt(&mut self, target: Arc<Target>, stream: TcpStream, received: u64, mark: Mark) {
        let slot = Slot {
            role: Role::Player,
            target,
            state: State::There,
            joins: 1,
            refused: 0,
            closes: 0,
            error: None,
        };
        self.fleet.add(self.slots.len(), Role::Player, stream, received, Some(mark));
        self.slots.push(slot);
    }

    fn lose(&mut self, at: usize, error: String) -> Result<()> {
        let Some(slot) = self.slots.get_mut(at) else { return Ok(()) };
        let was_there = std::mem::replace(&mut slot.state, State::Gone) == State::There;
        *(if was_there { &mut slot.closes } else { &mut slot.refused }) += 1;
        slot.error = Some(error);
        if self.reconnect && slot.role != Role::Publisher {
            slot.state = State::Joining;
            let spread = COME_BACK_SPREAD.mul_f64(rand::random_range(0.0..1.0));
            self.dial(at, Instant::now() + COME_BACK_AFTER + spread)?;
        }
        Ok(())
    }

    /// Everybody who is to be there.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// How many are in `state`.
    pub fn count(&self, state: State) -> usize {
        self.slots.iter().filter(|slot| slot.state == state).count()
    }

    /// The first failure, as an error.
    pub fn check(&self) -> Result<()> {
        let failed = self.slots.iter().find_map(|slot| Some((slot, slot.error.as_ref()?)));
        match failed {
            Some((slot, error)) => bail!("{:?}: {error}", slot.role),
            None => Ok(()),
        }
    }

    /// Bytes of bodies that `stream` has published so far, if it is ours.
    pub fn published(&self, stream: usize) -> Option<u64> {
        Some(self.sent.get(stream)?.load(Ordering::Relaxed))
    }

    /// Bytes of bodies that `stream` has published behind video message `number`, if it is ours.
    pub fn published_since(&self, stream: usize, number: u64) -> Option<u64> {
        Some(self.published(stream)?.saturating_sub(self.shape.bytes_through(number)))
    }

    /// What probes saw since [`Self::restart`].
    pub fn seen(&self) -> Seen {
        self.prober.seen()
    }

    /// Begins a window for fleet, probes and publishers.
    pub fn restart(&mut self) {
        self.fleet.restart();
        self.prober.restart();
        self.publishers.restart();
    }
}

impl Joins {
    fn add(&mut self, joined: &Joined) {
        let times = [
            (&mut self.started, joined.started),
            (&mut self.frame, joined.frame),
            (&mut self.keyframe, joined.keyframe),
        ];
        for (histogram, time) in times {
            time.into_iter().for_each(|time| histogram.push(time));
        }
        let end = |time: Option<Duration>| time.map(|time| joined.begun + time);
        self.all_started = self.all_started.max(end(joined.started));
        self.all_keyframe = self.all_keyframe.max(end(joined.keyframe));
        match joined.is_keyframe_first {
            Some(true) => self.keyframe_first += 1,
            Some(false) => self.other_first += 1,
            None => {}
        }
    }
}
