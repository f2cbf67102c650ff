//! What is made of the messages of a connection: how it joined, latency, gaps, damage.
use std::time::{Duration, Instant};

use forwarder::rtmp::Timestamp;
use forwarder::rtmp::flv;
use forwarder::rtmp::message::{MediaKind, MediaMessage};

use super::histogram::Histogram;
use super::stream::Stamp;

/// A step of video timestamps by more, or backwards, is a jump, milliseconds.
const JUMP: i32 = 1000;

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
    /// Publisher to probe, of video.
    pub latency: Histogram,
    /// The same of audio.
    pub audio: Histogram,
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

/// What is made of a connection's messages.
pub struct Notes {
    /// Name of its stream.
    stream: String,
    joined: Joined,
    /// Numbers of the next stamped messages, of video and audio.
    next: [Option<u64>; 2],
    /// Bytes up to the last media message that counted.
    wire: Option<u64>,
    timestamp: Option<Timestamp>,
}

impl Notes {
    /// Of a connection to play `stream` that was begun then.
    pub fn new(begun: Instant, stream: &str) -> Self {
        let joined = Joined {
            begun,
            started: None,
            frame: None,
            is_keyframe_first: None,
            keyframe: None,
            mark: None,
        };
        let stream = stream.to_owned();
        Self { stream, joined, next: [None; 2], wire: None, timestamp: None }
    }

    /// How joining went so far.
    pub fn joined(&self) -> &Joined {
        &self.joined
    }

    /// The server has agreed.
    pub fn note_start(&mut self) {
        self.joined.started.get_or_insert(self.joined.begun.elapsed());
    }

    /// A message that ends `wire` bytes behind the connection's begin; `seen` takes what a probe counts.
    pub fn take(&mut self, message: &MediaMessage<'_>, wire: u64, seen: Option<&mut Seen>) {
        let since = self.joined.begun.elapsed();
        self.note_frame(message, since, wire);
        if let Some(seen) = seen {
            self.note_message(message, since, wire, seen);
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
        let (stamp, latency, next) = match message.kind {
            MediaKind::Video => {
                (Stamp::parse(message.payload), &mut seen.latency, &mut self.next[0])
            }
            MediaKind::Audio => {
                (Stamp::parse_audio(message.payload), &mut seen.audio, &mut self.next[1])
            }
            MediaKind::Data => return,
        };
        let Some(stamp) = stamp else {
            if message.kind == MediaKind::Video {
                let step = self.timestamp.replace(message.timestamp);
                let step = step.map_or(0, |before| message.timestamp.since(before));
                seen.jumps += u64::from(!(0..=JUMP).contains(&step));
            }
            return;
        };
        let expected = next.replace(stamp.number + 1).unwrap_or(stamp.number);
        seen.messages += 1;
        // A lower number is a publisher that began anew.
        seen.gaps += stamp.number.saturating_sub(expected);
        seen.damaged += u64::from(!stamp.is_whole);
        seen.strayed += u64::from(!stamp.is_of(&self.stream));
        match stamp.age() {
            // What was sent before we came is old because a server kept it for late joiners.
            Some(age) if age < since => latency.push(age),
            Some(_) => {}
            None => seen.foreign += 1,
        }
    }
}
