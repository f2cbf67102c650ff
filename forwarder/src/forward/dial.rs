//! Connecting to another server.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::leg::Failure;
use crate::config::Destination;
use crate::conn::{Shard, Totals, tune_outgoing};
use crate::tls::Target;

/// Connects to the first address of `to` that takes us, with TLS if it has that; the look-up, each
/// attempt and each handshake may last `within`. A server that acknowledges nothing at TCP level
/// for `dead_after` is given up.
pub(crate) async fn dial(
    shard: &Shard,
    to: &Destination,
    within: Duration,
    dead_after: Duration,
) -> Result<TcpStream, Failure> {
    let mut last = Failure::new("look-up: no address");
    for address in look_up(shard, to, within).await? {
        match dial_at(shard, to, address, within, dead_after).await {
            Ok(io) => return Ok(io),
            Err(failure) => last = failure,
        }
    }
    Err(last)
}

/// As [`dial`], of one address that `to` is known to have.
pub(super) async fn dial_at(
    shard: &Shard,
    to: &Destination,
    address: SocketAddr,
    within: Duration,
    dead_after: Duration,
) -> Result<TcpStream, Failure> {
    match timeout(within, TcpStream::connect(address)).await {
        Ok(Ok(io)) => {
            tune_outgoing(&io, dead_after)?;
            secure(shard, to, io, within).await
        }
        Ok(Err(error)) => Err(Failure::connect(&error)),
        Err(_) => Err(Failure::new("connect: no answer in time")),
    }
}

async fn look_up(
    shard: &Shard,
    to: &Destination,
    within: Duration,
) -> Result<Vec<SocketAddr>, Failure> {
    match timeout(within, shard.context().look_ups.look_up(&to.host, to.port)).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(Failure::new(format!("look-up: {error}"))),
        Err(_) => Err(Failure::new("look-up: no answer in time")),
    }
}

/// What speaks RTMP to `to`: `io` itself, or our end of what is in its TLS.
async fn secure(
    shard: &Shard,
    to: &Destination,
    io: TcpStream,
    within: Duration,
) -> Result<TcpStream, Failure> {
    if !to.tls {
        return Ok(io);
    }
    let context = shard.context();
    let config = context.config();
    let known = &config.tls;
    let target =
        Target { host: &to.host, ca: known.ca.as_deref(), verify: !known.insecure.contains(to) };
    match context.tls.connect(io, target, within).await {
        Ok((io, carrier)) => {
            shard.spawn(carrier.run());
            Ok(io)
        }
        Err(error) => {
            Totals::add(&context.totals.tls_failures, 1);
            Err(Failure::new(error.to_string()))
        }
    }
}
