//! The running server: binds, starts the shards, and stops them when it is told to.

mod clients;
mod leaving;
mod process;
mod snapshot;
mod srs;
mod summary;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::config::{Config, When};
use crate::conn::{Acceptor, Context, RATE_WINDOW, Shards, bind, warn_of_send_bounds};
use crate::edge::Edges;
use crate::forward::{Forwards, Supervisor};
use crate::http::{Options, Serve};
use crate::privilege;
use crate::splice::{Mode, Splice, WhyNot};

/// How often streams whose grace time is over are looked for, and rates are sampled.
const SWEEP: Duration = Duration::from_millis(500);

/// How often the files of certificates are looked at.
const RENEWAL_LOOK: Duration = Duration::from_secs(5);

/// While the process stops it looks so often whether streams can end.
const STOP_SWEEP: Duration = Duration::from_millis(50);

/// Runs a server with `config` until a signal ends it.
///
/// Errors: an address cannot be bound, the pid file is locked, threads cannot be made.
pub fn run(mut config: Config) -> anyhow::Result<()> {
    let _pid_file = config.pid.as_deref().map(process::PidFile::lock).transpose()?;
    config.max_connections = process::fit_connections(config.max_connections)?;
    // Capabilities are the threads': given up before the first one is started.
    let splice = splice(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        // Before anything is served, so that no signal finds its default action.
        let signals = Signals::new().context("signals")?;
        let server = Server::start(config, splice)?;
        server.serve(signals).await
    });
    // Whoever could not be drained in time is not waited for.
    runtime.shutdown_background();
    result
}

/// Decides how legs are carried, and gives up the capabilities that were for that alone. Root keeps
/// its own: it was started as root for more than this, such as the pid file it removes at the end.
fn splice(config: &Config) -> anyhow::Result<Splice> {
    let edges = config.vhosts.iter().filter(|vhost| vhost.enabled && vhost.edge.enabled);
    let any = edges.into_iter().any(|vhost| vhost.edge.splice != When::Never);
    let splice = match config.kernel {
        _ if !any => Splice::user(WhyNot::Disabled),
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
    drain_timeout: Duration,
    /// Cancelled last, when nothing is left to show.
    end: CancellationToken,
}

impl Server {
    fn start(config: Config, splice: Splice) -> anyhow::Result<Self> {
        let listeners = rtmp_listeners(&config)?;
        let http = http_listeners(&config)?;
        let threads = match config.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let drain_timeout = config.drain_timeout;
        let context = Arc::new(Context::with_splice(config, splice));
        context.hooks.start(tokio::runtime::Handle::current());
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
        let bound = listeners.iter().map(|(listener, tls)| {
            Ok(format!("{}{}", if *tls { "rtmps://" } else { "" }, listener.local_addr()?))
        });
        let bound = bound.collect::<std::io::Result<Vec<_>>>()?;
        let edges = Arc::new(Edges::new(Arc::clone(&context), Arc::clone(&forwards.registry)));
        let sampler = Arc::new(snapshot::Sampler::new(
            Arc::clone(&context),
            Arc::clone(&forwards),
            Arc::clone(&edges),
            shards.gauges(),
            bound,
        ));
        for (listener, tls) in listeners {
            info!(address = %listener.local_addr()?, tls, "listening");
            let (context, shards) = (Arc::clone(&context), Arc::clone(&shards));
            let acceptor = Acceptor::new(context, shards, listener, tls)?;
            tasks.spawn(acceptor.run());
        }
        let supervisor =
            Supervisor::new(Arc::clone(&context), Arc::clone(&shards), Arc::clone(&forwards));
        tasks.spawn(supervisor.run());
        tasks.spawn(edges.run(Arc::clone(&shards)));
        tasks.spawn(until(end.clone(), sweep(Arc::clone(&context), Arc::clone(&sampler))));
        tasks.spawn(until(end.clone(), follow_certificates(Arc::clone(&context))));
        let source =
            clients::Source { sampler, summaries: Arc::default(), shards: Arc::downgrade(&shards) };
        if config.http_api.enabled {
            tasks.spawn(until(end.clone(), sample_clients(source.clone())));
        }
        let options = Options {
            series_of_streams: config.exporter.streams,
            crossdomain: config.http_api.crossdomain,
            token: config.http_api.token.clone(),
            identity: context.identity.clone(),
        };
        for (what, listener) in http {
            info!(address = %listener.local_addr()?, "{} listening", name(what));
            let listener = TcpListener::from_std(listener)?;
            let (source, options) = (source.clone(), options.clone());
            let serve = crate::http::serve(listener, what, source, options, end.clone());
            tasks.spawn(async move {
                if let Err(error) = serve.await {
                    warn!(%error, "{} ended", name(what));
                }
            });
        }
        Ok(Self { context, shards, tasks, drain_timeout, end })
    }

    async fn serve(self, mut signals: Signals) -> anyhow::Result<()> {
        if signals.next().await == Stop::Now {
            info!("stopping at once");
            return Ok(());
        }
        let open = self.context.totals.open.load(std::sync::atomic::Ordering::Relaxed);
        info!(connections = open, timeout = ?self.drain_timeout, "stopping gracefully");
        let drain_timeout = self.drain_timeout;
        let until = tokio::time::Instant::now() + drain_timeout;
        tokio::select! {
            () = leaving::see_off(&self.context, drain_timeout) => {}
            _ = signals.next() => {
                warn!("stopped at once by a second signal");
                return Ok(());
            }
        }
        self.context.stop.cancel();
        tokio::select! {
            () = self.drain() => info!("stopped"),
            () = tokio::time::sleep_until(until) => warn!("stopped before all was drained"),
            _ = signals.next() => warn!("stopped at once by a second signal"),
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

/// Binds the listeners of RTMP, without and with TLS.
fn rtmp_listeners(config: &Config) -> anyhow::Result<Vec<(std::net::TcpListener, bool)>> {
    let rtmps = &config.rtmps;
    let secure = if rtmps.enabled { rtmps.listen.as_slice() } else { &[] };
    let both = config.listen.iter().map(|address| (address, false));
    let all: Vec<_> = config.listen.iter().chain(secure).copied().collect();
    both.chain(secure.iter().map(|address| (address, true)))
        .map(|(address, tls)| {
            let bound = bind(*address, &all).with_context(|| format!("listen on {address}"))?;
            Ok((bound, tls))
        })
        .collect()
}

/// Binds what is to be served by HTTP.
fn http_listeners(config: &Config) -> anyhow::Result<Vec<(Serve, std::net::TcpListener)>> {
    let (api, exporter) = (&config.http_api, &config.exporter);
    let wanted = [
        (api.enabled, Serve::Api, api.listen),
        (exporter.enabled, Serve::Metrics, exporter.listen),
    ];
    let wanted = wanted.into_iter().filter(|(enabled, ..)| *enabled);
    wanted
        .map(|(_, what, address)| {
            let bound = bind(address, &[]);
            let bound = bound.with_context(|| format!("{}: listen on {address}", name(what)))?;
            Ok((what, bound))
        })
        .collect()
}

fn name(what: Serve) -> &'static str {
    match what {
        Serve::Api => "http_api",
        Serve::Metrics => "exporter",
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
        source.sample().await;
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

/// TERM and QUIT stop gracefully, INT at once; HUP is spoken for by a reload.
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

    async fn next(&mut self) -> Stop {
        loop {
            tokio::select! {
                _ = self.term.recv() => return Stop::Gracefully,
                _ = self.quit.recv() => return Stop::Gracefully,
                _ = self.int.recv() => return Stop::Now,
                _ = self.hup.recv() => {
                    warn!("SIGHUP: this version cannot reload; the running config stays");
                }
            }
        }
    }
}
