//! Networks of a test's own: namespaces without a name, so that nothing of them is left behind
//! however the test ends.
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::geteuid;
use tappers::Interface;
use tappers::linux::Tun;

/// A network namespace with its loopback up. The kernel removes it, and all devices in it, with the
/// last of: this value, the processes started in it, and the sockets opened in it.
pub struct Netns {
    namespace: File,
}

impl Netns {
    /// A new one; says on standard output that a test is skipped where that cannot be had.
    pub fn new() -> Option<Self> {
        if !geteuid().is_root() {
            println!("skipped: only root can make network namespaces");
            return None;
        }
        if !Path::new("/dev/net/tun").exists() {
            println!("skipped: no /dev/net/tun here");
            return None;
        }
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).map(|()| File::open("/proc/thread-self/ns/net"))
        });
        match made.join().expect("a thread that makes a namespace") {
            Ok(namespace) => {
                let netns = Self { namespace: namespace.expect("the namespace of a thread") };
                netns.ip("link set lo up");
                Some(netns)
            }
            Err(error) => {
                println!("skipped: no network namespaces here: {error}");
                None
            }
        }
    }

    /// Runs `f` in this namespace: sockets that it opens, and threads and processes that it starts,
    /// are there and stay there.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(&self.namespace, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
            f()
        };
        let done = thread::scope(|scope| scope.spawn(inside).join());
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// `ip arguments` inside.
    #[track_caller]
    pub fn ip(&self, arguments: &str) {
        let ip = || Command::new("ip").args(arguments.split(' ')).output();
        let output = self.run(ip).expect("ip: install iproute2 (cargo xtask test does)");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip {arguments}: {said}");
    }

    /// A TUN device that is up and has `addresses`, each with its prefix. Reads and writes of it do
    /// not block.
    #[track_caller]
    pub fn tun(&self, addresses: &[&str]) -> Tun {
        let tun = self.run(|| Tun::create_named(Interface::new("tun0")?)).expect("a TUN device");
        tun.set_nonblocking(true).expect("a TUN device that does not block");
        for address in addresses {
            // Without duplicate detection an address of IPv6 can be used at once.
            let nodad = if address.contains(':') { " nodad" } else { "" };
            self.ip(&format!("address add {address} dev tun0{nodad}"));
        }
        self.ip("link set tun0 up");
        tun
    }
}
