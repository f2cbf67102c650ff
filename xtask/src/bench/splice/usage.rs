//! Processor time: of processes, of the kernel's own threads, of cores.
//!
//! The kernel path moves work from the relay to whoever sends (softirq) and to kernel threads, so
//! the relay's own time says little. Two sums are taken: the time of all threads that a hop can
//! burden, which other work on the machine does not disturb, and the busy time of the cores, which
//! forgets nothing but counts other work too.
use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::{Deserialize, Serialize};

/// Counters at one moment.
pub struct Usage {
    load_ns: u64,
    relay_ns: u64,
    /// By thread.
    kernel_ns: HashMap<String, u64>,
    /// By core, hundredths of a second.
    idle: Vec<u64>,
}

/// Milliseconds spent between two moments.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Spent {
    /// By the process that sends and receives.
    pub load_ms: f64,
    /// By the relay.
    pub relay_ms: f64,
    /// By the kernel's workers and softirq threads, whoever they worked for.
    pub kernel_ms: f64,
    /// By all cores together, on whatever.
    pub busy_ms: f64,
}

impl Spent {
    /// Of all threads that a hop can burden.
    pub fn threads_ms(&self) -> f64 {
        self.load_ms + self.relay_ms + self.kernel_ms
    }
}

impl Usage {
    /// Now; of this process, and of `relay` if there is one.
    pub fn now(relay: Option<u32>) -> Result<Self> {
        let relay_ns = relay.map(process_ns).transpose()?;
        Ok(Self {
            load_ns: own_ns()?,
            relay_ns: relay_ns.unwrap_or_default(),
            kernel_ns: kernel_threads()?,
            idle: idle(&fs::read_to_string("/proc/stat")?)?,
        })
    }

    /// From `earlier` to this moment, `window_ms` later.
    pub fn since(&self, earlier: &Self, window_ms: f64) -> Spent {
        let millis = |ns: u64| float(ns) / 1e6;
        let of_thread = |(thread, ns): (&String, &u64)| {
            ns.saturating_sub(earlier.kernel_ns.get(thread).copied().unwrap_or_default())
        };
        let idle = self.idle.iter().zip(&earlier.idle);
        let busy = idle.map(|(now, then)| window_ms - float(now.saturating_sub(*then)) * 10.0);
        Spent {
            load_ms: millis(self.load_ns.saturating_sub(earlier.load_ns)),
            relay_ms: millis(self.relay_ns.saturating_sub(earlier.relay_ns)),
            kernel_ms: millis(self.kernel_ns.iter().map(of_thread).sum()),
            busy_ms: busy.map(|ms| ms.max(0.0)).sum(),
        }
    }
}

/// Of this process, threads that have ended included.
fn own_ns() -> Result<u64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let spent = [usage.user_time(), usage.system_time()];
    Ok(spent.iter().map(|time| u64::try_from(time.num_microseconds()).unwrap_or(0) * 1000).sum())
}

/// Of all threads of another process, none of which ends.
fn process_ns(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // It may have ended since.
        sum += on_cpu(task?.path()).unwrap_or_default();
    }
    Ok(sum)
}

/// Workers and softirq threads.
fn kernel_threads() -> Result<HashMap<String, u64>> {
    let mut found = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Ok(comm) = fs::read_to_string(entry.path().join("comm")) else { continue };
        if (comm.starts_with("kworker/") || comm.starts_with("ksoftirqd/"))
            && let Ok(ns) = on_cpu(entry.path())
        {
            found.insert(entry.file_name().to_string_lossy().into_owned(), ns);
        }
    }
    Ok(found)
}

/// Nanoseconds on a processor, the first field of `schedstat`.
fn on_cpu(folder: PathBuf) -> Result<u64> {
    let text = fs::read_to_string(folder.join("schedstat"))?;
    Ok(text.split(' ').next().context("empty schedstat")?.trim().parse()?)
}

/// Time not spent, by core, from `/proc/stat`: idle, waiting for disks, taken by the hypervisor.
fn idle(stat: &str) -> Result<Vec<u64>> {
    let cores = stat.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "));
    let of_core = |line: &str| -> Result<u64> {
        let fields: Vec<u64> =
            line.split_whitespace().skip(1).map(str::parse).collect::<Result<_, _>>()?;
        Ok([3, 4, 7].iter().filter_map(|&at| fields.get(at)).sum())
    };
    cores.map(of_core).collect()
}

/// For people.
#[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
pub fn float(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_core_does_not_do_is_idle_wait_and_stolen_time() {
        let stat =
            "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 1 2 3 100 20 4 5 7 0 0\ncpu1 0 0 0 8 0 0 0 0\nintr 5\n";
        assert_eq!(idle(stat).unwrap(), [127, 8]);
        assert!(idle("cpu0 x").is_err());
    }

    #[test]
    fn a_kernel_thread_that_is_new_counts_and_one_that_is_gone_does_not() {
        let usage = |threads: &[(&str, u64)], idle| Usage {
            load_ns: 0,
            relay_ns: 0,
            kernel_ns: threads.iter().map(|(name, ns)| ((*name).to_owned(), *ns)).collect(),
            idle,
        };
        let before = usage(&[("1", 5_000_000), ("2", 9_000_000)], vec![0, 0]);
        let after = usage(&[("1", 6_000_000), ("3", 2_000_000)], vec![100, 40]);
        let spent = after.since(&before, 1000.0);
        assert_eq!((spent.kernel_ms, spent.busy_ms), (3.0, 600.0));
    }
}
