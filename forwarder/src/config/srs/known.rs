//! What SRS 7 knows and we do not do, by the block it stands in.

/// Directives that say nothing about who may do what or where media goes, and why they have no
/// effect here.
pub(super) struct Idle {
    pub(super) name: &'static str,
    /// Values that ask for what happens anyway.
    pub(super) fine: &'static [&'static str],
    pub(super) why: &'static str,
}

const fn idle(name: &'static str, fine: &'static [&'static str], why: &'static str) -> Idle {
    Idle { name, fine, why }
}

const FOREGROUND: &str = "forwarder stays in the foreground; let systemd or a container run it";
const STDERR: &str = "logs go to stderr, see [log]";
const DRAIN: &str = "stopping waits up to drain_timeout";
const MEASURES: &str = "there is nothing like it here";
const UNCHANGED: &str = "timestamps pass unchanged";

/// Directives at the top level.
pub(super) const ROOT_IDLE: &[Idle] = &[
    idle("daemon", &["off"], FOREGROUND),
    idle("disable_daemon_for_docker", &["on"], FOREGROUND),
    idle("in_docker", &["on", "off"], FOREGROUND),
    idle("asprocess", &["off"], FOREGROUND),
    idle("work_dir", &["./", "."], "paths are taken from where forwarder was started"),
    idle("srs_log_tank", &["console"], STDERR),
    idle("srs_log_file", &[], STDERR),
    idle("ff_log_dir", &[], "no FFmpeg is started"),
    idle("ff_log_level", &[], "no FFmpeg is started"),
    idle("utc_time", &["on"], "logs are in UTC"),
    idle("pithy_print_ms", &[], "use `forwarder status`"),
    idle("server_id", &[], "an id is drawn at each start"),
    idle("grace_start_wait", &[], DRAIN),
    idle("grace_final_wait", &[], DRAIN),
    idle("force_grace_quit", &["on"], DRAIN),
    idle("inotify_auto_reload", &["off"], "a changed file is read at the next start"),
    idle("auto_reload_for_docker", &["off"], "a changed file is read at the next start"),
    idle("query_latest_version", &["off"], "forwarder asks nobody for newer versions"),
    idle("first_wait_for_qlv", &[], "forwarder asks nobody for newer versions"),
    idle("tcmalloc_release_rate", &[], MEASURES),
    idle("threads", &[], "see `threads` of the TOML form"),
    idle("circuit_breaker", &[], "overload shows as skips to a keyframe"),
    idle("empty_ip_ok", &["on"], MEASURES),
    idle("is_full", &["on", "off"], MEASURES),
];

const RTMP_ONLY: &str = "forwarder speaks RTMP and HTTP-FLV only";
const NO_FILES: &str = "forwarder writes no files";

/// Blocks at the top level that are idle when they are on.
pub(super) const ROOT_FEATURES: &[Idle] = &[
    idle("heartbeat", &[], MEASURES),
    idle("stats", &[], MEASURES),
    idle("tencentcloud_cls", &[], MEASURES),
    idle("tencentcloud_apm", &[], MEASURES),
    idle("http_stream", &[], RTMP_ONLY),
    idle("stream_caster", &[], RTMP_ONLY),
    idle("rtc_server", &[], RTMP_ONLY),
    idle("rtsp_server", &[], RTMP_ONLY),
    idle("srt_server", &[], RTMP_ONLY),
];

/// Blocks of a vhost that are idle when they are on.
pub(super) const VHOST_FEATURES: &[Idle] = &[
    idle("hls", &[], RTMP_ONLY),
    idle("dash", &[], RTMP_ONLY),
    idle("hds", &[], RTMP_ONLY),
    idle("http", &[], RTMP_ONLY),
    idle("http_static", &[], RTMP_ONLY),
    idle("rtc", &[], RTMP_ONLY),
    idle("rtsp", &[], RTMP_ONLY),
    idle("srt", &[], RTMP_ONLY),
    idle("dvr", &[], NO_FILES),
    idle("transcode", &[], "media passes unchanged"),
    idle("bandcheck", &[], MEASURES),
];

/// Directives of `play`.
pub(super) const PLAY_IDLE: &[Idle] = &[
    idle("time_jitter", &["off"], UNCHANGED),
    idle("mix_correct", &["off"], UNCHANGED),
    idle("atc", &["on", "off"], UNCHANGED),
    idle("atc_auto", &["on", "off"], UNCHANGED),
    idle("mw_msgs", &[], "each write takes all that is ready"),
    idle("send_min_interval", &["0", "0.0"], "see `mw_latency`"),
    idle("reduce_sequence_header", &["off"], "sequence headers are sent as they are published"),
];

/// Directives of `publish`.
pub(super) const PUBLISH_IDLE: &[Idle] = &[
    idle("mr", &["off"], "each read takes all that is there"),
    idle("mr_latency", &[], "each read takes all that is there"),
    idle("parse_sps", &["on", "off"], "media passes unchanged"),
    idle("try_annexb_first", &["on", "off"], "media passes unchanged"),
    idle("kickoff_for_idle", &["0"], "a publisher may stay without players"),
];

/// Directives of a vhost without which it would let in whom it keeps out, or send media where it
/// does not belong; and what would go wrong.
pub(super) const VHOST_REFUSED: &[(&str, &str)] =
    &[("ingest", "its inputs would not be pulled"), ("exec", "its programs would not be started")];

/// Names for "did you mean", besides those above.
pub(super) const ROOT: &[&str] = &[
    "listen",
    "pid",
    "max_connections",
    "chunk_size",
    "srs_log_level",
    "srs_log_level_v2",
    "http_api",
    "exporter",
    "http_server",
    "rtmps",
    "vhost",
    "include",
];
/// As `ROOT`.
pub(super) const VHOST: &[&str] = &[
    "enabled",
    "chunk_size",
    "tcp_nodelay",
    "min_latency",
    "in_ack_size",
    "out_ack_size",
    "play",
    "publish",
    "forward",
    "cluster",
    "http_remux",
    "security",
    "refer",
    "refer_play",
    "refer_publish",
    "http_hooks",
    "include",
];
/// As `ROOT`.
pub(super) const SECURITY: &[&str] = &["enabled", "allow", "deny", "include"];
/// As `ROOT`.
pub(super) const REFER: &[&str] = &["enabled", "all", "publish", "play", "include"];
/// As `ROOT`.
pub(super) const HOOKS: &[&str] = &[
    "enabled",
    "on_connect",
    "on_close",
    "on_publish",
    "on_unpublish",
    "on_play",
    "on_stop",
    "on_dvr",
    "on_hls",
    "on_hls_notify",
    "include",
];
/// As `ROOT`.
pub(super) const PLAY: &[&str] =
    &["gop_cache", "gop_cache_max_frames", "queue_length", "mw_latency", "include"];
/// As `ROOT`.
pub(super) const PUBLISH: &[&str] = &["firstpkt_timeout", "normal_timeout", "include"];
/// As `ROOT`.
pub(super) const FORWARD: &[&str] = &["enabled", "destination", "backend", "include"];
/// As `ROOT`.
pub(super) const CLUSTER: &[&str] = &[
    "mode",
    "origin",
    "token_traverse",
    "vhost",
    "debug_srs_upnode",
    "coworkers",
    "origin_cluster",
    "protocol",
    "follow_client",
    "include",
];
/// As `ROOT`.
pub(super) const HTTP_API: &[&str] =
    &["enabled", "listen", "crossdomain", "raw_api", "auth", "https", "include"];
/// As `ROOT`.
pub(super) const RAW_API: &[&str] = &["enabled", "allow_reload", "allow_query", "allow_update"];
/// As `ROOT`.
pub(super) const RTMPS: &[&str] = &["enabled", "listen", "key", "cert", "include"];
/// As `ROOT`.
pub(super) const EXPORTER: &[&str] = &["enabled", "listen", "label", "tag", "include"];
/// As `ROOT`.
pub(super) const HTTP_SERVER: &[&str] =
    &["enabled", "listen", "crossdomain", "dir", "https", "include"];
/// As `ROOT`.
pub(super) const HTTP_REMUX: &[&str] = &[
    "enabled",
    "mount",
    "has_audio",
    "has_video",
    "guess_has_av",
    "drop_if_not_match",
    "fast_cache",
    "hstrs",
    "include",
];
