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
#[derive(Debug, PartialEq, Eq)]
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

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};
    use tokio::task::JoinHandle;

    use super::*;

    /// A carrier between a peer and our end.
    async fn carried() -> (DuplexStream, TcpStream, JoinHandle<Over>) {
        let (peer, wire) = duplex(4096);
        let (ours, inner) = pair().await.unwrap();
        for end in [&ours, &inner] {
            SockRef::from(end).set_recv_buffer_size(BUFFER).unwrap();
        }
        let (mut from, mut to) = split(wire);
        let carrier = tokio::spawn(async move { carry(&mut from, &mut to, &inner).await });
        (peer, ours, carrier)
    }

    fn bytes(seed: usize) -> Vec<u8> {
        (0..1 << 20).map(|n: usize| (n.wrapping_mul(seed) >> 7) as u8).collect()
    }

    #[tokio::test]
    async fn bytes_and_ends_pass_both_ways() {
        let (peer, ours, carrier) = carried().await;
        let (mut from_peer, mut to_peer) = split(peer);
        let (mut from_us, mut to_us) = ours.into_split();
        let (up, down) = (bytes(31), bytes(57));
        let said = async { to_peer.write_all(&up).await };
        let told = async { to_us.write_all(&down).await };
        let mut heard = (vec![0; up.len()], vec![0; down.len()]);
        let (a, b, c, d) = tokio::join!(
            said,
            told,
            from_us.read_exact(&mut heard.0),
            from_peer.read_exact(&mut heard.1)
        );
        assert!(a.is_ok() && b.is_ok() && c.is_ok() && d.is_ok());
        assert!(heard.0 == up && heard.1 == down);
        // The peer ends its half, and is still told something.
        to_peer.shutdown().await.unwrap();
        assert_eq!(from_us.read(&mut [0; 8]).await.unwrap(), 0);
        to_us.write_all(b"more").await.unwrap();
        drop((from_us, to_us));
        let mut rest = Vec::new();
        from_peer.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"more");
        assert_eq!(carrier.await.unwrap(), Over::Done);
    }

    #[tokio::test]
    async fn what_a_peer_does_not_take_is_left_where_it_is() {
        let (peer, ours, carrier) = carried().await;
        SockRef::from(&ours).set_send_buffer_size(BUFFER).unwrap();
        let mut taken = 0;
        // Blocked for this long it is blocked for good: nobody reads.
        while timeout(GOODBYE / 4, ours.writable()).await.is_ok() {
            taken += ours.try_write(&[7; PIECE]).unwrap_or_default();
        }
        assert!(taken > PIECE && taken < 8 * BUFFER, "{taken} bytes");
        // Closed hard, as one that takes nothing is: the carrier does not wait for long.
        SockRef::from(&ours).set_linger(Some(Duration::ZERO)).unwrap();
        drop(ours);
        assert_eq!(carrier.await.unwrap(), Over::Abandoned);
        drop(peer);
    }
}
