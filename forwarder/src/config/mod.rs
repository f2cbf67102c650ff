//! Configuration: TOML or SRS `.conf` text to values that are valid because they exist.
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A whole, checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// RTMP listeners.
    pub listen: Vec<SocketAddr>,
    /// Most connections at a time; more are closed on accept.
    pub max_connections: usize,
    /// Fan-out threads; 0: one per core.
    pub threads: usize,
    /// Where to write the process id, locked while running.
    pub pid: Option<PathBuf>,
    /// How long a graceful stop waits.
    pub drain_timeout: Duration,
    /// Logging.
    pub log: Log,
    /// HTTP API.
    pub http_api: HttpApi,
    /// At least one; names are unique.
    pub vhosts: Vec<Vhost>,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or an env-filter expression.
    pub level: String,
    /// JSON lines instead of text.
    pub json: bool,
}

/// `[http_api]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpApi {
    /// Off by default.
    pub enabled: bool,
    /// `127.0.0.1:1985` by default.
    pub listen: SocketAddr,
}

/// `[[vhost]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Vhost {
    /// Its name; `__defaultVhost__` takes whatever matches no other.
    pub name: String,
    /// Off: everything to it is refused.
    pub enabled: bool,
    /// Chunk size to clients, 128..=65536.
    pub chunk_size: u32,
    /// WindowAckSize sent, bytes.
    pub out_ack_size: u32,
    /// Acknowledge each so many bytes; 0: as the peer asks.
    pub in_ack_size: u32,
    /// TCP_NODELAY once media flows.
    pub tcp_nodelay: bool,
    /// Playing.
    pub play: Play,
    /// Publishing.
    pub publish: Publish,
    /// Forwarding.
    pub forward: Forward,
}

/// `[vhost.play]`
#[derive(Clone, Debug, PartialEq)]
pub struct Play {
    /// Start late joiners at the newest keyframe.
    pub gop_cache: bool,
    /// Over so many messages the GOP is dropped.
    pub gop_cache_max_frames: usize,
    /// Over so many bytes the GOP is dropped.
    pub gop_cache_max_bytes: usize,
    /// A reader further behind than this (by arrival time) skips to the newest keyframe.
    pub queue_length: Duration,
    /// A reader further behind than this many bytes skips.
    pub queue_bytes: usize,
    /// Send at most this often (a floor on latency that saves CPU); 0: as data comes.
    pub mw_latency: Duration,
    /// How long a joiner without a GOP waits for a keyframe before it starts at the live edge.
    pub keyframe_wait: Duration,
    /// A player whose socket takes nothing for so long is closed.
    pub write_timeout: Duration,
}

/// `[vhost.publish]`
#[derive(Clone, Debug, PartialEq)]
pub struct Publish {
    /// No message so long after publish: closed.
    pub firstpkt_timeout: Duration,
    /// No message for so long: closed.
    pub normal_timeout: Duration,
    /// How long players and forwards of a stream wait for its publisher to come back.
    pub grace: Duration,
}

/// `[vhost.forward]`
#[derive(Clone, Debug, PartialEq)]
pub struct Forward {
    /// Off by default, as in SRS.
    pub enabled: bool,
    /// Static destinations, each `host[:port]`.
    pub destination: Vec<Destination>,
    /// How long a TCP connect may take.
    pub connect_timeout: Duration,
    /// Longest pause between attempts; the first retry is at once.
    pub retry_max: Duration,
    /// A destination that acknowledges nothing at TCP level for so long is dropped and redialled.
    pub hung_timeout: Duration,
    /// A destination further behind than this skips to the newest keyframe.
    pub queue_length: Duration,
    /// As `queue_length`, in bytes.
    pub queue_bytes: usize,
}

/// Where to forward to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// Host name or address, IPv6 without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// What is wrong with a configuration: file, line, the offending text and the mend, rendered.
#[derive(Debug, thiserror::Error)]
#[error("{rendered}")]
pub struct ConfigError {
    rendered: String,
}

/// A loaded configuration and what to tell the operator about it.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// One line each, with file and line: directives that are known to SRS and have no effect here.
    pub notes: Vec<String>,
}

impl Config {
    /// Loads `path`: `.toml` is TOML, anything else is told apart by its content.
    pub fn load(_path: &Path) -> Result<Loaded, ConfigError> {
        todo!()
    }
    /// The vhost that serves `name`: the exact one, else `__defaultVhost__`, if it is enabled.
    pub fn vhost(&self, _name: &str) -> Option<&Vhost> {
        todo!()
    }
    /// The configuration as TOML text that loads to the same value.
    pub fn to_toml(&self) -> String {
        todo!()
    }
}

impl Default for Config {
    fn default() -> Self {
        todo!()
    }
}
