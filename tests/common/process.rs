//! Child processes that do not outlive their test and tell what they said when it fails.
use std::fs::File;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Resident memory of the process `pid`, bytes.
#[track_caller]
pub fn resident(pid: u32) -> u64 {
    memory(pid, "VmRSS:")
}

/// Bytes of memory of its own, without its code, that a process has in RAM.
pub fn anonymous(pid: u32) -> u64 {
    memory(pid, "RssAnon:")
}

fn memory(pid: u32, of: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix(of)).expect("a kind of memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// A line of /proc/net/tcp (IPv4 alone): ports of both ends, bytes not acknowledged by the peer, and
/// not read by us.
struct Queues {
    local: u16,
    remote: u16,
    unacknowledged: u64,
    unread: u64,
}

fn queues() -> Vec<Queues> {
    // `sl local_address rem_address st tx_queue:rx_queue ...`, addresses as `0100007F:0050`
    let parse = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let port = |at: usize| u16::from_str_radix(words.get(at)?.split_once(':')?.1, 16).ok();
        let (sent, received) = words.get(4)?.split_once(':')?;
        let bytes = |hex: &str| u64::from_str_radix(hex, 16).ok();
        Some(Queues {
            local: port(1)?,
            remote: port(2)?,
            unacknowledged: bytes(sent)?,
            unread: bytes(received)?,
        })
    };
    let all = std::fs::read_to_string("/proc/net/tcp").expect("sockets");
    all.lines().filter_map(parse).collect()
}

/// What waits in the kernel's TCP queues of all connections to and from `servers`, bytes.
#[track_caller]
pub fn queued(servers: &[SocketAddr]) -> u64 {
    let ours =
        |of: &Queues| servers.iter().any(|server| [of.local, of.remote].contains(&server.port()));
    queues().iter().filter(|of| ours(of)).map(|of| of.unacknowledged + of.unread).sum()
}

/// What `local` has sent to `remote`, or is to send, and is not acknowledged, bytes.
pub fn unacknowledged(local: SocketAddr, remote: SocketAddr) -> u64 {
    let ends = (local.port(), remote.port());
    let is_it = |of: &&Queues| (of.local, of.remote) == ends;
    queues().iter().find(is_it).map_or(0, |of| of.unacknowledged)
}

/// Bytes that each connection of `server` has not read, and its other end.
pub fn unread(server: SocketAddr) -> Vec<(u64, SocketAddr)> {
    let is_ours = |of: &Queues| of.local == server.port() && of.remote != 0;
    let ends = queues().into_iter().filter(is_ours);
    ends.map(|of| (of.unread, SocketAddr::new(server.ip(), of.remote))).collect()
}

/// Our xtask: of another package, so cargo has not made it for a test.
pub fn xtask() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let mut build = Command::new(env!("CARGO"));
        let built = build.args(["build", "--quiet", "--package", "xtask"]).status();
        assert!(built.expect("cargo").success(), "xtask cannot be built");
        // From deps of whatever profile this is to the profile that was built.
        let test = std::env::current_exe().expect("the path of this test");
        test.ancestors().nth(3).expect("the folder of profiles").join("debug/xtask")
    })
}

/// A running program; killed on drop.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    exit: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` with both outputs going to a log file in `dir`.
    ///
    /// `install`: what to install when the program is missing.
    #[track_caller]
    pub fn spawn(dir: &Path, name: &str, install: &str, command: &mut Command) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let log = dir.join(format!("{name}.{}.log", COUNT.fetch_add(1, Ordering::Relaxed)));
        let out = File::create(&log).expect("log file");
        let err = out.try_clone().expect("log file");
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child = child.unwrap_or_else(|error| match error.kind() {
            ErrorKind::NotFound => panic!("{name}: install {install} (cargo xtask test does)"),
            _ => panic!("{name} does not start: {error}"),
        });
        Self { name: name.to_owned(), child, log, exit: None }
    }

    /// Sends a signal to this process only.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), signal).expect("signal");
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        if self.exit.is_none() {
            self.exit = self.child.try_wait().expect("wait");
        }
        self.exit
    }

    /// Waits for its end; panics when that takes longer.
    #[track_caller]
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.try_wait() {
                return status;
            }
            assert!(start.elapsed() < within, "{} still runs after {within:?}", self.name);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for its end and panics unless it succeeded.
    #[track_caller]
    pub fn succeed(&mut self, within: Duration) {
        let status = self.wait(within);
        assert!(status.success(), "{}: {status}\n{}", self.name, self.log());
    }

    /// Kills it at once and waits until it is gone.
    pub fn kill(&mut self) {
        if self.try_wait().is_none() {
            self.child.kill().expect("kill");
            self.exit = Some(self.child.wait().expect("wait"));
        }
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let status = self.try_wait();
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(60)..].join("\n");
            eprintln!("---- {} ({status:?}) ----\n{tail}", self.name);
        }
    }
}
