//! Who takes turns: ours in one or more configurations, nginx-rtmp, and the raw floor.
use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::scenario::{MAIN, Scenario};
use crate::bench::servers;
use crate::process::Process;
use crate::{cluster, net};

/// What a turn says about whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// It has to be good.
    Ours,
    /// What it is compared with; it may fail.
    Peer,
    /// What can be had at all; it must work, or nothing can be said.
    Floor,
}

/// One of them.
#[derive(Clone, Debug, PartialEq)]
pub enum Contender {
    /// Ours as it comes.
    Ours,
    /// Ours in another configuration.
    Variant(Variant),
    /// nginx with libnginx-mod-rtmp.
    Nginx,
    /// A plain loop.
    Floor(Way),
}

/// A configuration with a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    name: String,
    config: Table,
}

/// How the floor writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Once a frame, audio merged.
    Frame,
    /// Each message by itself.
    Message,
    /// Each message by itself, and the kernel may merge.
    Nagle,
    /// Five times a second.
    Fifth,
}

/// The floor that ours is compared with.
pub const FLOOR: Contender = Contender::Floor(Way::Frame);
/// More players than a core can write to once a frame.
const MANY: usize = 4000;

impl FromStr for Variant {
    type Err = String;

    /// `NAME=TOML`, where `;` stands for a new line.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, config) = text
            .split_once('=')
            .ok_or("expected NAME=TOML, such as prompt=vhost.play.audio_hold=\"0s\"")?;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || !name.chars().all(is_plain) {
            return Err(format!("`{name}` is no name: letters, digits, `-`, `_` and `.`"));
        }
        let config = config.replace(';', "\n").parse::<Table>().map_err(|e| e.to_string())?;
        Ok(Self { name: name.to_owned(), config })
    }
}

impl Variant {
    /// The keys that it sets, for people.
    pub fn shown(&self) -> String {
        toml::to_string(&self.config).unwrap_or_default().trim().replace('\n', "; ")
    }
}

impl Contender {
    /// As shown, and as picked.
    pub fn name(&self) -> String {
        match self {
            Self::Ours => "ours".to_owned(),
            Self::Variant(variant) => format!("ours+{}", variant.name),
            Self::Nginx => "nginx-rtmp".to_owned(),
            Self::Floor(Way::Frame) => "floor".to_owned(),
            Self::Floor(Way::Message) => "floor-each".to_owned(),
            Self::Floor(Way::Nagle) => "floor-each-nagle".to_owned(),
            Self::Floor(Way::Fifth) => "floor-5hz".to_owned(),
        }
    }

    /// See [`Side`].
    pub fn side(&self) -> Side {
        match self {
            Self::Ours | Self::Variant(_) => Side::Ours,
            Self::Nginx => Side::Peer,
            Self::Floor(_) => Side::Floor,
        }
    }

    /// Starts it on `core`; gives its port. `forward`: ports on loopback. `lose`: which message a floor
    /// leaves out.
    pub fn start(
        &self,
        forward: &[u16],
        core: Option<usize>,
        as_is: bool,
        lose: u64,
    ) -> Result<(Process, u16)> {
        let name = format!("report-{}", self.name());
        match self {
            Self::Ours => servers::start_ours(&build(as_is)?, &name, Table::new(), forward, core),
            Self::Variant(variant) => {
                let mut config = Table::new();
                merge(&mut config, &variant.config);
                servers::start_ours(&build(as_is)?, &name, config, forward, core)
            }
            Self::Nginx => servers::start_nginx(&name, forward, core),
            Self::Floor(way) => start_floor(*way, &name, forward, core, lose),
        }
    }
}

/// Who is asked to do what. `everywhere`: variants have all rows of players, not only that of most aims.
pub fn field(scenario: &Scenario, variants: &[Variant], everywhere: bool) -> Vec<Contender> {
    let mut field = vec![Contender::Ours];
    if *scenario == MAIN || everywhere {
        field.extend(variants.iter().cloned().map(Contender::Variant));
    }
    field.push(Contender::Nginx);
    field.push(match *scenario {
        Scenario::Play { players, .. } if players > MANY => Contender::Floor(Way::Fifth),
        _ => FLOOR,
    });
    if *scenario == MAIN {
        field.extend([Way::Message, Way::Nagle].map(Contender::Floor));
    }
    field
}

/// Our server: a release, or what was built like this program.
fn build(as_is: bool) -> Result<PathBuf> {
    if !as_is {
        return Ok(cluster::binary());
    }
    let path = std::env::current_exe()?.with_file_name("forwarder");
    if !path.is_file() {
        bail!("{} is not built", path.display());
    }
    Ok(path)
}

fn start_floor(
    way: Way,
    name: &str,
    forward: &[u16],
    core: Option<usize>,
    lose: u64,
) -> Result<(Process, u16)> {
    let [port] = net::free_ports(1)?[..] else { bail!("no free ports") };
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["bench-floor", "--port", &port.to_string(), "--lose", &lose.to_string()]);
    for slave in forward {
        command.args(["--forward", &slave.to_string()]);
    }
    match way {
        Way::Frame => drop(command.arg("--merge")),
        Way::Message => {}
        Way::Nagle => drop(command.arg("--nagle")),
        Way::Fifth => drop(command.args(["--merge", "--every-ms", "200"])),
    }
    let log = cluster::target().join("bench").join(format!("{name}.log"));
    let mut process = Process::start(name, command, &log, core).context("the floor")?;
    net::wait_listening(&mut process, port, Duration::from_secs(10))?;
    Ok((process, port))
}

/// Sets in `config` what `more` says. A table where the configuration has a list of tables, as of
/// vhosts, means the first of them.
fn merge(config: &mut Table, more: &Table) {
    for (key, value) in more {
        let Value::Table(wanted) = value else {
            config.insert(key.clone(), value.clone());
            continue;
        };
        let mut place = config.entry(key.clone()).or_insert_with(|| match key.as_str() {
            "vhost" => Value::Array(vec![Value::Table(default_vhost())]),
            _ => Value::Table(Table::new()),
        });
        if let Value::Array(all) = place {
            if all.is_empty() {
                all.push(Value::Table(Table::new()));
            }
            let Some(first) = all.first_mut() else { continue };
            place = first;
        }
        match place {
            Value::Table(table) => merge(table, wanted),
            other => *other = value.clone(),
        }
    }
}

fn default_vhost() -> Table {
    Table::from_iter([("name".to_owned(), Value::from("__defaultVhost__"))])
}

#[cfg(test)]
mod tests {
    use super::super::scenario::{forward, players};
    use super::*;

    #[test]
    fn variants_are_merged_into_the_default_vhost() {
        let variant: Variant = "late=threads = 2;vhost.play.mw_latency = \"10ms\"".parse().unwrap();
        assert_eq!(Contender::Variant(variant.clone()).name(), "ours+late");
        let mut config = Table::new();
        merge(&mut config, &variant.config);
        let expected: Table = "threads = 2\n[[vhost]]\nname = \"__defaultVhost__\"\n[vhost.play]\n\
            mw_latency = \"10ms\"\n"
            .parse()
            .unwrap();
        assert_eq!(config, expected);
        let again: Variant = "b=vhost.play.audio_hold = \"0s\"".parse().unwrap();
        merge(&mut config, &again.config);
        assert_eq!(config["vhost"][0]["play"].as_table().unwrap().len(), 2);
        for bad in ["", "x", "=a = 1", "a b=c = 1", "a=c"] {
            assert!(bad.parse::<Variant>().is_err(), "{bad}");
        }
    }

    #[test]
    fn who_has_which_row() {
        let variants = ["a=threads = 2".parse().unwrap()];
        let names = |scenario, everywhere| {
            let field = field(&scenario, &variants, everywhere);
            field.iter().map(Contender::name).collect::<Vec<_>>().join(" ")
        };
        let all = "ours ours+a nginx-rtmp floor floor-each floor-each-nagle";
        assert_eq!(names(players(1000), false), all);
        assert_eq!(names(players(100), false), "ours nginx-rtmp floor");
        assert_eq!(names(players(12_000), true), "ours ours+a nginx-rtmp floor-5hz");
        assert_eq!(names(forward(20, 8), false), "ours nginx-rtmp floor");
    }
}
