//! Connections that begin with TLS.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tracing::{info, warn};

use super::socket::tune_accepted;
use super::{Shard, Totals, connection};
use crate::tls::HandshakeError;

/// The kernel gives a peer up that acknowledges nothing for so long. Who serves the connection has
/// shorter time-outs, and sees by what does not go out that one is due.
const DEAD_AFTER: Duration = Duration::from_secs(120);

/// Agrees on TLS with an accepted socket, and serves what is in it.
pub(super) async fn serve(shard: Rc<Shard>, wire: TcpStream, peer: SocketAddr) {
    let context = shard.context();
    if let Err(error) = tune_accepted(&wire, DEAD_AFTER) {
        return info!(%peer, %error, "connection lost");
    }
    let within = context.config().rtmps.handshake_timeout;
    let agreed = tokio::select! {
        agreed = Box::pin(context.tls.accept(wire, within)) => agreed,
        () = shard.stop().cancelled() => return,
    };
    match agreed {
        Ok((io, carrier)) => {
            Totals::add(&context.totals.tls_connections, 1);
            shard.spawn(carrier.run());
            connection::serve(shard, io, peer).await;
        }
        Err(error) => complain(&shard, peer, &error),
    }
}

fn complain(shard: &Shard, peer: SocketAddr, error: &HandshakeError) {
    let context = shard.context();
    // Somebody who looks whether we listen.
    if error.closed {
        return info!(%peer, %error, "connection closed");
    }
    Totals::add(&context.totals.tls_failures, 1);
    if let Some(unsaid) = context.may_complain(Instant::now()) {
        warn!(%peer, %error, unsaid, "no handshake");
    }
}
