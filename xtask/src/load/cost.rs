//! What the load costs itself, and whether it was in its own way.
use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::process;

/// Above this share of a core a thread, or of all its cores the process, is in the way.
const FULL: f64 = 0.90;

/// In less time nothing can be told of shares.
const MIN_WALL: Duration = Duration::from_millis(500);

/// Counters at one moment.
pub struct Cost {
    at: Instant,
    cpu: Duration,
    /// Nanoseconds on a processor, by thread id, with the thread's name.
    threads: HashMap<String, (String, u64)>,
}

/// What was spent between two moments.
#[derive(Clone, Debug)]
pub struct Spent {
    /// Processor time.
    pub cpu: Duration,
    /// Time that passed.
    pub wall: Duration,
    /// The busiest thread, and its share of a core.
    pub busiest: (String, f64),
    /// Cores that we may use.
    pub cores: usize,
}

impl Cost {
    /// Now.
    pub fn now() -> Result<Self> {
        let (user, system) = process::cpu("self")?;
        let mut threads = HashMap::new();
        for task in fs::read_dir("/proc/self/task")? {
            let path = task?.path();
            // It may have ended since.
            let Ok(stat) = fs::read_to_string(path.join("schedstat")) else { continue };
            let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
            let id = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            threads.insert(id, (name.trim().to_owned(), on_cpu(&stat)?));
        }
        Ok(Self { at: Instant::now(), cpu: user + system, threads })
    }

    /// Processor time so far.
    pub fn cpu(&self) -> Duration {
        self.cpu
    }

    /// From this moment until now.
    pub fn spent(&self) -> Result<Spent> {
        let now = Self::now()?;
        let wall = now.at - self.at;
        let of = |(id, (name, ns)): (&String, &(String, u64))| {
            let before = self.threads.get(id).map_or(0, |(_, ns)| *ns);
            let spent = Duration::from_nanos(ns.saturating_sub(before));
            (name.clone(), spent.as_secs_f64() / wall.as_secs_f64().max(1e-9))
        };
        let threads = now.threads.iter().filter(|_| wall >= MIN_WALL);
        let busiest = threads.map(of).max_by(|a, b| a.1.total_cmp(&b.1));
        Ok(Spent {
            cpu: now.cpu.saturating_sub(self.cpu),
            wall,
            busiest: busiest.unwrap_or_default(),
            cores: process::cores()?.len().max(1),
        })
    }
}

impl Spent {
    /// Of one core.
    pub fn share(&self) -> f64 {
        self.cpu.as_secs_f64() / self.wall.as_secs_f64().max(1e-9)
    }

    /// Why the load itself may be the limit, if so.
    pub fn remark(&self) -> Option<String> {
        let cores = super::float(self.cores as u64);
        let (thread, share) = &self.busiest;
        if self.wall < MIN_WALL {
            None
        } else if *share > FULL {
            Some(format!(
                "the load's thread `{thread}` used {:.0} % of a core: it, not the server, may be \
                 the limit",
                share * 100.0
            ))
        } else if self.share() > FULL * cores {
            Some("the load's cores were full: it, not the server, may be the limit".to_owned())
        } else {
            None
        }
    }
}

/// Nanoseconds on a processor, the first field of `schedstat`.
fn on_cpu(schedstat: &str) -> Result<u64> {
    let field = schedstat.split_whitespace().next().context("empty schedstat")?;
    field.parse().context("schedstat is not as expected")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_thread_is_found_by_its_name() {
        let before = Cost::now().unwrap();
        let thread = std::thread::Builder::new().name("busy".to_owned());
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = thread.spawn(move || {
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                std::hint::spin_loop();
            }
        });
        // Other tests are busy too; ours never stops to be.
        while on_cpu_of("busy") < 50_000_000 || before.at.elapsed() < MIN_WALL {
            std::thread::yield_now();
        }
        let spent = before.spent().unwrap();
        drop(stop);
        thread.unwrap().join().unwrap();
        assert!(spent.cpu.as_millis() >= 40 && spent.busiest.1 > 0.0, "{spent:?}");
    }

    fn on_cpu_of(name: &str) -> u64 {
        let threads = Cost::now().unwrap().threads;
        threads.values().filter(|thread| thread.0 == name).map(|thread| thread.1).sum()
    }

    #[test]
    fn a_full_thread_and_full_cores_are_told() {
        let spent = |cpu, share, cores| Spent {
            cpu: Duration::from_millis(cpu),
            wall: Duration::from_secs(1),
            busiest: ("main".to_owned(), share),
            cores,
        };
        assert_eq!(spent(800, 0.8, 1).remark(), None);
        assert_eq!(spent(1700, 0.8, 2).remark(), None);
        let short = Spent { wall: Duration::from_micros(1), ..spent(1, 2.0, 1) };
        assert_eq!(short.remark(), None);
        assert!(spent(950, 0.95, 2).remark().unwrap().contains("`main` used 95 %"));
        assert!(spent(950, 0.5, 1).remark().unwrap().contains("cores were full"));
        assert!(on_cpu("12 3 4\n").is_ok() && on_cpu("").is_err());
    }
}
