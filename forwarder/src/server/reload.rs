//! Reading the configuration again.
//!
//! All that can fail is done first: the file is read and checked, new addresses are bound. Then what
//! is in force is replaced, which cannot fail half way, and everybody who has made something of it
//! looks what has changed: listeners here, forwards and pulls where they are.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::listeners::{Listeners, Takers};
use super::process;
use crate::config::{self, Config, ConfigError, Fault, Loaded, Takes, When};
use crate::conn::{Context, warn_of_send_bounds};
use crate::splice::WhyNot;
use crate::status::reload::{Changed, ConfigStatus, Outcome, Refused, Reloaded};
use crate::telemetry::Level;

/// Reloads that may wait for their turn: they are done one after the other.
const WAITING: usize = 16;

/// Where the configuration came from, and what of it only the program's start has at hand.
#[derive(Debug)]
pub struct Origin {
    /// The file.
    pub file: PathBuf,
    /// What is logged.
    pub level: Level,
}

/// How others have the configuration loaded again.
#[derive(Clone, Debug)]
pub(super) struct Reloads {
    asks: mpsc::Sender<oneshot::Sender<Outcome>>,
    history: Arc<Mutex<ConfigStatus>>,
}

/// Loads the configuration again when it is asked to.
pub(super) struct Reloader {
    pub(super) origin: Origin,
    pub(super) listeners: Listeners,
    pub(super) takers: Takers,
    pub(super) asks: mpsc::Receiver<oneshot::Sender<Outcome>>,
    pub(super) reloads: Reloads,
}

impl Reloads {
    /// For a configuration that was loaded from `file` just now.
    pub(super) fn new(file: &Path) -> (Self, mpsc::Receiver<oneshot::Sender<Outcome>>) {
        let (sender, asks) = mpsc::channel(WAITING);
        let file = file.display().to_string();
        let status = ConfigStatus { file, loaded_ms: unix_ms(), ..ConfigStatus::default() };
        (Self { asks: sender, history: Arc::new(Mutex::new(status)) }, asks)
    }

    /// Has it loaded again, after those who asked before; what came of it.
    pub(super) async fn ask(&self) -> Outcome {
        let (reply, answer) = oneshot::channel();
        if self.asks.try_send(reply).is_err() {
            return Err(Box::new(refused("the server stops, or too many reloads wait")));
        }
        answer.await.unwrap_or_else(|_| Err(Box::new(refused("the server stops"))))
    }

    /// What became of it so far.
    pub(super) fn status(&self) -> ConfigStatus {
        let mut status = self.lock().clone();
        status.age_s = unix_ms().saturating_sub(status.loaded_ms) / 1000;
        status
    }

    fn lock(&self) -> MutexGuard<'_, ConfigStatus> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, outcome: &Outcome) {
        let mut status = self.lock();
        status.reloads += 1;
        match outcome {
            Ok(_) => {
                status.loaded_ms = unix_ms();
                status.last_error.clear();
            }
            Err(refused) => status.last_error.clone_from(&refused.shown),
        }
    }
}

impl Reloader {
    /// Reloads when asked, one after the other, until the process stops.
    pub(super) async fn run(mut self) {
        let stop = self.takers.context.leaving.players.clone();
        loop {
            let reply = tokio::select! {
                () = stop.cancelled() => return,
                asked = self.asks.recv() => asked,
            };
            let Some(reply) = reply else { return };
            let outcome = self.reload().await;
            self.reloads.note(&outcome);
            match &outcome {
                Ok(reloaded) => tell(reloaded),
                Err(refused) => {
                    warn!("reload refused, nothing has changed: {}", refused.shown);
                }
            }
            // Whoever asked may have gone.
            _ = reply.send(outcome);
        }
    }

    async fn reload(&mut self) -> Outcome {
        let file = self.origin.file.clone();
        info!(file = %file.display(), "reloading");
        let loaded = tokio::task::spawn_blocking(move || Config::load(&file)).await;
        let loaded = loaded.map_err(|_| refused("the file could not be read"))?;
        let Loaded { config: mut next, mut notes } = loaded.map_err(from_config)?;
        next.max_connections = process::fit_connections(next.max_connections).map_err(whole)?;
        let running = self.takers.context.config();
        let changes = config::changes(&running, &next);
        config::keep(&running, &mut next);
        let plan = self.listeners.plan(&next).map_err(whole)?;
        let ready = plan.ready(&self.takers).map_err(whole)?;
        if running.log.level != next.log.level
            && !self.origin.level.set(&next.log.level).map_err(whole)?
        {
            notes.push("log.level: the environment variable RUST_LOG goes before it".to_owned());
        }
        // From here on nothing is refused.
        let next = Arc::new(next);
        let context = &self.takers.context;
        context.live.replace(Arc::clone(&next));
        reload_certificates(Arc::clone(context)).await;
        self.listeners.apply(ready, &self.takers);
        self.takers.source.sampler.listens_on(self.listeners.rtmp());
        context.splice.limit_backlog(next.kernel_backlog_limit);
        warn_of_send_bounds(&next);
        if has_legs(&next)
            && next.kernel != When::Never
            && context.splice.why_not() == Some(&WhyNot::Disabled)
        {
            notes.push(
                "kernel: no vhost had legs at the start, so user space carries them until a restart".to_owned(),
            );
        }
        let gone = gone(&running, &next);
        if !gone.is_empty()
            && let Some(shards) = self.takers.shards.upgrade()
        {
            shards.dismiss(&gone).await;
        }
        let changes = changes.into_iter().map(changed).collect();
        Ok(Reloaded { changes, notes })
    }
}

/// Reads the certificates again that clients are shown and targets are held to. That they can be
/// used was seen with the file.
async fn reload_certificates(context: Arc<Context>) {
    let read = tokio::task::spawn_blocking(move || {
        let config = context.config();
        match config.rtmps.enabled {
            true => context.tls.reload(&config.rtmps.certificate),
            false => context.tls.trust.forget(),
        }
    });
    if let Err(error) = read.await {
        warn!(%error, "certificates not looked at");
    }
}

/// Whether players or publishers of some edge may have legs.
pub(super) fn has_legs(config: &Config) -> bool {
    let mut edges = config.vhosts.iter().filter(|vhost| vhost.enabled && vhost.edge.enabled);
    edges.any(|vhost| vhost.edge.splice != When::Never)
}

/// The vhosts that were served and are not any more.
fn gone(running: &Config, next: &Config) -> Vec<String> {
    let served = |config: &Config, name: &str| {
        config.vhosts.iter().any(|vhost| vhost.enabled && vhost.name == name)
    };
    let was = running.vhosts.iter().filter(|vhost| vhost.enabled).map(|vhost| &vhost.name);
    was.filter(|name| !served(next, name)).cloned().collect()
}

/// One line for each change, and for each note.
fn tell(reloaded: &Reloaded) {
    for change in &reloaded.changes {
        match &*change.takes {
            "restart" => warn!("{change}"),
            _ => info!("{change}"),
        }
    }
    for note in &reloaded.notes {
        warn!("{note}");
    }
    info!(changes = reloaded.changes.len(), "reloaded");
}

fn changed(change: config::Change) -> Changed {
    let takes = match change.takes {
        Takes::Now => "now",
        Takes::Next => "next",
        Takes::Restart => "restart",
    };
    Changed {
        vhost: change.vhost.unwrap_or_default(),
        key: change.key,
        what: change.what,
        takes: takes.to_owned(),
    }
}

fn refused(message: &str) -> Refused {
    Refused { message: message.to_owned(), shown: message.to_owned(), ..Refused::default() }
}

fn whole(error: anyhow::Error) -> Box<Refused> {
    Box::new(refused(&format!("{error:#}")))
}

fn from_config(error: ConfigError) -> Box<Refused> {
    let Fault { rendered: shown, file, at, message, mend } = error.into_parts();
    let (line, column, text) = at.map_or((0, 0, String::new()), |at| (at.line, at.column, at.text));
    Box::new(Refused { file, line, column, text, message, mend, shown })
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
