//! Few threads that publish many synthetic streams, and know how late they are.
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use forwarder::rtmp::message::MediaKind;

use super::engine::News;
use super::histogram::Histogram;
use super::link::Link;
use super::stream::{AUDIO_HEADER, Source, VIDEO_HEADER};

/// Time between two looks at what the server says to a publisher: little, and nothing urgent.
const READ_EVERY: Duration = Duration::from_millis(500);
/// Time between two looks at a socket that does not take all.
const RETRY: Duration = Duration::from_millis(2);
/// Longest sleep, so that orders are noticed.
const NAP: Duration = Duration::from_millis(10);
/// How long goodbyes may take to leave.
const FINISH_WITHIN: Duration = Duration::from_secs(1);

/// Who publishes what.
struct Entry {
    slot: usize,
    link: Link,
    source: Source,
    sent: Arc<AtomicU64>,
}

/// The threads; dropped, they end their streams politely.
pub struct Publishers {
    workers: Vec<Worker>,
}

struct Worker {
    orders: Option<Sender<Entry>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// Nothing is to be sent any more.
    is_hushed: AtomicBool,
    /// Nothing is sent any more.
    is_quiet: AtomicBool,
    /// How late messages left.
    lateness: Mutex<Histogram>,
}

impl Publishers {
    /// Starts `threads` threads; `news` hears of streams that fail.
    pub fn start(threads: usize, news: &Sender<News>) -> Result<Self> {
        let worker = |at: usize| {
            let (orders, receiver) = channel();
            let shared = Arc::new(Shared::default());
            let work = Work {
                orders: receiver,
                shared: Arc::clone(&shared),
                news: news.clone(),
                entries: Vec::new(),
                queue: BinaryHeap::new(),
                buffer: vec![0; 4 << 10],
            };
            let thread = thread::Builder::new().name(format!("publish-{at}"));
            let thread = thread.spawn(move || work.run())?;
            Ok(Worker { orders: Some(orders), shared, thread: Some(thread) })
        };
        Ok(Self { workers: (0..threads.max(1)).map(worker).collect::<Result<_>>()? })
    }

    /// Publishes `source` on `link`, which the server agreed to; `sent` counts bytes of bodies.
    pub fn add(&self, slot: usize, link: Link, source: Source, sent: Arc<AtomicU64>) -> Result<()> {
        let worker = self.workers.get(slot % self.workers.len().max(1));
        let orders = worker.and_then(|worker| worker.orders.as_ref()).context("no publishers")?;
        let entry = Entry { slot, link, source, sent };
        orders.send(entry).ok().context("a thread that publishes has ended")
    }

    /// Sends no more, and leaves the streams open; on return no count changes.
    pub fn hush(&self) {
        self.each(|shared| shared.is_hushed.store(true, Ordering::Release));
        for worker in &self.workers {
            let is_over = || worker.thread.as_ref().is_none_or(JoinHandle::is_finished);
            while !worker.shared.is_quiet.load(Ordering::Acquire) && !is_over() {
                thread::sleep(RETRY);
            }
        }
    }

    /// How late messages left.
    pub fn lateness(&self) -> Histogram {
        let mut all = Histogram::default();
        self.each(|shared| {
            all.extend(&shared.lateness.lock().unwrap_or_else(PoisonError::into_inner));
        });
        all
    }

    /// Forgets how late messages left.
    pub fn restart(&self) {
        self.each(|shared| {
            *shared.lateness.lock().unwrap_or_else(PoisonError::into_inner) = Histogram::default();
        });
    }

    fn each(&self, mut with: impl FnMut(&Shared)) {
        self.workers.iter().for_each(|worker| with(&worker.shared));
    }
}

impl Drop for Publishers {
    fn drop(&mut self) {
        self.workers.iter_mut().for_each(|worker| worker.orders = None);
        for worker in &mut self.workers {
            if let Some(thread) = worker.thread.take() {
                // It has no result, and a panic of it has been shown.
                let _ = thread.join();
            }
        }
    }
}

/// A stream that is being sent.
struct Live {
    entry: Entry,
    start: Instant,
    read: Instant,
}

struct Work {
    orders: Receiver<Entry>,
    shared: Arc<Shared>,
    news: Sender<News>,
    /// Those that failed leave a hole.
    entries: Vec<Option<Live>>,
    /// When to look at whom.
    queue: BinaryHeap<Reverse<(Instant, usize)>>,
    buffer: Vec<u8>,
}

impl Work {
    fn run(mut self) {
        let mut late = Vec::new();
        loop {
            let now = Instant::now();
            let nap = self
                .queue
                .peek()
                .map_or(NAP, |Reverse((due, _))| due.saturating_duration_since(now).min(NAP));
            match self.orders.recv_timeout(nap) {
                Ok(entry) => self.begin(entry),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let is_hushed = self.shared.is_hushed.load(Ordering::Acquire);
            if is_hushed {
                self.shared.is_quiet.store(true, Ordering::Release);
            }
            self.serve(is_hushed, &mut late);
            if !late.is_empty() {
                let shared = &self.shared.lateness;
                let mut lateness = shared.lock().unwrap_or_else(PoisonError::into_inner);
                late.drain(..).for_each(|late| lateness.push(late));
            }
        }
        self.finish();
    }

    fn begin(&mut self, mut entry: Entry) {
        let headers = [(MediaKind::Video, VIDEO_HEADER), (MediaKind::Audio, AUDIO_HEADER)];
        let headers = headers.iter().take(if entry.source.has_audio() { 2 } else { 1 });
        let mut send = |(kind, header): &(MediaKind, &[u8])| entry.link.send(*kind, 0, header);
        if let Err(error) = headers.into_iter().try_for_each(&mut send) {
            let _ = self.news.send(News::Failed { slot: entry.slot, error });
            return;
        }
        let now = Instant::now();
        self.queue.push(Reverse((now, self.entries.len())));
        self.entries.push(Some(Live { entry, start: now, read: now }));
    }

    /// All that is due now.
    fn serve(&mut self, is_hushed: bool, late: &mut Vec<Duration>) {
        let now = Instant::now();
        while let Some(Reverse((due, at))) = self.queue.peek().copied() {
            if due > now {
                return;
            }
            self.queue.pop();
            let Some(live) = self.entries.get_mut(at) else { continue };
            let Some(stream) = live else { continue };
            let next = if is_hushed {
                stream.rest(&mut self.buffer)
            } else {
                stream.advance(&mut self.buffer, late)
            };
            match next {
                Ok(next) => self.queue.push(Reverse((next, at))),
                Err(error) => {
                    // Nobody listens when the load is being taken down.
                    let _ = self.news.send(News::Failed { slot: stream.entry.slot, error });
                    *live = None;
                }
            }
        }
    }

    fn finish(&mut self) {
        let deadline = Instant::now() + FINISH_WITHIN;
        let mut left: Vec<Link> =
            self.entries.drain(..).flatten().map(|live| live.entry.link).collect();
        left.retain_mut(|link| link.finish().is_ok());
        while Instant::now() < deadline {
            left.retain_mut(|link| link.flush().is_ok() && link.is_waiting());
            if left.is_empty() {
                return;
            }
            thread::sleep(RETRY);
        }
    }
}

impl Live {
    /// Sends what is due; gives when to come back.
    fn advance(&mut self, buffer: &mut [u8], late: &mut Vec<Duration>) -> Result<Instant> {
        loop {
            let now = Instant::now();
            let due = self.start + self.entry.source.due();
            if due > now {
                return self.look(now, due, buffer);
            }
            late.push(now - due);
            let (kind, timestamp, body) = self.entry.source.next_message();
            let bytes = body.len() as u64;
            self.entry.link.send(kind, timestamp, body)?;
            self.entry.sent.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Sends nothing new; gives when to come back.
    fn rest(&mut self, buffer: &mut [u8]) -> Result<Instant> {
        let now = Instant::now();
        self.look(now, now + NAP, buffer)
    }

    fn look(&mut self, now: Instant, due: Instant, buffer: &mut [u8]) -> Result<Instant> {
        if now >= self.read {
            self.read = now + READ_EVERY;
            self.entry.link.receive(buffer, |_, _| ())?;
        }
        if !self.entry.link.is_waiting() {
            return Ok(due);
        }
        self.entry.link.flush()?;
        Ok(due.min(now + RETRY))
    }
}
