//! What a server holds at one moment.
use std::fs;

use anyhow::{Context, Result};
use forwarder::status::Snapshot;
use serde::Serialize;

use crate::cluster::Server;
use crate::http;
use crate::load::float;

/// See the module. Sizes are bytes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// Resident memory.
    pub rss: u64,
    /// Of that, what is no file.
    pub anon: u64,
    /// Open file descriptors.
    pub fds: usize,
    /// Threads.
    pub threads: u64,
    /// Bytes in the send queues of its TCP connections, and of those that it has closed.
    pub unsent: u64,
    /// Bytes in their receive queues.
    pub unread: u64,
    /// What the API says: streams, connections, pulls, legs, and bytes in media logs.
    pub streams: usize,
    /// See there.
    pub connections: usize,
    /// See there.
    pub pulls: usize,
    /// See there.
    pub legs: usize,
    /// See there.
    pub log: u64,
}

impl Figures {
    /// Names of what [`Self::row`] shows.
    pub const HEAD: &str = "     s round        RSS MiB  anon  log MiB  fds threads  conns streams pulls legs  \
         unsent KiB unread KiB";

    /// Reads them. `peers`: ports that the server connects to.
    pub fn take(server: &Server, peers: &[u16]) -> Result<Self> {
        let pid = server.process.id();
        // Before the API is asked: its connection is a file as well.
        let fds = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        let status: Snapshot = http::get_json(server.api, "/api/v1/status")?;
        let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let (unsent, unread) = queues(&fs::read_to_string("/proc/net/tcp")?, server.port, peers);
        Ok(Self {
            rss: field(&text, "VmRSS:")? << 10,
            anon: field(&text, "RssAnon:")? << 10,
            fds,
            threads: field(&text, "Threads:")?,
            unsent,
            unread,
            streams: status.streams.len(),
            connections: status.connections,
            pulls: status.pulls.len(),
            legs: status.legs.len(),
            log: status.streams.iter().map(|stream| stream.log_bytes).sum(),
        })
    }

    /// Whether nobody is there and nothing of anybody is left.
    pub fn is_empty(&self) -> bool {
        let left = self.streams + self.connections + self.pulls + self.legs;
        left == 0 && self.unsent == 0 && self.unread == 0
    }

    /// For people.
    pub fn row(&self, at: u64, round: u32, what: &str) -> String {
        let mib = |bytes: u64| float(bytes) / 1_048_576.0;
        format!(
            "{at:>6} {round:>5} {what:<4} {:>10.1} {:>5.1} {:>8.1} {:>4} {:>7} {:>6} {:>7} {:>5} \
             {:>4} {:>11} {:>10}",
            mib(self.rss),
            mib(self.anon),
            mib(self.log),
            self.fds,
            self.threads,
            self.connections,
            self.streams,
            self.pulls,
            self.legs,
            self.unsent >> 10,
            self.unread >> 10,
        )
    }
}

fn field(status: &str, name: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let word = line.and_then(|line| line.split_whitespace().next());
    Ok(word.with_context(|| format!("no {name} in /proc/PID/status"))?.parse()?)
}

/// Bytes in send and receive queues (tcp(5), `/proc/net/tcp`) of connections to `port` at our end,
/// and of those to `peers` at the other. Listeners have connections in these columns.
fn queues(table: &str, port: u16, peers: &[u16]) -> (u64, u64) {
    const LISTEN: &str = "0A";
    let at = |address: &str| u16::from_str_radix(address.rsplit(':').next()?, 16).ok();
    let mut sum = (0, 0);
    for line in table.lines().skip(1) {
        let mut words = line.split_whitespace().skip(1);
        let mut word = || words.next().unwrap_or_default();
        let (local, remote, state, queued) = (at(word()), at(word()), word(), word());
        let is_ours = local == Some(port) || remote.is_some_and(|port| peers.contains(&port));
        if !is_ours || state == LISTEN {
            continue;
        }
        let (unsent, unread) = queued.split_once(':').unwrap_or_default();
        sum.0 += u64::from_str_radix(unsent, 16).unwrap_or_default();
        sum.1 += u64::from_str_radix(unread, 16).unwrap_or_default();
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_of_a_server_are_told_from_those_of_others() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when\n\
             0: 00000000:078F 00000000:0000 0A 00000000:00000007 00:00000000 00000000 0 0 1\n\
             1: 0100007F:078F 0100007F:C000 01 00000010:00000001 00:00000000 00000000 0 0 2\n\
             2: 0100007F:C000 0100007F:078F 01 00000100:00000100 00:00000000 00000000 0 0 3\n\
             3: 0100007F:C001 0100007F:0790 04 00001000:00000000 00:00000000 00000000 0 0 0\n";
        assert_eq!(queues(table, 0x78f, &[0x790]), (0x1010, 1));
    }
}
