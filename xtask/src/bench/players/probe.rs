//! A player that parses everything: latency, gaps, and the cost of the wire.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use forwarder::rtmp::message::MediaKind;
use forwarder::rtmp::session::{ClientEvent, Goal};
use forwarder::rtmp::url::RtmpUrl;

use super::float;
use crate::bench::report::Samples;
use crate::bench::source::Stamp;
use crate::client::Connection;

/// What probes saw within the window.
#[derive(Default)]
pub struct Seen {
    /// Publisher to probe.
    pub latency: Samples,
    /// Video messages missed.
    pub gaps: u64,
    payload: u64,
    wire: u64,
}

impl Seen {
    /// Takes in what another probe saw.
    pub fn add(&mut self, other: Self) {
        self.latency.extend(other.latency);
        self.gaps += other.gaps;
        self.payload += other.payload;
        self.wire += other.wire;
    }

    /// Bytes on the wire for a byte of payload.
    pub fn wire_per_payload(&self) -> Option<f64> {
        (self.payload > 0).then(|| float(self.wire) / float(self.payload))
    }
}

/// A running probe.
pub struct Probe {
    restart: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Seen>>>,
}

impl Probe {
    /// Starts to play `url`; on return a stamped message has come.
    pub fn start(url: &RtmpUrl) -> Result<Self> {
        let mut player = Connection::open(url, Goal::Play)?;
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut is_fed = false;
        while !is_fed {
            if Instant::now() > deadline {
                bail!("a probe got no media");
            }
            crate::process::check_interrupt()?;
            player.poll(Duration::from_millis(100), |event| is_fed |= stamp(&event).is_some())?;
        }
        let restart = Arc::new(AtomicBool::new(false));
        let stop = Arc::new(AtomicBool::new(false));
        let flags = (restart.clone(), stop.clone());
        let thread = thread::spawn(move || watch(player, &flags.0, &flags.1));
        Ok(Self { restart, stop, thread: Some(thread) })
    }

    /// Begins the window.
    pub fn restart(&self) {
        self.restart.store(true, Ordering::Relaxed);
    }

    /// Ends the window.
    pub fn finish(mut self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().ok_or_else(|| anyhow!("a probe ended twice"))?;
        thread.join().map_err(|_| anyhow!("a probe panicked"))?
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn stamp(event: &ClientEvent<'_>) -> Option<Stamp> {
    match event {
        ClientEvent::Media(message) if message.kind == MediaKind::Video => {
            Stamp::parse(message.payload)
        }
        _ => None,
    }
}

fn watch(mut player: Connection, restart: &AtomicBool, stop: &AtomicBool) -> Result<Seen> {
    let mut seen = Seen::default();
    let mut wire_before = player.bytes_received();
    let mut next = None;
    while !stop.load(Ordering::Relaxed) {
        if restart.swap(false, Ordering::Relaxed) {
            seen = Seen::default();
            wire_before = player.bytes_received();
        }
        player.poll(Duration::from_millis(100), |event| {
            if let ClientEvent::Media(message) = &event {
                seen.payload += u64::try_from(message.payload.len()).unwrap_or(0);
            }
            if let Some(stamp) = stamp(&event) {
                let expected = next.replace(stamp.number + 1).unwrap_or(stamp.number);
                seen.gaps += stamp.number.saturating_sub(expected);
                seen.latency.push(stamp.age());
            }
        })?;
    }
    seen.wire = player.bytes_received() - wire_before;
    player.finish()?;
    Ok(seen)
}
