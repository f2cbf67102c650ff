//! Loading the configuration again: `POST /api/v1/reload`, and SRS's way, `/api/v1/raw`.

use axum::extract::{ConnectInfo, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::clients::refuse;
use super::{Api, Facts, Peer};
use crate::status::reload::{ConfigStatus, Refused, Reloaded};

/// SRS's ERROR_SYSTEM_CONFIG_INVALID.
const INVALID: u32 = 1023;
/// SRS's ERROR_SYSTEM_CONFIG_RAW: no such `rpc`.
const RAW: u32 = 1060;
/// SRS's ERROR_SYSTEM_CONFIG_RAW_DISABLED.
const RAW_DISABLED: u32 = 1061;

/// SRS's words for where a reload stands (SrsReloadState): before the first, while it reads the
/// file, where one that is refused stays, and when it is through.
const STATE_INIT: u32 = 0;
const STATE_PARSING: u32 = 10;
const STATE_FINISHED: u32 = 90;

#[derive(Serialize)]
struct Done {
    reload: Reloaded,
}

#[derive(Serialize)]
struct Failed {
    error: Refused,
}

#[derive(Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    rpc: String,
}

#[derive(Serialize)]
struct Fetched {
    data: Fetch,
}

/// SRS's answer to `reload-fetch`.
#[derive(Serialize)]
struct Fetch {
    err: u32,
    msg: String,
    state: u32,
    rid: String,
}

#[derive(Serialize)]
struct RawConfig {
    http_api: RawApi,
}

#[derive(Serialize)]
struct RawApi {
    enabled: bool,
    crossdomain: bool,
    raw_api: RawSwitches,
}

#[derive(Serialize)]
struct RawSwitches {
    enabled: bool,
    allow_reload: bool,
}

/// What changed, or with status 400 why nothing did.
pub(super) async fn reload<F: Facts>(
    State(api): State<Api<F>>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    headers: HeaderMap,
) -> Response {
    if let Some(refused) = refuse(&api, peer, &headers) {
        return refused;
    }
    match api.facts.reload().await {
        Ok(reload) => api.identity.answer(Done { reload }).into_response(),
        Err(error) => {
            let answer = api.identity.wrap(INVALID, Failed { error: *error });
            (StatusCode::BAD_REQUEST, answer).into_response()
        }
    }
}

/// As SRS: `rpc=reload` answers at once, and `rpc=reload-fetch` says what came of it.
pub(super) async fn raw<F: Facts>(
    State(api): State<Api<F>>,
    Query(asked): Query<Asked>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    headers: HeaderMap,
) -> Response {
    let options = api.facts.options();
    match &*asked.rpc {
        "raw" => {
            let raw_api =
                RawSwitches { enabled: options.raw_reload, allow_reload: options.raw_reload };
            let crossdomain = options.crossdomain;
            let http_api = RawApi { enabled: true, crossdomain, raw_api };
            api.identity.answer(RawConfig { http_api }).into_response()
        }
        _ if !options.raw_reload => api.identity.error(RAW_DISABLED).into_response(),
        "reload" => match refuse(&api, peer, &headers) {
            Some(refused) => refused,
            None => {
                let facts = api.facts.clone();
                tokio::spawn(async move { facts.reload().await });
                api.identity.error(0).into_response()
            }
        },
        "reload-fetch" => {
            let data = fetch(api.facts.snapshot().config);
            api.identity.answer(Fetched { data }).into_response()
        }
        _ => api.identity.error(RAW).into_response(),
    }
}

fn fetch(config: ConfigStatus) -> Fetch {
    let (err, state) = match (config.reloads, config.last_error.is_empty()) {
        (0, _) => (0, STATE_INIT),
        (_, true) => (0, STATE_FINISHED),
        (_, false) => (INVALID, STATE_PARSING),
    };
    Fetch { err, msg: config.last_error, state, rid: config.reloads.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_reload_is_told_as_srs_does() {
        let told = |reloads, last_error: &str| {
            let last_error = last_error.to_owned();
            let told = fetch(ConfigStatus { reloads, last_error, ..ConfigStatus::default() });
            (told.err, told.msg, told.state, told.rid)
        };
        assert_eq!(told(0, ""), (0, String::new(), 0, "0".to_owned()));
        assert_eq!(told(3, ""), (0, String::new(), 90, "3".to_owned()));
        assert_eq!(told(4, "bad"), (1023, "bad".to_owned(), 10, "4".to_owned()));
    }
}
