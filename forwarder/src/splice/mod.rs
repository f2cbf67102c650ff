//! 1:1 legs: the bytes of one connection go to another, unchanged.
//!
//! Two paths carry a [`Leg`]. In the kernel, the sockmap program moves bytes from one socket to the
//! other without a copy to user space; in user space, they are read and written. The second is
//! complete on its own: whoever may not or cannot use the first learns [`WhyNot`], and a leg comes
//! back to user space whenever the kernel does not pay, or its target is slow, as the kernel path
//! has no backpressure.
//!
//! ```text
//!  Leg ── relay    read, write; splice(2) for large reads
//!   │ └── kernel   the pair in the kernel
//!   │       ├── reports   who is told of limits, and the limit of all legs together
//!   │       ├── barrier   taking a source out when nobody can be parsing it
//!   │       └── program, btf, batch, socket   the sockmap program, its maps, TCP's counters
//!   ├── choice     which of the two
//!   └── walk       where in RTMP's chunks the bytes stand
//! ```
//!
//! This folder is the only one that knows how the kernel is spoken to.

mod barrier;
mod batch;
mod btf;
mod choice;
mod kernel;
mod leg;
mod program;
mod relay;
mod reports;
mod selftest;
#[doc(hidden)]
pub mod soak;
mod socket;
mod stall;
mod walk;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use nix::libc;
use thiserror::Error;

pub use leg::{Leg, closed};
pub use socket::TcpCounters;
pub use walk::Walk;

use crate::privilege;
use kernel::KernelSplice;

/// How 1:1 legs of this process are carried: decided once at start, latched off at run time if the
/// kernel is ever seen to miscount.
#[derive(Debug)]
pub struct Splice {
    mode: Mode,
    path: Path,
}

/// When the kernel carries legs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Where it pays: legs that carry no more than can be held up in time.
    #[default]
    Auto,
    /// Wherever it can.
    Always,
    /// Not at all.
    Never,
}

#[derive(Debug)]
enum Path {
    Kernel(Arc<KernelSplice>),
    User(WhyNot),
}

/// What a [`Leg`] needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegOptions {
    /// Chunk size in force in what the source sends next, bytes.
    pub chunk_size: u32,
    /// Whether [`Leg::open`] shall know where the chunks stand. It costs: every byte passes user
    /// space, or has its chunk headers read in the kernel.
    pub walk: bool,
    /// In the kernel: bytes that the target has not acknowledged above which the leg comes back to
    /// user space, where the source is held up; 0 is none.
    pub soft_limit: usize,
    /// In the kernel: bytes that the target has not acknowledged that are never exceeded, the leg
    /// ends instead; 0 is none.
    pub hard_limit: usize,
    /// How long the target may take nothing.
    pub write_timeout: Duration,
}

/// Why a leg moves no more.
#[derive(Debug)]
pub enum Ended {
    /// The source sent its FIN (`None`) or failed. All it sent is with the target.
    Source(Option<io::Error>),
    /// The target closed (`None`), failed, or was not given all bytes.
    Target(Option<io::Error>),
    /// The target took nothing for [`LegOptions::write_timeout`].
    Stuck,
    /// Over [`LegOptions::hard_limit`]: bytes are lost.
    OverLimit,
}

/// Which path carries a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum LegPath {
    Kernel,
    User,
}

/// Figures of a [`Leg`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegStatus {
    /// Where it is carried at the moment.
    pub path: LegPath,
    /// Bytes taken from the source.
    pub bytes: u64,
    /// Bytes that wait: read or redirected, and not acknowledged by the target's peer; with those
    /// that the target was given before the leg began.
    pub backlog: u64,
    /// How often it has come back from the kernel.
    pub unsplices: u64,
    /// How often because the target was slow.
    pub overs: u64,
    /// Bytes that the kernel carried, of [`Self::bytes`].
    pub redirected: u64,
}

impl Splice {
    /// Loads the kernel program and tests it. Never fails: what is missing is said by
    /// [`Self::describe`].
    pub fn start(mode: Mode) -> Self {
        let path = match mode {
            Mode::Never => Path::User(WhyNot::Disabled),
            Mode::Auto | Mode::Always => match KernelSplice::start() {
                Ok(kernel) => Path::Kernel(Arc::new(kernel)),
                Err(why) => Path::User(why),
            },
        };
        Self { mode, path }
    }

    /// One that uses user space only.
    pub fn user(why: WhyNot) -> Self {
        Self { mode: Mode::Never, path: Path::User(why) }
    }

    /// `kernel`, or `user` and the reason.
    pub fn describe(&self) -> String {
        match self.why_not() {
            None => "kernel".to_owned(),
            Some(why) => format!("user ({why})"),
        }
    }

    /// Why the kernel carries nothing, if so.
    pub fn why_not(&self) -> Option<&WhyNot> {
        match &self.path {
            Path::Kernel(kernel) => kernel.reports().revoked(),
            Path::User(why) => Some(why),
        }
    }

    /// Has legs come back from the kernel while it holds more than `bytes` for all of them, those
    /// that it holds most for first; 0 is no limit.
    ///
    /// It is looked at every 0.1 s, so what comes in the meantime and until the legs are back is on
    /// top.
    pub fn limit_backlog(&self, bytes: usize) {
        if let Path::Kernel(kernel) = &self.path {
            kernel.reports().set_limit(bytes as u64);
        }
    }

    /// Bytes that the kernel held for all legs at the last look, at most: redirected and not
    /// acknowledged. `None` if it carries none.
    pub fn backlog(&self) -> Option<u64> {
        match &self.path {
            Path::Kernel(kernel) => Some(kernel.reports().held()),
            Path::User(_) => None,
        }
    }

    /// Pairs that the kernel's maps have something of; 0 where there are none.
    ///
    /// Errors: the maps cannot be read.
    #[doc(hidden)]
    pub fn pairs(&self) -> io::Result<usize> {
        match &self.path {
            Path::Kernel(kernel) => kernel.pairs(),
            Path::User(_) => Ok(0),
        }
    }

    fn mode(&self) -> Mode {
        self.mode
    }

    /// The kernel path, if it may be used.
    fn kernel(&self) -> Option<&Arc<KernelSplice>> {
        match &self.path {
            Path::Kernel(kernel) if kernel.reports().revoked().is_none() => Some(kernel),
            _ => None,
        }
    }

    /// Ends the use of the kernel for good: all legs are called back to user space.
    fn revoke(&self, seen: String) {
        if let Path::Kernel(kernel) = &self.path {
            kernel.reports().revoke(seen);
        }
    }
}

/// Makes this a thread of our own that others wait for: woken before those who move bytes, where
/// that is permitted (CAP_SYS_NICE), and without capabilities, as it has its own and needs none.
fn become_helper() {
    // SAFETY: numbers only; 0 is the calling thread.
    let nice = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, MOST_URGENT) };
    if nice != 0 {
        tracing::debug!("a thread of the kernel path is as urgent as all others");
    }
    // A kernel that refuses this leaves them to a thread that hears nothing from outside.
    _ = privilege::give_up();
}

/// The least `nice` there is.
const MOST_URGENT: libc::c_int = -20;

/// Why legs are carried in user space.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WhyNot {
    /// The configuration says so.
    #[error("disabled")]
    Disabled,
    /// The binary was built without the kernel program.
    #[error("built without the kernel program")]
    NotBuilt,
    /// The process lacks CAP_BPF, CAP_NET_ADMIN or CAP_PERFMON, or the system forbids it.
    #[error("not permitted: needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")]
    NotPermitted,
    /// The kernel lacks something, and what.
    #[error("not supported: {0}")]
    NotSupported(String),
    /// The kernel has it but moves bytes wrongly, and what was seen.
    #[error("self-test failed: {0}")]
    SelfTestFailed(String),
    /// It was in use until something was seen that must not be.
    #[error("revoked: {0}")]
    Revoked(String),
}
