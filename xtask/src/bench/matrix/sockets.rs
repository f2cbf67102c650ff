//! What the kernel says about all TCP sockets of this host.
use std::fs;

use anyhow::{Context, Result};

use crate::load::float;

/// Bytes of a page of memory: what Linux counts sockets' memory in here.
const PAGE: u64 = 4096;

/// Counters at one moment.
pub struct Sockets {
    /// Segments with data that were sent, without those sent again (`TCPOrigDataSent`). A write on
    /// loopback of less than 64 KiB is one, unless the kernel merged it with others.
    segments: u64,
    /// Bytes of memory in use.
    pub memory: u64,
}

impl Sockets {
    /// Now.
    pub fn now() -> Result<Self> {
        let netstat = fs::read_to_string("/proc/net/netstat")?;
        let sockstat = fs::read_to_string("/proc/net/sockstat")?;
        let segments = segments(&netstat).context("no TCPOrigDataSent in /proc/net/netstat")?;
        let memory = pages(&sockstat).context("no TCP mem in /proc/net/sockstat")? * PAGE;
        Ok(Self { segments, memory })
    }

    /// Segments sent from `earlier` until this moment.
    pub fn segments_since(&self, earlier: &Self) -> f64 {
        float(self.segments.saturating_sub(earlier.segments))
    }
}

/// A line of names is followed by one of values.
fn segments(netstat: &str) -> Option<u64> {
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut pairs = names.split(' ').zip(values.split(' '));
    pairs.find(|(name, _)| *name == "TCPOrigDataSent")?.1.parse().ok()
}

fn pages(sockstat: &str) -> Option<u64> {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    line.split_whitespace().skip_while(|word| *word != "mem").nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_their_names() {
        let netstat = "TcpExt: A TCPOrigDataSent B\nTcpExt: 1 22 3\nIpExt: A\nIpExt: 9\n";
        assert_eq!(segments(netstat), Some(22));
        assert_eq!(segments("TcpExt: A\nTcpExt: 1\n"), None);
        let sockstat = "sockets: used 9\nTCP: inuse 5 orphan 0 tw 1 alloc 7 mem 33\nUDP: mem 2\n";
        assert_eq!(pages(sockstat), Some(33));
        assert!(Sockets::now().is_ok());
    }
}
