//! What the process needs of its system: descriptors, a pid file.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::time::TimeVal;
use nix::unistd::{SysconfVar, sysconf};
use tracing::warn;

use crate::status::ProcessStatus;

/// Descriptors that are not RTMP connections: listeners, the API, forwards, epoll.
const OTHER_DESCRIPTORS: u64 = 128;

/// Raises the descriptor limit as far as it goes, and says how many of the `wanted` connections
/// fit under it.
pub(super) fn fit_connections(wanted: usize) -> anyhow::Result<usize> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("RLIMIT_NOFILE")?;
    let needed = (wanted as u64).saturating_add(OTHER_DESCRIPTORS);
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("RLIMIT_NOFILE")?;
    }
    if needed <= hard {
        return Ok(wanted);
    }
    let fit = hard.saturating_sub(OTHER_DESCRIPTORS);
    if fit == 0 {
        bail!("no descriptors for connections: the limit is {hard}; raise LimitNOFILE (ulimit -n)");
    }
    warn!(
        max_connections = wanted,
        limit = hard,
        fit,
        "max_connections is more than the descriptor limit allows; raise LimitNOFILE (ulimit -n)"
    );
    Ok(usize::try_from(fit).unwrap_or(wanted))
}

/// What this process takes of its system. Asks files of /proc: for threads that may block.
///
/// What cannot be read is 0.
pub(super) fn usage() -> ProcessStatus {
    let cpu = getrusage(UsageWho::RUSAGE_SELF).map_or(0.0, |usage| {
        let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        seconds(usage.user_time()) + seconds(usage.system_time())
    });
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|n| u64::try_from(n).ok());
    ProcessStatus {
        cpu_s: cpu,
        resident_bytes: pages.unwrap_or(0) * page.unwrap_or(0),
        open_fds: open_fds(),
        max_fds: getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft),
        started_s: started_s().unwrap_or(0.0),
    }
}

fn open_fds() -> u64 {
    const FDS: &str = "/proc/self/fd";
    // Linux 6.2 says how many as the size of the folder; before it was 0 for all of /proc.
    match std::fs::metadata(FDS) {
        Ok(folder) if folder.len() > 0 => folder.len(),
        _ => std::fs::read_dir(FDS).map_or(0, |all| all.count() as u64),
    }
}

/// When the process began, seconds since 1970, to a hundredth.
fn started_s() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // proc(5): field 22, in ticks since boot; the name in parentheses may hold anything.
    let ticks: f64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let per_second = sysconf(SysconfVar::CLK_TCK).ok()?? as f64;
    let system = std::fs::read_to_string("/proc/stat").ok()?;
    let boot = system.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(boot.trim().parse::<f64>().ok()? + ticks / per_second)
}

/// A locked file with our process id; removed on drop.
pub(super) struct PidFile {
    path: PathBuf,
    _lock: Flock<File>,
}

impl PidFile {
    /// Fails if another process holds it.
    pub(super) fn lock(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).with_context(|| format!("pid file {shown}"))?;
        }
        let file = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .mode(0o644)
            .open(path)
            .with_context(|| format!("pid file {shown}"))?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, nix::Error::EWOULDBLOCK)) => {
                bail!("pid file {shown}: locked, another server runs with it");
            }
            Err((_, error)) => bail!("pid file {shown}: {error}"),
        };
        lock.set_len(0).and_then(|()| writeln!(&*lock, "{}", std::process::id()))?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Gone already, or not ours to remove any more: nothing to do about either.
        _ = std::fs::remove_file(&self.path);
    }
}
