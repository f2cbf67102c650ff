//! The player's side of a leg: what is written to it beside the bytes of its origins.

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{timeout, timeout_at};

use crate::conn::{News, Order, Taking, Wish};
use crate::edge::uplink::Uplink;
use crate::forward::Failure;
use crate::rtmp::chunk::StreamPosition;
use crate::rtmp::message::Control;
use crate::rtmp::session::reconnect_request;
use crate::splice::Walk;

/// A player that is written to without a leg is looked at so often within `write_timeout`.
const LOOKS: u32 = 4;

/// How long an origin may take to say the rest of a message at whose end its leg is stopped.
const REST_WITHIN: Duration = Duration::from_secs(1);

/// That rest is read in pieces of so many bytes at most.
const PIECE: usize = 4096;

/// Chunk streams that a header of one byte can name, 2 aside: that is for chunk sizes and the like.
const OWN_CSIDS: std::ops::Range<u32> = 3..64;

/// The player's side, and what was moved to it.
pub(super) struct Carrier {
    pub(super) io: Rc<TcpStream>,
    pub(super) write_timeout: Duration,
    pub(super) orders: mpsc::Receiver<Order>,
    /// What the player reads with.
    pub(super) chunk_size: u32,
    /// What its reader knows of each chunk stream.
    pub(super) heard: Vec<StreamPosition>,
    pub(super) wishes: Wishes,
    /// By the legs before this one: bytes, and returns from the kernel.
    pub(super) moved: (u64, u64),
}

/// What the player wants, told to each origin.
#[derive(Clone, Copy)]
pub(super) struct Wishes {
    pub(super) paused: bool,
    audio: bool,
    video: bool,
}

impl Wishes {
    /// Of a player that has said nothing.
    pub(super) const PLAIN: Self = Self { paused: false, audio: true, video: true };

    pub(super) fn note(&mut self, wish: Wish) {
        match wish {
            Wish::Pause(paused) => self.paused = paused,
            Wish::Audio(wanted) => self.audio = wanted,
            Wish::Video(wanted) => self.video = wanted,
        }
    }

    /// Tells an origin that was just asked to play.
    pub(super) fn tell(self, uplink: &mut Uplink) -> Result<(), Failure> {
        if !self.audio {
            uplink.ask(|session| session.receive_audio(false))?;
        }
        if !self.video {
            uplink.ask(|session| session.receive_video(false))?;
        }
        if self.paused {
            uplink.ask(|session| session.pause(true))?;
        }
        Ok(())
    }
}

impl Carrier {
    /// Writes all of `bytes`. Errors: what to tell the connection.
    pub(super) async fn write(&self, bytes: Vec<u8>) -> Result<(), News> {
        // What the leg wrote may keep the socket from being writable for longer than a player that
        // is gone is given.
        let taking = Taking::new(Rc::clone(&self.io));
        let (mut rest, mut blocked) = (&*bytes, None);
        while !rest.is_empty() {
            let now = Instant::now();
            match self.io.try_write(rest) {
                Ok(n) => (rest, blocked) = (rest.get(n..).unwrap_or_default(), None),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    blocked.get_or_insert(now);
                }
                Err(error) => return Err(News::Gone(Some(error))),
            }
            let Some(since) = taking.nothing_since(blocked, now) else { continue };
            let left = (since + self.write_timeout).saturating_duration_since(now);
            if left.is_zero() {
                return Err(News::Stuck);
            }
            // Who is slow may take its time, but not beyond its connection.
            if self.orders.is_closed() {
                return Err(News::Gone(None));
            }
            let look = left.min(self.write_timeout / LOOKS);
            let ready = timeout(look, self.io.writable()).await;
            ready.unwrap_or(Ok(())).map_err(|error| News::Gone(Some(error)))?;
        }
        Ok(())
    }

    /// The chunk size of `uplink`, if the player has another, as a message.
    fn new_chunk_size(&self, uplink: &Uplink) -> Vec<u8> {
        let mut message = Vec::new();
        if self.chunk_size != uplink.chunk_size() {
            Control::SetChunkSize(uplink.chunk_size()).encode(&mut message);
        }
        message
    }

    /// What the player's reader knows after `message`.
    fn heard_after(&self, message: &[u8]) -> Vec<StreamPosition> {
        let mut heard = self.heard.clone();
        hear(&mut heard, StreamPosition::after(message));
        heard
    }

    /// Whether the player can be made to read on as a reader of `uplink` would.
    pub(super) fn fits(&self, uplink: &Uplink) -> bool {
        uplink.mirror(&self.heard_after(&self.new_chunk_size(uplink))).is_some()
    }

    /// Has the player read on as a reader of `uplink` would.
    pub(super) async fn prepare(&mut self, uplink: &Uplink) -> Result<(), News> {
        let mut message = self.new_chunk_size(uplink);
        self.heard = self.heard_after(&message);
        self.chunk_size = uplink.chunk_size();
        let missing = uplink.mirror(&self.heard).unwrap_or_default();
        hear(&mut self.heard, StreamPosition::after(missing));
        message.extend_from_slice(missing);
        self.write(message).await
    }

    /// Makes whole what is open of what an origin sent.
    pub(super) async fn mend(&mut self, walk: &Walk) -> Result<(), News> {
        if walk.is_lost() {
            return Err(News::Gone(Some(io::Error::other("the origin's chunks made no sense"))));
        }
        let mut rest = Vec::new();
        self.chunk_size = walk.pad(&mut rest);
        let mut walk = walk.clone();
        walk.feed(&rest);
        let streams = walk.position().map(|position| position.streams);
        hear(&mut self.heard, streams.into_iter().flatten());
        self.write(rest).await
    }

    /// Gives the player the rest of what is open from `uplink`, whose leg was stopped at `walk`.
    /// An origin that does not say it soon is not waited for, nor one that is gone.
    pub(super) async fn complete(&mut self, uplink: &Uplink, walk: &mut Walk) -> Result<(), News> {
        let until = Instant::now() + REST_WITHIN;
        let mut piece = [0; PIECE];
        while !walk.is_lost() && !walk.is_at_border() {
            let room = usize::try_from(walk.sure()).map_or(PIECE, |room| room.clamp(1, PIECE));
            let Some(piece) = piece.get_mut(..room) else { break };
            let read = timeout_at(until.into(), uplink.receive(piece)).await;
            let Ok(Ok(n @ 1..)) = read else { break };
            let Some(bytes) = piece.get(..n) else { break };
            walk.feed(bytes);
            self.moved.0 += n as u64;
            self.write(bytes.to_vec()).await?;
        }
        Ok(())
    }

    /// Asks the player to connect again between two messages of `uplink`, whose leg was stopped at
    /// `walk`. One whose origin stands still in a message is not asked.
    pub(super) async fn ask_to_leave(
        &mut self,
        uplink: &Uplink,
        walk: &mut Walk,
        to: Option<&str>,
    ) -> Result<(), News> {
        self.complete(uplink, walk).await?;
        let Some(position) = walk.position().filter(|_| walk.is_at_border()) else { return Ok(()) };
        self.chunk_size = position.chunk_size;
        hear(&mut self.heard, position.streams);
        self.say_to_leave(to).await
    }

    /// The request itself, at a message border. On a chunk stream of its own: the origin's next
    /// headers may lean on those it sent before.
    async fn say_to_leave(&mut self, to: Option<&str>) -> Result<(), News> {
        let is_free = |csid: &u32| self.heard.iter().all(|stream| stream.csid != *csid);
        let Some(csid) = OWN_CSIDS.rev().find(is_free) else { return Ok(()) };
        let mut message = Vec::new();
        reconnect_request(to).encode(csid, 0, self.chunk_size, &mut message);
        hear(&mut self.heard, StreamPosition::after(&message));
        self.write(message).await
    }

    /// Waits, with no origin, for the player to go or to be taken back.
    pub(super) async fn interrupted(&mut self) -> Option<News> {
        loop {
            match self.orders.recv().await {
                // There is nobody to tell.
                Some(Order::Say(_)) => {}
                Some(Order::Wish(wish)) => self.wishes.note(wish),
                Some(Order::Leave(to)) => {
                    if let Err(last) = self.say_to_leave(to.as_deref()).await {
                        return Some(last);
                    }
                }
                Some(Order::Stop) => return Some(self.end(false)),
                None => return None,
            }
        }
    }

    pub(super) fn end(&self, finished: bool) -> News {
        let heard = self.heard.clone();
        News::Ended { chunk_size: self.chunk_size, heard, sent: self.moved.0, finished }
    }
}

/// Notes what was said last on chunk streams.
fn hear(heard: &mut Vec<StreamPosition>, now: impl IntoIterator<Item = StreamPosition>) {
    for now in now {
        heard.retain(|before| before.csid != now.csid);
        heard.push(now);
    }
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;
    use tokio::time::sleep;

    use super::*;

    /// A player whose socket is full, its end, its connection, and what it was sent.
    async fn full(write_timeout: Duration) -> (Carrier, TcpStream, mpsc::Sender<Order>, usize) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // As on a network: with the MSS of loopback, small windows close for long.
        SockRef::from(&listener).set_tcp_mss(1400).unwrap();
        SockRef::from(&listener).set_recv_buffer_size(32 << 10).unwrap();
        let io = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (player, _) = listener.accept().await.unwrap();
        SockRef::from(&io).set_send_buffer_size(4 << 20).unwrap();
        let mut sent = 0;
        while let Ok(n) = {
            io.writable().await.unwrap();
            io.try_write(&[1; 64 << 10])
        } {
            sent += n;
        }
        let ((connection, orders), heard) = (mpsc::channel(1), Vec::new());
        let (io, wishes, moved) = (Rc::new(io), Wishes::PLAIN, (0, 0));
        let chunk_size = 128;
        let carrier = Carrier { io, write_timeout, orders, chunk_size, heard, wishes, moved };
        (carrier, player, connection, sent)
    }

    #[tokio::test]
    async fn a_player_that_takes_little_at_a_time_is_not_stuck() {
        let (carrier, mut player, _connection, sent) = full(Duration::from_secs(1)).await;
        let mut got = Vec::new();
        let read = async {
            let slow_until = Instant::now() + 2 * carrier.write_timeout;
            let mut piece = [0; 8 << 10];
            while got.len() < sent + 3 {
                let n = player.read(&mut piece).await.unwrap();
                assert!(n > 0, "closed after {}", got.len());
                got.extend_from_slice(&piece[..n]);
                if Instant::now() < slow_until {
                    sleep(carrier.write_timeout / 20).await;
                }
            }
        };
        let (wrote, ()) = tokio::join!(carrier.write(vec![2; 3]), async {
            tokio::select! {
                () = read => {}
                () = sleep(30 * carrier.write_timeout) => {}
            }
        });
        assert!(wrote.is_ok(), "it is taken for one that is gone");
        assert!(got[..sent].iter().all(|byte| *byte == 1) && got[sent..] == [2; 3]);
    }

    #[tokio::test]
    async fn a_player_that_takes_nothing_is_stuck() {
        let (carrier, _player, _connection, _) = full(Duration::from_millis(200)).await;
        assert!(matches!(carrier.write(vec![2; 3]).await, Err(News::Stuck)));
    }

    #[tokio::test]
    async fn nobody_writes_for_a_connection_that_is_over() {
        let (carrier, _player, connection, _) = full(Duration::from_secs(3600)).await;
        drop(connection);
        assert!(matches!(carrier.write(vec![2; 3]).await, Err(News::Gone(None))));
    }
}
