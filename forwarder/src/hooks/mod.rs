//! HTTP backends: they are asked whether a client may come, and told of what happens, by SRS's
//! rules and in its words (`app/srs_app_http_hooks.cpp`).
//!
//! A client is asked for by [`Hooks::ask`], on the runtime of the process and not on the client's
//! shard. What it was let in for is a [`Ticket`]: when that is dropped, the backends are told that
//! it is over. All of one client is done in its order ([`Line`]).

mod body;
mod client;
mod connector;
mod line;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

pub use body::Guest;
pub use client::{Client, Failure};
pub use connector::Held;
pub use line::Line;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::config::{self, HttpUrl, OnFailure};
use crate::status::srs::Identity;
use crate::telemetry::Noise;
use line::Turn;

/// What a backend is asked or told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A client wants something for the first time.
    Connect,
    /// It is gone.
    Close,
    /// It wants to publish.
    Publish,
    /// It publishes no more.
    Unpublish,
    /// It wants to play.
    Play,
    /// It plays no more.
    Stop,
}

impl Hook {
    /// SRS's name of it.
    pub fn action(self) -> &'static str {
        match self {
            Self::Connect => "on_connect",
            Self::Close => "on_close",
            Self::Publish => "on_publish",
            Self::Unpublish => "on_unpublish",
            Self::Play => "on_play",
            Self::Stop => "on_stop",
        }
    }

    fn urls(self, config: &config::Hooks) -> &[HttpUrl] {
        match self {
            Self::Connect => &config.on_connect,
            Self::Close => &config.on_close,
            Self::Publish => &config.on_publish,
            Self::Unpublish => &config.on_unpublish,
            Self::Play => &config.on_play,
            Self::Stop => &config.on_stop,
        }
    }

    /// What is told when it is over.
    fn end(self) -> Self {
        match self {
            Self::Connect | Self::Close => Self::Close,
            Self::Publish | Self::Unpublish => Self::Unpublish,
            Self::Play | Self::Stop => Self::Stop,
        }
    }
}

/// Calls backends.
#[derive(Debug)]
pub struct Hooks {
    identity: Identity,
    desk: OnceLock<Desk>,
    /// Counters since start.
    pub counters: Counters,
    noise: Noise,
}

/// Where calls are made.
#[derive(Debug)]
struct Desk {
    runtime: Handle,
    client: Client,
    tasks: TaskTracker,
    tellings: Arc<Semaphore>,
}

/// Counters since start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests that asked.
    pub asked: AtomicU64,
    /// Requests that told.
    pub told: AtomicU64,
    /// Requests of both kinds without an answer.
    pub failed: AtomicU64,
    /// Clients refused because of an answer, or of none.
    pub refused: AtomicU64,
    /// What backends were not told of, because too much was to be told.
    pub dropped: AtomicU64,
}

/// Who is asked for, and where.
#[derive(Clone, Debug)]
pub struct Inquiry {
    /// The client and its stream.
    pub guest: Arc<Guest>,
    /// What else is done for this client.
    pub line: Arc<Line>,
    /// Whom to ask.
    pub config: Arc<config::Hooks>,
}

/// What backends said of a client.
#[derive(Debug)]
pub struct Answer {
    /// It may publish or play; or in words for the log why not. Dropped before the other.
    pub admitted: Result<Ticket, String>,
    /// It may connect, if that was asked.
    pub connected: Option<Ticket>,
}

/// Something that backends have let a client do. Dropped, it tells them that it is over.
#[derive(Debug)]
pub struct Ticket {
    hooks: Arc<Hooks>,
    inquiry: Inquiry,
    end: Hook,
    /// There is nothing to tell any more.
    is_told: bool,
}

impl Hooks {
    /// Hooks that are called as soon as [`Self::start`] said where.
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            desk: OnceLock::new(),
            counters: Counters::default(),
            noise: Noise::default(),
        }
    }

    /// Calls are made by tasks of `runtime`.
    pub fn start(&self, runtime: Handle, held: Held) {
        let tellings = Arc::new(Semaphore::new(TELLINGS));
        let desk = Desk { runtime, client: Client::new(held), tasks: TaskTracker::new(), tellings };
        // Somebody who started it before has said where.
        _ = self.desk.set(desk);
    }

    /// Waits until the backends were told all, but not for long.
    pub async fn drain(&self) {
        let Some(desk) = self.desk.get() else { return };
        desk.tasks.close();
        if timeout(LAST_WORDS, desk.tasks.wait()).await.is_err() {
            warn!(calls = desk.tasks.len(), "stopped before all hooks were told");
        }
    }

    /// Asks whether the client may do `what`, and first, if it is `new`, whether it may connect.
    pub fn ask(
        self: &Arc<Self>,
        inquiry: Inquiry,
        what: Hook,
        new: bool,
    ) -> oneshot::Receiver<Answer> {
        let (reply, answer) = oneshot::channel();
        let turn = inquiry.line.queue();
        let hooks = Arc::clone(self);
        let Some(desk) = self.desk.get() else { return answer };
        desk.tasks.spawn_on(
            async move {
                let _turn = turn.come().await;
                let answer = hooks.judge(inquiry, what, new).await;
                // The client may have gone meanwhile; backends that let it in are told here, for
                // whoever is dropped would only join the line.
                if let Err(Answer { admitted, connected }) = reply.send(answer) {
                    for ticket in admitted.into_iter().chain(connected) {
                        ticket.tell_now().await;
                    }
                }
            },
            &desk.runtime,
        );
        answer
    }

    async fn judge(self: &Arc<Self>, inquiry: Inquiry, what: Hook, new: bool) -> Answer {
        let mut connected = None;
        if new {
            // Whoever connected closes as well, as with SRS: also one that was refused.
            let ticket = self.ticket(&inquiry, Hook::Connect);
            if let Err(why) = self.ask_all(&inquiry, Hook::Connect).await {
                return Answer { admitted: Err(why), connected };
            }
            connected = Some(ticket);
        }
        let admitted = self.ask_all(&inquiry, what).await;
        Answer { admitted: admitted.map(|()| self.ticket(&inquiry, what)), connected }
    }

    fn ticket(self: &Arc<Self>, inquiry: &Inquiry, what: Hook) -> Ticket {
        let (hooks, inquiry) = (Arc::clone(self), inquiry.clone());
        Ticket { hooks, inquiry, end: what.end(), is_told: false }
    }

    /// Asks one after the other, until one says no.
    async fn ask_all(&self, inquiry: &Inquiry, hook: Hook) -> Result<(), String> {
        let guest = &inquiry.guest;
        for url in hook.urls(&inquiry.config) {
            Counters::add(&self.counters.asked);
            let Err(failure) = self.ask_one(inquiry, hook, url).await else { continue };
            if let Failure::Broken(error) = &failure {
                Counters::add(&self.counters.failed);
                if inquiry.config.on_failure == OnFailure::Allow {
                    if let Some(unsaid) = self.noise.may_make(Instant::now()) {
                        let (hook, peer, stream) = (hook.action(), &guest.peer, &guest.key);
                        warn!(hook, %url, error, %peer, %stream, unsaid, "no answer; client let in");
                    }
                    continue;
                }
            }
            Counters::add(&self.counters.refused);
            return Err(format!("{} of {}: {url}: {failure}", hook.action(), guest.key));
        }
        Ok(())
    }

    /// Tells all, whatever becomes of each.
    async fn tell_all(&self, inquiry: &Inquiry, hook: Hook) {
        for url in hook.urls(&inquiry.config) {
            Counters::add(&self.counters.told);
            let Err(error) = self.call(inquiry, hook, url).await else { continue };
            if matches!(error, Failure::Broken(_)) {
                Counters::add(&self.counters.failed);
            }
            if let Some(unsaid) = self.noise.may_make(Instant::now()) {
                let (hook, peer, stream) = (hook.action(), &inquiry.guest.peer, &inquiry.guest.key);
                warn!(hook, %url, %error, %peer, %stream, unsaid, "a backend could not be told");
            }
        }
    }

    /// As [`Self::call`], for a client that waits for the answer.
    async fn ask_one(&self, inquiry: &Inquiry, hook: Hook, url: &HttpUrl) -> Result<(), Failure> {
        let desk = self.desk.get().ok_or_else(|| Failure::Broken("not started".to_owned()))?;
        let _room = desk.client.room(url)?;
        self.call(inquiry, hook, url).await
    }

    async fn call(&self, inquiry: &Inquiry, hook: Hook, url: &HttpUrl) -> Result<(), Failure> {
        let broken = |error: &str| Failure::Broken(error.to_owned());
        let desk = self.desk.get().ok_or_else(|| broken("not started"))?;
        let body = body::body(hook, &self.identity, &inquiry.guest, &inquiry.line);
        let body = body.map_err(|error| broken(&error.to_string()))?;
        desk.client.post(url, body, inquiry.config.timeout).await.map(drop)
    }

    /// Takes a place among what is to be told, or counts that there is none.
    fn place(&self, desk: &Desk, hook: Hook) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(&desk.tellings).try_acquire_owned().ok();
        if place.is_none() {
            Counters::add(&self.counters.dropped);
            if let Some(unsaid) = self.noise.may_make(Instant::now()) {
                warn!(hook = hook.action(), unsaid, "a backend is not told: too much waits for it");
            }
        }
        place
    }
}

impl Ticket {
    /// The vhost it is for.
    pub fn vhost(&self) -> &str {
        self.inquiry.guest.key.vhost()
    }

    async fn tell_now(mut self) {
        self.is_told = true;
        self.hooks.tell_all(&self.inquiry, self.end).await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.is_told || self.end.urls(&self.inquiry.config).is_empty() {
            return;
        }
        let Some(desk) = self.hooks.desk.get() else { return };
        let Some(place) = self.hooks.place(desk, self.end) else { return };
        let (hooks, inquiry, end) = (Arc::clone(&self.hooks), self.inquiry.clone(), self.end);
        let turn: Turn = inquiry.line.queue();
        desk.tasks.spawn_on(
            async move {
                let _turn = turn.come().await;
                let _place = place;
                hooks.tell_all(&inquiry, end).await;
            },
            &desk.runtime,
        );
    }
}

impl Counters {
    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Most ends that wait to be told, or are being told: when 10,000 clients leave at once, as many as
/// there are by default, that is two of each.
const TELLINGS: usize = 1 << 15;

/// How long a stop waits for what is to be told.
const LAST_WORDS: Duration = Duration::from_secs(5);
