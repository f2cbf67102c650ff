//! What the process needs of its system: descriptors, a pid file.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::warn;

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
