//! One turn: a server is started, clients come, a window is measured, all go.
//!
//! What is delivered is counted to the byte from each client's first keyframe until nothing more comes
//! after the publishers have stopped, so no edge of a window adds or hides anything. Processor time,
//! stalls and latency are those of the window.
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use forwarder::rtmp::url::RtmpUrl;

use super::contender::Contender;
use super::record::{Figures, Latency};
use super::scenario::Scenario;
use super::sockets::Sockets;
use crate::bench::splice::usage::Usage;
use crate::bench::{Cores, priority, source};
use crate::load::cost::Cost;
use crate::load::crowd::{Crowd, State};
use crate::load::guest::{Role, Target};
use crate::load::notes::Seen;
use crate::load::sinks::Sinks;
use crate::load::{float, tally};
use crate::net;
use crate::process::{self, Process};

/// Who comes in a second.
const RAMP: f64 = 1000.0;
/// Publishers that come in a second, so that frames of few streams do not fall on the same moment, as
/// those of encoders do not.
const PUBLISHERS: f64 = 223.0;
const MANY_PUBLISHERS: f64 = 997.0;
/// From the last join to the window.
const SETTLE: Duration = Duration::from_secs(2);
/// All must have come so long after the last was called.
const COME_WITHIN: Duration = Duration::from_secs(30);
/// A client is connected so long after it was called, mostly.
const CONNECT_WITHIN: Duration = Duration::from_millis(50);

/// How to measure.
#[derive(Clone, Copy)]
pub struct Setting {
    /// Who runs where.
    pub cores: Cores,
    /// Length of a window.
    pub window: Duration,
    /// Measure what was built like this program, not releases.
    pub as_is: bool,
    /// Which message a floor leaves out; 0: none.
    pub lose: u64,
}

/// Runs one turn.
pub fn measure(scenario: &Scenario, contender: &Contender, setting: &Setting) -> Result<Figures> {
    let sinks = match scenario {
        Scenario::Forward { slaves, .. } => {
            let samples = scenario.samples().into_iter();
            let samples = samples.map(|(slave, stream)| (slave, name(stream))).collect();
            Some(Sinks::start(*slaves, samples)?)
        }
        Scenario::Play { .. } | Scenario::Publish { .. } => None,
    };
    let ports = sinks.as_ref().map(Sinks::ports).unwrap_or_default();
    let Setting { cores, as_is, lose, .. } = *setting;
    let (server, port) = contender.start(ports, cores.server, as_is, lose)?;
    let shape = source::shape(25, 50, scenario.bitrate());
    let targets = (0..scenario.streams()).map(|stream| target(port, stream));
    let targets = targets.collect::<Result<Vec<_>>>()?;
    let mut crowd = Crowd::new(shape, targets.len())?;
    // Slaves wait for what comes, and few are to be read. An acknowledgement that comes late would have
    // Nagle's algorithm merge what a real slave would have got at once.
    crowd.fleet.is_prompt = sinks.is_some();
    let mut turn = Turn { scenario, server, crowd, sinks, targets, sampled: 0, rss: 0 };
    turn.gather()?;
    turn.window(setting.window)
}

fn name(stream: usize) -> String {
    format!("s{stream}")
}

fn target(port: u16, stream: usize) -> Result<Arc<Target>> {
    let url: RtmpUrl = format!("rtmp://127.0.0.1:{port}/live/{}", name(stream)).parse()?;
    Ok(Arc::new(Target { url, address: net::loopback(port), stream }))
}

struct Turn<'a> {
    scenario: &'a Scenario,
    server: Process,
    crowd: Crowd,
    sinks: Option<Sinks>,
    targets: Vec<Arc<Target>>,
    /// Connections of the slaves that are parsed for good.
    sampled: usize,
    /// Before the clients came.
    rss: u64,
}

/// What is known at the end of a window, while publishers go on.
struct Ended {
    figures: Figures,
    at: Instant,
}

impl Turn<'_> {
    fn gather(&mut self) -> Result<()> {
        self.rss = self.server.rss()?;
        let few = self.targets.len() <= 200;
        let ramp = if few { PUBLISHERS } else { MANY_PUBLISHERS };
        let publishers = self.targets.clone();
        self.call(Role::Publisher, &publishers, ramp)?;
        priority::raise()?;
        match *self.scenario {
            Scenario::Play { players, .. } => {
                self.rss = self.server.rss()?;
                let players = self.targets.iter().cycle().take(players).cloned();
                self.play(&players.collect::<Vec<_>>())?;
            }
            Scenario::Forward { .. } => self.wait_forwarded()?,
            Scenario::Publish { .. } => self.call(Role::Probe, &self.samples(), RAMP)?,
        }
        let settled = Instant::now() + SETTLE;
        self.hold(|_| Ok(Instant::now() < settled))
    }

    /// Those who sample come between the others, at even distances: a server writes to its players in
    /// an order, and the first and the last are not served alike.
    fn play(&mut self, players: &[Arc<Target>]) -> Result<()> {
        let samples = self.samples();
        let mut called = 0;
        for (at, sample) in samples.iter().enumerate() {
            let upto = players.len() * (2 * at + 1) / (2 * samples.len());
            self.summon(Role::Player, players.get(called..upto).unwrap_or_default(), RAMP)?;
            self.summon(Role::Probe, std::slice::from_ref(sample), RAMP)?;
            called = upto;
        }
        self.call(Role::Player, players.get(called..).unwrap_or_default(), RAMP)
    }

    /// Has clients come, and goes on when the last should have connected: a server without a GOP cache
    /// has each wait for a keyframe.
    fn summon(&mut self, role: Role, targets: &[Arc<Target>], ramp: f64) -> Result<()> {
        if targets.is_empty() {
            return Ok(());
        }
        self.crowd.call(role, targets, Some(ramp))?;
        let ramp = Duration::from_secs_f64(float(targets.len() as u64) / ramp);
        let there = Instant::now() + ramp + CONNECT_WITHIN;
        self.hold(|_| Ok(Instant::now() < there))
    }

    fn samples(&self) -> Vec<Arc<Target>> {
        let samples = self.scenario.samples().into_iter();
        samples.filter_map(|(_, stream)| self.targets.get(stream).cloned()).collect()
    }

    /// Keeps all going while `go_on`; fails when the server or a publisher does.
    fn hold(&mut self, mut go_on: impl FnMut(&mut Self) -> Result<bool>) -> Result<()> {
        // The crowd is out of its place for one sweep at a time only.
        let mut goes = true;
        while goes {
            self.server.check()?;
            check_publishers(&self.crowd)?;
            self.adopt()?;
            let mut looked = false;
            self.crowd.hold(|_| Ok(!std::mem::replace(&mut looked, true)))?;
            goes = go_on(self)?;
        }
        Ok(())
    }

    /// Has clients come, and waits until all are there.
    fn call(&mut self, role: Role, targets: &[Arc<Target>], ramp: f64) -> Result<()> {
        if targets.is_empty() {
            return Ok(());
        }
        self.crowd.call(role, targets, Some(ramp))?;
        let ramp = Duration::from_secs_f64(float(targets.len() as u64) / ramp);
        let deadline = Instant::now() + ramp + COME_WITHIN;
        self.hold(|turn| {
            turn.crowd.check()?;
            let joining = turn.crowd.count(State::Joining);
            if Instant::now() > deadline {
                bail!("{joining} of {} did not join in time", targets.len());
            }
            Ok(joining > 0)
        })
    }

    fn wait_forwarded(&mut self) -> Result<()> {
        let expected = self.scenario.written_to();
        let deadline = Instant::now() + COME_WITHIN;
        self.hold(|turn| {
            let there = turn.crowd.fleet.members().len() + turn.sampled;
            if there < expected && Instant::now() > deadline {
                bail!("{there} of {expected} forwards came in time");
            }
            Ok(there < expected)
        })
    }

    /// Takes in the slaves' connections that have come.
    fn adopt(&mut self) -> Result<()> {
        let came = self.sinks.as_ref().map(Sinks::came).unwrap_or_default();
        for one in came {
            let Some(socket) = one.socket else {
                self.sampled += 1;
                continue;
            };
            let stream = one.stream.strip_prefix('s').and_then(|number| number.parse().ok());
            let target = stream.and_then(|stream: usize| self.targets.get(stream));
            let target = target.with_context(|| format!("forwarded as `{}`", one.stream))?;
            self.crowd.adopt(Arc::clone(target), socket, one.received, one.mark);
        }
        Ok(())
    }

    fn seen(&self) -> Seen {
        self.sinks.as_ref().map_or_else(|| self.crowd.seen(), Sinks::seen)
    }

    fn window(&mut self, length: Duration) -> Result<Figures> {
        let ended = self.watch(length)?;
        let Ended { mut figures, at } = ended;
        // What is under way when the window ends is not lost: it comes while nothing new is sent.
        self.crowd.publishers.hush();
        self.crowd.drain()?;
        figures.drain_s = at.elapsed().as_secs_f64();
        let seen = self.seen();
        figures.gaps = seen.gaps;
        figures.wrong = seen.damaged + seen.strayed;
        match tally::delivery(&self.crowd, &seen) {
            Some(delivery) => {
                figures.delivered = delivery.mean;
                figures.worst = delivery.worst;
                figures.below = delivery.below + delivery.unknown;
            }
            // Nobody but those who sample.
            None => {
                let all = float(seen.messages + seen.gaps);
                figures.delivered = float(seen.messages) / all;
                figures.worst = figures.delivered;
            }
        }
        Ok(figures)
    }

    fn watch(&mut self, length: Duration) -> Result<Ended> {
        self.crowd.restart();
        if let Some(sinks) = &self.sinks {
            sinks.restart();
        }
        let closed_before = self.closed();
        let (cost, sockets) = (Cost::now()?, Sockets::now()?);
        let (user, _) = self.server.cpu()?;
        let usage = Usage::now(Some(self.server.id()))?;
        let start = Instant::now();
        let end = start + length;
        self.hold(|_| Ok(Instant::now() < end))?;
        let wall = start.elapsed();
        let (usage_now, spent) = (Usage::now(Some(self.server.id()))?, cost.spent()?);
        let sockets_now = Sockets::now()?;
        let (user_now, _) = self.server.cpu()?;
        let rss_bytes = self.server.rss()?;
        let seen = self.seen();

        let seconds = wall.as_secs_f64();
        let used = usage_now.since(&usage, seconds * 1e3);
        let percent = |ms: f64| ms / seconds / 10.0;
        let segments = sockets_now.segments_since(&sockets) - self.published(seconds);
        let clients = self.scenario.written_to();
        let writes = (clients > 0).then(|| segments / float(clients as u64) / seconds);
        let all = (self.scenario.clients() + self.scenario.samples().len()).max(1) as u64;
        let figures = Figures {
            seconds,
            stalled: self.crowd.fleet.members().iter().filter(|one| one.stalls > 0).count(),
            closed: self.closed() - closed_before,
            cpu: percent(used.relay_ms),
            cpu_user: percent((user_now - user).as_secs_f64() * 1e3),
            busy: percent(used.busy_ms),
            load_cpu: percent(used.load_ms),
            load_full: spent.remark(),
            late_ms: self.crowd.publishers.lateness().quantiles().p99_ms,
            rss_bytes,
            rss_per_client_bytes: float(rss_bytes.saturating_sub(self.rss)) / float(all),
            tcp_bytes: sockets_now.memory,
            us_per_write: writes.map(|_| used.relay_ms * 1e3 / segments.max(1.0)),
            writes,
            video: Latency::from(&seen.latency),
            audio: Latency::from(&seen.audio),
            ..Figures::default()
        };
        Ok(Ended { figures, at: Instant::now() })
    }

    /// Messages that our publishers send in so many seconds, a segment each.
    fn published(&self, seconds: f64) -> f64 {
        let shape = source::shape(25, 50, self.scenario.bitrate());
        float((shape.fps + shape.audio) * self.targets.len() as u64) * seconds
    }

    fn closed(&self) -> usize {
        let all = self.crowd.slots().iter().map(|slot| slot.closes).sum::<u64>();
        usize::try_from(all).unwrap_or(usize::MAX)
    }
}

/// A player that is closed is counted; without the publishers there is nothing to count.
fn check_publishers(crowd: &Crowd) -> Result<()> {
    let mut publishers = crowd.slots().iter().filter(|slot| slot.role == Role::Publisher);
    match publishers.find_map(|slot| slot.error.as_ref()) {
        Some(error) => bail!("a publisher failed: {error}"),
        None => process::check_interrupt(),
    }
}
