//! What the TOML form promises.
mod errors;
mod http;
mod reload;

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::tls::CertificateFiles;

const EVERY_KEY: &str = include_str!("../../../conf/forwarder.toml");

fn toml(text: &str) -> Config {
    Config::from_toml(text, "f.toml").unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn nothing_is_the_default() {
    assert_eq!(toml(""), Config::default());
    assert_eq!(toml("[[vhost]]"), Config::default());
}

#[test]
fn the_commented_file_is_the_default() {
    assert_eq!(toml(EVERY_KEY), Config::default());
}

#[test]
fn the_commented_file_has_every_key_and_no_other() {
    let shown =
        |text: String, key: &str| text.replace(&format!("\n#{key} = "), &format!("\n{key} = "));
    let text = ["pid", "resolver", "backend"].into_iter().fold(EVERY_KEY.to_owned(), shown);
    let mut want = Config {
        pid: Some("/run/forwarder.pid".into()),
        resolver: "127.0.0.1:53".parse().ok(),
        ..Config::default()
    };
    want.vhosts[0].forward.backend = "http://127.0.0.1:8085/api/v1/forward".parse().ok();
    let config = toml(&text);
    assert_eq!(config, want);

    let file: toml::Table = toml::from_str(&text).expect("TOML");
    let mut schema: toml::Table = toml::from_str(&config.to_toml()).expect("TOML");
    // The one key that is resolved while loading.
    schema.insert("chunk_size".to_owned(), 16_384.into());
    assert_eq!(keys("", &file.into()), keys("", &schema.into()));
}

fn keys(prefix: &str, value: &toml::Value) -> Vec<String> {
    let mut all: Vec<String> = match value {
        toml::Value::Table(table) => {
            table.iter().flat_map(|(key, value)| keys(&format!("{prefix}.{key}"), value)).collect()
        }
        toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
            items.iter().flat_map(|item| keys(prefix, item)).collect()
        }
        _ => vec![prefix.to_owned()],
    };
    all.sort();
    all
}

#[test]
fn the_cluster_on_one_machine_fits_together() {
    let master = toml(include_str!("../../../conf/master.toml"));
    let destinations = &master.vhosts[0].forward.destination;
    let slaves = [
        include_str!("../../../conf/slave1.toml"),
        include_str!("../../../conf/slave2.toml"),
        include_str!("../../../conf/slave3.toml"),
        include_str!("../../../conf/slave4.toml"),
    ];
    assert!(master.vhosts[0].forward.enabled);
    assert_eq!(destinations.len(), slaves.len());
    for (destination, slave) in destinations.iter().zip(slaves.map(toml)) {
        assert_eq!(destination.url.at.port, slave.listen[0].port());
        assert_ne!(slave.http_api.listen, master.http_api.listen);
        assert!(!slave.vhosts[0].forward.enabled);
    }
}

#[test]
fn the_edge_is_one_of_the_small_cluster() {
    let edge = toml(include_str!("../../../conf/edge.toml"));
    let slave = |text| toml(text).listen[0].port();
    let slaves = [
        include_str!("../../../conf/slave1.toml"),
        include_str!("../../../conf/slave2.toml"),
        include_str!("../../../conf/slave3.toml"),
        include_str!("../../../conf/slave4.toml"),
    ];
    assert!(edge.vhosts[0].edge.enabled && !edge.vhosts[0].forward.enabled);
    let ports: Vec<u16> = edge.vhosts[0].edge.origin.iter().map(|origin| origin.port).collect();
    assert_eq!(ports, slaves.map(slave));
    assert!(!ports.contains(&edge.listen[0].port()));
}

#[test]
fn an_origin_is_told_the_vhost() {
    let told = |vhost: &str| {
        let text = format!("[[vhost]]\n[vhost.edge]\nvhost = \"{vhost}\"");
        toml(&text).vhosts[0].edge.origin_vhost("a.tv")
    };
    assert_eq!(told("[vhost]"), "a.tv");
    assert_eq!(told("b.tv"), "b.tv");
    assert_eq!(told("live.[vhost]"), "live.a.tv");
}

#[test]
fn listen_is_written_in_many_ways() {
    let all: Vec<SocketAddr> = vec!["0.0.0.0:1935".parse().unwrap(), "[::]:1936".parse().unwrap()];
    for text in [
        r#"listen = ["1935", "[::]:1936"]"#,
        r#"listen = [1935, "[::]:1936"]"#,
        r#"listen = ["0.0.0.0:1935", "[::]:1936"]"#,
    ] {
        assert_eq!(toml(text).listen, all, "{text}");
    }
    for text in ["listen = 1935", r#"listen = "1935""#, r#"listen = "0.0.0.0:1935""#] {
        assert_eq!(toml(text).listen, all[..1], "{text}");
    }
    assert_eq!(toml(r#"listen = ["127.0.0.1:0", "127.0.0.1:0"]"#).listen.len(), 2);
}

#[test]
fn durations_and_sizes_have_units() {
    for (text, want) in [("350ms", 350), ("0s", 0), ("3 s", 3000), ("10m", 600_000)] {
        let config = toml(&format!("[[vhost]]\n[vhost.play]\nmw_latency = \"{text}\""));
        assert_eq!(config.vhosts[0].play.mw_latency, Duration::from_millis(want), "{text}");
    }
    for (text, want) in [
        ("16777216", 16 << 20),
        ("\"16M\"", 16 << 20),
        ("\"16MiB\"", 16 << 20),
        ("\"64K\"", 64 << 10),
        ("\"1 GiB\"", 1 << 30),
        ("\"65537B\"", 65537),
    ] {
        let config = toml(&format!("[[vhost]]\n[vhost.play]\nqueue_bytes = {text}"));
        assert_eq!(config.vhosts[0].play.queue_bytes, want, "{text}");
    }
}

#[test]
fn the_chunk_size_above_is_the_default_of_those_below() {
    let config = toml("chunk_size = 4096\n[[vhost]]\nname = \"a\"\n[[vhost]]\nchunk_size = 128\n");
    let sizes: Vec<u32> = config.vhosts.iter().map(|vhost| vhost.chunk_size).collect();
    assert_eq!(sizes, [4096, 128]);
    assert_eq!(toml("chunk_size = 4096").vhosts[0].chunk_size, 4096);
}

#[test]
fn a_name_belongs_to_its_vhost_or_to_the_default_one() {
    let config =
        toml("[[vhost]]\nname = \"a\"\n[[vhost]]\nname = \"b\"\nenabled = false\n[[vhost]]");
    let served = |name| config.vhost(name).map(|vhost| vhost.name.as_str());
    assert_eq!(served("a"), Some("a"));
    assert_eq!(served("b"), None);
    assert_eq!(served("A"), Some(DEFAULT_VHOST));
    assert_eq!(toml("[[vhost]]\nname = \"a\"").vhost("b"), None);
}

#[test]
fn a_file_is_told_apart_by_its_content() {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, text) in [
        ("a.toml", "listen = 1936"),
        ("b.conf", "# TOML\n\nlisten = 1936"),
        ("c", "[[vhost]]\n"),
        ("d.conf", "# SRS\nlisten 1936;"),
        ("e", "vhost a {\n chunk_size 128;\n}"),
        ("f.conf", ""),
    ] {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("a file");
        Config::load(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let path = dir.path().join("g.toml");
    std::fs::write(&path, "listen 1936;").expect("a file");
    assert!(Config::load(&path).is_err(), "the extension goes first");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("none.toml");
    let error = Config::load(&path).expect_err("no file").to_string();
    assert_eq!(error, format!("{}: No such file or directory (os error 2)", path.display()));

    std::fs::write(&path, vec![b'#'; 1 + (1 << 20)]).expect("a file");
    let error = Config::load(&path).expect_err("a large file").to_string();
    assert_eq!(error, format!("{}: larger than 1 MiB: not a configuration", path.display()));
}

#[test]
fn other_encodings_are_harmless_in_comments_of_srs_only() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a");
    // "master" in GBK.
    let gbk = [0xd6_u8, 0xf7];
    for (before, after, want) in [
        ("# ", "\nlisten 1935;", None),
        ("pid ", ";", Some("1:5: this is not UTF-8")),
        ("pid '", "';", Some("1:5: this is not UTF-8")),
        ("listen = 1935 # ", "", Some("1:17: this is not UTF-8")),
        ("pid = \"", "\"", Some("1:8: this is not UTF-8")),
    ] {
        std::fs::write(&path, [before.as_bytes(), &gbk, after.as_bytes()].concat())
            .expect("a file");
        let error = Config::load(&path).err().map(|error| error.to_string());
        let line = error.as_deref().and_then(|error| error.lines().next());
        let want = want.map(|want| format!("{}:{want}", path.display()));
        assert_eq!(line, want.as_deref(), "{before}");
    }
}

proptest! {
    #[test]
    fn what_is_written_reads_back(config in any_config()) {
        let text = config.to_toml();
        prop_assert_eq!(Config::from_toml(&text, "f.toml").map_err(|e| e.to_string()), Ok(config));
    }

    #[test]
    fn no_text_panics(text in "[\\[\\]a-z_=\"{}.,0-9\n \u{e9}\u{1f600}]{0,200}") {
        let _ = Config::from_toml(&text, "f.toml");
    }
}

fn any_config() -> impl Strategy<Value = Config> {
    let listen = prop::collection::hash_set(any::<SocketAddr>(), 1..4);
    let vhosts = prop::collection::hash_map("[a-zA-Z0-9_.-]{1,20}", any_vhost(), 1..4);
    let pid = prop::option::of("[ -~]{1,20}".prop_map(PathBuf::from));
    (listen, vhosts, pid, deadline(), any::<bool>(), 1..10_000_000_usize).prop_map(
        |(listen, vhosts, pid, drain_timeout, json, max_connections)| Config {
            // A flow label and a scope have no place in what TOML can say.
            listen: listen.iter().map(|it| SocketAddr::new(it.ip(), it.port())).collect(),
            max_connections,
            threads: 3,
            resolver: listen.iter().next().map(|it| SocketAddr::new(it.ip(), 53)),
            pid,
            drain_timeout,
            drain_to: json.then(|| "rtmp://other.example:1936".to_owned()),
            kernel: if json { When::Always } else { When::Never },
            kernel_backlog_limit: 1 << 16 | max_connections,
            io_uring: !json,
            rtmps: Rtmps {
                enabled: false,
                listen: vec!["[::1]:1443".parse().unwrap()],
                handshake_timeout: drain_timeout,
                certificate: vec![CertificateFiles { cert: "a b".into(), key: "c".into() }; 2],
            },
            tls: Targets { ca: None, insecure: vec!["rtmps://a:9".parse().unwrap()] },
            log: Log { level: "warn,forwarder=debug".to_owned(), json },
            http_api: HttpApi {
                enabled: json,
                listen: "[::1]:0".parse().unwrap(),
                crossdomain: !json,
                token: "a.b_c~1+/=".to_owned(),
                raw_reload: json,
            },
            exporter: Exporter {
                enabled: !json,
                listen: "[::1]:9".parse().unwrap(),
                streams: json,
            },
            http_server: HttpServer {
                enabled: json,
                listen: vec!["[::1]:0".parse().unwrap(), "127.0.0.1:0".parse().unwrap()],
                crossdomain: !json,
            },
            vhosts: vhosts.into_iter().map(|(name, vhost)| Vhost { name, ..vhost }).collect(),
        },
    )
}

fn a_remux(on: bool) -> HttpRemux {
    HttpRemux { enabled: on, guess_has_av: !on, has_audio: true, has_video: on }
}

fn a_publish(on: bool, [a, b, c, d]: [Duration; 4]) -> Publish {
    let second = if on { Second::StandBy } else { Second::TakeOver };
    Publish {
        firstpkt_timeout: b,
        normal_timeout: c,
        grace: d,
        second,
        standbys: 8,
        switch_after: a,
    }
}

fn any_vhost() -> impl Strategy<Value = Vhost> {
    let destination = prop::collection::hash_set("[a-z0-9.-]{1,20}", 1..4);
    let times = prop::array::uniform4(deadline());
    let sizes = prop::array::uniform2((64_usize << 10)..=(64 << 30));
    (destination, times, sizes, any::<bool>(), 128..=65536_u32).prop_map(
        |(hosts, [a, b, c, d], [bytes, more], on, chunk_size)| Vhost {
            name: String::new(),
            enabled: on,
            chunk_size,
            out_ack_size: chunk_size,
            in_ack_size: 0,
            tcp_nodelay: on,
            play: Play {
                gop_cache: on,
                gop_cache_max_frames: 7,
                gop_cache_max_bytes: bytes,
                queue_length: a,
                queue_bytes: more,
                mw_latency: b,
                audio_hold: c,
                keyframe_wait: c,
                write_timeout: d,
                send_buffer: if on { 0 } else { 4096 },
                notsent_lowat: if on { 512 << 20 } else { 0 },
            },
            http_remux: a_remux(on),
            publish: a_publish(on, [a, b, c, d]),
            forward: forward_to(&hosts, [a, b, c, d], bytes, on, chunk_size),
            edge: Edge {
                enabled: on,
                origin: hosts
                    .into_iter()
                    .map(|host| Destination { host, port: 1935, tls: false })
                    .collect(),
                vhost: "[vhost].origin".to_owned(),
                token_traverse: on,
                connect_timeout: a,
                retry_max: b,
                idle_timeout: c,
                failover_timeout: d,
                splice: if on { When::Never } else { When::Auto },
                leg_soft_limit: bytes,
                leg_hard_limit: more,
            },
            ..guarded(on, d)
        },
    )
}

/// What says who may come.
fn guarded(on: bool, timeout: Duration) -> Vhost {
    Vhost {
        hooks: Hooks {
            enabled: on,
            on_connect: vec!["http://a:81/b?c=d".parse().expect("a URL")],
            on_play: vec![
                "http://[::1]/".parse().expect("a URL"),
                "http://h/".parse().expect("a URL"),
            ],
            timeout,
            on_failure: if on { OnFailure::Allow } else { OnFailure::Refuse },
            ..Hooks::default()
        },
        security: Security {
            enabled: on,
            allow_publish: vec!["all".parse().expect("a network")],
            deny_play: vec![
                "10.1.0.0/16".parse().expect("a network"),
                "2001:db8::/33".parse().expect("a network"),
            ],
            ..Security::default()
        },
        refer: Refer {
            enabled: on,
            play: vec!["a.example".parse().expect("a domain")],
            ..Refer::default()
        },
        tokens: Tokens {
            publish: on,
            play: on,
            secret: vec!["0123456789abcdef-._~".parse().expect("a key")],
            ..Tokens::default()
        },
        ..Vhost::default()
    }
}

fn forward_to(
    hosts: &HashSet<String>,
    [a, b, c, d]: [Duration; 4],
    bytes: usize,
    on: bool,
    chunk_size: u32,
) -> Forward {
    Forward {
        enabled: on,
        destination: hosts
            .iter()
            .map(|host| format!("{host}:{}", 1 + chunk_size / 2).parse().expect("a host"))
            .collect(),
        backend: hosts.iter().next().map(|host| {
            format!("http://{host}:{}/f?k=v", 1 + chunk_size / 2).parse().expect("a URL")
        }),
        backend_timeout: a,
        backend_failure: if on { BackendFailure::Refuse } else { BackendFailure::Static },
        backend_interval: c,
        connect_timeout: d,
        retry_min: c,
        retry_max: a,
        retry_refused: d,
        hung_timeout: b,
        queue_length: c,
        queue_bytes: bytes,
        send_buffer: chunk_size as usize + 4096,
        notsent_lowat: 0,
        to: hosts
            .iter()
            .map(|host| ForwardTo {
                url: format!("rtmp://{host}/[app]?x=y/k-[stream]?[param]").parse().expect("a URL"),
                app: Pattern::new("live*").expect("a pattern"),
                stream: Pattern::default(),
                param: on.then_some(false),
            })
            .collect(),
    }
}

fn deadline() -> impl Strategy<Value = Duration> {
    let longest = 24 * 3600 * 1000_u64;
    prop_oneof![
        (100..=longest).prop_map(Duration::from_millis),
        (1..=24_u64).prop_map(|hours| Duration::from_secs(hours * 3600)),
        (100_000_000..1_000_000_000_u64).prop_map(Duration::from_nanos),
    ]
}
