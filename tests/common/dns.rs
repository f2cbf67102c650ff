//! A DNS server, dnsmasq, whose records a test changes.
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;

use super::free_address;
use super::process::Process;

/// A running dnsmasq that knows the domain `test`.
pub struct Dns {
    /// Where it answers.
    pub address: SocketAddr,
    hosts: PathBuf,
    command: Vec<String>,
    dir: PathBuf,
    process: Process,
}

impl Dns {
    /// Starts one whose services have these records: name, target, port, priority and weight.
    #[track_caller]
    pub fn start(
        dir: &Path,
        hosts: &[(&str, u8)],
        services: &[(&str, &str, u16, u16, u16)],
    ) -> Self {
        let (address, file) = (free_address(), dir.join("hosts"));
        let mut command: Vec<String> =
            ["-k", "-C", "/dev/null", "-R", "-h", "--bind-interfaces"].map(str::to_owned).to_vec();
        command.push("--listen-address=127.0.0.1".to_owned());
        command.push(format!("--port={}", address.port()));
        command.push(format!("--addn-hosts={}", file.display()));
        // Root has a user that may read nothing of ours.
        command.extend(["--user=root", "--pid-file=", "--local=/test/"].map(str::to_owned));
        for (name, target, port, priority, weight) in services {
            command.push(format!("--srv-host={name},{target},{port},{priority},{weight}"));
        }
        write(&file, hosts);
        let process = spawn(dir, &command);
        Self { address, hosts: file, command, dir: dir.to_owned(), process }
    }

    /// From now on these are all its hosts: the last byte of each address behind 127.0.0.
    pub fn set(&self, hosts: &[(&str, u8)]) {
        write(&self.hosts, hosts);
        self.process.signal(Signal::SIGHUP);
    }

    /// As [`Self::set`], for the next start.
    pub fn set_before_start(&self, hosts: &[(&str, u8)]) {
        write(&self.hosts, hosts);
    }

    /// It answers nothing any more.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// It does again.
    #[track_caller]
    pub fn restart(&mut self) {
        self.process = spawn(&self.dir, &self.command);
    }
}

#[track_caller]
fn spawn(dir: &Path, arguments: &[String]) -> Process {
    let mut command = Command::new("dnsmasq");
    command.args(arguments);
    Process::spawn(dir, "dnsmasq", "dnsmasq-base", &mut command)
}

fn write(file: &Path, hosts: &[(&str, u8)]) {
    let line = |(name, last): &(&str, u8)| format!("{} {name}\n", loopback(*last));
    std::fs::write(file, hosts.iter().map(line).collect::<String>()).expect("hosts");
}

/// 127.0.0.`last`
pub fn loopback(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, last))
}
