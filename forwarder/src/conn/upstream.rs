//! What connections to an edge ask for: a stream from an origin, or a place for one there.
//!
//! The answers come from whoever [`Upstream::connect`] was called by; a connection waits for one
//! without reading on.

use std::sync::{Arc, OnceLock};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::DropGuard;

use super::encoder::EncoderLaunch;
use super::legged::Launch;
use crate::hub::{Publisher, Source};
use crate::rtmp::session::ConnectRequest;
use crate::rtmp::url::StreamKey;

/// Something an origin is needed for.
#[derive(Debug)]
pub enum Ask {
    /// A player wants a stream.
    Play(PlayAsk),
    /// A publisher has one.
    Publish(PublishAsk),
}

/// A player's.
#[derive(Debug)]
pub struct PlayAsk {
    /// The stream.
    pub key: StreamKey,
    /// What its `connect` said, if an origin is to judge that first.
    pub connect: Option<Box<ConnectRequest>>,
    /// Parameters after its name, without the `?`; may be empty.
    pub param: String,
    /// Ids of the servers that the player stands for, ours not among them: the loop guard.
    pub path: Vec<String>,
    /// Not for a leg of its own.
    pub shared: bool,
    /// An origin plays it, or says why not.
    pub reply: oneshot::Sender<Result<Grant, Refusal>>,
}

/// How a player is served.
#[derive(Debug)]
pub enum Grant {
    /// From the hub, into which an origin's stream is pulled.
    Shared(Interest),
    /// By a leg, to be started on its shard.
    Own(Launch),
}

/// A publisher's.
#[derive(Debug)]
pub struct PublishAsk {
    /// The stream.
    pub key: StreamKey,
    /// As [`PlayAsk::connect`].
    pub connect: Option<Box<ConnectRequest>>,
    /// The publisher.
    pub source: Source,
    /// An origin took it, or says why not.
    pub reply: oneshot::Sender<Result<PublishGrant, Refusal>>,
}

/// How a publisher is served.
#[derive(Debug)]
pub enum PublishGrant {
    /// An origin has taken the publish; the stream goes there through the hub.
    Relayed(Relayed),
    /// Its bytes are to go to an origin unchanged, by a carrier to be started on its shard.
    Carried(EncoderLaunch),
}

/// A publish that an origin has taken.
#[derive(Debug)]
pub struct Relayed {
    /// The right to append to the stream.
    pub publisher: Publisher,
    /// To be dropped after `publisher`: the publish is over.
    pub guard: DropGuard,
    /// No origin has it any more, and none was found.
    pub lost: oneshot::Receiver<Refusal>,
}

/// A no in the words of RTMP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Status code, such as `NetStream.Play.StreamNotFound`.
    pub code: String,
    /// Why.
    pub description: String,
}

impl Refusal {
    /// A refusal of our own.
    pub fn new(code: &str, description: impl Into<String>) -> Self {
        Self { code: code.to_owned(), description: description.into() }
    }
}

/// How many want something; those who provide it wait for zero.
#[derive(Debug, Default)]
pub struct Interests(Arc<watch::Sender<usize>>);

/// One who wants it, until dropped.
#[derive(Debug)]
pub struct Interest(Arc<watch::Sender<usize>>);

impl Interests {
    /// One more.
    pub fn add(&self) -> Interest {
        self.0.send_modify(|n| *n += 1);
        Interest(Arc::clone(&self.0))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        *self.0.borrow()
    }

    /// Waits until there is none.
    pub async fn none(&self) {
        // It cannot fail while its sender is here.
        _ = self.0.subscribe().wait_for(|n| *n == 0).await;
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

/// The way from connections to those who know the origins.
#[derive(Debug, Default)]
pub struct Upstream(OnceLock<mpsc::Sender<Ask>>);

impl Upstream {
    /// Where asks are received from now on; `None` if somebody else does.
    pub fn connect(&self) -> Option<mpsc::Receiver<Ask>> {
        let (sender, receiver) = mpsc::channel(ASKS);
        self.0.set(sender).ok().map(|()| receiver)
    }

    /// Asks; the reply fails when nobody can answer.
    pub fn ask(&self, ask: Ask) {
        if let Some(asks) = self.0.get() {
            // Dropped with its reply if the queue is full: the client is refused, and may come
            // again.
            _ = asks.try_send(ask);
        }
    }
}

/// Asks that may wait to be looked at.
const ASKS: usize = 4096;
