//! A synthetic stream whose messages carry their number and the time they were sent.
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use forwarder::rtmp::message::MediaKind;
use forwarder::rtmp::url::RtmpUrl;

use crate::client::Connection;
use crate::process;

/// Audio messages a second: AAC at 44.1 kHz has 1,024 samples in each.
const AUDIO_RATE: u64 = 43;
/// Body of an audio message, bytes: about 64 kbit/s.
const AUDIO_BYTES: u64 = 180;
/// A keyframe is so many times an inter frame.
const KEYFRAME_WEIGHT: u64 = 4;
/// Stands in front of number and time.
const MAGIC: &[u8; 8] = b"fwdstamp";
/// FLV video header, NAL length and type, then the magic.
const MAGIC_AT: usize = 10;
const STAMP_END: usize = MAGIC_AT + 24;
/// Stands behind.
const FILL: u8 = 0x5a;

/// What the stream is like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Video frames a second.
    pub fps: u64,
    /// Frames from keyframe to keyframe.
    pub gop: u64,
    /// Bits a second, payload of audio and video.
    pub bitrate: u64,
}

impl Shape {
    /// Bytes of an inter frame's body; a keyframe is `KEYFRAME_WEIGHT` times that.
    fn frame_bytes(&self) -> usize {
        let video = (self.bitrate / 8).saturating_sub(AUDIO_RATE * AUDIO_BYTES);
        let weight = self.gop.max(1) - 1 + KEYFRAME_WEIGHT;
        let bytes = video * self.gop.max(1) / (self.fps.max(1) * weight);
        usize::try_from(bytes).unwrap_or(usize::MAX).clamp(STAMP_END, 1 << 20)
    }
}

/// What was read back from a video message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Number of the video message, from 0.
    pub number: u64,
    /// When it was sent, on [`nanos`]' clock.
    pub sent: u64,
}

impl Stamp {
    /// The stamp of a video message's body, if it is one of ours.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let stamp = body.get(MAGIC_AT..STAMP_END)?.strip_prefix(MAGIC)?;
        let (number, sent) = stamp.split_at_checked(8)?;
        let number = u64::from_be_bytes(number.try_into().ok()?);
        Some(Self { number, sent: u64::from_be_bytes(sent.try_into().ok()?) })
    }

    /// Whether a body with a stamp is as it was sent to its end.
    pub fn is_whole(body: &[u8]) -> bool {
        body.len() == STAMP_END || body.last() == Some(&FILL)
    }

    /// Time since it was sent.
    pub fn age(&self) -> Duration {
        Duration::from_nanos(nanos().saturating_sub(self.sent))
    }
}

/// Nanoseconds on a clock that publishers and players of this process share.
fn nanos() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

/// A thread that publishes until it is dropped.
pub struct Publisher {
    /// Bytes of all bodies so far.
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Publisher {
    /// Publishes to `url`; on return the server has agreed.
    pub fn start(url: &RtmpUrl, shape: Shape) -> Result<Self> {
        let connection = Connection::publish(url).context("publish")?;
        let sent = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (counters, flag) = (sent.clone(), stop.clone());
        let thread = thread::spawn(move || send(connection, shape, &counters, &flag));
        Ok(Self { sent, stop, thread: Some(thread) })
    }

    /// Bytes of all bodies sent so far.
    pub fn sent_bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends the publish; gives the bytes of all bodies sent.
    pub fn stop(self) -> u64 {
        let sent = self.sent.clone();
        drop(self);
        sent.load(Ordering::Relaxed)
    }

    /// An error when it publishes no more.
    pub fn check(&mut self) -> Result<()> {
        match self.thread.take_if(|thread| thread.is_finished()) {
            Some(thread) => {
                let ended = thread.join().map_err(|_| anyhow!("the publisher panicked"))?;
                ended.context("the publisher failed")?;
                process::check_interrupt()?;
                Err(anyhow!("the publisher ended"))
            }
            None => Ok(()),
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// AVC and AAC sequence headers (320x180 baseline, 44.1 kHz mono) of a real encoder.
const VIDEO_HEADER: &[u8] = b"\x17\x00\x00\x00\x00\x01\x42\xc0\x0c\xff\xe1\x00\x17\x67\x42\xc0\x0c\
    \xda\x05\x06\x7e\x7c\x04\x40\x00\x00\x03\x00\x40\x00\x00\x07\x83\xc5\x0a\xa8\x01\x00\x04\x68\
    \xce\x3c\x80";
const AUDIO_HEADER: &[u8] = b"\xaf\x00\x12\x08";

fn send(
    mut connection: Connection,
    shape: Shape,
    sent: &AtomicU64,
    stop: &AtomicBool,
) -> Result<()> {
    connection.send(MediaKind::Video, 0, VIDEO_HEADER)?;
    connection.send(MediaKind::Audio, 0, AUDIO_HEADER)?;
    let start = Instant::now();
    let audio = vec![0x21; usize::try_from(AUDIO_BYTES)?];
    let audio = [b"\xaf\x01".as_slice(), &audio[2..]].concat();
    let (mut frames, mut sounds) = (0_u64, 0_u64);
    while !stop.load(Ordering::Relaxed) && !process::interrupted() {
        let video_due = Duration::from_micros(frames * 1_000_000 / shape.fps.max(1));
        let audio_due = Duration::from_micros(sounds * 1_000_000 / AUDIO_RATE);
        let due = video_due.min(audio_due);
        if let Some(wait) = due.checked_sub(start.elapsed()) {
            thread::sleep(wait);
        }
        let timestamp = u32::try_from(due.as_millis() & u128::from(u32::MAX))?;
        let bytes = if video_due <= audio_due {
            let body = video(shape, frames);
            connection.send(MediaKind::Video, timestamp, &body)?;
            frames += 1;
            body.len()
        } else {
            connection.send(MediaKind::Audio, timestamp, &audio)?;
            sounds += 1;
            audio.len()
        };
        sent.fetch_add(u64::try_from(bytes)?, Ordering::Relaxed);
        connection.poll(Duration::ZERO, |_| ())?;
    }
    connection.finish()
}

/// The body of video message `number`, stamped with the time now.
fn video(shape: Shape, number: u64) -> Vec<u8> {
    let is_keyframe = number.is_multiple_of(shape.gop.max(1));
    let (frame_type, nal_type) = if is_keyframe { (0x17, 0x65) } else { (0x27, 0x41) };
    let weight = if is_keyframe { usize::try_from(KEYFRAME_WEIGHT).unwrap_or(1) } else { 1 };
    let bytes = shape.frame_bytes() * weight;
    let mut body = Vec::with_capacity(bytes);
    body.extend([frame_type, 1, 0, 0, 0]);
    let nal = u32::try_from(bytes - 9).unwrap_or(u32::MAX);
    body.extend(nal.to_be_bytes());
    body.push(nal_type);
    body.extend(MAGIC);
    body.extend(number.to_be_bytes());
    body.extend(nanos().to_be_bytes());
    body.resize(bytes, FILL);
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { fps: 25, gop: 50, bitrate: 500_000 };

    #[test]
    fn a_second_of_the_stream_has_its_bitrate() {
        let frames: usize = (0..50).map(|number| video(SHAPE, number).len()).sum();
        let audio = 2 * 43 * 180;
        let bits = (frames + audio) * 8 / 2;
        assert!((495_000..=500_000).contains(&bits), "{bits}");
    }

    #[test]
    fn a_stamp_comes_back() {
        let body = video(SHAPE, 50);
        let stamp = Stamp::parse(&body).unwrap();
        assert_eq!((body[0], stamp.number), (0x17, 50));
        assert!(stamp.age() < Duration::from_secs(60));
        assert_eq!(Stamp::parse(VIDEO_HEADER), None);
        assert_eq!(Stamp::parse(&body[..STAMP_END - 1]), None);
        assert_eq!(Stamp::parse(b""), None);
    }

    #[test]
    fn the_smallest_frame_holds_a_stamp() {
        let shape = Shape { fps: 1000, gop: 0, bitrate: 0 };
        assert!(Stamp::parse(&video(shape, 3)).is_some());
    }
}
