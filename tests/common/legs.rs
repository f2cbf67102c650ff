//! Legs of an edge: where they can be carried here, and where they are.
use std::net::SocketAddr;
use std::process::Command;

use forwarder::status::LegStatus;

use super::server::{Server, Setup};
use super::{seconds, wait_until};

/// Where legs can be carried here: the top-level `kernel` that asks for it, and what `status` says.
pub fn paths() -> Vec<(&'static str, &'static str)> {
    let doctor = Command::new(env!("CARGO_BIN_EXE_forwarder")).arg("doctor").output();
    let doctor = doctor.expect("forwarder doctor");
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    let kernel = said.lines().any(|line| line == "splice: kernel");
    let all = [("never", "user"), ("always", "kernel")];
    all.into_iter().take(if kernel { 2 } else { 1 }).collect()
}

/// An edge whose players and publishers all have legs.
pub fn edge_of(origins: &[SocketAddr], kernel: &str) -> Setup {
    Setup::new().global(&format!("kernel = \"{kernel}\"")).edge_of(origins).splice("always")
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
