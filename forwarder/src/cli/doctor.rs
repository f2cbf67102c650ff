//! `forwarder doctor`
use std::fmt::Write as _;
use std::time::Instant;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use super::{Failure, say};
use crate::privilege;
use crate::splice::{Mode, Splice, WhyNot};

/// Say which path 1:1 legs would take on this machine, and why
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

/// Exit code 0 if the kernel would carry legs, 1 if not.
pub(super) fn run(_: &Args) -> Result<(), Failure> {
    let began = Instant::now();
    let splice = Splice::start(Mode::Auto);
    let took = began.elapsed().as_millis();
    let why = splice.why_not();
    let mut text = machine();
    match why {
        None => _ = writeln!(text, "self-test: passed ({took} ms)"),
        Some(WhyNot::SelfTestFailed(seen)) => _ = writeln!(text, "self-test: failed: {seen}"),
        Some(_) => _ = writeln!(text, "self-test: not run"),
    }
    _ = writeln!(text, "splice: {}", splice.describe());
    if let Some(mend) = why.and_then(mend) {
        _ = writeln!(text, "mend: {mend}");
    }
    say(&text);
    if why.is_none() { Ok(()) } else { Err(Failure::Refused) }
}

/// What the kernel path depends on, a line each.
fn machine() -> String {
    let mut text = String::new();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
    let release = release.map_or_else(|error| error.to_string(), |text| text.trim().to_owned());
    _ = writeln!(text, "kernel: {release} (the kernel path needs 5.17 or later)");
    let btf = match std::fs::File::open(BTF) {
        Ok(_) => "readable".to_owned(),
        Err(error) => error.to_string(),
    };
    _ = writeln!(text, "btf: {BTF}: {btf}");
    let held = privilege::FOR_SPLICE.map(|(capability, name)| {
        format!("{name} {}", if privilege::has(capability) { "yes" } else { "no" })
    });
    _ = writeln!(text, "capabilities: {}", held.join(", "));
    _ = writeln!(text, "nofile: {}", limit(Resource::RLIMIT_NOFILE));
    _ = writeln!(text, "memlock: {} (of no matter from 5.11)", limit(Resource::RLIMIT_MEMLOCK));
    text
}

fn limit(resource: Resource) -> String {
    let show = |n: u64| if n == RLIM_INFINITY { "unlimited".into() } else { n.to_string() };
    match getrlimit(resource) {
        Ok((soft, hard)) => format!("{}, at most {}", show(soft), show(hard)),
        Err(error) => error.to_string(),
    }
}

/// How to get the kernel path.
fn mend(why: &WhyNot) -> Option<&'static str> {
    match why {
        WhyNot::NotBuilt => Some("`cargo xtask ebpf`, then build forwarder again"),
        WhyNot::NotPermitted => Some(
            "run as root, or give it the three: systemd's AmbientCapabilities=CAP_BPF \
             CAP_NET_ADMIN CAP_PERFMON, or setcap cap_bpf,cap_net_admin,cap_perfmon+ep",
        ),
        WhyNot::NotSupported(_) => Some("a kernel of 5.17 or later with BTF, outside a sandbox"),
        WhyNot::SelfTestFailed(_) => Some("another kernel; this one moves bytes wrongly"),
        _ => None,
    }
}

const BTF: &str = "/sys/kernel/btf/vmlinux";
