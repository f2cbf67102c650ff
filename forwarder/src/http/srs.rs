//! The rest of what SRS tells: versions, summaries, vhosts and streams.

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::envelope::refusal;
use super::page::Page;
use super::{Api, Facts};
use crate::status::srs::{SrsStream, SrsVhost};

/// SRS's ERROR_RTMP_VHOST_NOT_FOUND.
const NO_SUCH_VHOST: u32 = 2014;
/// SRS's ERROR_RTMP_STREAM_NOT_FOUND.
const NO_SUCH_STREAM: u32 = 2048;

#[derive(Serialize)]
struct Data<T> {
    data: T,
}

#[derive(Serialize)]
struct Version {
    major: u32,
    minor: u32,
    revision: u32,
    version: &'static str,
}

#[derive(Serialize)]
struct Vhosts {
    vhosts: Vec<SrsVhost>,
}

#[derive(Serialize)]
struct OneVhost {
    vhost: SrsVhost,
}

#[derive(Serialize)]
struct Streams {
    streams: Vec<SrsStream>,
}

#[derive(Serialize)]
struct OneStream {
    stream: SrsStream,
}

pub(super) async fn versions<F: Facts>(State(api): State<Api<F>>) -> Response {
    let number = |text: &str| text.parse().unwrap_or(0);
    let data = Version {
        major: number(env!("CARGO_PKG_VERSION_MAJOR")),
        minor: number(env!("CARGO_PKG_VERSION_MINOR")),
        revision: number(env!("CARGO_PKG_VERSION_PATCH")),
        version: env!("CARGO_PKG_VERSION"),
    };
    api.identity.answer(Data { data }).into_response()
}

pub(super) async fn summaries<F: Facts>(State(api): State<Api<F>>) -> Response {
    let facts = api.facts.clone();
    match tokio::task::spawn_blocking(move || facts.summary()).await {
        Ok(data) => api.identity.answer(Data { data }).into_response(),
        Err(_) => refusal(StatusCode::INTERNAL_SERVER_ERROR).into_response(),
    }
}

pub(super) async fn vhosts<F: Facts>(State(api): State<Api<F>>) -> Response {
    let vhosts = api.facts.vhosts().await;
    api.identity.answer(Vhosts { vhosts }).into_response()
}

pub(super) async fn vhost<F: Facts>(State(api): State<Api<F>>, Path(id): Path<String>) -> Response {
    match api.facts.vhosts().await.into_iter().find(|vhost| vhost.id == id) {
        Some(vhost) => api.identity.answer(OneVhost { vhost }).into_response(),
        None => api.identity.error(NO_SUCH_VHOST).into_response(),
    }
}

pub(super) async fn streams<F: Facts>(
    State(api): State<Api<F>>,
    Query(page): Query<Page>,
) -> Response {
    let streams = page.of(api.facts.streams().await);
    api.identity.answer(Streams { streams }).into_response()
}

pub(super) async fn stream<F: Facts>(
    State(api): State<Api<F>>,
    Path(id): Path<String>,
) -> Response {
    match api.facts.streams().await.into_iter().find(|stream| stream.id == id) {
        Some(stream) => api.identity.answer(OneStream { stream }).into_response(),
        None => api.identity.error(NO_SUCH_STREAM).into_response(),
    }
}
