//! A synthetic stream whose messages carry their number and the time they were sent.
//!
//! The order and length of all messages follow from the stream's shape alone. So whoever knows the
//! number of one message knows how many bytes came before it, and what is missing can be told
//! without parsing.
use std::fs;
use std::sync::OnceLock;
use std::time::Duration;

use forwarder::rtmp::message::MediaKind;
use nix::time::{ClockId, clock_gettime};

/// Body of an audio message, bytes: about 64 kbit/s at 43 messages a second.
const AUDIO_BYTES: u64 = 180;
/// A keyframe is so many times an inter frame.
const KEYFRAME_WEIGHT: u64 = 4;
/// Stands in front of the stamp.
const MAGIC: &[u8; 8] = b"fwdstamp";
/// Magic, host, stream, number, time.
const STAMP: usize = 40;
/// FLV video header, NAL length and type, then the magic.
const VIDEO: Form = Form { at: 10, fill: 0x5a };
/// FLV audio header, then the magic.
const AUDIO: Form = Form { at: 2, fill: 0x21 };
/// Least of a video body.
const STAMP_END: usize = VIDEO.at + STAMP;
/// Largest inter frame, bytes.
const MAX_FRAME: usize = 1 << 20;

/// AVC and AAC sequence headers (320x180 baseline, 44.1 kHz mono) of a real encoder.
pub const VIDEO_HEADER: &[u8] = b"\x17\x00\x00\x00\x00\x01\x42\xc0\x0c\xff\xe1\x00\x17\x67\x42\
    \xc0\x0c\xda\x05\x06\x7e\x7c\x04\x40\x00\x00\x03\x00\x40\x00\x00\x07\x83\xc5\x0a\xa8\x01\x00\
    \x04\x68\xce\x3c\x80";
pub const AUDIO_HEADER: &[u8] = b"\xaf\x00\x12\x08";

/// Where a body has its stamp.
struct Form {
    at: usize,
    /// Fills what is behind it.
    fill: u8,
}

/// What the stream is like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Video frames a second, at least 1.
    pub fps: u64,
    /// Frames from keyframe to keyframe, at least 1.
    pub gop: u64,
    /// Bits a second, payload of audio and video.
    pub bitrate: u64,
    /// Audio messages a second; AAC at 44.1 kHz has 43. 0: no audio.
    pub audio: u64,
}

impl Shape {
    /// Bytes of an inter frame's body; a keyframe is `KEYFRAME_WEIGHT` times that.
    fn frame_bytes(&self) -> u64 {
        let video = (self.bitrate / 8).saturating_sub(self.audio * AUDIO_BYTES);
        let bytes = video * self.gop / (self.fps * (self.gop - 1 + KEYFRAME_WEIGHT));
        bytes.clamp(STAMP_END as u64, MAX_FRAME as u64)
    }

    /// Bytes of all bodies up to and with video message `number`.
    pub fn bytes_through(&self, number: u64) -> u64 {
        let frames = number + 1;
        let keyframes = frames.div_ceil(self.gop);
        let video = self.frame_bytes() * (frames + keyframes * (KEYFRAME_WEIGHT - 1));
        // Of the same time, video goes first.
        let sounds = (number * self.audio).div_ceil(self.fps);
        video + sounds * AUDIO_BYTES
    }
}

/// Where a stream stands.
#[derive(Clone, Debug)]
pub struct Source {
    shape: Shape,
    name: u64,
    frames: u64,
    sounds: u64,
    body: Vec<u8>,
}

impl Source {
    /// At its beginning.
    pub fn new(shape: Shape, stream: &str) -> Self {
        Self { shape, name: hash(stream), frames: 0, sounds: 0, body: Vec::new() }
    }

    /// When the next message is due, from the beginning.
    pub fn due(&self) -> Duration {
        let at = |count: u64, rate: u64| Duration::from_nanos(count * 1_000_000_000 / rate);
        if self.is_video_next() {
            at(self.frames, self.shape.fps)
        } else {
            at(self.sounds, self.shape.audio)
        }
    }

    /// Kind, timestamp (milliseconds) and body of the next message, which carries the time now.
    pub fn next_message(&mut self) -> (MediaKind, u32, &[u8]) {
        let millis = self.due().as_millis() & u128::from(u32::MAX);
        let timestamp = u32::try_from(millis).unwrap_or_default();
        if self.is_video_next() {
            self.frames += 1;
            self.write_video(self.frames - 1);
            (MediaKind::Video, timestamp, &self.body)
        } else {
            self.sounds += 1;
            self.body.clear();
            self.body.extend(b"\xaf\x01");
            self.write_stamp(self.sounds - 1, usize::try_from(AUDIO_BYTES).unwrap_or(0), &AUDIO);
            (MediaKind::Audio, timestamp, &self.body)
        }
    }

    /// Whether it has any.
    pub fn has_audio(&self) -> bool {
        self.shape.audio > 0
    }

    fn is_video_next(&self) -> bool {
        // frames / fps <= sounds / audio, without rounding
        self.shape.audio == 0 || self.frames * self.shape.audio <= self.sounds * self.shape.fps
    }

    fn write_video(&mut self, number: u64) {
        let is_keyframe = number.is_multiple_of(self.shape.gop);
        let (frame_type, nal_type) = if is_keyframe { (0x17, 0x65) } else { (0x27, 0x41) };
        let weight = if is_keyframe { KEYFRAME_WEIGHT } else { 1 };
        let bytes = usize::try_from(self.shape.frame_bytes() * weight).unwrap_or(STAMP_END);
        let body = &mut self.body;
        body.clear();
        body.extend([frame_type, 1, 0, 0, 0]);
        body.extend(u32::try_from(bytes - 9).unwrap_or(u32::MAX).to_be_bytes());
        body.push(nal_type);
        self.write_stamp(number, bytes, &VIDEO);
    }

    fn write_stamp(&mut self, number: u64, bytes: usize, form: &Form) {
        self.body.extend(MAGIC);
        for word in [host(), self.name, number, nanos()] {
            self.body.extend(word.to_be_bytes());
        }
        self.body.resize(bytes, form.fill);
    }
}

/// What was read back from a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    host: u64,
    name: u64,
    /// Number of the message among those of its kind, from 0.
    pub number: u64,
    /// When it was sent, on the host's monotonic clock, nanoseconds.
    sent: u64,
    /// Whether all the rest is as it was sent.
    pub is_whole: bool,
}

impl Stamp {
    /// The stamp of a video message's body, if it is one of ours.
    pub fn parse(body: &[u8]) -> Option<Self> {
        Self::read(body, &VIDEO)
    }

    /// The stamp of an audio message's body, if it is one of ours.
    pub fn parse_audio(body: &[u8]) -> Option<Self> {
        Self::read(body, &AUDIO)
    }

    fn read(body: &[u8], form: &Form) -> Option<Self> {
        let stamp = body.get(form.at..form.at + STAMP)?.strip_prefix(MAGIC)?;
        let mut words = stamp.chunks_exact(8).map(|word| word.try_into().map(u64::from_be_bytes));
        let mut word = || words.next()?.ok();
        let (host, name, number, sent) = (word()?, word()?, word()?, word()?);
        let rest = body.get(form.at + STAMP..).unwrap_or_default();
        let is_whole = rest.iter().all(|&byte| byte == form.fill);
        Some(Self { host, name, number, sent, is_whole })
    }

    /// Time since it was sent; `None` when that was on another host, which has another clock.
    pub fn age(&self) -> Option<Duration> {
        let age = Duration::from_nanos(nanos().saturating_sub(self.sent));
        (self.host == host()).then_some(age)
    }

    /// Whether it was published as `stream`.
    pub fn is_of(&self, stream: &str) -> bool {
        self.name == hash(stream)
    }
}

/// Nanoseconds on a clock that all processes of this host share.
fn nanos() -> u64 {
    let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else {
        // It has no way to fail on Linux.
        return 0;
    };
    u64::try_from(Duration::from(now).as_nanos()).unwrap_or(u64::MAX)
}

/// This host, this boot.
fn host() -> u64 {
    static HOST: OnceLock<u64> = OnceLock::new();
    *HOST.get_or_init(|| {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
        // Without it no other process is known to share our clock.
        boot.map_or_else(|_| rand::random(), |boot| hash(&boot))
    })
}

/// FNV-1a of the name of a stream without its parameters.
fn hash(name: &str) -> u64 {
    let name = name.split('?').next().unwrap_or_default();
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { fps: 25, gop: 50, bitrate: 500_000, audio: 43 };

    fn video(shape: Shape, number: u64) -> Vec<u8> {
        let mut source = Source::new(shape, "a");
        source.write_video(number);
        source.body
    }

    #[test]
    fn a_second_of_the_stream_has_its_bitrate() {
        let frames: usize = (0..50).map(|number| video(SHAPE, number).len()).sum();
        let audio = 2 * 43 * 180;
        let bits = (frames + audio) * 8 / 2;
        assert!((495_000..=500_000).contains(&bits), "{bits}");
    }

    #[test]
    fn bytes_through_a_message_are_those_sent_until_then() {
        let shapes = [(25, 50, 43), (30, 1, 43), (10, 7, 0), (100, 100, 1), (43, 5, 43)];
        for (fps, gop, audio) in shapes {
            let shape = Shape { fps, gop, bitrate: 800_000, audio };
            let mut source = Source::new(shape, "a");
            let (mut sent, mut frames, mut sounds, mut last) = (0, 0, 0, Duration::ZERO);
            while frames < 300 {
                assert!(source.due() >= last, "{shape:?}: time goes back");
                last = source.due();
                let (kind, timestamp, body) = source.next_message();
                assert_eq!(u128::from(timestamp), last.as_millis());
                sent += body.len() as u64;
                if kind == MediaKind::Audio {
                    let stamp = Stamp::parse_audio(body).unwrap();
                    assert!(stamp.is_whole && stamp.number == sounds);
                    sounds += 1;
                }
                if kind == MediaKind::Video {
                    assert_eq!(Stamp::parse(body).unwrap().number, frames);
                    assert_eq!(shape.bytes_through(frames), sent, "{shape:?} at {frames}");
                    frames += 1;
                }
            }
        }
    }

    #[test]
    fn a_stamp_comes_back() {
        let mut body = video(SHAPE, 50);
        let stamp = Stamp::parse(&body).unwrap();
        assert_eq!((body[0], stamp.number), (0x17, 50));
        assert!(stamp.is_whole && stamp.is_of("a") && stamp.is_of("a?token=1"));
        assert!(!stamp.is_of("b"));
        assert!(stamp.age().unwrap() < Duration::from_secs(60));
        assert_eq!(Stamp { host: stamp.host ^ 1, ..stamp }.age(), None);
        assert_eq!(Stamp::parse(VIDEO_HEADER), None);
        assert_eq!(Stamp::parse_audio(AUDIO_HEADER), None);
        assert_eq!(Stamp::parse(&body[..STAMP_END - 1]), None);
        assert_eq!(Stamp::parse(b""), None);
        *body.last_mut().unwrap() ^= 1;
        assert!(!Stamp::parse(&body).unwrap().is_whole);
    }

    #[test]
    fn the_smallest_frame_holds_a_stamp() {
        let shape = Shape { fps: 1000, gop: 1, bitrate: 0, audio: 43 };
        assert!(Stamp::parse(&video(shape, 3)).is_some());
    }
}
