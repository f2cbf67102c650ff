//! Servers to measure: ours and nginx-rtmp, alone or as master and slave.
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use forwarder::rtmp::url::RtmpUrl;
use toml::Table;

use super::Cores;
use crate::cluster::{self, Ports, Server};
use crate::net;
use crate::process::{self, Process};

const NGINX_MODULE: &str = "/usr/lib/nginx/modules/ngx_rtmp_module.so";
/// One more than any row has players.
const MAX_CONNECTIONS: i64 = 18_000;

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ours.
    Forwarder,
    /// nginx with libnginx-mod-rtmp.
    Nginx,
}

impl Kind {
    /// As shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forwarder => "forwarder",
            Self::Nginx => "nginx-rtmp",
        }
    }
}

/// Running servers. The first is the one under test.
pub struct Setup {
    processes: Vec<Process>,
    /// Where to publish.
    pub publish: RtmpUrl,
    /// Where to play.
    pub play: RtmpUrl,
}

impl Setup {
    /// One server on the server core.
    pub fn single(kind: Kind, cores: Cores) -> Result<Self> {
        let (process, port) = start(kind, "single", &[], cores.server)?;
        Ok(Self { processes: vec![process], publish: url(port)?, play: url(port)? })
    }

    /// A master on the server core that forwards to a slave on the other.
    pub fn pair(kind: Kind, cores: Cores) -> Result<Self> {
        let (slave, slave_port) = start(kind, "slave", &[], cores.load)?;
        let (master, port) = start(kind, "master", &[slave_port], cores.server)?;
        Ok(Self { processes: vec![master, slave], publish: url(port)?, play: url(slave_port)? })
    }

    /// An error with the log's end when one has exited.
    pub fn check(&mut self) -> Result<()> {
        self.processes.iter_mut().try_for_each(Process::check)
    }

    /// Processor time of the server under test so far.
    pub fn cpu(&self) -> Result<Duration> {
        let (user, system) = self.processes[0].cpu()?;
        Ok(user + system)
    }

    /// Resident memory of the server under test, bytes.
    pub fn rss(&self) -> Result<u64> {
        self.processes[0].rss()
    }
}

fn url(port: u16) -> Result<RtmpUrl> {
    Ok(format!("rtmp://127.0.0.1:{port}/live/bench").parse()?)
}

fn start(kind: Kind, role: &str, forward: &[u16], core: Option<usize>) -> Result<(Process, u16)> {
    let name = format!("{}-{role}", kind.name());
    match kind {
        Kind::Forwarder => start_ours(&cluster::binary(), &name, Table::new(), forward, core),
        Kind::Nginx => start_nginx(&name, forward, core),
    }
}

/// Whether [`start_nginx`] can be.
pub fn has_nginx() -> bool {
    process::exists("nginx") && Path::new(NGINX_MODULE).is_file()
}

/// A server of ours with `config`, with room for all players of a bench; gives its port.
pub fn start_ours(
    build: &Path,
    name: &str,
    mut config: Table,
    forward: &[u16],
    core: Option<usize>,
) -> Result<(Process, u16)> {
    let [listen, api] = net::free_ports(2)?[..] else { bail!("no free ports") };
    config.entry("max_connections").or_insert(MAX_CONNECTIONS.into());
    // One core is what it gets, so one thread is what it needs.
    config.entry("threads").or_insert(1.into());
    let (ports, folder) = (Ports { listen, api, forward }, cluster::target().join("bench"));
    let server = Server::start_build(build, name, config, ports, &folder, core)?;
    Ok((server.process, listen))
}

/// nginx-rtmp that pushes all streams to `forward`; gives its port.
pub fn start_nginx(name: &str, forward: &[u16], core: Option<usize>) -> Result<(Process, u16)> {
    let [listen] = net::free_ports(1)?[..] else { bail!("no free ports") };
    if !has_nginx() {
        bail!("nginx-rtmp is not installed: apt-get install nginx libnginx-mod-rtmp");
    }
    let folder = cluster::target().join("bench");
    fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{name}.conf"));
    fs::write(&file, nginx_config(&folder, name, listen, forward))?;
    let mut command = Command::new("nginx");
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.arg("-p").arg(&folder).args(["-e", "stderr", "-c"]).arg(&file);
    let mut process = Process::start(name, command, &folder.join(format!("{name}.log")), core)?;
    net::wait_listening(&mut process, listen, Duration::from_secs(10))?;
    Ok((process, listen))
}

/// One process, no worker: what is measured is what serves.
fn nginx_config(folder: &Path, name: &str, listen: u16, forward: &[u16]) -> String {
    let push: String =
        forward.iter().map(|port| format!("push rtmp://127.0.0.1:{port}/live; ")).collect();
    let pid = folder.join(format!("{name}.pid"));
    format!(
        "load_module {NGINX_MODULE};\ndaemon off;\nmaster_process off;\npid {};\n\
         error_log stderr warn;\nworker_rlimit_nofile 20000;\n\
         events {{ worker_connections {MAX_CONNECTIONS}; }}\n\
         rtmp {{\n  access_log off;\n  server {{\n    listen 127.0.0.1:{listen};\n    \
         chunk_size 4096;\n    application live {{ live on; wait_key on; {push}}}\n  }}\n}}\n",
        pid.display()
    )
}
