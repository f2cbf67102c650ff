//! The HTTP API.
//!
//! `/api/v1/{versions,summaries,vhosts,streams,clients}` answer as SRS does, so that its consoles
//! and scripts find a server they know; `/api/v1/{status,forwards,edges,splice}` are our own;
//! `/healthz` and `/readyz` are for probes, `/metrics` for Prometheus. It changes nothing but this:
//! `DELETE /api/v1/clients/{id}` sends a client away, `POST /api/v1/forwards/refresh` has destinations
//! looked for anew, `POST /api/v1/reload` has the configuration loaded again.
mod clients;
mod cors;
mod envelope;
mod forwards;
mod limited;
mod metrics;
mod own;
mod page;
mod reload;
mod srs;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::http::{StatusCode, header};
use axum::routing::{MethodRouter, get, post};
use axum::serve::IncomingStream;
use envelope::{Stationery, refusal};
use limited::Limited;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::status::reload::Outcome;
use crate::status::srs::{Identity, SrsStream, SrsVhost, Summary};
use crate::status::{ClientPage, ClientQuery, ClientStatus, ProcessStatus, Snapshot};

/// How long requests that are being answered may take once the API shall stop.
const DRAIN: Duration = Duration::from_secs(1);

/// What the API tells; asked anew for each request.
pub trait Facts: Clone + Send + Sync + 'static {
    /// The process now.
    fn snapshot(&self) -> Snapshot;

    /// What the configuration says of the API now.
    fn options(&self) -> Options;

    /// Has the configuration loaded again.
    fn reload(&self) -> impl Future<Output = Outcome> + Send;

    /// What the process takes of its system. May block.
    fn process(&self) -> ProcessStatus;

    /// The process and its host, as SRS sums them up. May block.
    fn summary(&self) -> Summary;

    /// Whether new connections are taken.
    fn is_ready(&self) -> bool;

    /// Some of the clients.
    fn clients(&self, query: ClientQuery) -> impl Future<Output = ClientPage> + Send;

    /// The client with this id.
    fn client(&self, id: &str) -> impl Future<Output = Option<ClientStatus>> + Send;

    /// Sends the client with this id away; false: there is none.
    fn kick(&self, id: &str) -> impl Future<Output = bool> + Send;

    /// Has the names of destinations looked up and their backends asked at once, of the streams called
    /// `stream` or of all; how many were asked.
    fn refresh_forwards(&self, stream: Option<&str>) -> usize;

    /// All streams, as SRS tells of them.
    fn streams(&self) -> impl Future<Output = Vec<SrsStream>> + Send;

    /// All vhosts, as SRS tells of them.
    fn vhosts(&self) -> impl Future<Output = Vec<SrsVhost>> + Send;
}

/// What the configuration says of the API.
#[derive(Clone, Debug)]
pub struct Options {
    /// `/metrics` has series for each stream.
    pub series_of_streams: bool,
    /// Pages of other sites may read.
    pub crossdomain: bool,
    /// Who says it may write; empty: only who comes over loopback may.
    pub token: String,
    /// It may be reloaded in SRS's way too.
    pub raw_reload: bool,
    /// Who answers.
    pub identity: Identity,
}

/// What a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serve {
    /// Everything.
    Api,
    /// `/metrics` alone.
    Metrics,
}

/// What answers share.
#[derive(Clone)]
struct Api<F> {
    identity: Arc<Stationery>,
    facts: F,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
struct Peer(SocketAddr);

impl Connected<IncomingStream<'_, Limited>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Limited>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// Serves the API, or a part, on `listener` until `shutdown`. Accept errors are retried, so this
/// returns an error only if the listener itself is broken.
pub async fn serve<F: Facts>(
    listener: TcpListener,
    what: Serve,
    facts: F,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let stopping = shutdown.clone();
    let identity = Arc::new(Stationery(facts.options().identity));
    let router = router(what, Api { identity, facts });
    let router = router.into_make_service_with_connect_info::<Peer>();
    let serving = axum::serve(Limited::new(listener, limited::LIFETIME), router)
        .with_graceful_shutdown(stopping.cancelled_owned())
        .into_future();
    let overdue = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = serving => served,
        () = overdue => Ok(()),
    }
}

fn router<F: Facts>(what: Serve, api: Api<F>) -> Router {
    let mut router = Router::new().route("/metrics", get(metrics::metrics::<F>));
    if what == Serve::Api {
        for (path, methods) in paths::<F>() {
            router = router.route(path, methods);
        }
    }
    router
        .fallback(async || refusal(StatusCode::NOT_FOUND))
        .method_not_allowed_fallback(async || refusal(StatusCode::METHOD_NOT_ALLOWED))
        .layer(axum::middleware::from_fn_with_state(api.clone(), cors::cors::<F>))
        .with_state(api)
}

/// All but `/metrics`. SRS's consoles ask for lists with a slash behind them.
fn paths<F: Facts>() -> Vec<(&'static str, MethodRouter<Api<F>>)> {
    vec![
        ("/api/v1/versions", get(srs::versions::<F>)),
        ("/api/v1/summaries", get(srs::summaries::<F>)),
        ("/api/v1/vhosts", get(srs::vhosts::<F>)),
        ("/api/v1/vhosts/", get(srs::vhosts::<F>)),
        ("/api/v1/vhosts/{id}", get(srs::vhost::<F>)),
        ("/api/v1/streams", get(srs::streams::<F>)),
        ("/api/v1/streams/", get(srs::streams::<F>)),
        ("/api/v1/streams/{id}", get(srs::stream::<F>)),
        ("/api/v1/clients", get(clients::list::<F>)),
        ("/api/v1/clients/", get(clients::list::<F>)),
        ("/api/v1/clients/{id}", get(clients::one::<F>).delete(clients::kick::<F>)),
        ("/api/v1/reload", post(reload::reload::<F>)),
        ("/api/v1/raw", get(reload::raw::<F>).post(reload::raw::<F>)),
        ("/api/v1/status", get(own::status::<F>)),
        ("/api/v1/forwards", get(forwards::list::<F>)),
        ("/api/v1/forwards/refresh", post(forwards::refresh::<F>)),
        ("/api/v1/edges", get(own::edges::<F>)),
        ("/api/v1/splice", get(own::splice::<F>)),
        ("/api/v1/openapi.json", get(async || ([(header::CONTENT_TYPE, JSON)], OPENAPI))),
        ("/healthz", get(async || "ok")),
        ("/readyz", get(own::ready::<F>)),
    ]
}

const JSON: &str = "application/json";
/// The API, described for programs; `tests/api.rs` holds it to what is answered.
const OPENAPI: &str = include_str!("openapi.json");
