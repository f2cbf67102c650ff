//! Options of TCP sockets.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Sets up a socket whose handshake and commands come first: no Nagle, or the command exchange
/// waits for delayed acknowledgements. A peer that answers nothing for `dead_after`, although
/// bytes for it are under way, is given up by the kernel.
pub(super) fn tune_accepted(io: &TcpStream, dead_after: Duration) -> io::Result<()> {
    let socket = SockRef::from(io);
    socket.set_tcp_nodelay(true)?;
    give_up_after(io, dead_after)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))
}

/// Sets how long the kernel waits for a peer that acknowledges nothing.
pub(super) fn give_up_after(io: &TcpStream, dead_after: Duration) -> io::Result<()> {
    SockRef::from(io).set_tcp_user_timeout(Some(dead_after))
}

/// As for an accepted socket, for one that we dialled.
pub fn tune_outgoing(io: &TcpStream, dead_after: Duration) -> io::Result<()> {
    tune_accepted(io, dead_after)
}

/// Makes the close of `io` drop what is still queued. Without it the kernel keeps the send queue
/// of a player that does not read for minutes after we are gone.
pub(super) fn abandon(io: &TcpStream) {
    // Nothing is lost if this fails: the kernel then holds the queue a while longer.
    _ = SockRef::from(io).set_linger(Some(Duration::ZERO));
}

/// Idle time before the kernel probes a silent peer, and between its probes.
const KEEPALIVE: Duration = Duration::from_secs(30);
