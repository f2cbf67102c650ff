//! A client that parses what it gets: every one while it joins, probes for good.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use forwarder::rtmp::Timestamp;
use forwarder::rtmp::flv;
use forwarder::rtmp::message::{MediaKind, MediaMessage};
use forwarder::rtmp::session::{ClientEvent, Goal};
use forwarder::rtmp::url::RtmpUrl;

use super::histogram::Histogram;
use super::link::Link;
use super::stream::Stamp;

/// How long a player waits for media before it counts as refused.
const MEDIA_WITHIN: Duration = Duration::from_secs(10);
/// How long a player with media waits for a keyframe, which a stream of audio does not have.
const KEYFRAME_WITHIN: Duration = Duration::from_secs(5);
/// A step of video timestamps by more, or backwards, is a jump, milliseconds.
const JUMP: i32 = 1000;
/// Receive buffer of players that read slowly, bytes; the kernel doubles it.
const SMALL_BUFFER: usize = 32 << 10;

/// What a client is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Sends a synthetic stream.
    Publisher,
    /// Counts bytes.
    Player,
    /// Parses everything.
    Probe,
    /// Reads so many bits a second.
    Slow(u64),
    /// Reads nothing once it plays.
    Stuck,
}

impl Role {
    fn goal(self) -> Goal {
        if self == Self::Publisher { Goal::Publish } else { Goal::Play }
    }

    fn receive_buffer(self) -> Option<usize> {
        matches!(self, Self::Slow(_) | Self::Stuck).then_some(SMALL_BUFFER)
    }
}

/// Where a client goes.
#[derive(Debug)]
pub struct Target {
    /// What it publishes or plays.
    pub url: RtmpUrl,
    /// Of its host.
    pub address: SocketAddr,
    /// Number of the stream.
    pub stream: usize,
}

/// A place in the bytes of a connection from which on everything counts: behind its first keyframe.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    /// Number of that message, if it is stamped.
    pub number: Option<u64>,
    /// Bytes received up to there.
    pub wire: u64,
}

/// How joining went; times are from before the TCP connect.
#[derive(Clone, Copy, Debug)]
pub struct Joined {
    /// Right before the TCP connect.
    pub begun: Instant,
    /// Until the server agreed.
    pub started: Option<Duration>,
    /// Until the first frame of audio or video was complete.
    pub frame: Option<Duration>,
    /// Whether the first video frame was a keyframe.
    pub is_keyframe_first: Option<bool>,
    /// Until the first keyframe was complete.
    pub keyframe: Option<Duration>,
    /// Where that ended.
    pub mark: Option<Mark>,
}

/// What probes saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Publisher to probe.
    pub latency: Histogram,
    /// Stamped messages.
    pub messages: u64,
    /// Stamped messages that were missed between two others.
    pub gaps: u64,
    /// Jumps of the timestamps of video without stamps.
    pub jumps: u64,
    /// Stamped messages with other bytes than were sent.
    pub damaged: u64,
    /// Stamped messages of another stream.
    pub strayed: u64,
    /// Stamped messages from another host, which tell no latency.
    pub foreign: u64,
    payload: u64,
    wire: u64,
}

impl Seen {
    /// Bytes on the wire behind first keyframes.
    pub fn wire(&self) -> u64 {
        self.wire
    }

    /// Bytes on the wire for a byte of payload.
    pub fn wire_per_payload(&self) -> Option<f64> {
        (self.payload > 0).then(|| super::float(self.wire) / super::float(self.payload))
    }
}

/// One client; see the module.
pub struct Guest {
    /// Whose connection it is.
    pub slot: usize,
    /// What it is there for.
    pub role: Role,
    /// The connection.
    pub link: Link,
    /// Whether it has been told that it has joined.
    pub is_told: bool,
    notes: Notes,
}

/// How far a guest is.
pub enum Progress {
    /// Not there yet.
    Joining,
    /// Publishing may begin, or media has come.
    There,
}

impl Guest {
    /// Begins to connect.
    pub fn dial(slot: usize, role: Role, target: &Arc<Target>) -> Result<Self> {
        let begun = Instant::now();
        let link = Link::dial(target.address, &target.url, role.goal(), role.receive_buffer())?;
        let notes = Notes::new(begun, Arc::clone(target));
        Ok(Self { slot, role, link, is_told: false, notes })
    }

    /// Reads what is there; `seen` takes what a probe counts.
    pub fn receive(&mut self, buffer: &mut [u8], seen: &mut Seen) -> Result<usize> {
        let notes = &mut self.notes;
        let mut seen = (self.role == Role::Probe).then_some(seen);
        self.link.receive(buffer, |event, wire| notes.take(&event, wire, seen.as_deref_mut()))
    }

    /// How far it is; an error when it takes too long.
    pub fn check(&mut self, now: Instant) -> Result<Progress> {
        self.link.check(now)?;
        let joined = &self.notes.joined;
        let Some(started) = joined.started else { return Ok(Progress::Joining) };
        let late = |since: Duration, limit| now > joined.begun + since + limit;
        let is_there = match self.role {
            Role::Publisher | Role::Slow(_) | Role::Stuck => true,
            Role::Player | Role::Probe => {
                let is_patient = |first| !late(first, KEYFRAME_WITHIN);
                joined.keyframe.is_some() || joined.frame.is_some_and(|first| !is_patient(first))
            }
        };
        if !is_there && joined.frame.is_none() && late(started, MEDIA_WITHIN) {
            bail!("no media within {MEDIA_WITHIN:?}");
        }
        Ok(if is_there { Progress::There } else { Progress::Joining })
    }

    /// How joining went so far.
    pub fn joined(&self) -> Joined {
        self.notes.joined
    }
}

/// What a guest makes of its events.
struct Notes {
    target: Arc<Target>,
    joined: Joined,
    /// Number of the next stamped message.
    next: Option<u64>,
    /// Bytes up to the last media message that counted.
    wire: Option<u64>,
    timestamp: Option<Timestamp>,
}

impl Notes {
    fn new(begun: Instant, target: Arc<Target>) -> Self {
        let joined = Joined {
            begun,
            started: None,
            frame: None,
            is_keyframe_first: None,
            keyframe: None,
            mark: None,
        };
        Self { target, joined, next: None, wire: None, timestamp: None }
    }

    fn take(&mut self, event: &ClientEvent<'_>, wire: u64, seen: Option<&mut Seen>) {
        let since = self.joined.begun.elapsed();
        match event {
            ClientEvent::Publishing(_) | ClientEvent::Playing(_) => {
                self.joined.started.get_or_insert(since);
            }
            ClientEvent::Media(message) => {
                self.note_frame(message, since, wire);
                if let Some(seen) = seen {
                    self.note_message(message, since, wire, seen);
                }
            }
            _ => {}
        }
    }

    fn note_frame(&mut self, message: &MediaMessage<'_>, since: Duration, wire: u64) {
        // A server that starts with media has agreed.
        self.joined.started.get_or_insert(since);
        match message.kind {
            MediaKind::Video => {
                let tag = flv::video(message.payload);
                if tag.header.is_some() {
                    return;
                }
                self.joined.is_keyframe_first.get_or_insert(tag.keyframe);
                if tag.keyframe && self.joined.keyframe.is_none() {
                    self.joined.keyframe = Some(since);
                    let number = Stamp::parse(message.payload).map(|stamp| stamp.number);
                    self.joined.mark = Some(Mark { number, wire });
                }
            }
            MediaKind::Audio if flv::audio(message.payload).header.is_none() => {}
            _ => return,
        }
        self.joined.frame.get_or_insert(since);
    }

    fn note_message(
        &mut self,
        message: &MediaMessage<'_>,
        since: Duration,
        wire: u64,
        seen: &mut Seen,
    ) {
        // Up to the mark nothing counts: handshake, commands, headers.
        let before = if self.joined.mark.is_some() { self.wire.replace(wire) } else { None };
        if let Some(before) = before {
            seen.payload += message.payload.len() as u64;
            seen.wire += wire - before;
        }
        if message.kind != MediaKind::Video {
            return;
        }
        let Some(stamp) = Stamp::parse(message.payload) else {
            let step = self.timestamp.replace(message.timestamp);
            let step = step.map_or(0, |before| message.timestamp.since(before));
            seen.jumps += u64::from(!(0..=JUMP).contains(&step));
            return;
        };
        let expected = self.next.replace(stamp.number + 1).unwrap_or(stamp.number);
        seen.messages += 1;
        // A lower number is a publisher that began anew.
        seen.gaps += stamp.number.saturating_sub(expected);
        seen.damaged += u64::from(!stamp.is_whole);
        seen.strayed += u64::from(!stamp.is_of(&self.target.url.stream));
        match stamp.age() {
            // What was sent before we came is old because a server kept it for late joiners.
            Some(age) if age < since => seen.latency.push(age),
            Some(_) => {}
            None => seen.foreign += 1,
        }
    }
}
