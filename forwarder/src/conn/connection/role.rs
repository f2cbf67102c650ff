//! What a connection is being used for.

use std::future::pending;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::DropGuard;

use super::BAD_NAME;
use super::admission::Entry;
use crate::config::Vhost;
use crate::conn::encoder::{EncoderNews, Learned, Missing};
use crate::conn::end::End;
use crate::conn::legged::{News, Order};
use crate::conn::play::Playing;
use crate::conn::upstream::{Grant, Interest, PublishGrant, Refusal};
use crate::hooks::Answer;
use crate::hub::Publisher;
use crate::rtmp::message::MediaMessage;
use crate::rtmp::session::PlayRequest;
use crate::rtmp::url::StreamKey;

pub(super) enum Role {
    None,
    /// Waits for backends to let it in.
    AskedHooks {
        entry: Box<Entry>,
        answer: oneshot::Receiver<Answer>,
    },
    /// Waits for an origin to take a publish.
    AskedPublish {
        waiting: Waiting,
        /// Of a publisher that was carried, for the hub.
        learned: Learned,
        answer: oneshot::Receiver<Result<PublishGrant, Refusal>>,
    },
    /// A publisher from whom somebody else reads.
    Carried {
        waiting: Waiting,
        news: mpsc::Receiver<EncoderNews>,
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
        /// Headers without which the stream cannot go on, and until when they have to come.
        missing: Option<(Missing, Instant)>,
    },
    Playing {
        playing: Playing,
        msid: u32,
        last_heard: Instant,
        /// Keeps the pull of an edge going.
        _interest: Option<Interest>,
    },
}

/// A publish at an edge.
pub(super) struct Waiting {
    pub(super) key: StreamKey,
    pub(super) msid: u32,
    pub(super) vhost: Vhost,
    /// The publisher was told that it publishes.
    pub(super) accepted: bool,
    /// Of an edge: tells who serves the publisher that it is gone.
    pub(super) guard: Option<DropGuard>,
}

/// A play at an edge.
pub(super) struct Asked {
    pub(super) request: PlayRequest,
    pub(super) key: StreamKey,
    pub(super) param: String,
    pub(super) vhost: Vhost,
}

/// A publish that somebody else may end, such as one through an edge. Its fields are dropped after
/// the publisher.
pub(super) struct Relay {
    pub(super) _guard: Option<DropGuard>,
    pub(super) lost: oneshot::Receiver<Refusal>,
}

/// What [`Role::changed`] waited for.
pub(super) enum Change {
    /// The fan-out has something to tell.
    Fanout,
    /// `None`: backends could not be asked.
    Answered(Option<Answer>),
    Published(Result<PublishGrant, Refusal>),
    Played(Result<Grant, Refusal>),
    /// Of a leg; `None`: it is gone.
    Leg(Option<News>),
    /// Of a carrier; `None`: it is gone.
    Carrier(Option<EncoderNews>),
    /// No origin takes what is published here any more, a backend has nothing to say of it, or another
    /// publisher has its place.
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
    /// Nothing is read from a client that waits for an answer about it.
    pub(super) fn is_asking(&self) -> bool {
        matches!(
            self,
            Self::AskedHooks { .. }
                | Self::AskedPublish { .. }
                | Self::Carried { .. }
                | Self::AskedPlay { .. }
                | Self::Legged { carried: false, .. }
        )
    }

    /// As [`Self::is_asking`], and the client was told nothing yet: if it closes there is nobody to
    /// serve.
    pub(super) fn is_waiting(&self) -> bool {
        let accepted = match self {
            Self::AskedPublish { waiting, .. } | Self::Carried { waiting, .. } => waiting.accepted,
            _ => false,
        };
        self.is_asking() && !accepted
    }

    pub(super) fn append(&mut self, media: &MediaMessage<'_>, now: Instant) -> Result<(), End> {
        let Self::Publishing { publisher, msid, last, silence, missing, .. } = self else {
            return Ok(());
        };
        if *msid == media.msid {
            *last = now;
            silence.begun = true;
            if let Some((some, _)) = missing {
                if !some.admits(media) {
                    return Ok(());
                }
                *missing = missing.filter(|(some, _)| some.any());
            }
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
            Self::Carried { news, .. } => Change::Carrier(news.recv().await),
            Self::AskedHooks { answer, .. } => Change::Answered(answer.await.ok()),
            Self::AskedPublish { answer, .. } => {
                Change::Published(answer.await.unwrap_or_else(|_| Err(nobody())))
            }
            Self::AskedPlay { answer, .. } => {
                Change::Played(answer.await.unwrap_or_else(|_| Err(nobody())))
            }
            Self::Publishing { publisher, relay, .. } => {
                let lost = async {
                    match relay {
                        Some(relay) => (&mut relay.lost).await.unwrap_or_else(|_| nobody()),
                        None => pending().await,
                    }
                };
                let why = "another publisher has taken the stream over";
                Change::Lost(tokio::select! {
                    refusal = lost => refusal,
                    () = publisher.ousted() => Refusal::new(BAD_NAME, why),
                })
            }
            _ => pending().await,
        }
    }
}

/// Whoever should have answered could not.
fn nobody() -> Refusal {
    Refusal::new("NetStream.Failed", "the edge is too busy, or stops")
}
