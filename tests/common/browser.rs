//! Chromium with a page that plays an FLV stream by mpegts.js and tells how it goes.
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tempfile::TempDir;

use super::process::Process;
use super::seconds;

/// The player, as its authors publish it.
const PACKAGE: &str = "mpegts.js@1.8.2";
const SCRIPT: &str = "package/dist/mpegts.js";

/// Fetches mpegts.js, once for all test binaries of a build; `None` and a line about it if it is
/// not to be had.
pub fn mpegts_js() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(PACKAGE);
    let script = dir.join(SCRIPT);
    if script.exists() {
        return Some(script);
    }
    let part = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("temporary directory");
    let mut fetch = Command::new("npm");
    fetch.args(["pack", "--silent", PACKAGE]).current_dir(part.path());
    let mut fetch = Process::spawn(part.path(), "npm", "npm", &mut fetch);
    if !fetch.wait(seconds(60)).success() {
        println!("not fetched: a browser plays FLV: {PACKAGE} cannot be fetched: {}", fetch.log());
        return None;
    }
    let mut unpack = Command::new("sh");
    unpack.args(["-c", "tar -xzf *.tgz"]).current_dir(part.path());
    Process::spawn(part.path(), "tar", "tar", &mut unpack).succeed(seconds(20));
    drop(std::fs::rename(part.keep(), &dir));
    assert!(script.exists(), "no {SCRIPT} in {PACKAGE}");
    Some(script)
}

/// What a page told last.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// `currentTime` of the video, seconds.
    pub time: f64,
    /// Frames decoded.
    pub frames: u64,
    /// Frames of these that were damaged.
    pub corrupted: u64,
    /// Bytes of audio decoded.
    pub audio: u64,
    /// Width of the picture.
    pub width: u64,
    /// The stream has ended.
    pub complete: bool,
    /// What went wrong.
    pub error: String,
}

/// A browser that shows a page of ours.
pub struct Browser {
    report: Arc<Mutex<Report>>,
    stop: Arc<AtomicBool>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
    process: Process,
    _home: TempDir,
}

impl Browser {
    /// Plays `url` by the script.
    pub fn play(script: &Path, url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("page");
        let address = listener.local_addr().expect("page");
        let (report, stop) = (Arc::<Mutex<Report>>::default(), Arc::<AtomicBool>::default());
        let page = PAGE.replace("URL", url);
        let script = std::fs::read(script).expect("script");
        let (in_report, in_stop) = (Arc::clone(&report), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            for socket in listener.incoming() {
                if in_stop.load(Ordering::Relaxed) {
                    return;
                }
                drop(socket.and_then(|socket| answer(socket, &page, &script, &in_report)));
            }
        });
        let home = TempDir::new().expect("temporary directory");
        let mut command = Command::new("chromium");
        // It is to ask nobody but us, and root has no sandbox.
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--mute-audio"]);
        command.args(["--disable-dev-shm-usage", "--no-first-run", "--disable-sync"]);
        command.args(["--disable-background-networking", "--disable-component-update"]);
        command.arg("--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1");
        command.arg("--autoplay-policy=no-user-gesture-required");
        command.arg(format!("--user-data-dir={}", home.path().display()));
        command.arg(format!("http://{address}/")).env("HOME", home.path());
        let process = Process::spawn(home.path(), "chromium", "chromium", &mut command);
        Self { report, stop, address, thread: Some(thread), process, _home: home }
    }

    /// What the page told last.
    #[track_caller]
    pub fn report(&mut self) -> Report {
        let report = self.report.lock().unwrap().clone();
        assert_eq!(report.error, "", "the page failed: {report:?}");
        assert!(self.process.try_wait().is_none(), "Chromium ended: {}", self.process.log());
        report
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.process.kill();
        self.stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn answer(
    mut socket: TcpStream,
    page: &str,
    script: &[u8],
    report: &Mutex<Report>,
) -> std::io::Result<()> {
    socket.set_read_timeout(Some(seconds(1)))?;
    let mut reader = BufReader::new(socket.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let target = request.split(' ').nth(1).unwrap_or_default();
    let (kind, body) = match target.split_once('?') {
        Some((_, query)) => {
            take(query, &mut report.lock().unwrap());
            ("text/plain", &b""[..])
        }
        None if target == "/mpegts.js" => ("text/javascript", script),
        None => ("text/html", page.as_bytes()),
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes())?;
    socket.write_all(body)
}

fn take(query: &str, report: &mut Report) {
    for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        let number = || value.parse().unwrap_or_default();
        match key {
            "time" => report.time = value.parse().unwrap_or_default(),
            "frames" => report.frames = number(),
            "corrupted" => report.corrupted = number(),
            "audio" => report.audio = number(),
            "width" => report.width = number(),
            "complete" => report.complete = true,
            "error" => report.error = value.to_owned(),
            _ => {}
        }
    }
}

const PAGE: &str = r#"<!doctype html><video id="video" muted></video>
<script src="/mpegts.js"></script>
<script>
const video = document.getElementById("video");
const tell = (what) => fetch("/report?" + what).catch(() => {});
const player = mpegts.createPlayer({ type: "flv", isLive: true, url: "URL" });
player.on(mpegts.Events.ERROR, (...error) => tell("error=" + encodeURIComponent(error.join())));
player.on(mpegts.Events.LOADING_COMPLETE, () => tell("complete=1"));
player.attachMediaElement(video);
player.load();
player.play().catch((error) => tell("error=" + encodeURIComponent(error)));
setInterval(() => {
  const quality = video.getVideoPlaybackQuality();
  tell(`time=${video.currentTime}&frames=${quality.totalVideoFrames}` +
       `&corrupted=${quality.corruptedVideoFrames}&audio=${video.webkitAudioDecodedByteCount}` +
       `&width=${video.videoWidth}`);
}, 200);
</script>"#;
