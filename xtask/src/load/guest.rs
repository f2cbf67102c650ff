//! A client that parses what it gets: every one while it joins, probes for good.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use forwarder::rtmp::session::{ClientEvent, Goal};
use forwarder::rtmp::url::RtmpUrl;

use super::link::Link;
use super::notes::{Joined, Notes, Seen};

/// How long a player waits for media before it counts as refused.
const MEDIA_WITHIN: Duration = Duration::from_secs(10);
/// How long a player with media waits for a keyframe, which a stream of audio does not have.
const KEYFRAME_WITHIN: Duration = Duration::from_secs(5);
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
        let notes = Notes::new(begun, &target.url.stream);
        Ok(Self { slot, role, link, is_told: false, notes })
    }

    /// Reads what is there; `seen` takes what a probe counts.
    pub fn receive(&mut self, buffer: &mut [u8], seen: &mut Seen) -> Result<usize> {
        let notes = &mut self.notes;
        let mut seen = (self.role == Role::Probe).then_some(seen);
        self.link.receive(buffer, |event, wire| match event {
            ClientEvent::Publishing(_) | ClientEvent::Playing(_) => notes.note_start(),
            ClientEvent::Media(message) => notes.take(&message, wire, seen.as_deref_mut()),
            _ => {}
        })
    }

    /// How far it is; an error when it takes too long.
    pub fn check(&mut self, now: Instant) -> Result<Progress> {
        self.link.check(now)?;
        let joined = self.notes.joined();
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
        *self.notes.joined()
    }
}
