//! What the process may do: which capabilities it has, and giving them up.
//!
//! The kernel program is loaded with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON; afterwards its maps
//! are used through their descriptors and need none (Linux 6.18, `unprivileged_bpf_disabled` 2).
//! Capabilities belong to threads: they are given up before the first shard starts.

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};

/// Needed to load the kernel program, with the names users know.
pub const FOR_SPLICE: [(Capability, &str); 3] = [
    (Capability::CAP_BPF, "CAP_BPF"),
    (Capability::CAP_NET_ADMIN, "CAP_NET_ADMIN"),
    (Capability::CAP_PERFMON, "CAP_PERFMON"),
];

/// Kept: listeners are bound after this, and may be below 1024.
const KEPT: Capability = Capability::CAP_NET_BIND_SERVICE;

/// Whether this thread has `capability` in force.
pub fn has(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

/// Gives up every capability but that to bind low ports, for this thread and those it starts.
///
/// Errors: the kernel refused, which it does not do to a thread that gives up its own.
pub fn give_up() -> Result<(), CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = permitted.into_iter().filter(|held| *held == KEPT).collect();
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)
}
