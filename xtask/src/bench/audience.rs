//! Players that parse everything and note when media stops, for how long, and what is missing then.
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use forwarder::rtmp::message::MediaKind;
use forwarder::rtmp::session::ClientEvent;
use forwarder::rtmp::url::RtmpUrl;

use crate::client::Connection;
use crate::load::stream::Stamp;
use crate::process;

/// Threads that players are dealt to.
const THREADS: usize = 4;
/// Time between two looks at a player.
const TICK: Duration = Duration::from_millis(2);
/// All players must have joined by then.
const JOIN_WITHIN: Duration = Duration::from_secs(60);

/// What one player has seen since the window began.
#[derive(Clone, Debug)]
pub struct Viewer {
    /// Its address, as servers show it.
    pub address: SocketAddr,
    /// Longest time between two messages of audio or video.
    pub longest: Duration,
    /// When the last one came.
    pub last: Instant,
    /// Video messages that did not come, or not whole.
    pub missing: u64,
    /// Video messages that came again.
    pub repeated: u64,
    /// Video messages that were not whole.
    pub damaged: u64,
    /// How its connection ended, or what it was told.
    pub closed: Option<String>,
    /// How old the newest video message was when it came.
    pub age: Duration,
    /// The number of the next video message.
    next: Option<u64>,
}

impl Viewer {
    fn new(address: SocketAddr) -> Self {
        Self {
            address,
            longest: Duration::ZERO,
            last: Instant::now(),
            missing: 0,
            repeated: 0,
            damaged: 0,
            closed: None,
            age: Duration::MAX,
            next: None,
        }
    }

    /// Begins the window.
    pub fn restart(&mut self) {
        (self.longest, self.missing, self.repeated, self.damaged) = (Duration::ZERO, 0, 0, 0);
    }

    fn see(&mut self, event: &ClientEvent<'_>, now: Instant) {
        match event {
            ClientEvent::Media(message) if message.kind != MediaKind::Data => {
                self.longest = self.longest.max(now - self.last);
                self.last = now;
                if let Some(stamp) = Stamp::parse(message.payload) {
                    self.number(stamp.number, stamp.is_whole);
                    // It is published in this process.
                    self.age = stamp.age().unwrap_or_default();
                }
            }
            ClientEvent::Finished => self.closed = Some("told that the stream is over".into()),
            _ => {}
        }
    }

    fn number(&mut self, number: u64, whole: bool) {
        if !whole {
            self.damaged += 1;
            return;
        }
        let expected = self.next.replace(number + 1).unwrap_or(number);
        self.missing += number.saturating_sub(expected);
        self.repeated += expected.saturating_sub(number);
    }
}

/// Players of one stream, until dropped.
pub struct Audience {
    stop: Arc<AtomicBool>,
    window: Arc<AtomicU32>,
    threads: Vec<JoinHandle<Vec<Viewer>>>,
}

impl Audience {
    /// `n` players of `url`; on return all have joined.
    pub fn start(url: &RtmpUrl, n: usize) -> Result<Self> {
        let (joined, joins) = mpsc::channel();
        let (stop, window) = (Arc::<AtomicBool>::default(), Arc::<AtomicU32>::default());
        let thread = |at: usize| {
            let (url, joined) = (url.clone(), joined.clone());
            let (stop, window) = (Arc::clone(&stop), Arc::clone(&window));
            let share = (n + THREADS - 1 - at) / THREADS;
            thread::spawn(move || {
                let mut players = Vec::new();
                for _ in 0..share {
                    let player = join(&url);
                    let is_in = player.is_ok();
                    // Nobody listens any more when another could not join.
                    _ = joined.send(player.map(|player| players.push(player)));
                    if !is_in || stop.load(Ordering::Relaxed) {
                        break;
                    }
                    players.iter_mut().for_each(|(connection, viewer)| look(connection, viewer));
                }
                watch(players, &stop, &window)
            })
        };
        let threads = (0..THREADS).map(thread).collect();
        let audience = Self { stop, window, threads };
        let deadline = Instant::now() + JOIN_WITHIN;
        let mut left = n;
        while left > 0 {
            process::check_interrupt()?;
            match joins.recv_timeout(Duration::from_millis(100)) {
                Ok(joined) => joined.context("a player cannot join")?,
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => continue,
                Err(_) => bail!("{left} of {n} players did not join in {JOIN_WITHIN:?}"),
            }
            left -= 1;
        }
        Ok(audience)
    }

    /// Begins the window.
    pub fn restart(&self) {
        self.window.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends the window, and lets the players leave.
    pub fn finish(mut self) -> Result<Vec<Viewer>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for thread in self.threads.drain(..) {
            all.extend(thread.join().map_err(|_| anyhow!("a player panicked"))?);
        }
        Ok(all)
    }
}

impl Drop for Audience {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            _ = thread.join();
        }
    }
}

/// A player of `url`, for [`look`].
pub fn join(url: &RtmpUrl) -> Result<(Connection, Viewer)> {
    let connection = Connection::play(url)?;
    let address = connection.local_addr()?;
    Ok((connection, Viewer::new(address)))
}

fn watch(
    mut players: Vec<(Connection, Viewer)>,
    stop: &AtomicBool,
    window: &AtomicU32,
) -> Vec<Viewer> {
    let mut seen = window.load(Ordering::Relaxed);
    while !stop.load(Ordering::Relaxed) {
        let tick = Instant::now();
        let now = window.load(Ordering::Relaxed);
        if std::mem::replace(&mut seen, now) != now {
            players.iter_mut().for_each(|(_, viewer)| viewer.restart());
        }
        players.iter_mut().for_each(|(connection, viewer)| look(connection, viewer));
        if let Some(rest) = TICK.checked_sub(tick.elapsed()) {
            thread::sleep(rest);
        }
    }
    players.into_iter().map(|(_, viewer)| viewer).collect()
}

/// Takes what is there for a player.
pub fn look(connection: &mut Connection, viewer: &mut Viewer) {
    while viewer.closed.is_none() {
        let now = Instant::now();
        match connection.poll(Duration::ZERO, |event| viewer.see(&event, now)) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => viewer.closed = Some(format!("{error:#}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_tell_what_is_missing_and_what_comes_again() {
        let mut viewer = Viewer::new(([127, 0, 0, 1], 1).into());
        for (number, whole) in [(4, true), (5, true), (6, false), (3, true), (4, true), (9, true)] {
            viewer.number(number, whole);
        }
        assert_eq!((viewer.missing, viewer.repeated, viewer.damaged), (4, 3, 1));
    }
}
