//! The read-only HTTP API.
//!
//! `/api/v1/versions` and `/api/v1/clients` answer as SRS does, so that its consoles and scripts find
//! a server they know; `/api/v1/status` is our own; `/healthz` is for probes, `/metrics` for Prometheus.
mod clients;
mod limited;
mod metrics;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use limited::Limited;
use rand::distr::{Alphanumeric, SampleString as _};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::status::{ClientPage, ClientQuery, ClientStatus, ProcessStatus, Snapshot};

/// How long requests that are being answered may take once the API shall stop.
const DRAIN: Duration = Duration::from_secs(1);

/// What the API tells; asked anew for each request.
pub trait Facts: Clone + Send + Sync + 'static {
    /// The process now.
    fn snapshot(&self) -> Snapshot;

    /// What the process takes of its system. May block.
    fn process(&self) -> ProcessStatus;

    /// Whether new connections are taken.
    fn is_ready(&self) -> bool;

    /// Some of the clients.
    fn clients(&self, query: ClientQuery) -> impl Future<Output = ClientPage> + Send;

    /// The client with this id.
    fn client(&self, id: &str) -> impl Future<Output = Option<ClientStatus>> + Send;
}

/// What the configuration says of the API.
#[derive(Clone, Debug)]
pub struct Options {
    /// `/metrics` has series for each stream.
    pub series_of_streams: bool,
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
    identity: Arc<Identity>,
    options: Arc<Options>,
    facts: F,
}

/// Serves the API, or a part, on `listener` until `shutdown`. Accept errors are retried, so this
/// returns an error only if the listener itself is broken.
pub async fn serve<F: Facts>(
    listener: TcpListener,
    what: Serve,
    facts: F,
    options: Options,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let stopping = shutdown.clone();
    let (identity, options) = (Arc::new(Identity::draw()), Arc::new(options));
    let router = router(what).with_state(Api { identity, options, facts });
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

fn router<F: Facts>(what: Serve) -> Router<Api<F>> {
    let mut router = Router::new().route("/metrics", get(metrics::metrics::<F>));
    if what == Serve::Api {
        router = router
            .route("/api/v1/versions", get(versions::<F>))
            .route("/api/v1/status", get(status::<F>))
            .route("/api/v1/clients", get(clients::list::<F>))
            .route("/api/v1/clients/{id}", get(clients::one::<F>))
            .route("/healthz", get(async || "ok"));
    }
    router
        .fallback(async || refusal(StatusCode::NOT_FOUND))
        .method_not_allowed_fallback(async || refusal(StatusCode::METHOD_NOT_ALLOWED))
}

async fn status<F: Facts>(State(api): State<Api<F>>) -> Json<Snapshot> {
    Json(api.facts.snapshot())
}

async fn versions<F: Facts>(State(api): State<Api<F>>) -> Json<Envelope<Versions>> {
    let number = |text: &str| text.parse().unwrap_or(0);
    let data = Version {
        major: number(env!("CARGO_PKG_VERSION_MAJOR")),
        minor: number(env!("CARGO_PKG_VERSION_MINOR")),
        revision: number(env!("CARGO_PKG_VERSION_PATCH")),
        version: env!("CARGO_PKG_VERSION"),
    };
    Json(api.identity.answer(Versions { data }))
}

fn refusal(status: StatusCode) -> (StatusCode, Json<Refusal>) {
    let error = status.canonical_reason().unwrap_or("refused");
    (status, Json(Refusal { code: status.as_u16(), error }))
}

/// SRS's answer around what was asked for.
#[derive(Serialize)]
struct Envelope<T> {
    /// 0: fine.
    code: u32,
    /// Which server.
    server: String,
    /// Which run of it.
    service: String,
    /// A string, as in SRS.
    pid: String,
    #[serde(flatten)]
    body: T,
}

#[derive(Serialize)]
struct Versions {
    data: Version,
}

#[derive(Serialize)]
struct Version {
    major: u32,
    minor: u32,
    revision: u32,
    version: &'static str,
}

#[derive(Serialize)]
struct Nothing {}

#[derive(Serialize)]
struct Refusal {
    code: u16,
    error: &'static str,
}

/// Ids in the form of SRS's, drawn at each start.
struct Identity {
    server: String,
    service: String,
}

impl Identity {
    fn draw() -> Self {
        let draw = |n| Alphanumeric.sample_string(&mut rand::rng(), n).to_lowercase();
        Self { server: format!("vid-{}", draw(7)), service: draw(8) }
    }

    fn answer<T>(&self, body: T) -> Envelope<T> {
        self.wrap(0, body)
    }

    /// With one of SRS's codes, which come with HTTP's 200.
    fn error(&self, code: u32) -> Envelope<Nothing> {
        self.wrap(code, Nothing {})
    }

    fn wrap<T>(&self, code: u32, body: T) -> Envelope<T> {
        Envelope {
            code,
            server: self.server.clone(),
            service: self.service.clone(),
            pid: std::process::id().to_string(),
            body,
        }
    }
}
