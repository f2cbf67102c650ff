//! Publishers whose bytes go to an origin unchanged.
//!
//! Somebody else reads from the encoder's socket and the connection writes to it; both are tasks of
//! one shard.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

use super::Shard;
use super::upstream::{PublishGrant, Refusal};
use crate::rtmp::Timestamp;
use crate::rtmp::chunk::ChunkReader;
use crate::rtmp::session::{SessionError, Transcript};

/// Starts the carrying on the shard of its encoder.
pub struct EncoderLaunch(Box<dyn FnOnce(Rc<Shard>, Encoder) + Send>);

impl EncoderLaunch {
    /// `start` is called on the encoder's shard.
    pub fn new(start: impl FnOnce(Rc<Shard>, Encoder) + Send + 'static) -> Self {
        Self(Box::new(start))
    }

    pub(super) fn start(self, shard: Rc<Shard>, encoder: Encoder) {
        (self.0)(shard, encoder);
    }
}

impl fmt::Debug for EncoderLaunch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EncoderLaunch")
    }
}

/// An encoder that has asked to publish, as its carrier sees it. Only the carrier reads from the
/// socket, until it gives the reading back.
#[derive(Debug)]
pub struct Encoder {
    /// Its socket.
    pub io: Rc<TcpStream>,
    /// Its address.
    pub peer: SocketAddr,
    /// The message stream on which it publishes.
    pub msid: u32,
    /// What it has said since it connected, `publish` included; `None` if that was too much.
    pub transcript: Option<Transcript>,
    /// Reads what comes behind `publish`.
    pub reader: ChunkReader,
    /// The part of that which has come already.
    pub unread: Vec<u8>,
    /// What its connection is told; closed when the connection is over.
    pub news: mpsc::Sender<EncoderNews>,
}

/// From a carrier to the encoder's connection. All but the first four are the last.
#[derive(Debug)]
pub enum EncoderNews {
    /// An origin takes the stream.
    Accepted,
    /// So many more bytes were read.
    Moved(u64),
    /// The origin asks for a sign of life.
    Ping(u32),
    /// The origin has told the encoder something: message type, message stream id, body.
    Command(u8, u32, Vec<u8>),
    /// The connection reads again, and the stream goes through the hub.
    Relay(Box<Handover>),
    /// No origin takes the stream.
    Refused(Refusal),
    /// The encoder's socket is closed, or failed.
    Gone(Option<io::Error>),
    /// The encoder broke a rule or a deadline.
    Broken(SessionError),
    /// The encoder is to go, and why.
    Closed(&'static str),
}

/// What is needed to go on without a carrier.
#[derive(Debug)]
pub struct Handover {
    /// Stands where the encoder's bytes go on.
    pub reader: ChunkReader,
    /// Bytes that were read and not looked at.
    pub unread: Vec<u8>,
    /// The encoder was told that it publishes. Then this is what late joiners have to have; else
    /// `None`.
    pub headers: Option<Vec<OwnedMedia>>,
    /// A place in the hub, or why there is none.
    pub answer: oneshot::Receiver<Result<PublishGrant, Refusal>>,
}

/// An audio, video or data message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedMedia {
    /// Message type id.
    pub kind: u8,
    /// Its time.
    pub timestamp: Timestamp,
    /// The body as it was sent.
    pub payload: Vec<u8>,
}

/// News that may wait: a carrier that has more to tell gives up.
pub(super) const ENCODER_NEWS: usize = 64;
