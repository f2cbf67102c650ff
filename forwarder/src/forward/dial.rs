//! Connecting to another server.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::leg::Failure;
use crate::config::Destination;

/// Connects to the first address of `to` that takes us; the look-up and each attempt may last
/// `within`.
pub(crate) async fn dial(to: &Destination, within: Duration) -> Result<TcpStream, Failure> {
    let addresses: Vec<SocketAddr> = match timeout(within, lookup_host((&*to.host, to.port))).await
    {
        Ok(found) => found.map_err(|error| Failure::new(format!("look-up: {error}")))?.collect(),
        Err(_) => return Err(Failure::new("look-up: no answer in time")),
    };
    let mut last = Failure::new("look-up: no address");
    for address in addresses {
        match timeout(within, TcpStream::connect(address)).await {
            Ok(Ok(io)) => return Ok(io),
            Ok(Err(error)) => last = Failure::connect(&error),
            Err(_) => last = Failure::new("connect: no answer in time"),
        }
    }
    Err(last)
}
