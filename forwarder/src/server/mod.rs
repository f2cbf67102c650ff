//! The running server: binds, starts the shards, and stops them when it is told to.

mod clients;
mod leaving;
mod listeners;
mod process;
mod reload;
mod snapshot;
mod srs;
mod summary;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::config::{Config, When};
use crate::conn::{Context, RATE_WINDOW, Shards, warn_of_send_bounds};
use crate::edge::Edges;
use crate::forward::{Forwards, Supervisor};
use crate::privilege;
use crate::splice::{Mode, Splice, WhyNot};
use listeners::{Listeners, Takers};
pub use reload::Origin;
use reload::{Reloader, Reloads};

/// How often streams whose grace time is over are looked for, and rates are sampled.
const SWEEP: Duration = Duration::from_millis(500);

/// How often the files of certificates are looked at.
const RENEWAL_LOOK: Duration = Duration::from_secs(5);

/// While the process stops it looks so often whether streams can end.
const STOP_SWEEP: Duration = Duration::from_millis(50);

/// Runs a server with `config`, which came from `origin`, until a signal ends it.
///
/// Errors: an address cannot be bound, the pid file is locked, threads cannot be made.
pub fn run(mut config: Config, origin: Origin) -> anyhow::Result<()> {
    let _pid_file = config.pid.as_deref().map(process::PidFile::lock).transpose()?;
    config.max_connections = process::fit_connections(config.max_connections)?;
    // Capabilities are the threads': given up before the first one is started.
    let splice = splice(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        // Before anything is served, so that no signal finds its default action.
        let signals = Signals::new().context("signals")?;
        let server = Server::start(config, splice, origin)?;
        server.serve(signals).await
    });
    // Whoever could not be drained in time is not waited for.
    runtime.shutdown_background();
    result
}

/// Decides how legs are carried, and gives up the capabilities that were for that alone. Root keeps
/// its own: it was started as root for more than this, such as the pid file it removes at the end.
fn splice(config: &Config) -> anyhow::Result<Splice> {
    let splice = match config.kernel {
        _ if !reload::has_legs(config) => Splice::user(WhyNot::Disabled),
        When::Auto => Splice::start(Mode::Auto),
        When::Always => Splice::start(Mode::Always),
        When::Never => Splice::start(Mode::Never),
    };
    splice.limit_backlog(config.kernel_backlog_limit);
    if !nix::unistd::geteuid().is_root() {
        privilege::give_up().context("giving up capabilities")?;
    }
    Ok(splice)
}

struct Server {
    context: Arc<Context>,
    shards: Arc<Shards>,
    tasks: TaskTracker,
    reloads: Reloads,
    /// Cancelled last, when nothing is left to show.
    end: CancellationToken,
}

impl Server {
    fn start(config: Config, splice: Splice, origin: Origin) -> anyhow::Result<Self> {
        let mut listeners = Listeners::default();
        let plan = listeners.plan(&config)?;
        let threads = match config.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let context = Arc::new(Context::with_splice(config, splice));
        context.hooks.start(tokio::runtime::Handle::current(), context.held());
        let shards = Arc::new(Shards::start(&context, threads)?);
        let tasks = TaskTracker::new();
        let end = CancellationToken::new();
        info!(splice = context.splice.describe(), threads, "data plane");
        let config = context.config();
        warn_of_send_bounds(&config);
        if config.rtmps.enabled {
            context.tls.certificates.load(&config.rtmps.certificate)?;
        }

        let forwards = Arc::new(Forwards::new(&context));
        let edges = Arc::new(Edges::new(Arc::clone(&context), Arc::clone(&forwards.registry)));
        let (reloads, asks) = Reloads::new(&origin.file);
        let sampler = Arc::new(snapshot::Sampler::new(
            Arc::clone(&context),
            Arc::clone(&forwards),
            Arc::clone(&edges),
            shards.gauges(),
            reloads.clone(),
        ));
        let supervisor =
            Supervisor::new(Arc::clone(&context), Arc::clone(&shards), Arc::clone(&forwards));
        tasks.spawn(supervisor.run());
        tasks.spawn(edges.run(Arc::clone(&shards)));
        tasks.spawn(until(end.clone(), sweep(Arc::clone(&context), Arc::clone(&sampler))));
        tasks.spawn(until(end.clone(), follow_certificates(Arc::clone(&context))));
        let source = clients::Source {
            sampler,
            summaries: Arc::default(),
            shards: Arc::downgrade(&shards),
            reloads: reloads.clone(),
        };
        tasks.spawn(until(end.clone(), sample_clients(source.clone())));
        let takers = Takers {
            context: Arc::clone(&context),
            shards: Arc::downgrade(&shards),
            source: source.clone(),
            tasks: tasks.clone(),
            end: end.clone(),
        };
        listeners.apply(plan.ready(&takers)?, &takers);
        source.sampler.listens_on(listeners.rtmp());
        let reloader = Reloader { origin, listeners, takers, asks, reloads: reloads.clone() };
        tasks.spawn(reloader.run());
        Ok(Self { context, shards, tasks, reloads, end })
    }

    async fn serve(self, mut signals: Signals) -> anyhow::Result<()> {
        if signals.next(&self.reloads).await == Stop::Now {
            info!("stopping at once");
            return Ok(());
        }
        let open = self.context.totals.open.load(std::sync::atomic::Ordering::Relaxed);
        let (drain_timeout, reloads) = (self.context.config().drain_timeout, self.reloads.clone());
        info!(connections = open, timeout = ?drain_timeout, "stopping gracefully");
        let until = tokio::time::Instant::now() + drain_timeout;
        tokio::select! {
            () = leaving::see_off(&self.context, drain_timeout) => {}
            _ = signals.next(&reloads) => {
                warn!("stopped at once by a second signal");
                return Ok(());
            }
        }
        self.context.stop.cancel();
        tokio::select! {
            () = self.drain() => info!("stopped"),
            () = tokio::time::sleep_until(until) => warn!("stopped before all was drained"),
            _ = signals.next(&reloads) => warn!("stopped at once by a second signal"),
        }
        Ok(())
    }

    /// Waits until every connection and forward has said goodbye.
    async fn drain(self) {
        let Self { context, shards, tasks, end, .. } = self;
        let hooks = Arc::clone(&context.hooks);
        let ending = tokio::spawn(async move {
            loop {
                context.hub.end_all();
                tokio::time::sleep(STOP_SWEEP).await;
            }
        });
        // Once the acceptors and the supervisor are gone, this is the last handle on the shards.
        let joined = tokio::task::spawn_blocking(move || {
            let mut shards = shards;
            loop {
                match Arc::try_unwrap(shards) {
                    Ok(last) => return last.join(),
                    Err(shared) => shards = shared,
                }
                std::thread::park_timeout(STOP_SWEEP);
            }
        });
        if joined.await.is_err() {
            warn!("the shards did not end well");
        }
        ending.abort();
        hooks.drain().await;
        end.cancel();
        tasks.close();
        tasks.wait().await;
    }
}

async fn sweep(context: Arc<Context>, sampler: Arc<snapshot::Sampler>) {
    let mut tick = tokio::time::interval(SWEEP);
    loop {
        tick.tick().await;
        let now = Instant::now();
        context.hub.sweep(now);
        sampler.sample(now);
    }
}

/// So that rates of clients are those of about the last window, whoever asks when.
async fn sample_clients(source: clients::Source) {
    let mut tick = tokio::time::interval(RATE_WINDOW / 3);
    loop {
        tick.tick().await;
        if source.sampler.config().http_api.enabled {
            source.sample().await;
        }
    }
}

/// Shows certificates that were renewed. Their files may be on a slow disk.
async fn follow_certificates(context: Arc<Context>) {
    let mut tick = tokio::time::interval(RENEWAL_LOOK);
    loop {
        tick.tick().await;
        let (context, config) = (Arc::clone(&context), context.config());
        if !config.rtmps.enabled {
            continue;
        }
        let followed = tokio::task::spawn_blocking(move || {
            context.tls.certificates.follow(&config.rtmps.certificate);
        });
        if let Err(error) = followed.await {
            warn!(%error, "certificates not looked at");
        }
    }
}

async fn until(end: CancellationToken, task: impl Future<Output = ()>) {
    tokio::select! {
        () = end.cancelled() => {}
        () = task => {}
    }
}

#[derive(PartialEq, Eq)]
enum Stop {
    Gracefully,
    Now,
}

/// TERM and QUIT stop gracefully, INT at once; HUP reloads.
struct Signals {
    term: Signal,
    quit: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    /// The next one that stops the process.
    async fn next(&mut self, reloads: &Reloads) -> Stop {
        loop {
            tokio::select! {
                _ = self.term.recv() => return Stop::Gracefully,
                _ = self.quit.recv() => return Stop::Gracefully,
                _ = self.int.recv() => return Stop::Now,
                _ = self.hup.recv() => {
                    let reloads = reloads.clone();
                    // What comes of it is logged.
                    tokio::spawn(async move { reloads.ask().await });
                }
            }
        }
    }
}
