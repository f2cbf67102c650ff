//! Edges whose players and publishers have legs, on each path that carries legs here.
use std::net::SocketAddr;
use std::process::Command;
use std::sync::OnceLock;

use forwarder::status::LegStatus;

use super::server::{Server, Setup};
use super::{seconds, wait_until};

/// Where legs can be carried here: the top-level `kernel` that asks for it, and what `status` says.
pub fn paths() -> Vec<(&'static str, &'static str)> {
    static WHY_NOT: OnceLock<Option<String>> = OnceLock::new();
    let why_not = WHY_NOT.get_or_init(|| {
        let doctor = Command::new(env!("CARGO_BIN_EXE_forwarder")).arg("doctor").output();
        let doctor = doctor.expect("forwarder doctor");
        let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
        let splice = said.lines().find_map(|line| line.strip_prefix("splice: "));
        splice.filter(|splice| *splice != "kernel").map(str::to_owned)
    });
    let all = [("never", "user"), ("always", "kernel")];
    match why_not {
        None => all.into(),
        Some(why) => {
            println!("skipped: legs in the kernel: {why}");
            all[..1].into()
        }
    }
}

/// An edge whose players and publishers all have legs.
pub fn edge_of(origins: &[SocketAddr], kernel: &str) -> Setup {
    Setup::new().global(&format!("kernel = \"{kernel}\"")).edge_of(origins).splice("always")
}

/// Waits until there are `n` legs, each with an origin.
#[track_caller]
pub fn wait_legs(edge: &Server, n: usize) {
    wait_until(&format!("{n} legs"), seconds(15), || {
        let legs = edge.status().legs;
        legs.len() == n && legs.iter().all(|leg| !leg.origin.is_empty())
    });
}

/// The publishers' legs.
#[track_caller]
pub fn publishers(edge: &Server) -> Vec<LegStatus> {
    edge.status().legs.into_iter().filter(|leg| leg.kind == "publish").collect()
}

/// Waits until the only publisher has a leg on `path` that moves bytes, and gives it.
#[track_caller]
pub fn wait_carried(edge: &Server, path: &str) -> LegStatus {
    let mut seen: Option<LegStatus> = None;
    wait_until(&format!("a publisher's leg ({path}) moves bytes"), seconds(15), || {
        let mut legs = publishers(edge);
        if legs.len() != 1 || legs[0].path != path {
            return false;
        }
        let before = seen.replace(legs.remove(0)).map(|leg| leg.bytes);
        before.is_some_and(|before| seen.as_ref().is_some_and(|leg| leg.bytes > before))
    });
    seen.expect("a leg")
}

/// Waits until no publisher has a leg.
#[track_caller]
pub fn wait_no_publisher(edge: &Server) {
    wait_until("no publisher's leg is left", seconds(10), || publishers(edge).is_empty());
}
