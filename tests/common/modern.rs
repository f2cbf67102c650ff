//! FFmpeg 9, whose FLV speaks Enhanced RTMP v2: Debian's does not. PyAV has libraries of its own.
//! `cargo xtask setup` gets both.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use super::process::Process;
use super::seconds;

/// The program. `None` and a line about it if it is not there.
pub fn ffmpeg() -> Option<PathBuf> {
    let named = |entry: &PathBuf| {
        entry.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ffmpeg-"))
    };
    let found = in_packages("imageio_ffmpeg/binaries").into_iter().find(named);
    if found.is_none() {
        println!("not fetched: Enhanced RTMP with FFmpeg 9: `cargo xtask setup` gets it from PyPI");
    }
    found
}

/// Where `cargo xtask setup` puts packages for Python.
fn environment() -> PathBuf {
    // From deps of whatever profile this is to the folder of profiles.
    let test = std::env::current_exe().expect("the path of this test");
    test.ancestors().nth(3).expect("the folder of profiles").join("ffmpeg")
}

/// What is in `python3.N/site-packages/FOLDER`, whatever N is.
fn in_packages(folder: &str) -> Vec<PathBuf> {
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let pythons = entries(&environment().join("lib")).map(|python| python.path());
    let folders = pythons.map(|python| python.join("site-packages").join(folder));
    folders.flat_map(|folder| entries(&folder).collect::<Vec<_>>()).map(|e| e.path()).collect()
}

/// Python with PyAV, and our client made of it.
pub struct PyAv {
    python: PathBuf,
}

/// It. `None` and a line about it if it is not there.
pub fn pyav() -> Option<PyAv> {
    if in_packages("av").is_empty() {
        println!("not fetched: Enhanced RTMP with PyAV: `cargo xtask setup` gets it from PyPI");
        return None;
    }
    Some(PyAv { python: environment().join("bin/python") })
}

impl PyAv {
    /// Starts the client.
    pub fn start(&self, dir: &Path, arguments: &[&str]) -> Process {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/tools/pyav.py");
        let mut command = Command::new(&self.python);
        command.arg(script).args(arguments);
        Process::spawn(dir, "pyav", "PyAV", &mut command)
    }
}

/// What to encode a clip with.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// Name of its file.
    pub name: &'static str,
    /// Options of the video encoder.
    pub video: &'static str,
    /// Video tracks.
    pub videos: u8,
    /// Options of the audio encoder.
    pub audio: &'static str,
    /// Audio tracks.
    pub audios: u8,
}

impl Recipe {
    /// The clip: 4 seconds of 160x90 at 10 frames a second, a keyframe each second; made once for
    /// all test binaries of a build.
    pub fn clip(self, ffmpeg: &Path) -> PathBuf {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let path = dir.join(format!("{}.flv", self.name));
        if path.exists() {
            return path;
        }
        let part = dir.join(format!("{}.{}.part", self.name, std::process::id()));
        let mut command = Command::new(ffmpeg);
        command.args(["-hide_banner", "-nostdin", "-y"]);
        for source in ["testsrc", "testsrc2"].iter().take(self.videos.into()) {
            command.args(["-f", "lavfi", "-i", &format!("{source}=size=160x90:rate=10")]);
        }
        for frequency in [440, 880].iter().take(self.audios.into()) {
            let source = format!("sine=frequency={frequency}:sample_rate=48000");
            command.args(["-f", "lavfi", "-i", &source]);
        }
        for input in 0..self.videos + self.audios {
            command.args(["-map", &input.to_string()]);
        }
        command.args(["-t", "4", "-g", "10", "-pix_fmt", "yuv420p"]);
        command.args(self.video.split_whitespace()).args(self.audio.split_whitespace());
        command.args(["-f", "flv"]).arg(&part);
        Process::spawn(dir, "ffmpeg-encode", "FFmpeg 9", &mut command).succeed(seconds(120));
        std::fs::rename(&part, &path).expect("rename");
        path
    }
}

/// FFmpeg 9 publishing `clip` at twice its pace, again and again.
pub fn publish(ffmpeg: &Path, dir: &Path, clip: &Path, url: &str) -> Process {
    let mut command = Command::new(ffmpeg);
    command
        .args(["-hide_banner", "-nostdin", "-readrate", "2", "-stream_loop", "-1", "-i"])
        .arg(clip);
    command.args(["-map", "0", "-c", "copy", "-f", "flv", url]);
    Process::spawn(dir, "ffmpeg9-publish", "FFmpeg 9", &mut command)
}

/// FFmpeg 9 playing all streams there are, and writing a hash of each packet.
pub struct Hashes {
    process: Process,
    file: PathBuf,
}

/// A packet: decoding time and presentation time in milliseconds, size, hash.
pub type Packet = (i64, i64, i64, String);

/// What a player got of one track.
#[derive(Clone, Debug, Default)]
pub struct Track {
    /// FFmpeg's name of the codec.
    pub codec: String,
    /// Length and hash of what the decoder is set up with.
    pub header: String,
    /// In order.
    pub packets: Vec<Packet>,
}

impl Hashes {
    /// Plays `url`.
    pub fn of(ffmpeg: &Path, dir: &Path, url: &str) -> Self {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let file = dir.join(format!("packets.{n}.txt"));
        let mut command = Command::new(ffmpeg);
        command.args(["-hide_banner", "-nostdin", "-y", "-copyts"]);
        // It would wait five seconds for streams that may come.
        command.args(["-analyzeduration", "500000", "-i", url, "-map", "0", "-c", "copy"]);
        command.args(["-flush_packets", "1", "-f", "framehash"]).arg(&file);
        let process = Process::spawn(dir, "ffmpeg9-play", "FFmpeg 9", &mut command);
        Self { process, file }
    }

    /// Packets so far.
    pub fn count(&self) -> usize {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        text.lines().filter(|line| !line.starts_with('#')).count()
    }

    /// Waits for the end of the stream.
    #[track_caller]
    pub fn finish(mut self, within: Duration) -> Vec<Track> {
        self.process.wait(within);
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let mut tracks: BTreeMap<String, Track> = BTreeMap::new();
        for line in text.lines() {
            if let Some((what, value)) =
                line.strip_prefix('#').and_then(|line| line.split_once(' '))
            {
                // `#codec_id 0: hevc`, `#extradata 0, 39, <hash>`
                let Some((track, value)) = value.split_once([':', ',']) else { continue };
                let (track, value) = (tracks.entry(track.to_owned()), value.trim().to_owned());
                match what {
                    "codec_id" => track.or_default().codec = value,
                    "extradata" => track.or_default().header = value,
                    _ => {}
                }
                continue;
            }
            // track, dts, pts, duration, size, hash
            let words: Vec<&str> = line.split(',').map(str::trim).collect();
            let [track, dts, pts, _, size, hash] = words[..] else { continue };
            let number = |word: &str| word.parse::<i64>().expect("a number");
            // FFmpeg 9 makes an empty packet of the description of channels.
            if number(size) == 0 {
                continue;
            }
            let packet = (number(dts), number(pts), number(size), hash.to_owned());
            tracks.entry(track.to_owned()).or_default().packets.push(packet);
        }
        assert!(!tracks.is_empty(), "nothing came\n{}", self.process.log());
        tracks.into_values().collect()
    }
}

/// Each track that was published is in `late`, from some packet on as an early player got it.
#[track_caller]
pub fn assert_same_tracks(label: &str, early: &[Track], late: &[Track]) {
    let names = |tracks: &[Track]| {
        let mut names: Vec<_> =
            tracks.iter().map(|t| (t.codec.clone(), t.header.clone())).collect();
        names.sort();
        names
    };
    assert_eq!(names(late), names(early), "{label}: codecs, and what decoders are set up with");
    for track in late {
        let (codec, first) = (&track.codec, track.packets.first());
        let first = first.unwrap_or_else(|| panic!("{label}: {codec}: no packets"));
        let same = early.iter().find_map(|early| {
            let at = early.packets.iter().position(|packet| packet == first)?;
            (early.codec == *codec && early.header == track.header).then_some(&early.packets[at..])
        });
        let want = same.unwrap_or_else(|| panic!("{label}: {codec} begins with {first:?}"));
        for (want, got) in want.iter().zip(&track.packets) {
            assert_eq!(got, want, "{label}: a packet of {codec}");
        }
        assert_eq!(track.packets.len(), want.len(), "{label}: packets of {codec}");
    }
}
