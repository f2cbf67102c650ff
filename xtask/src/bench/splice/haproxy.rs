//! HAProxy as a TCP relay, the peer.
use std::fs;
use std::process::Command;

use anyhow::Result;

use crate::process::{self, Process};
use crate::{cluster, packages};

/// Installs it if it is missing and we may; says why not otherwise.
pub fn get() -> Result<(), String> {
    if process::exists(PROGRAM) {
        return Ok(());
    }
    packages::get("the comparison", &[PROGRAM]).map_err(|error| format!("{error:#}"))
}

/// Starts it on `core`: from port `listen` to port `sink`.
pub fn start(listen: u16, sink: u16, legs: usize, core: Option<usize>) -> Result<Process> {
    let folder = cluster::target().join("bench");
    fs::create_dir_all(&folder)?;
    let file = folder.join("haproxy.cfg");
    fs::write(&file, config(listen, sink, legs))?;
    let mut command = Command::new(PROGRAM);
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").args(["-db", "-f"]).arg(&file);
    Process::start(PROGRAM, command, &folder.join("haproxy.log"), core)
}

/// One thread, as ours; it may use splice(2) where it finds that good.
fn config(listen: u16, sink: u16, legs: usize) -> String {
    format!(
        "global\n    nbthread 1\n    maxconn {}\n\
         defaults\n    mode tcp\n    option splice-auto\n    timeout connect 5s\n    \
         timeout client 1m\n    timeout server 1m\n\
         listen relay\n    bind 127.0.0.1:{listen} backlog 4096\n    \
         server sink 127.0.0.1:{sink}\n",
        legs + 100,
    )
}

const PROGRAM: &str = "haproxy";
