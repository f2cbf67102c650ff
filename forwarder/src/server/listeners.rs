//! What the process listens on, and how that changes while it runs.

use std::future::Future;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::{Arc, Weak};

use anyhow::Context as _;
use socket2::SockRef;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::clients::Source;
use crate::config::Config;
use crate::conn::{Acceptor, Context, Serves, Shards, bind};
use crate::http::{Serve, serve};

/// What is served at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Streams(Serves),
    Http(Serve),
}

/// A listener as the configuration asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    what: What,
    address: SocketAddr,
    /// An IPv6 wildcard that leaves IPv4 to another listener.
    only_v6: bool,
}

/// A listener.
#[derive(Debug)]
struct Open {
    wanted: Wanted,
    socket: TcpListener,
    /// Cancelled when it shall listen no more.
    stop: CancellationToken,
}

/// All listeners of the process.
#[derive(Debug, Default)]
pub(super) struct Listeners(Vec<Open>);

/// Listeners that are bound, and those that they replace. Nothing has changed yet.
#[derive(Debug)]
pub(super) struct Plan {
    fresh: Vec<(Wanted, TcpListener)>,
    gone: Vec<Wanted>,
}

/// A [`Plan`] of which nothing can fail any more. Still nothing has changed.
pub(super) struct Ready {
    fresh: Vec<(Open, Serving)>,
    gone: Vec<Wanted>,
}

/// Accepts and serves until it is stopped.
type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Who takes what comes in.
pub(super) struct Takers {
    pub(super) context: Arc<Context>,
    /// Weak: shards end when the last handle on them is gone.
    pub(super) shards: Weak<Shards>,
    pub(super) source: Source,
    pub(super) tasks: TaskTracker,
    /// Ends what HTTP serves.
    pub(super) end: CancellationToken,
}

impl Listeners {
    /// Binds what `config` asks for and is not there yet.
    ///
    /// Errors: an address cannot be bound. Then nothing is.
    pub(super) fn plan(&self, config: &Config) -> anyhow::Result<Plan> {
        let mut gone: Vec<&Open> = self.0.iter().collect();
        let mut missing = Vec::new();
        for wanted in wanted(config) {
            match gone.iter().position(|open| open.wanted == wanted) {
                Some(at) => drop(gone.swap_remove(at)),
                None => missing.push(wanted),
            }
        }
        let fresh = missing.into_iter().map(|wanted| Ok((wanted, open(wanted, &gone)?)));
        let fresh = fresh.collect::<anyhow::Result<_>>()?;
        Ok(Plan { fresh, gone: gone.into_iter().map(|open| open.wanted).collect() })
    }

    /// Serves what is planned, and no longer accepts where that is not wanted any more:
    /// connections that are there stay.
    pub(super) fn apply(&mut self, ready: Ready, takers: &Takers) {
        for wanted in ready.gone {
            if let Some(at) = self.0.iter().position(|open| open.wanted == wanted) {
                let open = self.0.swap_remove(at);
                info!(address = %wanted.address, "{} closed", name(wanted.what));
                open.stop.cancel();
            }
        }
        for (open, serving) in ready.fresh {
            let address = open.socket.local_addr().unwrap_or(open.wanted.address);
            match open.wanted.what {
                What::Streams(serves) => info!(%address, ?serves, "listening"),
                what @ What::Http(_) => info!(%address, "{} listening", name(what)),
            }
            takers.tasks.spawn(serving);
            self.0.push(open);
        }
    }

    /// Where RTMP is served, `ip:port`, with the ports really bound.
    pub(super) fn rtmp(&self) -> Vec<String> {
        let shown = |open: &Open| {
            let scheme = match open.wanted.what {
                What::Streams(Serves::Rtmp) => "",
                What::Streams(Serves::Rtmps) => "rtmps://",
                What::Streams(Serves::HttpFlv) | What::Http(_) => return None,
            };
            Some(format!("{scheme}{}", open.socket.local_addr().ok()?))
        };
        self.0.iter().filter_map(shown).collect()
    }
}

impl Plan {
    /// Makes ready to accept.
    ///
    /// Errors: there are no more descriptors, the server stops.
    pub(super) fn ready(self, takers: &Takers) -> anyhow::Result<Ready> {
        let fresh = self.fresh.into_iter().map(|(wanted, socket)| {
            let taken = takers.take(wanted, &socket);
            let (stop, serving) = taken
                .with_context(|| format!("{}listen on {}", prefix(wanted.what), wanted.address))?;
            Ok((Open { wanted, socket, stop }, serving))
        });
        Ok(Ready { fresh: fresh.collect::<anyhow::Result<_>>()?, gone: self.gone })
    }
}

impl Takers {
    /// What accepts there, and what ends that.
    fn take(
        &self,
        wanted: Wanted,
        socket: &TcpListener,
    ) -> anyhow::Result<(CancellationToken, Serving)> {
        let socket = socket.try_clone()?;
        match wanted.what {
            What::Streams(serves) => {
                let stop = self.context.leaving.players.child_token();
                let shards = self.shards.upgrade().context("stopping")?;
                let context = Arc::clone(&self.context);
                let acceptor = Acceptor::new(context, shards, socket, serves, stop.clone())?;
                Ok((stop, Box::pin(acceptor.run())))
            }
            What::Http(what) => {
                let stop = self.end.child_token();
                let listener = tokio::net::TcpListener::from_std(socket)?;
                let serving = serve(listener, what, self.source.clone(), stop.clone());
                let serving = async move {
                    if let Err(error) = serving.await {
                        warn!(%error, "{} ended", name(wanted.what));
                    }
                };
                Ok((stop, Box::pin(serving)))
            }
        }
    }
}

fn wanted(config: &Config) -> Vec<Wanted> {
    let (rtmps, players) = (&config.rtmps, &config.http_server);
    let all: Vec<_> = [
        (Serves::Rtmp, true, &config.listen),
        (Serves::Rtmps, rtmps.enabled, &rtmps.listen),
        (Serves::HttpFlv, players.enabled, &players.listen),
    ]
    .into_iter()
    .filter(|(_, enabled, _)| *enabled)
    .flat_map(|(serves, _, listen)| listen.iter().map(move |address| (*address, serves)))
    .collect();
    let taken = |port: u16| all.iter().any(|(other, _)| other.is_ipv4() && other.port() == port);
    let streams = all.iter().map(|&(address, serves)| {
        let only_v6 = address.is_ipv6() && taken(address.port());
        Wanted { what: What::Streams(serves), address, only_v6 }
    });
    let (api, exporter) = (&config.http_api, &config.exporter);
    let http = [
        (api.enabled, Serve::Api, api.listen),
        (exporter.enabled, Serve::Metrics, exporter.listen),
    ];
    let http = http.into_iter().filter(|(enabled, ..)| *enabled);
    streams
        .chain(http.map(|(_, serve, address)| {
            let what = What::Http(serve);
            Wanted { what, address, only_v6: false }
        }))
        .collect()
}

/// Binds a listener. One that is to go may have its port, on another address: for this moment they
/// share it.
fn open(wanted: Wanted, gone: &[&Open]) -> anyhow::Result<TcpListener> {
    let address = wanted.address;
    let result = match bind(address, wanted.only_v6, false) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let same_port = |open: &&&Open| open.wanted.address.port() == address.port();
            let holders: Vec<SockRef<'_>> =
                gone.iter().filter(same_port).map(|open| SockRef::from(&open.socket)).collect();
            let share = |on| holders.iter().try_for_each(|socket| socket.set_reuse_port(on));
            let result = match holders.is_empty() {
                true => Err(error),
                false => share(true).and_then(|()| bind(address, wanted.only_v6, true)),
            };
            share(false).and(result)
        }
        result => result,
    };
    result.with_context(|| format!("{}listen on {address}", prefix(wanted.what)))
}

/// In front of what is said of a listener.
fn prefix(what: What) -> String {
    match what {
        What::Streams(Serves::Rtmp | Serves::Rtmps) => String::new(),
        What::Streams(Serves::HttpFlv) | What::Http(_) => format!("{}: ", name(what)),
    }
}

fn name(what: What) -> &'static str {
    match what {
        What::Streams(Serves::Rtmp) => "listener",
        What::Streams(Serves::Rtmps) => "rtmps listener",
        What::Streams(Serves::HttpFlv) => "http_server",
        What::Http(Serve::Api) => "http_api",
        What::Http(Serve::Metrics) => "exporter",
    }
}
