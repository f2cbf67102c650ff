//! `/api/v1/forwards`: where streams go, and looking anew where they should.

use axum::extract::{ConnectInfo, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::clients::refuse;
use super::{Api, Facts, Peer};
use crate::status::{BackendStatus, ForwardStatus, NameStatus, Snapshot};

#[derive(Serialize)]
struct Forwards {
    forwards: Vec<Forward>,
    names: Vec<NameStatus>,
    backends: Vec<BackendStatus>,
}

#[derive(Serialize)]
struct Forward {
    vhost: String,
    app: String,
    stream: String,
    #[serde(flatten)]
    status: ForwardStatus,
}

/// All of them.
pub(super) async fn list<F: Facts>(State(api): State<Api<F>>) -> Response {
    let Snapshot { streams, names, backends, .. } = api.facts.snapshot();
    let forwards = streams.into_iter().flat_map(|stream| {
        stream.forwards.into_iter().map(move |status| Forward {
            vhost: stream.vhost.clone(),
            app: stream.app.clone(),
            stream: stream.stream.clone(),
            status,
        })
    });
    let forwards = forwards.collect();
    api.identity.answer(Forwards { forwards, names, backends }).into_response()
}

/// Which streams, and those named.
#[derive(Deserialize)]
pub(super) struct Which {
    stream: Option<String>,
}

#[derive(Serialize)]
struct Refreshed {
    asked: usize,
}

/// Has names looked up and backends asked at once, before their time.
pub(super) async fn refresh<F: Facts>(
    State(api): State<Api<F>>,
    Query(which): Query<Which>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    headers: HeaderMap,
) -> Response {
    if let Some(refused) = refuse(&api, peer, &headers) {
        return refused;
    }
    let asked = api.facts.refresh_forwards(which.stream.as_deref());
    api.identity.answer(Refreshed { asked }).into_response()
}
