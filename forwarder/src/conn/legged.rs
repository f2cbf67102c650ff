//! Players that are served by a leg: an origin's bytes go to them unchanged.
//!
//! The leg writes to the player and the connection reads from it; both are tasks of one shard.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::Shard;
use super::upstream::Refusal;
use crate::rtmp::chunk::StreamPosition;
use crate::rtmp::session::PlayRequest;

/// Starts a leg on the shard of its player.
pub struct Launch(Box<dyn FnOnce(Rc<Shard>, LeggedPlayer) + Send>);

impl Launch {
    /// `start` is called on the player's shard.
    pub fn new(start: impl FnOnce(Rc<Shard>, LeggedPlayer) + Send + 'static) -> Self {
        Self(Box::new(start))
    }

    pub(super) fn start(self, shard: Rc<Shard>, player: LeggedPlayer) {
        (self.0)(shard, player);
    }
}

impl fmt::Debug for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Launch")
    }
}

/// A player as its leg sees it. Only the leg writes to the socket, until it says otherwise.
#[derive(Debug)]
pub struct LeggedPlayer {
    /// Its socket.
    pub io: Rc<TcpStream>,
    /// Its address.
    pub peer: SocketAddr,
    /// What it asked for.
    pub request: PlayRequest,
    /// Chunk size that it was told last, bytes.
    pub chunk_size: u32,
    /// What is to be written before anything else.
    pub lead: Vec<u8>,
    /// What its reader knows of each chunk stream, behind `lead`.
    pub heard: Vec<StreamPosition>,
    /// What its connection wants; closed when the player is gone.
    pub orders: mpsc::Receiver<Order>,
    /// What its connection is told.
    pub news: mpsc::Sender<News>,
}

/// From a player's connection to its leg.
#[derive(Debug)]
pub enum Order {
    /// Whole messages for the origin, in chunks of 128 bytes.
    Say(Vec<u8>),
    /// What was just said holds for the next origin too.
    Wish(Wish),
    /// Ask the player to connect again, there if this says where, and go on.
    Leave(Option<String>),
    /// End, and give the writing back: [`News::Ended`].
    Stop,
}

/// What a player wants of whichever origin serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Nothing, for now: silence is no fault of the origin's. Or that it goes on.
    Pause(bool),
    /// Whether it wants audio.
    Audio(bool),
    /// Whether it wants video.
    Video(bool),
}

/// From a leg to its player's connection.
#[derive(Debug)]
pub enum News {
    /// The origin is about to play: what the player says goes there.
    Carried,
    /// No leg is possible, and nothing was written. Here is the lead back.
    Unfit(Vec<u8>),
    /// No origin takes the player, and nothing was written. Here is the lead back.
    Refused(Vec<u8>, Refusal),
    /// The leg writes no more; the player stands at a message border.
    Ended {
        /// Chunk size that it was told last, bytes.
        chunk_size: u32,
        /// As [`LeggedPlayer::heard`].
        heard: Vec<StreamPosition>,
        /// Bytes the leg wrote.
        sent: u64,
        /// Whether the stream is over.
        finished: bool,
    },
    /// The player's socket is closed, or failed.
    Gone(Option<io::Error>),
    /// The player does not read.
    Stuck,
}

/// Orders that may wait; a connection that gives more is closed.
pub(super) const ORDERS: usize = 64;
/// A leg tells little: that it carries, and how it ended.
pub(super) const NEWS: usize = 4;
