//! FFmpeg, rtmpdump, GStreamer and VLC as publishers and players.
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::flv::{self, Tag};
use super::process::Process;

/// A program that plays a stream into a file.
pub struct Player {
    name: &'static str,
    process: Process,
    file: PathBuf,
    /// A place of its own, if it may not write into the test's.
    _home: Option<TempDir>,
}

/// Whom VLC runs as: it refuses to be root.
const NOBODY: u32 = 65_534;

impl Player {
    /// Waits for the end of the stream and reads what was recorded.
    ///
    /// The exit status says nothing (rtmpdump: 2 for "maybe incomplete" after every live stream).
    #[track_caller]
    pub fn finish(mut self, within: Duration) -> Vec<Tag> {
        let status = self.process.wait(within);
        assert!(self.file.exists(), "{}: {status}\n{}", self.name, self.process.log());
        flv::read(&self.file)
    }

    fn start(
        dir: &Path,
        name: &'static str,
        install: &str,
        make: impl FnOnce(&str) -> Command,
    ) -> Self {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let file = dir.join(format!("{name}.{n}.flv"));
        let mut command = make(file.to_str().expect("path"));
        let process = Process::spawn(dir, name, install, &mut command);
        Self { name, process, file, _home: None }
    }

    /// rtmpdump (librtmp): writes the messages as they come.
    pub fn rtmpdump(dir: &Path, url: &str) -> Self {
        Self::start(dir, "rtmpdump", "rtmpdump", |file| {
            let mut command = Command::new("rtmpdump");
            command.args(["--live", "--timeout", "60", "--rtmp", url, "--flv", file]);
            command
        })
    }

    /// FFmpeg, multiplexing again with the times it got.
    pub fn ffmpeg(dir: &Path, url: &str) -> Self {
        Self::ffmpeg_with(dir, url, &[])
    }

    /// As `ffmpeg`, saying that it is on `page`.
    pub fn ffmpeg_on_page(dir: &Path, url: &str, page: &str) -> Self {
        Self::ffmpeg_with(dir, url, &["-rtmp_pageurl", page])
    }

    fn ffmpeg_with(dir: &Path, url: &str, input: &[&str]) -> Self {
        Self::start(dir, "ffmpeg-play", "ffmpeg", |file| {
            let mut command = Command::new("ffmpeg");
            command.args(["-hide_banner", "-nostdin", "-y", "-copyts"]).args(input);
            command.args(["-i", url]);
            command.args(["-c", "copy", "-flvflags", "no_duration_filesize", "-f", "flv", file]);
            command
        })
    }

    /// VLC without a screen, multiplexing again what it demultiplexed. `None` and a line about it if
    /// there is no VLC.
    pub fn vlc(url: &str) -> Option<Self> {
        if !Path::new("/usr/bin/cvlc").exists() {
            println!("skipped: VLC plays: needs vlc-bin and vlc-plugin-base");
            return None;
        }
        let home = TempDir::new().expect("temporary directory");
        let mut command = Command::new("cvlc");
        if nix::unistd::geteuid().is_root() {
            chown(home.path(), Some(NOBODY), Some(NOBODY)).expect("chown");
            command = Command::new("setpriv");
            command.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")]);
            command.args(["--clear-groups", "cvlc"]);
        }
        let file = home.path().join("vlc.flv");
        command.env("HOME", home.path()).env("XDG_RUNTIME_DIR", home.path());
        command.args(["--intf", "dummy", "--sout"]);
        command.arg(format!("#std{{access=file,mux=avformat{{mux=flv}},dst={}}}", file.display()));
        command.args([url, "vlc://quit"]);
        let process = Process::spawn(home.path(), "vlc", "vlc-bin", &mut command);
        Some(Self { name: "vlc", process, file, _home: Some(home) })
    }

    /// GStreamer's rtmp2src: writes the messages as they come.
    pub fn gstreamer(dir: &Path, url: &str) -> Self {
        Self::start(dir, "gst-play", "gstreamer1.0-tools and -plugins-bad", |file| {
            let mut command = Command::new("gst-launch-1.0");
            command.args(["rtmp2src", &format!("location={url}"), "timeout=60", "!", "filesink"]);
            command.arg(format!("location={file}"));
            command
        })
    }
}

/// How FFmpeg publishes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Publish {
    /// Seconds to add to all times.
    pub offset: u32,
    /// Repeat the file without end.
    pub endless: bool,
}

/// FFmpeg publishing `clip` in real time.
pub fn ffmpeg_publish(dir: &Path, clip: &Path, url: &str, how: Publish) -> Process {
    ffmpeg(dir, clip, url, how, &["-re"])
}

/// FFmpeg copying `clip` to `url`, with more options for its input.
pub fn ffmpeg(dir: &Path, clip: &Path, url: &str, how: Publish, input: &[&str]) -> Process {
    let mut command = Command::new("ffmpeg");
    command.args(["-hide_banner", "-nostdin", "-y"]).args(input);
    if how.endless {
        command.args(["-stream_loop", "-1"]);
    }
    command.arg("-i").arg(clip).args(["-c", "copy"]);
    if how.offset > 0 {
        command.args(["-output_ts_offset", &how.offset.to_string()]);
    }
    command.args(["-f", "flv", url]);
    Process::spawn(dir, "ffmpeg-publish", "ffmpeg", &mut command)
}

/// GStreamer publishing `clip` with `sink`; what its multiplexer made is written to `copy`, since
/// that, not the clip, is what it publishes.
pub fn gst_publish(dir: &Path, clip: &Path, sink: &str, url: &str, copy: &Path) -> Process {
    let pipeline = format!(
        "filesrc location={} ! flvdemux name=d flvmux name=m streamable=true ! tee name=t \
         d.video ! queue ! m.video d.audio ! queue ! m.audio \
         t. ! queue ! {sink} location={url} t. ! queue ! filesink location={}",
        clip.display(),
        copy.display(),
    );
    let mut command = Command::new("gst-launch-1.0");
    command.args(pipeline.split_whitespace());
    Process::spawn(
        dir,
        "gst-publish",
        "gstreamer1.0-tools, -plugins-good and -plugins-bad",
        &mut command,
    )
}
