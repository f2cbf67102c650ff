//! What SRS has no words for: edges and the kernel's part.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::envelope::refusal;
use super::{Api, Facts};
use crate::status::{LegStatus, LegTotals, PullStatus, Snapshot};

#[derive(Serialize)]
struct Edges {
    pulls: Vec<PullStatus>,
    legs: Vec<LegStatus>,
}

#[derive(Serialize)]
struct Splice {
    splice: String,
    kernel_backlog: u64,
    kernel_backlog_limit: u64,
    legs: usize,
    legs_in_kernel: usize,
    totals: LegTotals,
}

pub(super) async fn status<F: Facts>(State(api): State<Api<F>>) -> Json<Snapshot> {
    Json(api.facts.snapshot())
}

pub(super) async fn edges<F: Facts>(State(api): State<Api<F>>) -> Response {
    let Snapshot { pulls, legs, .. } = api.facts.snapshot();
    api.identity.answer(Edges { pulls, legs }).into_response()
}

pub(super) async fn splice<F: Facts>(State(api): State<Api<F>>) -> Response {
    let snapshot = api.facts.snapshot();
    let splice = Splice {
        splice: snapshot.splice,
        kernel_backlog: snapshot.kernel_backlog,
        kernel_backlog_limit: snapshot.kernel_backlog_limit,
        legs: snapshot.legs.len(),
        legs_in_kernel: snapshot.legs.iter().filter(|leg| leg.path == "kernel").count(),
        totals: snapshot.totals.legs,
    };
    api.identity.answer(splice).into_response()
}

/// For a balancer: whether to send clients here.
pub(super) async fn ready<F: Facts>(State(api): State<Api<F>>) -> Response {
    match api.facts.is_ready() {
        true => "ready".into_response(),
        false => refusal(StatusCode::SERVICE_UNAVAILABLE).into_response(),
    }
}
