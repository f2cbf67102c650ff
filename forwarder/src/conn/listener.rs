//! Listeners: accept, count, hand to a shard.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Context, Shards, Totals, connection, flv, secure};

/// Binds `address`. An IPv6 wildcard takes IPv4 as well where the system says so, but not if
/// `only_v6`. `share`: the port may be that of others who share it (SO_REUSEPORT) until this returns.
pub fn bind(address: SocketAddr, only_v6: bool, share: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if only_v6 {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(share)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_reuse_port(false)?;
    Ok(socket.into())
}

/// What is served at a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    /// RTMP.
    Rtmp,
    /// RTMP in TLS.
    Rtmps,
    /// FLV over HTTP.
    HttpFlv,
}

/// Takes connections from one listener.
#[derive(Debug)]
pub struct Acceptor {
    context: Arc<Context>,
    shards: Arc<Shards>,
    listener: TcpListener,
    serves: Serves,
    /// Cancelled when nobody more is taken here.
    stop: CancellationToken,
    /// Given up when descriptors run out, so that one more connection can be taken and closed
    /// instead of waking us for ever.
    reserve: Option<std::fs::File>,
}

impl Acceptor {
    /// An acceptor for a bound listener, and what is served there, until `stop`; must be called inside
    /// a runtime.
    pub fn new(
        context: Arc<Context>,
        shards: Arc<Shards>,
        listener: std::net::TcpListener,
        serves: Serves,
        stop: CancellationToken,
    ) -> io::Result<Self> {
        let listener = TcpListener::from_std(listener)?;
        let reserve = Some(std::fs::File::open("/dev/null")?);
        Ok(Self { context, shards, listener, serves, stop, reserve })
    }

    /// Accepts until it is stopped.
    pub async fn run(mut self) {
        let stop = self.stop.clone();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.listener.accept() => match accepted {
                    Ok((io, peer)) => self.accept(io, peer).await,
                    Err(error) => self.recover(&error).await,
                },
            }
        }
    }

    async fn accept(&mut self, io: TcpStream, peer: SocketAddr) {
        let totals = &self.context.totals;
        Totals::add(&totals.connections, 1);
        let most = self.context.config().max_connections;
        let Some(place) = Place::take(&self.context, most) else {
            Totals::add(&totals.refused, 1);
            if self.context.may_complain(std::time::Instant::now()).is_some() {
                warn!(%peer, max_connections = most, "connection refused: too many");
            }
            return;
        };
        // The socket goes to the reactor of its shard.
        let io = match io.into_std() {
            Ok(io) => io,
            Err(error) => return warn!(%peer, %error, "connection lost"),
        };
        let serves = self.serves;
        let serve = async move |shard| {
            let _place = place;
            match (TcpStream::from_std(io), serves) {
                (Ok(io), Serves::Rtmp) => connection::serve(shard, io, peer).await,
                // In boxes, or each connection of RTMP had room for their handshakes.
                (Ok(io), Serves::Rtmps) => Box::pin(secure::serve(shard, io, peer)).await,
                (Ok(io), Serves::HttpFlv) => Box::pin(flv::serve(shard, io, peer)).await,
                (Err(error), _) => warn!(%peer, %error, "connection lost"),
            }
        };
        self.shards.least_loaded().spawn(serve).await;
    }

    async fn recover(&mut self, error: &io::Error) {
        use nix::libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
        match error.raw_os_error() {
            Some(EMFILE | ENFILE) => {}
            Some(ENOBUFS | ENOMEM) => {
                error!(%error, "accept: no memory");
                return tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            // The peer was gone before we took it (accept(2), "Error handling").
            _ => return info!(%error, "accept"),
        }
        error!(%error, "accept: no descriptor left; raise LimitNOFILE or lower max_connections");
        self.reserve = None;
        tokio::select! {
            () = self.stop.cancelled() => return,
            refused = self.listener.accept() => drop(refused),
        }
        self.reserve = std::fs::File::open("/dev/null").ok();
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

/// One of the `max_connections` places; given back on drop.
struct Place(Arc<Context>);

impl Place {
    fn take(context: &Arc<Context>, most: usize) -> Option<Self> {
        let place = Self(Arc::clone(context));
        (context.totals.open.fetch_add(1, Ordering::AcqRel) < most).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.totals.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Connections the kernel holds for us; capped by net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// Pause after running out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
