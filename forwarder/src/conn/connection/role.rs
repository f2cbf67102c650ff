//! What a connection is being used for.

use std::future::pending;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::DropGuard;

use crate::config::Vhost;
use crate::conn::end::End;
use crate::conn::legged::{News, Order};
use crate::conn::play::Playing;
use crate::conn::upstream::{Grant, Interest, Refusal, Relayed};
use crate::hub::Publisher;
use crate::rtmp::message::MediaMessage;
use crate::rtmp::session::PlayRequest;
use crate::rtmp::url::StreamKey;

pub(super) enum Role {
    None,
    /// Waits for an origin to take a publish.
    AskedPublish {
        msid: u32,
        vhost: Vhost,
        answer: oneshot::Receiver<Result<Relayed, Refusal>>,
    },
    /// Waits for an origin to play.
    AskedPlay {
        asked: Asked,
        answer: oneshot::Receiver<Result<Grant, Refusal>>,
    },
    /// A leg writes to it.
    Legged {
        asked: Asked,
        orders: mpsc::Sender<Order>,
        news: mpsc::Receiver<News>,
        /// The player's words go to an origin. Until then, and while the leg ends, nothing is read.
        carried: bool,
    },
    Publishing {
        publisher: Publisher,
        msid: u32,
        last: Instant,
        silence: Silence,
        relay: Option<Relay>,
    },
    Playing {
        playing: Playing,
        msid: u32,
        last_heard: Instant,
        /// Keeps the pull of an edge going.
        _interest: Option<Interest>,
    },
}

/// A play at an edge.
pub(super) struct Asked {
    pub(super) request: PlayRequest,
    pub(super) key: StreamKey,
    pub(super) param: String,
    pub(super) vhost: Vhost,
}

/// A publish through an edge. Its fields are dropped after the publisher.
pub(super) struct Relay {
    pub(super) _guard: DropGuard,
    pub(super) lost: oneshot::Receiver<Refusal>,
}

/// What [`Role::changed`] waited for.
pub(super) enum Change {
    /// The fan-out has something to tell.
    Fanout,
    Published(Result<Relayed, Refusal>),
    Played(Result<Grant, Refusal>),
    /// Of a leg; `None`: it is gone.
    Leg(Option<News>),
    /// No origin takes what is published here any more.
    Lost(Refusal),
}

/// How long a publisher may be silent: before its first message, and after.
#[derive(Clone, Copy)]
pub(super) struct Silence {
    pub(super) first: Duration,
    pub(super) later: Duration,
    pub(super) begun: bool,
}

impl Silence {
    pub(super) fn of(vhost: &Vhost) -> Self {
        let publish = &vhost.publish;
        Self { first: publish.firstpkt_timeout, later: publish.normal_timeout, begun: false }
    }

    pub(super) fn limit(self) -> Duration {
        if self.begun { self.later } else { self.first }
    }
}

impl Role {
    /// Nothing is read from a client that waits for an origin's answer.
    pub(super) fn is_asking(&self) -> bool {
        matches!(
            self,
            Self::AskedPublish { .. }
                | Self::AskedPlay { .. }
                | Self::Legged { carried: false, .. }
        )
    }

    pub(super) fn append(&mut self, media: &MediaMessage<'_>, now: Instant) -> Result<(), End> {
        let Self::Publishing { publisher, msid, last, silence, .. } = self else { return Ok(()) };
        if *msid == media.msid {
            *last = now;
            silence.begun = true;
            publisher.append(media, now).map_err(End::Local)?;
        }
        Ok(())
    }

    pub(super) async fn changed(&mut self) -> Change {
        match self {
            Self::Playing { playing, .. } => {
                playing.changed().await;
                Change::Fanout
            }
            Self::Legged { news, .. } => Change::Leg(news.recv().await),
            Self::AskedPublish { answer, .. } => {
                Change::Published(answer.await.unwrap_or_else(|_| Err(nobody())))
            }
            Self::AskedPlay { answer, .. } => {
                Change::Played(answer.await.unwrap_or_else(|_| Err(nobody())))
            }
            Self::Publishing { relay: Some(relay), .. } => {
                Change::Lost((&mut relay.lost).await.unwrap_or_else(|_| nobody()))
            }
            _ => pending().await,
        }
    }
}

/// Whoever should have answered could not.
fn nobody() -> Refusal {
    Refusal::new("NetStream.Failed", "the edge is too busy, or stops")
}
