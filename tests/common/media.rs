//! Test media: short clips encoded by FFmpeg, and synthetic streams whose frames know their number.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use super::external::{Publish, ffmpeg};
use super::flv::{AUDIO, DATA, Tag, VIDEO, read};
use super::process::Process;
use super::seconds;

/// A file to publish.
pub struct Clip {
    /// The FLV file.
    pub path: PathBuf,
}

impl Clip {
    /// H.264 baseline and AAC, 5 seconds, a keyframe each second.
    pub fn plain() -> Self {
        Self::make("plain", 5, &["-profile:v", "baseline", "-bf", "0", "-c:a", "aac"])
    }

    /// H.264 with B-frames (composition times) and MP3 (no audio sequence header).
    pub fn b_frames() -> Self {
        Self::make("b_frames", 4, &["-profile:v", "main", "-bf", "2", "-c:a", "libmp3lame"])
    }

    /// Encodes it, once for all test binaries of a build.
    fn make(name: &str, length: u32, codecs: &[&str]) -> Self {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let path = dir.join(format!("{name}.flv"));
        if !path.exists() {
            let part = dir.join(format!("{name}.{}.part", std::process::id()));
            let mut command = Command::new("ffmpeg");
            command.args(["-hide_banner", "-nostdin", "-y", "-f", "lavfi"]);
            command.args(["-i", "testsrc=size=320x180:rate=15", "-f", "lavfi"]);
            command.args(["-i", "sine=frequency=440:sample_rate=44100"]);
            command.args(["-t", &length.to_string(), "-c:v", "libx264", "-preset", "veryfast"]);
            command.args(["-g", "15", "-keyint_min", "15", "-sc_threshold", "0", "-b:v", "300k"]);
            command.args(["-pix_fmt", "yuv420p", "-b:a", "64k"]).args(codecs);
            command.args(["-f", "flv"]).arg(&part);
            Process::spawn(dir, "ffmpeg-encode", "ffmpeg", &mut command).succeed(seconds(60));
            std::fs::rename(&part, &path).expect("rename");
        }
        Self { path }
    }

    /// What FFmpeg publishes of it: FFmpeg moves its times by where the file starts, so it is asked
    /// to publish into a file.
    pub fn published(&self, dir: &Path, how: Publish) -> Vec<Tag> {
        let file = dir.join(format!("published.{}.flv", how.offset));
        let url = file.to_str().expect("path");
        ffmpeg(dir, &self.path, url, how, &[]).succeed(seconds(60));
        read(&file)
    }
}

/// A synthetic stream: H.264-shaped video and AAC-shaped audio, numbered and filled so that a byte
/// that is lost, changed or moved shows.
#[derive(Clone, Copy, Debug)]
pub struct Synthetic {
    /// Video frames a second.
    pub fps: u32,
    /// Frames from keyframe to keyframe.
    pub gop: u32,
    /// Body size of a video frame, bytes.
    pub frame_bytes: usize,
    /// Time of the first frame, milliseconds.
    pub start: u32,
}

impl Default for Synthetic {
    fn default() -> Self {
        Self { fps: 25, gop: 25, frame_bytes: 5_000, start: 0 }
    }
}

impl Synthetic {
    /// Metadata and sequence headers.
    pub fn preamble(&self) -> Vec<Tag> {
        let mut metadata = b"\x02\0\x0aonMetaData\x08\0\0\0\x01\0\x05width\0".to_vec();
        metadata.extend_from_slice(&320_f64.to_be_bytes());
        metadata.extend_from_slice(&[0, 0, 9]);
        let video = b"\x17\0\0\0\0\x01\x42\xc0\x1e\xff\xe1\0\x04\x67\x42\xc0\x1e\x01\0\x02\x68\xce";
        vec![
            Tag { kind: DATA, timestamp: 0, body: metadata },
            Tag { kind: VIDEO, timestamp: self.start, body: video.to_vec() },
            Tag { kind: AUDIO, timestamp: self.start, body: vec![0xaf, 0, 0x12, 0x10] },
        ]
    }

    /// Milliseconds from the start to frame `n`.
    pub fn offset(&self, n: u32) -> u32 {
        u32::try_from(u64::from(n) * 1000 / u64::from(self.fps)).unwrap()
    }

    /// Video frame `n` and the audio frame that follows it.
    pub fn frame(&self, n: u32) -> [Tag; 2] {
        let timestamp = self.start.wrapping_add(self.offset(n));
        let first = if n.is_multiple_of(self.gop) { 0x17 } else { 0x27 };
        let video = fill(&[first, 1, 0, 0, 0], n, self.frame_bytes);
        let audio = fill(&[0xaf, 1], n, 120);
        [
            Tag { kind: VIDEO, timestamp, body: video },
            Tag { kind: AUDIO, timestamp: timestamp.wrapping_add(5), body: audio },
        ]
    }
}

/// `head`, the number, then bytes of a small generator seeded by it.
fn fill(head: &[u8], n: u32, len: usize) -> Vec<u8> {
    let mut body = head.to_vec();
    body.extend_from_slice(&n.to_be_bytes());
    let mut state = n.wrapping_mul(2_654_435_761) | 1;
    while body.len() < len {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        body.extend_from_slice(&state.to_be_bytes());
    }
    body.truncate(len);
    body
}
