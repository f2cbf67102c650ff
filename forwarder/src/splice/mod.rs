//! 1:1 legs that the kernel carries: from one socket to another without a copy to user space.
//!
//! `program` loads the sockmap program and fills its maps, `btf` finds the kernel fields that it
//! reads, `socket` asks and nudges TCP. Nothing depends on this path: whoever may not or cannot
//! use it learns [`WhyNot`], and carries the bytes itself.
//!
//! This folder is the only one that knows how the kernel is spoken to.

pub mod btf;
pub mod program;
pub mod socket;

#[cfg(test)]
mod tests;

use thiserror::Error;

pub use program::{Event, EventKind, Events, Pair, PairLimits, SpliceProgram};

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
