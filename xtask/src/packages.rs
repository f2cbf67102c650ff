//! Programs that tests use besides cargo: which are missing, and installing them on Debian.
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::process;

/// Something a test needs: a file or program that proves it is there, and the Debian package.
struct Need {
    package: &'static str,
    proof: Proof,
}

enum Proof {
    Program(&'static str),
    /// A module of Python.
    Module(&'static str),
    /// A file; `*` stands for Debian's name of the architecture.
    File(&'static str),
}

const NEEDS: &[Need] = &[
    Need { package: "ffmpeg", proof: Proof::Program("ffmpeg") },
    Need { package: "nginx", proof: Proof::Program("nginx") },
    Need {
        package: "libnginx-mod-rtmp",
        proof: Proof::File("/usr/lib/nginx/modules/ngx_rtmp_module.so"),
    },
    Need { package: "chromium", proof: Proof::Program("chromium") },
    Need { package: "npm", proof: Proof::Program("npm") },
    Need { package: "dnsmasq-base", proof: Proof::Program("dnsmasq") },
    Need { package: "iproute2", proof: Proof::Program("ip") },
    Need { package: "prometheus", proof: Proof::Program("promtool") },
    Need { package: "python3-venv", proof: Proof::Module("ensurepip") },
    Need { package: "openssl", proof: Proof::Program("openssl") },
    Need { package: "socat", proof: Proof::Program("socat") },
    Need { package: "rtmpdump", proof: Proof::Program("rtmpdump") },
    Need { package: "gstreamer1.0-tools", proof: Proof::Program("gst-launch-1.0") },
    gst("gstreamer1.0-plugins-base", "/usr/lib/*/gstreamer-1.0/libgstvideotestsrc.so"),
    gst("gstreamer1.0-plugins-good", "/usr/lib/*/gstreamer-1.0/libgstflv.so"),
    gst("gstreamer1.0-plugins-bad", "/usr/lib/*/gstreamer-1.0/libgstrtmp2.so"),
    gst("gstreamer1.0-plugins-ugly", "/usr/lib/*/gstreamer-1.0/libgstx264.so"),
    gst("gstreamer1.0-libav", "/usr/lib/*/gstreamer-1.0/libgstlibav.so"),
    Need { package: "vlc-bin", proof: Proof::Program("cvlc") },
    Need {
        package: "vlc-plugin-base",
        proof: Proof::File("/usr/lib/*/vlc/plugins/access/libavio_plugin.so"),
    },
];

const fn gst(package: &'static str, file: &'static str) -> Need {
    Need { package, proof: Proof::File(file) }
}

impl Need {
    fn is_met(&self) -> bool {
        match self.proof {
            Proof::Program(program) => process::exists(program),
            Proof::Module(module) => {
                let import =
                    Command::new("python3").args(["-c", &format!("import {module}")]).output();
                import.is_ok_and(|output| output.status.success())
            }
            Proof::File(file) => {
                let arch = format!("{}-linux-gnu", std::env::consts::ARCH);
                Path::new(&file.replace('*', &arch)).is_file()
            }
        }
    }
}

/// Debian packages of what is missing here.
pub fn missing() -> Vec<&'static str> {
    NEEDS.iter().filter(|need| !need.is_met()).map(|need| need.package).collect()
}

/// Installs what is missing if we may, else fails and says what to type.
pub fn install() -> Result<()> {
    let packages = missing();
    if packages.is_empty() {
        println!("everything that tests need is installed");
        return Ok(());
    }
    let list = packages.join(" ");
    if !nix::unistd::geteuid().is_root() || !process::exists("apt-get") {
        bail!(
            "tests need what is not installed: {list}\n\
             on Debian or Ubuntu: sudo apt-get update && \
             sudo apt-get install --no-install-recommends -y {list}"
        );
    }
    println!("installing for the tests: {list}");
    process::run(apt().arg("update"))?;
    process::run(apt().args(["install", "-y", "--no-install-recommends"]).args(&packages))?;
    match missing().as_slice() {
        [] => Ok(()),
        still => bail!("installed, and yet not found: {}", still.join(" ")),
    }
}

/// Installs Debian packages for `purpose` if we may, else fails and says what to type.
pub fn get(purpose: &str, packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if !nix::unistd::geteuid().is_root() || !process::exists("apt-get") {
        bail!(
            "for {purpose} these packages are missing: {list}\n\
             on Debian or Ubuntu: sudo apt-get update && \
             sudo apt-get install --no-install-recommends -y {list}"
        );
    }
    println!("installing for {purpose}: {list}");
    process::run(apt().arg("update"))?;
    process::run(apt().args(["install", "-y", "--no-install-recommends"]).args(packages))
}

fn apt() -> Command {
    let mut apt = Command::new("apt-get");
    // RUNLEVEL=1 keeps invoke-rc.d from starting nginx as a service.
    apt.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
    apt.args(["-o", "Dpkg::Use-Pty=0"]);
    apt
}
