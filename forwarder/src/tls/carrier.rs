//! Moves the bytes of one connection between its TLS and our end of it.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsStream;

use crate::splice::closed;

/// A connection with TLS, and the end of it inside this process. Runs beside whoever has the other
/// end, and ends with it.
#[derive(Debug)]
pub struct Carrier {
    tls: TlsStream<TcpStream>,
    inner: TcpStream,
}

/// How a carrier ended.
enum Over {
    /// All was said, or the peer is gone.
    Done,
    /// What is not sent yet is not to be sent.
    Abandoned,
}

impl Carrier {
    /// A carrier for `tls`, and the end that stands for the peer from now on.
    ///
    /// The ends are connected by TCP, because whoever serves a connection asks its socket what only
    /// TCP knows: what was acknowledged, and how much waits.
    pub(super) async fn begin(tls: TlsStream<TcpStream>) -> io::Result<(TcpStream, Self)> {
        let wire = SockRef::from(tls.get_ref().0);
        wire.set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
        let (ours, inner) = pair().await?;
        for end in [&ours, &inner] {
            end.set_nodelay(true)?;
            SockRef::from(end).set_recv_buffer_size(BUFFER)?;
        }
        Ok((ours, Self { tls, inner }))
    }

    /// Moves bytes until both sides have ended, or one is gone.
    pub async fn run(self) {
        let (mut from_peer, mut to_peer) = split(self.tls);
        if matches!(carry(&mut from_peer, &mut to_peer, &self.inner).await, Over::Abandoned) {
            let tls = from_peer.unsplit(to_peer);
            // Nothing is lost if this fails: the kernel then holds the queue a while longer.
            _ = SockRef::from(tls.get_ref().0).set_linger(Some(Duration::ZERO));
        }
    }
}

async fn carry(
    from_peer: &mut (impl AsyncRead + Unpin),
    to_peer: &mut (impl AsyncWrite + Unpin),
    inner: &TcpStream,
) -> Over {
    let mut up = pin!(up(from_peer, inner));
    let mut down = pin!(down(inner, to_peer));
    let mut given_up = pin!(given_up(inner));
    let mut peer_ended = false;
    loop {
        tokio::select! {
            // What is left of what we have said goes out first.
            ended = &mut up, if !peer_ended => match ended {
                Ok(()) => peer_ended = true,
                Err(_) => return Over::Done,
            },
            ended = &mut down => {
                if ended.is_err() {
                    return Over::Abandoned;
                }
                // A close with unread bytes would be a reset, which may overtake what was sent.
                if !peer_ended {
                    _ = timeout(GOODBYE, up).await;
                }
                return Over::Done;
            }
            () = &mut given_up => return Over::Abandoned,
        }
    }
}

/// What the peer says, to its end.
async fn up(from_peer: &mut (impl AsyncRead + Unpin), inner: &TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        let n = match from_peer.read(&mut buffer).await {
            // Many close without saying so (RFC 8446 section 6.1 wants a `close_notify`); RTMP says
            // itself when something is whole.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            read => read?,
        };
        if n == 0 {
            return SockRef::from(inner).shutdown(Shutdown::Write);
        }
        let mut rest = buffer.get(..n).unwrap_or_default();
        while !rest.is_empty() {
            inner.writable().await?;
            match inner.try_write(rest) {
                Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Nobody listens any more; what was said to the peer goes out all the same.
                Err(_) => return Ok(()),
            }
        }
    }
}

/// What the peer is told, to its end. No more is taken before that is on its way.
async fn down(inner: &TcpStream, to_peer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        inner.readable().await?;
        let n = match inner.try_read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            read => read?,
        };
        if n == 0 {
            return to_peer.shutdown().await;
        }
        to_peer.write_all(buffer.get(..n).unwrap_or_default()).await?;
        to_peer.flush().await?;
    }
}

/// Waits until whoever had our end has left it, and the peer had time to take what was said last:
/// little, if it was closed because it takes nothing.
async fn given_up(inner: &TcpStream) {
    closed(inner).await;
    let is_reset = SockRef::from(inner).take_error().is_ok_and(|error| error.is_some());
    sleep(if is_reset { GOODBYE } else { LINGER }).await;
}

/// Two sockets that are connected to each other.
async fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let socket = TcpSocket::new_v4()?;
    // All of 127.0.0.0/8 is ours (RFC 1122 section 3.2.1.3): each address has its own ports, so
    // they do not run out.
    let [_, b, c, d] = rand::random::<[u8; 4]>();
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, b, c, d.clamp(1, 254)), 0)))?;
    let listener = socket.listen(BACKLOG)?;
    let ours = TcpStream::connect(listener.local_addr()?).await?;
    let address = ours.local_addr()?;
    loop {
        let (inner, from) = listener.accept().await?;
        // Another process may have been faster.
        if from == address {
            return Ok((ours, inner));
        }
    }
}

/// Bytes moved at a time: a record of TLS (RFC 8446 section 5.1).
const PIECE: usize = 16 << 10;

/// SO_RCVBUF of both ends, bytes; the kernel doubles it. What is behind it is held up.
const BUFFER: usize = 64 << 10;

/// Bytes that may wait in the kernel for a peer, behind those under way.
const NOTSENT_LOWAT: u32 = 128 << 10;

/// Connections to the listener of a pair: ours.
const BACKLOG: u32 = 4;

/// How long a peer may take to close after we have, or for what is left when it was closed hard.
const GOODBYE: Duration = Duration::from_secs(2);

/// How long a peer may take for what is left when we have closed.
const LINGER: Duration = Duration::from_secs(10);
