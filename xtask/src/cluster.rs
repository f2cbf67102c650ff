//! Servers of ours on loopback: their configurations, their start, and the small cluster of conf/.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use toml::{Table, Value};

use crate::process::{self, Process};
use crate::{net, tidy};

/// How long a server may take until it listens.
const START_WITHIN: Duration = Duration::from_secs(10);

/// The ports of conf/master.toml and conf/slave1.toml to slave4.toml.
const MASTER_PORT: u16 = 1935;
const SLAVE_PORTS: [u16; 4] = [19351, 19352, 19353, 19354];

/// A server of ours.
pub struct Server {
    /// The running program.
    pub process: Process,
    /// Where it listens for RTMP.
    pub port: u16,
    /// Where its API listens.
    pub api: u16,
}

impl Server {
    /// Starts the release build with `config` on `port`, adjusted as [`adjust`] does; the file
    /// and the log go to `folder`.
    pub fn start(
        name: &str,
        config: Table,
        ports: Ports<'_>,
        folder: &Path,
        core: Option<usize>,
    ) -> Result<Self> {
        Self::start_build(&binary(), name, config, ports, folder, core)
    }

    /// The same of another build.
    pub fn start_build(
        build: &Path,
        name: &str,
        mut config: Table,
        ports: Ports<'_>,
        folder: &Path,
        core: Option<usize>,
    ) -> Result<Self> {
        adjust(&mut config, &ports);
        fs::create_dir_all(folder)?;
        let file = folder.join(format!("{name}.toml"));
        fs::write(&file, toml::to_string(&config)?)?;
        let mut command = Command::new(build);
        command.arg("run").arg("-c").arg(&file);
        let log = folder.join(format!("{name}.log"));
        let mut process = Process::start(name, command, &log, core)?;
        net::wait_listening(&mut process, ports.listen, START_WITHIN)?;
        net::wait_listening(&mut process, ports.api, START_WITHIN)?;
        Ok(Self { process, port: ports.listen, api: ports.api })
    }
}

/// Where a server is to listen, and forward to.
pub struct Ports<'a> {
    /// RTMP.
    pub listen: u16,
    /// HTTP API.
    pub api: u16,
    /// Slaves; empty: no forward.
    pub forward: &'a [u16],
}

/// A master and its slaves, running.
pub struct Cluster {
    /// Takes the publishers.
    pub master: Server,
    /// Take the players.
    pub slaves: Vec<Server>,
}

impl Cluster {
    /// Starts the cluster of conf/, on other ports when those are taken.
    pub fn start(folder: &Path) -> Result<Self> {
        let conf = tidy::root().join("conf");
        let fixed: Vec<u16> = [MASTER_PORT].into_iter().chain(SLAVE_PORTS).collect();
        let taken: Vec<String> =
            fixed.iter().filter(|port| !net::is_free(**port)).map(u16::to_string).collect();
        let rtmp = if taken.is_empty() {
            fixed
        } else {
            println!("ports taken: {}; the cluster gets free ones", taken.join(", "));
            net::free_ports(fixed.len())?
        };
        let api = net::free_ports(rtmp.len())?;
        let (master_port, slave_ports) = rtmp.split_first().context("no ports")?;
        let mut slaves = Vec::new();
        for (n, (listen, api)) in slave_ports.iter().zip(&api[1..]).enumerate() {
            let name = format!("slave{}", n + 1);
            let config = read(&conf.join(format!("{name}.toml")))?;
            let ports = Ports { listen: *listen, api: *api, forward: &[] };
            slaves.push(Server::start(&name, config, ports, folder, None)?);
        }
        let config = read(&conf.join("master.toml"))?;
        let ports = Ports { listen: *master_port, api: api[0], forward: slave_ports };
        let master = Server::start("master", config, ports, folder, None)?;
        println!("configurations and logs are in {}", folder.display());
        Ok(Self { master, slaves })
    }

    /// An error when a server has exited.
    pub fn check(&mut self) -> Result<()> {
        self.master.process.check()?;
        self.slaves.iter_mut().try_for_each(|slave| slave.process.check())
    }
}

/// Sets loopback listeners, the API, and where the default vhost forwards to; a pid file would be
/// the operator's, so there is none.
fn adjust(config: &mut Table, ports: &Ports<'_>) {
    let address = |port: u16| Value::from(format!("127.0.0.1:{port}"));
    config.insert("listen".into(), Value::Array(vec![address(ports.listen)]));
    config.remove("pid");
    let api = config.entry("http_api").or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(api) = api {
        api.insert("enabled".into(), true.into());
        api.insert("listen".into(), address(ports.api));
    }
    if ports.forward.is_empty() {
        return;
    }
    let destination = Value::Array(ports.forward.iter().copied().map(address).collect());
    let vhosts = config.entry("vhost").or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(vhosts) = vhosts {
        if vhosts.is_empty() {
            vhosts.push(Value::Table(Table::from_iter([(
                "name".to_owned(),
                Value::from("__defaultVhost__"),
            )])));
        }
        for vhost in vhosts.iter_mut().filter_map(Value::as_table_mut) {
            let forward = vhost.entry("forward").or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(forward) = forward {
                forward.insert("enabled".into(), true.into());
                forward.insert("destination".into(), destination.clone());
            }
        }
    }
}

fn read(path: &Path) -> Result<Table> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    text.parse().with_context(|| path.display().to_string())
}

/// Builds the release binary, with cargo's output on the terminal.
pub fn build() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "-p", "forwarder"]).current_dir(tidy::root());
    process::run(&mut command)
}

/// Where cargo puts what it builds and we put what we write.
pub fn target() -> PathBuf {
    let set = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    tidy::root().join(set.unwrap_or_else(|| "target".into()))
}

/// The release binary.
pub fn binary() -> PathBuf {
    target().join("release/forwarder")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_moved_to_other_ports() {
        let mut config: Table = "listen = [\"1935\"]\npid = \"x.pid\"\nthreads = 2\n\
            [[vhost]]\nname = \"__defaultVhost__\"\n[vhost.forward]\nqueue_length = \"9s\"\n"
            .parse()
            .unwrap();
        adjust(&mut config, &Ports { listen: 5, api: 6, forward: &[7, 8] });
        let expected: Table = "listen = [\"127.0.0.1:5\"]\nthreads = 2\n\
            [http_api]\nenabled = true\nlisten = \"127.0.0.1:6\"\n\
            [[vhost]]\nname = \"__defaultVhost__\"\n[vhost.forward]\nqueue_length = \"9s\"\n\
            enabled = true\ndestination = [\"127.0.0.1:7\", \"127.0.0.1:8\"]\n"
            .parse()
            .unwrap();
        assert_eq!(config, expected);
    }

    #[test]
    fn an_empty_configuration_becomes_a_master() {
        let mut config = Table::new();
        adjust(&mut config, &Ports { listen: 5, api: 6, forward: &[7] });
        let forward = &config["vhost"][0]["forward"];
        assert_eq!(forward["destination"][0].as_str(), Some("127.0.0.1:7"));
        assert_eq!(config["vhost"][0]["name"].as_str(), Some("__defaultVhost__"));
    }
}
