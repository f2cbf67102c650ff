//! Loopback ports: which are free, and when somebody listens.
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::{self, Process};

/// `127.0.0.1:port`.
pub fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Whether nobody listens on `port`, on loopback or on all addresses.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}

/// `n` different ports that are free now, picked by the kernel.
pub fn free_ports(n: usize) -> Result<Vec<u16>> {
    // All are held until the last is known, or the kernel could hand one out twice.
    let held = (0..n)
        .map(|_| TcpListener::bind(loopback(0)).context("no free port on loopback"))
        .collect::<Result<Vec<_>>>()?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

/// Waits until `server` accepts connections on `port`; fails at once when it exits.
pub fn wait_listening(server: &mut Process, port: u16, within: Duration) -> Result<()> {
    let deadline = Instant::now() + within;
    loop {
        if TcpStream::connect_timeout(&loopback(port), Duration::from_millis(200)).is_ok() {
            return Ok(());
        }
        server.check()?;
        process::check_interrupt()?;
        if Instant::now() > deadline {
            bail!("{} does not listen on port {port}\n{}", server.name(), server.log_tail());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
