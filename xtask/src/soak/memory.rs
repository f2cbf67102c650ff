//! `cargo xtask soak memory`: a server whose clients come and go for an hour.
//!
//! It forwards to a slave that is killed now and then, and is an edge of an origin. The load is the
//! same all the time, so what the process holds should be too. It comes in rounds: behind each, all
//! leave, and what is left then is compared with what was left before.
mod clients;
mod figures;
mod verdict;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use toml::Table;

use crate::cluster::{self, Ports, Server};
use crate::{net, process};
use clients::{Clients, Counts};
use figures::Figures;

/// How long, and how much.
#[derive(clap::Args)]
pub struct Args {
    /// Of load, in all.
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
    /// All leave so often.
    #[arg(long, default_value_t = 12)]
    rounds: u32,
    /// Streams at a time, published to the server.
    #[arg(long, default_value_t = 12)]
    publishers: usize,
    /// Players at a time.
    #[arg(long, default_value_t = 48)]
    players: usize,
    /// Write all samples and the verdict here.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Time between two looks at the clients.
const TICK: Duration = Duration::from_millis(40);
/// Time between two samples.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// How long the slave lives, is dead, and lives.
const SLAVE_LIVES: Duration = Duration::from_secs(45);
const SLAVE_IS_DEAD: Duration = Duration::from_secs(6);
/// The process must have forgotten all who left within this: streams wait 5 s for their publisher.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(60);
/// From the start to the first look.
const REST: Duration = Duration::from_secs(3);
/// What all have left, the server gives back to the system in this time as far as it does.
const SETTLED: Duration = Duration::from_secs(45);

/// A sample, and when it was taken.
#[derive(Clone, Debug, Serialize)]
struct Sample {
    /// Seconds since the start.
    at: u64,
    /// Counted from 1.
    round: u32,
    #[serde(flatten)]
    figures: Figures,
}

#[derive(Serialize)]
struct Report<'a> {
    seconds: u64,
    cpu_percent: f64,
    load_cpu_percent: f64,
    clients: Counts,
    first: &'a Figures,
    /// Under load.
    samples: &'a [Sample],
    /// Behind each round, when all had left.
    rests: &'a [Sample],
    wrong: &'a [String],
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    cluster::build()?;
    let folder = cluster::target().join("soak");
    let mut soak = Soak::start(args, &folder)?;
    let begin = Instant::now();
    let cpu = (soak.server.process.cpu()?, process::cpu("self")?);
    let round = Duration::from_secs(args.seconds) / args.rounds.max(1);
    println!("{}", Figures::HEAD);
    for n in 1..=args.rounds.max(1) {
        soak.load(n, round, begin)?;
        soak.rest(n, begin)?;
        if process::interrupted() {
            break;
        }
    }
    let busy = |(user, system): (Duration, Duration), (before, then)| {
        (user + system - before - then).as_secs_f64() / begin.elapsed().as_secs_f64() * 100.0
    };
    let cpu_percent = busy(soak.server.process.cpu()?, cpu.0);
    let load_cpu_percent = busy(process::cpu("self")?, cpu.1);
    let clients = soak.clients.counts();
    let wrong = verdict::judge(&soak.first, &soak.samples, &soak.rests, &clients);
    println!(
        "{clients}\nslave killed {} times; cpu: server {cpu_percent:.1} %, load \
         {load_cpu_percent:.1} % of a core",
        soak.kills
    );
    if let Some(path) = &args.json {
        let report = Report {
            seconds: begin.elapsed().as_secs(),
            cpu_percent,
            load_cpu_percent,
            clients,
            first: &soak.first,
            samples: &soak.samples,
            rests: &soak.rests,
            wrong: &wrong,
        };
        fs::write(path, serde_json::to_vec_pretty(&report)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    println!("no growth, nothing left behind");
    process::check_interrupt()
}

/// The servers and who is there.
struct Soak {
    server: Server,
    origin: Server,
    slave: Option<Server>,
    slave_ports: (u16, u16),
    slave_changes: Instant,
    kills: u32,
    folder: PathBuf,
    clients: Clients,
    /// Before anybody came.
    first: Figures,
    samples: Vec<Sample>,
    rests: Vec<Sample>,
}

impl Soak {
    fn start(args: &Args, folder: &Path) -> Result<Self> {
        process::raise_open_files()?;
        let [at, api, origin_at, origin_api, slave_at, slave_api] = net::free_ports(6)?[..] else {
            bail!("no free ports")
        };
        let slave_ports = (slave_at, slave_api);
        let origin = start("soak-origin", &plain(), (origin_at, origin_api), folder)?;
        let slave = start("soak-slave", &plain(), slave_ports, folder)?;
        let config = format!(
            "{}[vhost.forward]\nenabled = true\ndestination = [\"127.0.0.1:{slave_at}\"]\n\
             [[vhost]]\nname = \"edge\"\n[vhost.publish]\ngrace = \"5s\"\n\
             [vhost.edge]\nenabled = true\norigin = [\"127.0.0.1:{origin_at}\"]\n",
            plain()
        );
        let server = start("soak-server", &config, (at, api), folder)?;
        let clients = Clients::new(at, origin_at, args.publishers, args.players);
        // Later ones are compared with this, so the API and all threads are to be there.
        thread::sleep(REST);
        let first = Figures::take(&server, &[slave_at, origin_at])?;
        Ok(Self {
            server,
            origin,
            slave: Some(slave),
            slave_ports,
            slave_changes: Instant::now() + SLAVE_LIVES,
            kills: 0,
            folder: folder.to_owned(),
            clients,
            first,
            samples: Vec::new(),
            rests: Vec::new(),
        })
    }

    fn load(&mut self, round: u32, time: Duration, begin: Instant) -> Result<()> {
        let end = Instant::now() + time;
        let mut sample_at = Instant::now() + SAMPLE_EVERY;
        while Instant::now() < end && !process::interrupted() {
            let tick = Instant::now();
            self.clients.drive(tick)?;
            self.kill_or_raise_slave(tick)?;
            if tick >= sample_at {
                sample_at += SAMPLE_EVERY;
                let sample = self.sample(round, begin)?;
                self.samples.push(sample);
            }
            thread::sleep(TICK.saturating_sub(tick.elapsed()));
        }
        Ok(())
    }

    /// Sends all away and waits until the server has forgotten them.
    fn rest(&mut self, round: u32, begin: Instant) -> Result<()> {
        self.clients.leave();
        let deadline = Instant::now() + FORGOTTEN_WITHIN;
        while Instant::now() < deadline {
            let now = self.sample(round, begin)?.figures;
            if now.is_empty() && now.fds <= self.first.fds {
                break;
            }
            thread::sleep(Duration::from_millis(500));
        }
        let settled = Instant::now() + SETTLED;
        while Instant::now() < settled && !process::interrupted() {
            thread::sleep(TICK);
        }
        let rest = self.sample(round, begin)?;
        let load = self.samples.iter().rev().find(|sample| sample.round == round);
        load.inspect(|load| println!("{}", load.figures.row(load.at, round, "load")));
        println!("{}", rest.figures.row(rest.at, round, "rest"));
        self.rests.push(rest);
        Ok(())
    }

    fn sample(&mut self, round: u32, begin: Instant) -> Result<Sample> {
        self.server.process.check()?;
        self.origin.process.check()?;
        let figures = Figures::take(&self.server, &[self.slave_ports.0, self.origin.port])?;
        Ok(Sample { at: begin.elapsed().as_secs(), round, figures })
    }

    fn kill_or_raise_slave(&mut self, now: Instant) -> Result<()> {
        if now < self.slave_changes {
            return Ok(());
        }
        if let Some(mut slave) = self.slave.take() {
            slave.process.kill()?;
            self.kills += 1;
            self.slave_changes = now + SLAVE_IS_DEAD;
        } else {
            self.slave = Some(start("soak-slave", &plain(), self.slave_ports, &self.folder)?);
            self.slave_changes = now + SLAVE_LIVES;
        }
        Ok(())
    }
}

/// What all three servers have in common.
fn plain() -> String {
    "threads = 2\n[[vhost]]\nname = \"__defaultVhost__\"\n[vhost.play]\nwrite_timeout = \"10s\"\n\
     [vhost.publish]\ngrace = \"5s\"\n"
        .to_owned()
}

fn start(name: &str, config: &str, (listen, api): (u16, u16), folder: &Path) -> Result<Server> {
    let ports = Ports { listen, api, forward: &[] };
    Server::start(name, config.parse::<Table>()?, ports, folder, None)
}
