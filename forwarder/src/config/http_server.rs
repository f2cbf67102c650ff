//! Players over HTTP: where they are listened for, and what they get.
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{Config, serial};

/// `[http_server]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpServer {
    /// Off by default.
    pub enabled: bool,
    /// Where players over HTTP come; `0.0.0.0:8080` by default.
    #[serde(deserialize_with = "serial::listens", serialize_with = "serial::write_list")]
    pub listen: Vec<SocketAddr>,
    /// Let pages of other sites play (CORS).
    pub crossdomain: bool,
}

/// `[vhost.http_remux]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpRemux {
    /// Off by default. On: streams are at `/app/stream.flv` of `[http_server]`.
    pub enabled: bool,
    /// What an FLV stream begins with names the kinds of media that are there. It waits until that is
    /// known, at most `keyframe_wait`.
    pub guess_has_av: bool,
    /// Without the guess: there is audio. Off: none is sent.
    pub has_audio: bool,
    /// Without the guess: there is video. Off: none is sent.
    pub has_video: bool,
}

// === impl HttpServer ===

impl Default for HttpServer {
    fn default() -> Self {
        let listen = vec![SocketAddr::from(([0, 0, 0, 0], 8080))];
        Self { enabled: false, listen, crossdomain: true }
    }
}

impl Default for HttpRemux {
    fn default() -> Self {
        Self { enabled: false, guess_has_av: true, has_audio: true, has_video: true }
    }
}

impl HttpRemux {
    /// Whether an FLV stream would be without media.
    pub(super) fn is_empty(&self) -> bool {
        !self.guess_has_av && !self.has_audio && !self.has_video
    }
}

/// What is said of one that is.
pub(super) const EMPTY: &str =
    "neither audio nor video would be sent\nturn one of has_audio and has_video on";

/// What is wrong with the address of `[http_server]`: that somebody else has it.
pub(super) fn clash(config: &Config) -> Option<String> {
    let server = &config.http_server;
    let (api, exporter) = (&config.http_api, &config.exporter);
    let others =
        [(api.enabled, "http_api", api.listen), (exporter.enabled, "exporter", exporter.listen)];
    let rtmp = config.listen.iter().map(|address| (true, "RTMP", *address));
    let taken: Vec<_> = others.into_iter().chain(rtmp).filter(|(enabled, ..)| *enabled).collect();
    let asked = server.listen.iter().filter(|_| server.enabled);
    asked.into_iter().find_map(|asked| {
        let (_, who, _) = taken.iter().find(|(.., address)| overlap(*address, *asked))?;
        Some(format!(
            "http_server and {who} cannot both listen on {asked}\n\
             players over HTTP have a port of their own: listen = [\"0.0.0.0:8080\"]"
        ))
    })
}

/// Whether one address cannot be bound beside the other; port 0 is another port each time.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let any = one.ip().is_unspecified() || other.ip().is_unspecified();
    let same = one.is_ipv4() == other.is_ipv4() && (any || one.ip() == other.ip());
    one.port() != 0 && one.port() == other.port() && same
}
