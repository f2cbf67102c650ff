//! `/api/v1/clients`: who publishes and plays, in SRS's shape, and sending them away.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::envelope::{Nothing, refusal};
use super::page::Page;
use super::{Api, Facts, Peer};
use crate::status::ClientStatus;

/// SRS's ERROR_RTMP_CLIENT_NOT_FOUND.
const NO_SUCH_CLIENT: u32 = 2049;

#[derive(Serialize)]
struct One {
    client: ClientStatus,
}

/// Some of them; see [`Page`].
pub(super) async fn list<F: Facts>(
    State(api): State<Api<F>>,
    Query(page): Query<Page>,
) -> Response {
    api.identity.answer(api.facts.clients(page.clients()).await).into_response()
}

/// One of them.
pub(super) async fn one<F: Facts>(State(api): State<Api<F>>, Path(id): Path<String>) -> Response {
    match api.facts.client(&id).await {
        Some(client) => api.identity.answer(One { client }).into_response(),
        None => api.identity.error(NO_SUCH_CLIENT).into_response(),
    }
}

/// Sends one away.
pub(super) async fn kick<F: Facts>(
    State(api): State<Api<F>>,
    Path(id): Path<String>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    headers: HeaderMap,
) -> Response {
    if let Some(refused) = refuse(&api, peer, &headers) {
        return refused;
    }
    match api.facts.kick(&id).await {
        true => api.identity.answer(Nothing {}).into_response(),
        false => api.identity.error(NO_SUCH_CLIENT).into_response(),
    }
}

/// What to answer one who may not change anything.
pub(super) fn refuse<F: Facts>(
    api: &Api<F>,
    peer: SocketAddr,
    headers: &HeaderMap,
) -> Option<Response> {
    if may_write(&api.facts.options().token, peer, headers) {
        return None;
    }
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
    Some((challenge, refusal(StatusCode::UNAUTHORIZED)).into_response())
}

/// Whether this request may change something: it has the token, or comes over loopback and neither
/// from a web page nor through a proxy, both of which speak for anybody.
fn may_write(token: &str, peer: SocketAddr, headers: &HeaderMap) -> bool {
    if let Some(said) = headers.get(header::AUTHORIZATION) {
        let said = said.to_str().unwrap_or_default();
        let bearer = said.split_once(' ').filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"));
        return !token.is_empty() && bearer.is_some_and(|(_, said)| is_same(said.trim(), token));
    }
    let speaks_for_others =
        ["origin", "referer", "sec-fetch-site", "forwarded", "x-forwarded-for", "x-real-ip", "via"];
    peer.ip().to_canonical().is_loopback()
        && is_for_an_address(headers)
        && !speaks_for_others.iter().any(|name| headers.contains_key(*name))
}

/// Whether the request is for an address, or for `localhost`. A page whose name was made to stand for
/// this host (DNS rebinding) is of the same site as we are, so that its browser says nothing of it;
/// but its name stands here.
fn is_for_an_address(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let Ok(authority) = Authority::try_from(host.as_bytes()) else { return false };
    let host = authority.host();
    host.eq_ignore_ascii_case("localhost")
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

/// Takes the same time whatever `said` is: digests are compared, whole.
fn is_same(said: &str, token: &str) -> bool {
    let (said, token) = (Sha256::digest(said), Sha256::digest(token));
    said.iter().zip(&token).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_the_token_or_loopback_itself_may_write() {
        let may = |token: &str, peer: &str, said: &[(&'static str, &str)]| {
            let said = said.iter().map(|(name, value)| {
                (header::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
            });
            let peer = SocketAddr::new(peer.parse().unwrap(), 9);
            may_write(token, peer, &said.collect())
        };
        let (near, far) = ("127.0.0.1", "192.0.2.1");
        assert!(may("", near, &[]) && may("t", near, &[]) && may("", "::1", &[]));
        assert!(may("", "::ffff:127.0.0.1", &[]));
        assert!(!may("", far, &[]) && !may("t", far, &[]));
        assert!(may("t", far, &[("authorization", "Bearer t")]));
        assert!(may("t", far, &[("authorization", "bearer t"), ("origin", "http://a")]));
        for wrong in ["Bearer u", "Bearer", "Basic t", "Bearer t t", "Bearer "] {
            assert!(!may("t", near, &[("authorization", wrong)]), "{wrong}");
        }
        assert!(!may("", near, &[("authorization", "Bearer ")]), "no token is no password");
        assert!(!may("", near, &[("origin", "http://evil.test")]), "a page in a browser");
        assert!(!may("", near, &[("sec-fetch-site", "cross-site")]), "an image in one");
        assert!(!may("", near, &[("x-forwarded-for", far)]), "a proxy");
        for host in ["127.0.0.1:1985", "[::1]:1985", "localhost", "LocalHost:1985", "192.0.2.7"] {
            assert!(may("", near, &[("host", host)]), "{host}");
        }
        for host in ["evil.test:1985", "127.0.0.1.evil.test", "localhost.evil.test", "", "a b"] {
            assert!(!may("", near, &[("host", host)]), "a page that was rebound: {host}");
            let said = [("host", host), ("authorization", "Bearer t")];
            assert!(may("t", near, &said), "{host}");
        }
        assert!(!may("", near, &[("referer", "http://evil.test/")]), "an image in an old browser");
    }
}
