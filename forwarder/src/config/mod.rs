//! Configuration: TOML or SRS `.conf` text to values that are valid because they exist.
//!
//! The words are SRS's. What a key may be is checked while it is read, so every refusal names its
//! file and line, shows the text and says the mend.
mod access;
mod backend;
mod change;
mod destination;
mod error;
mod file;
mod forward;
mod forward_target;
mod forward_url;
mod hooks;
mod http_server;
mod http_url;
mod live;
mod rtmps;
mod serial;
mod srs;
#[cfg(test)]
mod tests;
mod values;

use std::fs::File;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use access::{Domain, Network, Refer, Secret, Security, Tokens};
pub use backend::{Backend, BackendFailure};
pub use change::{Change, Takes, changes, keep, takes};
pub use destination::{DEFAULT_PORT, Destination, DestinationError, bracketed};
use error::Source;
pub use error::{ConfigError, Fault, Position};
pub use forward::{Forward, ForwardTo, Pattern};
pub use forward_target::{Discovery, ForwardTarget, ForwardTargetError};
pub use forward_url::{ForwardUrl, ForwardUrlError, Names};
pub use hooks::{Hooks, OnFailure};
pub use http_server::{HttpRemux, HttpServer};
pub use http_url::{HttpUrl, HttpUrlError};
pub use live::Live;
pub use rtmps::{Rtmps, Targets};
pub(crate) use values::parse_duration;

/// The vhost that serves every name no other vhost has.
pub const DEFAULT_VHOST: &str = "__defaultVhost__";

/// Unsent bytes that the kernel holds for a peer at most, unless told otherwise. What is under way
/// is not bounded by it, so it costs a peer that is far away nothing, and one that does not read
/// costs this instead of megabytes.
const NOTSENT_LOWAT: usize = 128 << 10;

/// Largest configuration file; SRS's own `full.conf` has 80 KB.
const MAX_FILE: u64 = 1 << 20;

/// A whole, checked configuration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// RTMP listeners: at least one, all different; port 0 takes a free port.
    #[serde(serialize_with = "serial::write_list")]
    pub listen: Vec<SocketAddr>,
    /// Most connections at a time; more are closed on accept.
    pub max_connections: usize,
    /// Fan-out threads; 0: one per core.
    pub threads: usize,
    /// Where to write the process id, locked while running.
    #[serde(serialize_with = "serial::write_path")]
    pub pid: Option<PathBuf>,
    /// The DNS server that names are asked of; `None`: those that the system asks.
    #[serde(serialize_with = "serial::write_display", skip_serializing_if = "Option::is_none")]
    pub resolver: Option<SocketAddr>,
    /// How long a graceful stop waits.
    #[serde(serialize_with = "serial::write_duration")]
    pub drain_timeout: Duration,
    /// Where clients are sent that can be asked to connect again before a stop:
    /// `rtmp://host[:port]`, to which their app is added. `None`: where they came.
    pub drain_to: Option<String>,
    /// When the kernel carries legs: players of an edge with a connection of their own.
    pub kernel: When,
    /// Over so many bytes in the kernel that the players of all legs have not acknowledged, legs
    /// come back to user space.
    #[serde(serialize_with = "serial::write_bytes")]
    pub kernel_backlog_limit: usize,
    /// Write to many players by io_uring(7), where the kernel lets us.
    pub io_uring: bool,
    /// Listeners with TLS.
    pub rtmps: Rtmps,
    /// Targets with TLS.
    pub tls: Targets,
    /// Logging.
    pub log: Log,
    /// HTTP API.
    pub http_api: HttpApi,
    /// Metrics for Prometheus.
    pub exporter: Exporter,
    /// Players over HTTP.
    pub http_server: HttpServer,
    /// At least one; names are unique.
    #[serde(rename = "vhost")]
    pub vhosts: Vec<Vhost>,
}

/// Whether to use something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// Where it pays.
    #[default]
    Auto,
    /// Wherever it can be used.
    Always,
    /// Not at all.
    Never,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, `off`, or an env-filter expression.
    #[serde(deserialize_with = "serial::level")]
    pub level: String,
    /// JSON lines instead of text.
    pub json: bool,
}

/// `[http_api]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpApi {
    /// Off by default.
    pub enabled: bool,
    /// `127.0.0.1:1985` by default.
    #[serde(deserialize_with = "serial::listen")]
    pub listen: SocketAddr,
    /// Let pages of other sites read it (CORS).
    pub crossdomain: bool,
    /// Who says it may disconnect clients and reload; empty: only who comes over loopback may.
    #[serde(deserialize_with = "serial::token")]
    pub token: String,
    /// `GET /api/v1/raw?rpc=reload` reloads, as in SRS; off by default.
    pub raw_reload: bool,
}

/// `[exporter]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Exporter {
    /// Serve `/metrics` on an address of its own; it is on that of `[http_api]` in any case.
    pub enabled: bool,
    /// `127.0.0.1:9972` by default.
    #[serde(deserialize_with = "serial::listen")]
    pub listen: SocketAddr,
    /// Series for each stream, forward and pull, not only their sums.
    pub streams: bool,
}

/// `[[vhost]]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Vhost {
    /// Its name; `__defaultVhost__` takes whatever matches no other.
    #[serde(deserialize_with = "serial::vhost_name")]
    pub name: String,
    /// Off: everything to it is refused.
    pub enabled: bool,
    /// Chunk size to clients in bytes, 128..=65536.
    #[serde(
        deserialize_with = "serial::count::<_, _, { values::CHUNK_SIZE_MIN }, { values::CHUNK_SIZE_MAX }>"
    )]
    pub chunk_size: u32,
    /// WindowAckSize sent, in bytes, at least 1.
    #[serde(deserialize_with = "serial::count::<_, _, 1, { values::ACK_SIZE_MAX }>")]
    pub out_ack_size: u32,
    /// Window that clients want acknowledged, in bytes; 0: as the peer asks.
    #[serde(deserialize_with = "serial::count::<_, _, 0, { values::ACK_SIZE_MAX }>")]
    pub in_ack_size: u32,
    /// TCP_NODELAY on players' connections.
    pub tcp_nodelay: bool,
    /// Playing.
    pub play: Play,
    /// Publishing.
    pub publish: Publish,
    /// Forwarding.
    pub forward: Forward,
    /// Being an edge of other servers.
    pub edge: Edge,
    /// Players over HTTP.
    pub http_remux: HttpRemux,
    /// Backends that are asked.
    pub hooks: Hooks,
    /// Who may come, by address.
    pub security: Security,
    /// Who may come, by page.
    pub refer: Refer,
    /// Who may come, by key.
    pub tokens: Tokens,
}

/// `[vhost.play]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Play {
    /// Start late joiners at the newest keyframe.
    pub gop_cache: bool,
    /// Over so many messages the GOP is dropped.
    #[serde(deserialize_with = "serial::count::<_, _, 1, { values::GOP_FRAMES_MAX }>")]
    pub gop_cache_max_frames: usize,
    /// Over so many bytes the GOP is dropped.
    #[serde(deserialize_with = "serial::bytes", serialize_with = "serial::write_bytes")]
    pub gop_cache_max_bytes: usize,
    /// A reader further behind than this (by arrival time) skips to the newest keyframe.
    #[serde(deserialize_with = "serial::timeout", serialize_with = "serial::write_duration")]
    pub queue_length: Duration,
    /// A reader further behind than this many bytes skips.
    #[serde(deserialize_with = "serial::bytes", serialize_with = "serial::write_bytes")]
    pub queue_bytes: usize,
    /// Send at most this often (a floor on latency that saves CPU); 0: as data comes.
    #[serde(deserialize_with = "serial::duration", serialize_with = "serial::write_duration")]
    pub mw_latency: Duration,
    /// Small audio messages wait for the next video message, at most so long; 0: they do not.
    #[serde(deserialize_with = "serial::duration", serialize_with = "serial::write_duration")]
    pub audio_hold: Duration,
    /// How long a joiner without a GOP waits for a keyframe before it starts at the live edge.
    #[serde(deserialize_with = "serial::duration", serialize_with = "serial::write_duration")]
    pub keyframe_wait: Duration,
    /// A player whose socket takes nothing, and that acknowledges nothing, for so long is closed.
    #[serde(deserialize_with = "serial::timeout", serialize_with = "serial::write_duration")]
    pub write_timeout: Duration,
    /// SO_SNDBUF of a player's connection, bytes; 0: the kernel chooses, and grows it as it sees fit.
    #[serde(deserialize_with = "serial::buffer", serialize_with = "serial::write_bytes")]
    pub send_buffer: usize,
    /// TCP_NOTSENT_LOWAT of a player's connection: bytes that may wait in the kernel behind those under way;
    /// 0: no bound.
    #[serde(deserialize_with = "serial::buffer", serialize_with = "serial::write_bytes")]
    pub notsent_lowat: usize,
}

/// `[vhost.publish]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Publish {
    /// No message so long after publish: closed.
    #[serde(deserialize_with = "serial::timeout", serialize_with = "serial::write_duration")]
    pub firstpkt_timeout: Duration,
    /// No message for so long: closed.
    #[serde(deserialize_with = "serial::timeout", serialize_with = "serial::write_duration")]
    pub normal_timeout: Duration,
    /// How long players and forwards of a stream wait for its publisher to come back.
    #[serde(deserialize_with = "serial::duration", serialize_with = "serial::write_duration")]
    pub grace: Duration,
    /// What a second publisher of a stream is.
    pub second: Second,
    /// How many may stand by for one.
    #[serde(deserialize_with = "serial::count::<_, _, 1, { values::STANDBYS_MAX }>")]
    pub standbys: usize,
    /// A publisher that is silent for so long is left for one that stands by.
    #[serde(deserialize_with = "serial::timeout", serialize_with = "serial::write_duration")]
    pub switch_after: Duration,
}

/// What a second publisher of a stream is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Second {
    /// Refused.
    #[default]
    Refuse,
    /// The publisher from its first keyframe on, in place of the first.
    TakeOver,
    /// In reserve, for when the first ends or falls silent.
    StandBy,
}

/// `[vhost.edge]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Edge {
    /// Off by default. On: there is an origin; streams that players ask for are pulled from one of
    /// them, and what is published here is published there.
    pub enabled: bool,
    /// The origins, each `host[:port]` or `rtmps://host[:port]`, all different.
    #[serde(deserialize_with = "serial::destinations", serialize_with = "serial::write_list")]
    pub origin: Vec<Destination>,
    /// The vhost named to an origin; `[vhost]` in it stands for this vhost's name.
    #[serde(deserialize_with = "serial::origin_vhost")]
    pub vhost: String,
    /// Show the `connect` of each player and publisher to an origin before it is served, and refuse
    /// whom that refuses.
    pub token_traverse: bool,
    /// How long a TCP connect may take, and then RTMP's handshake and commands.
    #[serde(deserialize_with = "serial::timeout", serialize_with = "serial::write_duration")]
    pub connect_timeout: Duration,
    /// Longest pause after all origins failed; the first retry is at once.
    #[serde(deserialize_with = "serial::timeout", serialize_with = "serial::write_duration")]
    pub retry_max: Duration,
    /// An origin that sends no media of a stream for so long is left for the next one.
    #[serde(deserialize_with = "serial::timeout", serialize_with = "serial::write_duration")]
    pub idle_timeout: Duration,
    /// How long another origin is looked for before players or a publisher are told that there is
    /// none.
    #[serde(deserialize_with = "serial::timeout", serialize_with = "serial::write_duration")]
    pub failover_timeout: Duration,
    /// Which players get a connection to an origin of their own, whose bytes go to them unchanged:
    /// the first of a stream, all, or none. The others share one. But with none, the bytes of each
    /// publisher go to an origin unchanged.
    pub splice: When,
    /// Over so many bytes in the kernel that a player, or a publisher's origin, has not
    /// acknowledged, the leg comes back to user space, where the other side is held up.
    #[serde(deserialize_with = "serial::bytes", serialize_with = "serial::write_bytes")]
    pub leg_soft_limit: usize,
    /// Over so many, the player is closed, or the origin left.
    #[serde(deserialize_with = "serial::bytes", serialize_with = "serial::write_bytes")]
    pub leg_hard_limit: usize,
}

/// A loaded configuration and what to tell the operator about it.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// One line each, with file and line: directives that are known to SRS and have no effect here.
    pub notes: Vec<String>,
}

// === impl Config ===

impl Config {
    /// Loads `path`: `.toml` is TOML, anything else is told apart by its content.
    pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
        let name = path.display().to_string();
        let text = read_file(path)?;
        if path.extension().is_some_and(|extension| extension == "toml") || looks_like_toml(&text) {
            return Ok(Loaded { config: Self::from_toml(&text, &name)?, notes: Vec::new() });
        }
        srs::import(&name, &text, path.parent())
    }

    /// Reads TOML text; errors name it `file_name`.
    pub fn from_toml(text: &str, file_name: &str) -> Result<Self, ConfigError> {
        file::read(&Source { name: file_name.to_owned(), text: text.to_owned() })
    }

    /// Reads the text of an SRS `.conf`. There is no directory to include from, so `include` is
    /// an error here.
    pub fn from_srs_conf(text: &str) -> Result<Loaded, ConfigError> {
        srs::import("srs.conf", text, None)
    }

    /// Imports an SRS `.conf` file with what it includes, whatever its name and content look like.
    pub fn import(path: &Path) -> Result<Loaded, ConfigError> {
        srs::import(&path.display().to_string(), &read_file(path)?, path.parent())
    }

    /// The vhost that serves `name`: the exact one, else `__defaultVhost__`, if it is enabled.
    pub fn vhost(&self, name: &str) -> Option<&Vhost> {
        let named = |name: &str| self.vhosts.iter().find(|vhost| vhost.name == name);
        named(name).or_else(|| named(DEFAULT_VHOST)).filter(|vhost| vhost.enabled)
    }

    /// The configuration as TOML text that loads to the same value.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("tables, strings, booleans and small integers all have a form")
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, DEFAULT_PORT))],
            max_connections: 10_000,
            threads: 0,
            pid: None,
            resolver: None,
            drain_timeout: Duration::from_secs(30),
            drain_to: None,
            kernel: When::Auto,
            kernel_backlog_limit: 512 << 20,
            io_uring: true,
            rtmps: Rtmps::default(),
            tls: Targets::default(),
            log: Log::default(),
            http_api: HttpApi::default(),
            exporter: Exporter::default(),
            http_server: HttpServer::default(),
            vhosts: vec![Vhost::default()],
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), json: false }
    }
}

impl Default for HttpApi {
    fn default() -> Self {
        Self {
            enabled: false,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 1985)),
            crossdomain: true,
            token: String::new(),
            raw_reload: false,
        }
    }
}

impl Default for Exporter {
    fn default() -> Self {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 9972));
        Self { enabled: false, listen, streams: true }
    }
}

impl Default for Vhost {
    fn default() -> Self {
        Self {
            name: DEFAULT_VHOST.to_owned(),
            enabled: true,
            // SRS sends 60000. 16 KB costs one header byte in a thousand at most, keeps audio from
            // waiting behind a whole keyframe on a slow link, and what pads an open message when a
            // spliced leg changes its source is never more than this.
            chunk_size: 16_384,
            out_ack_size: 2_500_000,
            in_ack_size: 0,
            // Everything that is ready is written with one call, so Nagle could merge nothing: it
            // would only hold the tail of a frame until the peer's delayed ACK.
            tcp_nodelay: true,
            play: Play::default(),
            publish: Publish::default(),
            forward: Forward::default(),
            edge: Edge::default(),
            http_remux: HttpRemux::default(),
            hooks: Hooks::default(),
            security: Security::default(),
            refer: Refer::default(),
            tokens: Tokens::default(),
        }
    }
}

impl Default for Play {
    fn default() -> Self {
        Self {
            gop_cache: true,
            gop_cache_max_frames: 2500,
            gop_cache_max_bytes: 32 << 20,
            queue_length: Duration::from_secs(10),
            queue_bytes: 16 << 20,
            mw_latency: Duration::ZERO,
            audio_hold: Duration::from_millis(50),
            keyframe_wait: Duration::from_secs(3),
            write_timeout: Duration::from_secs(30),
            send_buffer: 0,
            notsent_lowat: NOTSENT_LOWAT,
        }
    }
}

impl Default for Publish {
    fn default() -> Self {
        Self {
            firstpkt_timeout: Duration::from_secs(20),
            normal_timeout: Duration::from_secs(30),
            grace: Duration::from_secs(10),
            second: Second::Refuse,
            standbys: 1,
            // With 40 ms from frame to frame players have the next one within 0.3 s.
            switch_after: Duration::from_millis(250),
        }
    }
}

impl Default for Edge {
    fn default() -> Self {
        Self {
            enabled: false,
            origin: Vec::new(),
            vhost: values::VHOST_VARIABLE.to_owned(),
            token_traverse: false,
            connect_timeout: Duration::from_secs(3),
            retry_max: Duration::from_secs(3),
            idle_timeout: Duration::from_secs(5),
            failover_timeout: Duration::from_secs(5),
            splice: When::Auto,
            leg_soft_limit: 1 << 20,
            leg_hard_limit: 64 << 20,
        }
    }
}

impl Edge {
    /// The vhost to name to an origin for streams of `vhost`.
    pub fn origin_vhost(&self, vhost: &str) -> String {
        self.vhost.replace(values::VHOST_VARIABLE, vhost)
    }
}

/// A configuration file's text. SRS's users write comments in other encodings than UTF-8; what is
/// not UTF-8 becomes U+FFFD, which both forms refuse where it matters.
fn read_file(path: &Path) -> Result<String, ConfigError> {
    let name = path.display().to_string();
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
        .map_err(|error| ConfigError::whole(&name, &error.to_string()))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(ConfigError::whole(&name, "larger than 1 MiB: not a configuration"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether the first line that says anything is a table or an assignment; SRS has neither.
fn looks_like_toml(text: &str) -> bool {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    first.is_some_and(|line| {
        let after_key =
            line.trim_start_matches(|c: char| c.is_alphanumeric() || "_-.\"".contains(c));
        line.starts_with('[') || after_key.trim_start().starts_with('=')
    })
}
