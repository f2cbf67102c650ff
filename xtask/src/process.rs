//! Children: started in their own process group, stopped by pid, never left behind.
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// How long a child may take to stop before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// A running child that is stopped when dropped.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output in `log`, on `core` if one is given.
    pub fn start(
        name: &str,
        mut command: Command,
        log: &Path,
        core: Option<usize>,
    ) -> Result<Self> {
        if let Some(folder) = log.parent() {
            fs::create_dir_all(folder)?;
        }
        let out = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).process_group(0);
        // The child inherits the affinity of the thread that starts it.
        let spawn = move || -> Result<Child> {
            if let Some(core) = core {
                pin(core)?;
            }
            let program = command.get_program().to_string_lossy().into_owned();
            command.spawn().with_context(|| format!("cannot start {program}"))
        };
        let child = thread::spawn(spawn).join().ok().context("a starting thread panicked")??;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// An error with the end of its log when it has exited.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} has exited: {status}\n{}", self.name, self.log_tail());
        }
        Ok(())
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(20)..].join("\n    ");
        format!("end of {}:\n    {tail}", self.log.display())
    }

    /// Processor time used so far: user, system.
    pub fn cpu(&self) -> Result<(Duration, Duration)> {
        cpu(&self.id().to_string())
    }

    /// Resident memory, bytes.
    pub fn rss(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).context("no VmRSS")?;
        Ok(kib.trim().parse::<u64>()? << 10)
    }

    /// Asks it to stop, as Ctrl-C would.
    pub fn interrupt(&self) {
        self.signal(Signal::SIGINT);
    }

    /// Ends it and its children at once, and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL);
        self.child.wait()?;
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        // The group, so that what the child started goes too. It may be gone already.
        let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // INT: all that we start stops at once on it, where TERM may mean to wait for players.
        self.interrupt();
        let deadline = Instant::now() + STOP_WITHIN;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        // Whatever is left of its group, itself included.
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// Processor time used by process `pid` (or `self`): user, system.
pub fn cpu(pid: &str) -> Result<(Duration, Duration)> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat"))?)
}

fn parse_stat(stat: &str) -> Result<(Duration, Duration)> {
    // The name (field 2) is in parentheses and may hold spaces; utime and stime are 14 and 15.
    let (_, fields) = stat.rsplit_once(") ").context("/proc/PID/stat without a name")?;
    let mut fields = fields.split(' ').skip(11);
    let mut ticks = || -> Result<Duration> {
        let ticks: u64 = fields.next().context("/proc/PID/stat is short")?.parse()?;
        // USER_HZ is 100 on every Linux that user space sees.
        Ok(Duration::from_millis(ticks * 10))
    };
    Ok((ticks()?, ticks()?))
}

/// Runs `command` with our terminal and fails unless it succeeds.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    let status = command.status().with_context(|| format!("cannot start {shown}"))?;
    if !status.success() {
        bail!("{shown}: {status}");
    }
    Ok(())
}

/// A command as one would type it.
pub fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Whether `program` is in PATH.
pub fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps nginx in /usr/sbin, which a user's PATH leaves out.
    let extra = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(extra).any(|folder| folder.join(program).is_file())
}

/// Binds the calling thread, and what it starts from now on, to `core`.
pub fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("cannot pin to core {core}"))
}

/// Cores that we may use.
pub fn cores() -> Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|&core| set.is_set(core).unwrap_or(false)).collect())
}

/// Raises the soft limit of open files to the hard one, for us and for children. Gives the limit.
pub fn raise_open_files() -> Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// From now on INT, TERM and HUP are only counted, see [`interrupted`]. HUP comes when the terminal
/// is closed; children in groups of their own do not hear of that and would stay. Under nohup it
/// does nothing, as the user wants.
pub fn catch_interrupt() -> Result<()> {
    static CAUGHT: OnceLock<()> = OnceLock::new();
    if CAUGHT.set(()).is_err() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let hup_ignored = ignores_hup(&fs::read_to_string("/proc/self/status")?);
    thread::spawn(move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let int = signal(SignalKind::interrupt());
            let term = signal(SignalKind::terminate());
            // A handler would undo what nohup has set up.
            let mut hup = if hup_ignored { None } else { signal(SignalKind::hangup()).ok() };
            if let (Ok(mut int), Ok(mut term)) = (int, term) {
                loop {
                    let hangup = async {
                        match &mut hup {
                            Some(hup) => hup.recv().await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! { _ = int.recv() => (), _ = term.recv() => (), _ = hangup => () }
                    INTERRUPTS.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    });
    Ok(())
}

/// Whether a process with this /proc/PID/status ignores HUP, signal 1 and so the lowest bit.
fn ignores_hup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.is_some_and(|mask| mask.trim().ends_with(['1', '3', '5', '7', '9', 'b', 'd', 'f']))
}

static INTERRUPTS: AtomicU32 = AtomicU32::new(0);

/// Whether INT, TERM or HUP has come since [`catch_interrupt`].
pub fn interrupted() -> bool {
    interrupts() > 0
}

/// How often INT, TERM or HUP has come since [`catch_interrupt`].
pub fn interrupts() -> u32 {
    INTERRUPTS.load(Ordering::Relaxed)
}

/// [`interrupted`] as an error.
pub fn check_interrupt() -> Result<()> {
    if interrupted() {
        bail!("interrupted");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_spaces_and_parentheses_in_the_name() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194560 1 0 0 0 150 25 0 0 20 0 1 0 5 1 1";
        let (user, system) = parse_stat(stat).unwrap();
        assert_eq!((user.as_millis(), system.as_millis()), (1500, 250));
        assert!(parse_stat("42 (a) S 1").is_err());
    }

    #[test]
    fn nohup_shows_in_the_status() {
        assert!(ignores_hup("SigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n"));
        assert!(!ignores_hup("SigBlk:\t0000000000000001\nSigIgn:\t0000000000001000\n"));
        assert!(!ignores_hup(""));
    }

    #[test]
    fn dropping_a_process_ends_it_and_its_children() {
        let log = std::env::temp_dir().join(format!("xtask-process-{}.log", std::process::id()));
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & echo $!; wait"]);
        let process = Process::start("sleeper", command, &log, None).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let grandchild = loop {
            let text = fs::read_to_string(&log).unwrap();
            if let Some(pid) = text.strip_suffix('\n') {
                break pid.to_owned();
            }
            assert!(Instant::now() < deadline, "the shell said nothing");
            thread::yield_now();
        };
        drop(process);
        let _ = fs::remove_file(&log);
        // Nobody may reap an orphan in a container, so a zombie is as good as gone.
        loop {
            let stat = fs::read_to_string(format!("/proc/{grandchild}/stat")).unwrap_or_default();
            if stat.is_empty() || stat.contains(") Z ") {
                break;
            }
            assert!(Instant::now() < deadline, "the grandchild lives: {stat}");
            thread::yield_now();
        }
    }

    #[test]
    fn an_early_exit_is_an_error_with_the_log() {
        let log = std::env::temp_dir().join(format!("xtask-exit-{}.log", std::process::id()));
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such file; exit 3"]);
        let mut process = Process::start("server", command, &log, None).unwrap();
        let error = loop {
            match process.check() {
                Ok(()) => thread::yield_now(),
                Err(error) => break error.to_string(),
            }
        };
        let _ = fs::remove_file(&log);
        assert!(error.contains("server has exited") && error.contains("no such file"), "{error}");
    }
}
