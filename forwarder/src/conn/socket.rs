//! Options of TCP sockets.

use std::io;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpStream;
use tracing::warn;

use crate::config::{Config, Forward, Play, Vhost};

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

/// Sets up an accepted socket for a player of `vhost`.
pub(super) fn tune_player(io: &TcpStream, vhost: &Vhost) -> io::Result<()> {
    if !vhost.tcp_nodelay {
        io.set_nodelay(false)?;
    }
    // The kernel begins to count when a window closes, and ends only when the whole of the first
    // packet in its queue fits: a slow reader with a small window is held for gone. `Taking` knows
    // better; the kernel's own time-out is for what it does not see.
    let patience = vhost.play.write_timeout.max(WRITE_TIMEOUT).saturating_mul(KERNEL_PATIENCE);
    give_up_after(io, patience)?;
    // A kernel that bounds nothing was told of at start, and serves all the same.
    _ = SendBounds::from(&vhost.play).apply(io);
    Ok(())
}

/// As for an accepted socket, for one that we dialled.
pub fn tune_outgoing(io: &TcpStream, dead_after: Duration) -> io::Result<()> {
    tune_accepted(io, dead_after)
}

/// How much of what is sent to one peer the kernel may hold. Of both, 0 is no bound.
#[derive(Clone, Copy, Debug)]
pub struct SendBounds {
    /// SO_SNDBUF, bytes: all that is not acknowledged, with the kernel's own overhead. The kernel
    /// doubles what it is told, up to twice `net.core.wmem_max`.
    buffer: usize,
    /// TCP_NOTSENT_LOWAT (Linux 3.12), bytes: what is not under way yet.
    notsent_lowat: usize,
}

impl SendBounds {
    /// Bounds nothing that is not under way; for a leg, which has limits of its own.
    pub const NONE: Self = Self { buffer: 0, notsent_lowat: 0 };

    /// Sets them for a connection.
    pub fn apply(self, io: &TcpStream) -> io::Result<()> {
        self.set(SockRef::from(io))
    }

    fn set(self, socket: SockRef<'_>) -> io::Result<()> {
        // A buffer that was set is not the kernel's to choose any more, whatever it is set to later.
        if self.buffer > 0 {
            socket.set_send_buffer_size(self.buffer)?;
        }
        // Here 0 means the system's own (`net.ipv4.tcp_notsent_lowat`), by default none.
        socket.set_tcp_notsent_lowat(u32::try_from(self.notsent_lowat).unwrap_or(u32::MAX))
    }

    /// Bytes of the buffer that a socket really gets, if that is less than was asked for.
    fn refused(self) -> io::Result<Option<usize>> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        self.set(SockRef::from(&socket))?;
        let got = socket.send_buffer_size()? / 2;
        Ok((got < self.buffer).then_some(got))
    }
}

impl From<&Play> for SendBounds {
    fn from(play: &Play) -> Self {
        Self { buffer: play.send_buffer, notsent_lowat: play.notsent_lowat }
    }
}

impl From<&Forward> for SendBounds {
    fn from(forward: &Forward) -> Self {
        Self { buffer: forward.send_buffer, notsent_lowat: forward.notsent_lowat }
    }
}

/// Says which bounds of `config` this kernel does not grant.
pub fn warn_of_send_bounds(config: &Config) {
    for vhost in &config.vhosts {
        let asked = [("play", SendBounds::from(&vhost.play)), ("forward", (&vhost.forward).into())];
        for (section, bounds) in asked {
            let (vhost, asked) = (&vhost.name, bounds.buffer);
            match bounds.refused() {
                Ok(None) => {}
                Ok(Some(got)) => warn!(
                    %vhost, section, asked, got, "send_buffer is bounded by net.core.wmem_max"
                ),
                Err(error) => warn!(%vhost, section, %error, "this kernel bounds no send buffers"),
            }
        }
    }
}

/// Makes the close of `io` drop what is still queued. Without it the kernel keeps the send queue
/// of a player that does not read for minutes after we are gone.
pub(super) fn abandon(io: &TcpStream) {
    // Nothing is lost if this fails: the kernel then holds the queue a while longer.
    _ = SockRef::from(io).set_linger(Some(Duration::ZERO));
}

/// How long a peer may take nothing of what it is told, or acknowledge nothing.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// The kernel waits so many times longer than we do for a player that acknowledges nothing.
const KERNEL_PATIENCE: u32 = 4;

/// Idle time before the kernel probes a silent peer, and between its probes.
const KEEPALIVE: Duration = Duration::from_secs(30);
