//! The read-only HTTP API.
//!
//! `/api/v1/versions` answers as SRS does, so that its consoles and scripts find a server they
//! know; `/api/v1/status` is our own; `/healthz` is for probes.
mod limited;
#[cfg(test)]
mod tests;

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

use crate::status::Snapshot;

/// How long requests that are being answered may take once the API shall stop.
const DRAIN: Duration = Duration::from_secs(1);

/// Serves the API on `listener` until `shutdown`; `snapshot` is asked once per request for it.
/// Accept errors are retried, so this returns an error only if the listener itself is broken.
pub async fn serve<S>(
    listener: TcpListener,
    snapshot: S,
    shutdown: CancellationToken,
) -> io::Result<()>
where
    S: Fn() -> Snapshot + Clone + Send + Sync + 'static,
{
    let stopping = shutdown.clone();
    let serving = axum::serve(Limited::new(listener, limited::LIFETIME), router(snapshot))
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

fn router<S>(snapshot: S) -> Router
where
    S: Fn() -> Snapshot + Clone + Send + Sync + 'static,
{
    let status = move || {
        let snapshot = snapshot();
        async move { Json(snapshot) }
    };
    Router::new()
        .route("/api/v1/versions", get(versions))
        .route("/api/v1/status", get(status))
        .route("/healthz", get(async || "ok"))
        .fallback(async || refusal(StatusCode::NOT_FOUND))
        .method_not_allowed_fallback(async || refusal(StatusCode::METHOD_NOT_ALLOWED))
        .with_state(Arc::new(Identity::draw()))
}

async fn versions(State(identity): State<Arc<Identity>>) -> Json<Envelope<Versions>> {
    let number = |text: &str| text.parse().unwrap_or(0);
    Json(Envelope {
        code: 0,
        server: identity.server.clone(),
        service: identity.service.clone(),
        pid: std::process::id().to_string(),
        data: Versions {
            major: number(env!("CARGO_PKG_VERSION_MAJOR")),
            minor: number(env!("CARGO_PKG_VERSION_MINOR")),
            revision: number(env!("CARGO_PKG_VERSION_PATCH")),
            version: env!("CARGO_PKG_VERSION"),
        },
    })
}

fn refusal(status: StatusCode) -> (StatusCode, Json<Refusal>) {
    let error = status.canonical_reason().unwrap_or("refused");
    (status, Json(Refusal { code: status.as_u16(), error }))
}

/// SRS's answer around `data`.
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
    data: T,
}

#[derive(Serialize)]
struct Versions {
    major: u32,
    minor: u32,
    revision: u32,
    version: &'static str,
}

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
}
