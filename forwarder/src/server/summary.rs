//! The summaries of SRS's API: this process and its host, as files of /proc have them.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::process;
use crate::status::Snapshot;
use crate::status::srs::{Summary, SummaryProcess, SummarySystem};

/// Shares of processor time are not taken over less.
const LEAST: Duration = Duration::from_secs(3);

/// Remembers what shares of processor time are taken from.
#[derive(Debug, Default)]
pub(super) struct Summaries(Mutex<Option<Look>>);

/// At the processors.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    own_s: f64,
    busy: f64,
    all: f64,
    own_share: f64,
    share: f64,
}

impl Summaries {
    /// All figures now. May block.
    pub(super) fn look(&self, snapshot: &Snapshot) -> Summary {
        let usage = process::usage();
        let (mut system, sound) = system(snapshot);
        let look = self.processors(usage.cpu_s, snapshot.uptime_s);
        system.cpu_percent = look.share;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        (system.net_sample_time, system.srs_sample_time) = (now_ms, now_ms);
        let mem_kbyte = usage.resident_bytes >> 10;
        let own = SummaryProcess {
            version: snapshot.version.clone(),
            pid: snapshot.pid,
            ppid: std::os::unix::process::parent_id(),
            argv: argv(),
            cwd: std::env::current_dir().map(|dir| dir.display().to_string()).unwrap_or_default(),
            mem_kbyte,
            mem_percent: share(mem_kbyte, system.mem_ram_kbyte),
            cpu_percent: look.own_share,
            srs_uptime: snapshot.uptime_s,
        };
        Summary { ok: sound, now_ms, own, system }
    }

    fn processors(&self, own_s: f64, uptime_s: u64) -> Look {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, (busy, all)) = (Instant::now(), ticks());
        let before = last.unwrap_or(Look {
            at: now.checked_sub(Duration::from_secs(uptime_s.max(1))).unwrap_or(now),
            own_s: 0.0,
            busy: 0.0,
            all: 0.0,
            own_share: 0.0,
            share: 0.0,
        });
        let elapsed = before.at.elapsed();
        if last.is_some() && elapsed < LEAST {
            return before;
        }
        let look = Look {
            at: Instant::now(),
            own_s,
            busy,
            all,
            own_share: (own_s - before.own_s) / elapsed.as_secs_f64().max(1.0),
            share: (busy - before.busy) / (all - before.all).max(1.0),
        };
        *last = Some(look);
        look
    }
}

/// The command line; `std::env::args` would panic over a path that is not UTF-8.
fn argv() -> String {
    let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    words.collect::<Vec<_>>().join(" ")
}

/// What /proc says of the host, and whether all of it could be read.
fn system(snapshot: &Snapshot) -> (SummarySystem, bool) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (memory, load, uptime) =
        (read("/proc/meminfo"), read("/proc/loadavg"), read("/proc/uptime"));
    let sockets = read("/proc/net/sockstat");
    let kbyte = |name: &str| {
        let line = memory.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    let number = |text: &str, at: usize| -> f64 {
        text.split_whitespace().nth(at).and_then(|word| word.parse().ok()).unwrap_or(0.0)
    };
    // `TCP: inuse 5 orphan 0 tw 2 ...`
    let socket = |protocol: &str, name: &str| -> u64 {
        let line = sockets.lines().find_map(|line| line.strip_prefix(protocol)).unwrap_or_default();
        let mut words = line.split_whitespace().skip_while(|word| *word != name);
        words.nth(1).and_then(|word| word.parse().ok()).unwrap_or(0)
    };
    let (ram, free) = (kbyte("MemTotal"), kbyte("MemAvailable"));
    let (swap, swap_free) = (kbyte("SwapTotal"), kbyte("SwapFree"));
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let (received, sent, inner_received, inner_sent) = interfaces(&read("/proc/net/dev"));
    let system = SummarySystem {
        mem_ram_kbyte: ram,
        mem_ram_percent: share(ram.saturating_sub(free), ram),
        mem_swap_kbyte: swap,
        mem_swap_percent: share(swap.saturating_sub(swap_free), swap),
        cpus,
        cpus_online: cpus,
        uptime: number(&uptime, 0),
        ilde_time: number(&uptime, 1),
        load_1m: number(&load, 0),
        load_5m: number(&load, 1),
        load_15m: number(&load, 2),
        net_recv_bytes: received,
        net_send_bytes: sent,
        net_recvi_bytes: inner_received,
        net_sendi_bytes: inner_sent,
        srs_recv_bytes: snapshot.totals.received_bytes,
        srs_send_bytes: snapshot.totals.sent_bytes,
        conn_sys: socket("TCP:", "inuse") + socket("TCP:", "tw") + socket("UDP:", "inuse"),
        conn_sys_et: socket("TCP:", "inuse"),
        conn_sys_tw: socket("TCP:", "tw"),
        conn_sys_udp: socket("UDP:", "inuse"),
        conn_srs: snapshot.connections as u64,
        ..SummarySystem::default()
    };
    (system, ![memory, load, uptime].iter().any(String::is_empty))
}

/// Bytes received and sent by all interfaces but loopback, and by that.
fn interfaces(dev: &str) -> (u64, u64, u64, u64) {
    let mut sums = (0, 0, 0, 0);
    for (name, figures) in dev.lines().filter_map(|line| line.split_once(':')) {
        let figure = |at: usize| -> u64 {
            figures.split_whitespace().nth(at).and_then(|word| word.parse().ok()).unwrap_or(0)
        };
        // proc(5): eight figures of what is received, then those of what is sent
        let (received, sent) = (figure(0), figure(8));
        match name.trim() {
            "lo" => sums = (sums.0, sums.1, sums.2 + received, sums.3 + sent),
            _ => sums = (sums.0 + received, sums.1 + sent, sums.2, sums.3),
        }
    }
    sums
}

/// Ticks that all processors were busy, and all.
fn ticks() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<f64> =
        line.split_whitespace().skip(1).take(8).filter_map(|word| word.parse().ok()).collect();
    // proc(5): user nice system idle iowait irq softirq steal
    let idle: f64 = ticks.iter().skip(3).take(2).sum();
    let all: f64 = ticks.iter().sum();
    (all - idle, all)
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_told_apart() {
        let dev = "Inter-|   Receive  |  Transmit\n face |bytes packets\n\
                   lo: 10 1 0 0 0 0 0 0 20 1 0 0 0 0 0 0\neth0:3 1 0 0 0 0 0 0 4 1 0 0 0 0 0 0\n";
        assert_eq!(interfaces(dev), (3, 4, 10, 20));
    }

    #[test]
    fn this_host_can_be_read() {
        let summary = Summaries::default().look(&Snapshot { uptime_s: 9, ..Snapshot::default() });
        assert!(summary.ok && summary.own.mem_kbyte > 0, "{summary:?}");
        assert!((0.0..=1.0).contains(&summary.system.cpu_percent), "{summary:?}");
        assert!(summary.system.mem_ram_kbyte > 0 && summary.system.uptime > 0.0, "{summary:?}");
    }
}
