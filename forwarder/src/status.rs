//! A snapshot of what the server does: what the API serialises and `forwarder status` prints.
//!
//! Fields that are missing read as empty, so that `status` understands servers of other versions.
pub mod reload;
pub mod srs;

use serde::{Deserialize, Serialize};

/// The whole process at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since start.
    pub uptime_s: u64,
    /// Open connections, players over HTTP among them.
    pub connections: usize,
    /// Threads, each with its share of the connections.
    pub shards: Vec<ShardStatus>,
    /// How 1:1 legs are carried: `user (reason)` or `kernel`.
    pub splice: String,
    /// Bytes in the kernel that the targets of all legs have not acknowledged, at most; 0.1 s old.
    pub kernel_backlog: u64,
    /// Over which legs come back to user space; 0 if the kernel carries none.
    pub kernel_backlog_limit: u64,
    /// RTMP listeners, `ip:port` (`rtmps://ip:port` with TLS), with the ports really bound.
    pub listen: Vec<String>,
    /// Where the configuration came from, and when.
    pub config: reload::ConfigStatus,
    /// Streams that this server, being an edge, pulls from origins.
    pub pulls: Vec<PullStatus>,
    /// Players of an edge with a connection to an origin of their own.
    pub legs: Vec<LegStatus>,
    /// Names that destinations are found by.
    pub names: Vec<NameStatus>,
    /// Streams whose backend is asked where they go.
    pub backends: Vec<BackendStatus>,
    /// Streams with a publisher, waiting players or a grace time running.
    pub streams: Vec<StreamStatus>,
    /// What ended or was refused since start.
    pub totals: Totals,
}

/// One thread.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShardStatus {
    /// Its connections.
    pub connections: usize,
    /// Those of them that play without a leg.
    pub players: usize,
    /// Bytes received from publishers and origins since start.
    pub received_bytes: u64,
}

/// Counters since start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Connections accepted.
    pub connections: u64,
    /// Connections refused by `max_connections`.
    pub refused: u64,
    /// Publishes and plays refused by `security`, `refer` or `tokens`.
    pub denied: u64,
    /// Connections ended by a protocol error, a limit or a deadline.
    pub errors: u64,
    /// Of the connections accepted those that began with TLS.
    pub tls_connections: u64,
    /// Clients and targets with whom there was no TLS.
    pub tls_failures: u64,
    /// Bytes received from publishers and origins.
    pub received_bytes: u64,
    /// Bytes sent to players and destinations.
    pub sent_bytes: u64,
    /// Skips of slow readers to a keyframe.
    pub skips: u64,
    /// How often a publisher that stood by, or took over, went on with a stream.
    pub switches: u64,
    /// What legs moved.
    pub legs: LegTotals,
    /// Questions to backends of forwards without an answer.
    pub backend_failures: u64,
    /// What HTTP hooks did.
    pub hooks: HookTotals,
}

/// What HTTP hooks did since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HookTotals {
    /// Requests whether a client may come.
    pub asked: u64,
    /// Requests that told of an end.
    pub told: u64,
    /// Requests of both kinds that had no answer.
    pub failed: u64,
    /// Publishes and plays refused by an answer, or because there was none.
    pub refused: u64,
    /// Ends that were not told, because too many waited.
    pub dropped: u64,
}

/// What all legs moved since start, also those that are gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LegTotals {
    /// Bytes that the kernel carried.
    pub kernel_bytes: u64,
    /// Bytes that passed user space.
    pub user_bytes: u64,
    /// How often legs came back from the kernel.
    pub unsplices: u64,
}

/// What the process takes of its system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessStatus {
    /// Processor time in user and kernel mode, seconds.
    pub cpu_s: f64,
    /// Resident memory, bytes.
    pub resident_bytes: u64,
    /// Open descriptors.
    pub open_fds: u64,
    /// How many it may open.
    pub max_fds: u64,
    /// When it started, seconds since 1970.
    pub started_s: f64,
}

/// One stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamStatus {
    /// Vhost.
    pub vhost: String,
    /// App.
    pub app: String,
    /// Name.
    pub stream: String,
    /// `live`, `grace` or `waiting`; `legs` if nothing of it is here but players with legs,
    /// or a publisher.
    pub state: String,
    /// Address of the publisher, empty without one.
    pub publisher: String,
    /// Publishers that stand by for it, in the order in which they would go on.
    pub standbys: Vec<StandbyStatus>,
    /// How often another publisher went on with it.
    pub switches: u64,
    /// Players, with a leg or without; those not counted that are forwards.
    pub players: usize,
    /// Those of them that have a leg.
    pub legs: usize,
    /// Bytes of payload received since the first publish.
    pub received_bytes: u64,
    /// Messages received.
    pub messages: u64,
    /// Bytes sent to players and destinations, without those of legs.
    pub sent_bytes: u64,
    /// Bytes held in memory by the media log.
    pub log_bytes: u64,
    /// Bits per second over about the last two seconds.
    pub bitrate_bps: u64,
    /// Video codec, empty if unknown.
    pub video: String,
    /// Audio codec, empty if unknown.
    pub audio: String,
    /// Skips to a keyframe of this stream's readers.
    pub skips: u64,
    /// Its forwards.
    pub forwards: Vec<ForwardStatus>,
}

/// A publisher that stands by.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StandbyStatus {
    /// Its address.
    pub peer: String,
    /// Whether it could go on now: its newest group of pictures is in memory.
    pub ready: bool,
    /// How long nothing came from it, milliseconds.
    pub silent_ms: u64,
    /// Bytes held of it.
    pub held_bytes: u64,
}

/// One stream that an edge pulls from an origin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PullStatus {
    /// Vhost.
    pub vhost: String,
    /// App.
    pub app: String,
    /// Name.
    pub stream: String,
    /// `host:port` of the origin asked last.
    pub origin: String,
    /// `connecting`, `pulling`, `waiting` (for the next attempt) or `published here`.
    pub state: String,
    /// Players for whom it is pulled.
    pub players: usize,
    /// Attempts since it last pulled.
    pub attempt: u32,
    /// Successful connects since the pull began.
    pub connects: u64,
    /// Bytes received from origins.
    pub received_bytes: u64,
    /// Messages left out because the players had them from another origin.
    pub repeated: u64,
    /// Why it last failed; empty if it never did.
    pub last_error: String,
}

/// One player to whom the bytes of a connection to an origin go unchanged, or an encoder whose bytes
/// go to one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LegStatus {
    /// `play` or `publish`.
    pub kind: String,
    /// Address of the player or encoder.
    pub peer: String,
    /// Vhost.
    pub vhost: String,
    /// App.
    pub app: String,
    /// Name of the stream.
    pub stream: String,
    /// `host:port` of the origin; empty while one is looked for.
    pub origin: String,
    /// `kernel` or `user`.
    pub path: String,
    /// Bytes moved.
    pub bytes: u64,
    /// Bytes that wait for the player, or for the encoder's origin: taken from the other side, and
    /// not acknowledged yet.
    pub backlog: u64,
    /// How often it came back from the kernel.
    pub unsplices: u64,
    /// Origins connected to since the player or encoder came.
    pub connects: u64,
}

/// What a backend said of where a stream goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BackendStatus {
    /// Vhost.
    pub vhost: String,
    /// App.
    pub app: String,
    /// Name.
    pub stream: String,
    /// Whether there was an answer.
    pub answered: bool,
    /// The destinations of the last one, without keys.
    pub destinations: Vec<String>,
    /// Why there was none to the last question, or what was wrong with it; empty: nothing.
    pub last_error: String,
}

/// A name of DNS, and the destinations it stands for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NameStatus {
    /// As it is configured: `dns+host:port` or `srv+service`.
    pub name: String,
    /// Its addresses, `ip:port`.
    pub addresses: Vec<String>,
    /// Why the last look-up failed, or a part of it; empty if it did not.
    pub last_error: String,
}

/// One stream's forward to one destination, or a publish that an edge relays to an origin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ForwardStatus {
    /// `host:port` or a URL, without keys; with a number behind it if several look the same.
    pub destination: String,
    /// The name it was found by, or `backend`; empty if the configuration names it.
    pub found_by: String,
    /// `connecting`, `forwarding`, `stalled` (nothing is acknowledged), `draining` (it is to end),
    /// `waiting` (for the next attempt) or `stopped`.
    pub state: String,
    /// Attempts since it last forwarded.
    pub attempt: u32,
    /// Successful connects since the stream began.
    pub connects: u64,
    /// Milliseconds until the next attempt, if waiting.
    pub next_retry_ms: u64,
    /// Why it last failed; empty if it never did.
    pub last_error: String,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// How far behind the live edge it reads, milliseconds.
    pub lag_ms: u64,
    /// Bytes it still has to be sent.
    pub queue_bytes: u64,
    /// Skips to a keyframe.
    pub skips: u64,
    /// When it last forwarded, milliseconds since 1970; 0: never.
    pub last_success_ms: u64,
}

/// Some of the clients: connections that publish or play.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientPage {
    /// Those asked for.
    pub clients: Vec<ClientStatus>,
    /// How many there are in all.
    pub total: usize,
    /// Shards that did not tell theirs in time; 0: this is complete.
    pub unanswered: usize,
}

/// One client: SRS's fields, and from `state` on ours.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientStatus {
    /// A number; the client keeps it as long as it is connected, and those that come later have
    /// higher ones.
    pub id: String,
    /// Id of the vhost, see [`srs::id_of`].
    pub vhost: String,
    /// Id of the stream.
    pub stream: String,
    /// Its address, without the port.
    pub ip: String,
    /// Page that holds the player; may be empty.
    #[serde(rename = "pageUrl")]
    pub page_url: String,
    /// May be empty.
    #[serde(rename = "swfUrl")]
    pub swf_url: String,
    /// As it said.
    #[serde(rename = "tcUrl")]
    pub tc_url: String,
    /// `/app/stream`, behind the vhost's name if that is not the default.
    pub url: String,
    /// Name of the stream.
    pub name: String,
    /// `rtmp-play` or `fmle-publish`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it publishes.
    pub publish: bool,
    /// Seconds since it connected.
    pub alive: f64,
    /// Bytes sent to it.
    pub send_bytes: u64,
    /// Bytes received from it.
    pub recv_bytes: u64,
    /// Kilobits a second.
    pub kbps: Kbps,
    /// `publishing` or `standby`; of players `playing`, `blocked` (its socket takes nothing) or `waiting` (for a
    /// publisher); `kernel` or `user` for one with a leg.
    pub state: String,
    /// Its address with the port, as the log has it.
    pub peer: String,
    /// How far behind the live edge it reads, milliseconds.
    pub lag_ms: u64,
    /// Skips to a keyframe.
    pub skips: u64,
    /// How long its socket has taken nothing, milliseconds.
    pub blocked_ms: u64,
}

/// Kilobits a second over the last 30 s, or since the client came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kbps {
    /// From it.
    pub recv_30s: u64,
    /// To it.
    pub send_30s: u64,
}

/// Which clients are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientQuery {
    /// How many of them are left out at first.
    pub start: usize,
    /// How many are given then.
    pub count: usize,
    /// In which order.
    pub sort: ClientOrder,
}

/// Orders of clients: all but the first begin with the highest, and equals stand as they came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ClientOrder {
    /// As they came.
    #[default]
    Id,
    /// By lag.
    Lag,
    /// By skips.
    Skips,
    /// By how long they have been blocked.
    Blocked,
    /// By bytes sent to them.
    Sent,
}

impl Default for ClientQuery {
    /// As many as SRS gives.
    fn default() -> Self {
        Self { start: 0, count: 10, sort: ClientOrder::Id }
    }
}

impl ClientQuery {
    /// The page of `clients`, which stand as they came.
    pub fn page(self, mut clients: Vec<ClientStatus>, unanswered: usize) -> ClientPage {
        let key = |client: &ClientStatus| match self.sort {
            ClientOrder::Id => 0,
            ClientOrder::Lag => client.lag_ms,
            ClientOrder::Skips => client.skips,
            ClientOrder::Blocked => client.blocked_ms,
            ClientOrder::Sent => client.send_bytes,
        };
        clients.sort_by_key(|client| std::cmp::Reverse(key(client)));
        let total = clients.len();
        let clients = clients.into_iter().skip(self.start).take(self.count).collect();
        ClientPage { clients, total, unanswered }
    }
}
