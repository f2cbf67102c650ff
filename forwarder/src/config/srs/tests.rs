//! What the import of SRS's `.conf` promises.
mod access;
mod errors;

use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;

use crate::config::{BackendFailure, Config, Edge, Forward, Loaded, Play, Publish, Vhost};

fn srs(text: &str) -> Loaded {
    Config::from_srs_conf(text).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_small_cluster_of_the_documentation_loads_unchanged() {
    let master = srs(include_str!("../../../../conf/srs/forward.master.conf"));
    let forward = Forward {
        enabled: true,
        destination: [
            "192.168.1.6:1935",
            "192.168.1.6:1936",
            "192.168.1.7:1935",
            "192.168.1.7:1936",
        ]
        .map(|text| text.parse().unwrap())
        .to_vec(),
        ..Forward::default()
    };
    let want = Config {
        max_connections: 10240,
        pid: Some("./objs/srs.pid".into()),
        vhosts: vec![Vhost { forward, ..Vhost::default() }],
        ..Config::default()
    };
    assert_eq!(master.config, want);
    assert_eq!(master.notes, Vec::<String>::new());

    for (text, port, pid) in [
        (include_str!("../../../../conf/srs/forward.slave1.conf"), 1935, "./objs/srs.pid"),
        (include_str!("../../../../conf/srs/forward.slave2.conf"), 1936, "./objs/srs.1936.pid"),
    ] {
        let slave = srs(text);
        let want = Config {
            listen: vec![SocketAddr::from(([0, 0, 0, 0], port))],
            max_connections: 10240,
            pid: Some(pid.into()),
            ..Config::default()
        };
        assert_eq!(slave.config, want);
        assert_eq!(slave.notes, Vec::<String>::new());
    }
}

#[test]
fn what_both_have_is_taken_over() {
    let loaded = srs("
        listen 1935 127.0.0.1:1936 [::]:1937;
        max_connections 1000; pid './objs/srs pid'; chunk_size 60000;
        daemon off; srs_log_tank console; srs_log_level trace;
        http_api { enabled on; listen 127.0.0.1:1986; crossdomain off; }
        exporter { enabled on; listen 9973; }
        vhost __defaultVhost__ {
            tcp_nodelay off; min_latency on; in_ack_size 1000; out_ack_size 5000000;
            play { gop_cache off; gop_cache_max_frames 100; queue_length 5; mw_latency 350; }
            publish { firstpkt_timeout 15000; normal_timeout 7000; }
            forward { enabled on; destination slave 127.0.0.1:19350 [::1]:19351; }
        }
        vhost other { enabled off; chunk_size 128; }
    ");
    let first = Vhost {
        chunk_size: 60000,
        tcp_nodelay: false,
        in_ack_size: 1000,
        out_ack_size: 5_000_000,
        play: Play {
            gop_cache: false,
            gop_cache_max_frames: 100,
            queue_length: Duration::from_secs(5),
            mw_latency: Duration::from_millis(350),
            ..Play::default()
        },
        publish: Publish {
            firstpkt_timeout: Duration::from_secs(15),
            normal_timeout: Duration::from_secs(7),
            ..Publish::default()
        },
        forward: Forward {
            enabled: true,
            destination: ["slave:1935", "127.0.0.1:19350", "[::1]:19351"]
                .map(|text| text.parse().unwrap())
                .to_vec(),
            queue_length: Duration::from_secs(5),
            ..Forward::default()
        },
        ..Vhost::default()
    };
    let second =
        Vhost { name: "other".into(), enabled: false, chunk_size: 128, ..Vhost::default() };
    let mut want = Config {
        listen: ["0.0.0.0:1935", "127.0.0.1:1936", "[::]:1937"]
            .map(|text| text.parse().unwrap())
            .to_vec(),
        max_connections: 1000,
        pid: Some("./objs/srs pid".into()),
        vhosts: vec![first, second],
        ..Config::default()
    };
    want.http_api.enabled = true;
    want.http_api.crossdomain = false;
    want.exporter.enabled = true;
    want.exporter.listen = "0.0.0.0:9973".parse().unwrap();
    want.http_api.listen = "127.0.0.1:1986".parse().unwrap();
    assert_eq!(loaded.config, want);
    assert_eq!(loaded.notes, Vec::<String>::new());
    assert_eq!(Config::from_toml(&want.to_toml(), "f").map_err(|e| e.to_string()), Ok(want));
}

#[test]
fn what_has_no_effect_is_noted() {
    let loaded = srs("listen 1935;
daemon on;
srs_log_file ./objs/srs.log;
heartbeat { enabled on; }
stats { enabled off; }
rtc_server { enabled on; listen 8000; }
vhost __defaultVhost__ {
    hls { enabled on; hls_fragment 10; }
    dvr { enabled off; dvr_path ./x; }
    play { time_jitter full; atc off; mix_correct on; mw_msgs 8; }
    publish { mr off; parse_sps on; }
    security { enabled off; allow play all; }
    http_hooks { on_publish http://127.0.0.1/; }
    cluster { mode local; origin 127.0.0.1; }
    forward { enabled on; }
    enabled yes;
    enabled off;
}");
    assert_eq!(
        loaded.notes,
        [
            "srs.conf:2: `daemon on` has no effect: forwarder stays in the foreground; let systemd or a container run it",
            "srs.conf:3: `srs_log_file ./objs/srs.log` has no effect: logs go to stderr, see [log]",
            "srs.conf:4: `heartbeat` has no effect: there is nothing like it here",
            "srs.conf:6: `rtc_server` has no effect: forwarder speaks RTMP and HTTP-FLV only",
            "srs.conf:17: `enabled off` has no effect: it stands here before, and SRS takes the first, as we do",
            "srs.conf:8: `hls` has no effect: forwarder speaks RTMP and HTTP-FLV only",
            "srs.conf:10: `time_jitter full` has no effect: timestamps pass unchanged",
            "srs.conf:10: `mix_correct on` has no effect: timestamps pass unchanged",
            "srs.conf:10: `mw_msgs 8` has no effect: each write takes all that is ready",
            "srs.conf:15: `forward` has no effect: it has no destination",
            "srs.conf:16: `enabled yes` has no effect: it is neither on nor off, and SRS takes it as on",
        ]
    );
    assert!(loaded.config.vhosts[0].enabled);
    assert!(!loaded.config.vhosts[0].forward.enabled);
}

#[test]
fn a_remote_cluster_is_an_edge() {
    let loaded = srs(include_str!("../../../../conf/srs/edge.conf"));
    let edge = &loaded.config.vhosts[0].edge;
    let origin: Vec<String> = edge.origin.iter().map(ToString::to_string).collect();
    assert_eq!(origin, ["127.0.0.1:19351", "127.0.0.1:19352"]);
    assert_eq!(*edge, Edge { enabled: true, origin: edge.origin.clone(), ..Edge::default() });
    assert_eq!(loaded.notes, Vec::<String>::new());

    let text = "vhost v { cluster { origin a; mode remote; vhost b.[vhost]; follow_client on; \
                token_traverse on; } }";
    let loaded = srs(text);
    let edge = &loaded.config.vhosts[0].edge;
    assert_eq!((edge.origin_vhost("v").as_str(), edge.token_traverse), ("b.v", true));
    let note = "srs.conf:1: `follow_client on` has no effect: origins are asked by RTMP";
    assert_eq!(loaded.notes, [note]);
    assert!(!srs("vhost v { cluster { mode local; } }").config.vhosts[0].edge.enabled);
}

#[test]
fn directives_of_old_versions_are_understood() {
    let loaded = srs(
        "listen 1935; vhost v { forward 127.0.0.1:19350 127.0.0.1:19351; gop_cache off; queue_length 4; }",
    );
    let vhost = &loaded.config.vhosts[0];
    assert!(vhost.forward.enabled);
    assert_eq!(vhost.forward.destination.len(), 2);
    assert!(!vhost.play.gop_cache);
    assert_eq!(vhost.play.queue_length, Duration::from_secs(4));
}

#[test]
fn levels_of_the_log_keep_their_meaning() {
    for (text, want) in [
        ("", "info"),
        ("srs_log_level verbose;", "trace"),
        ("srs_log_level info;", "debug"),
        ("srs_log_level trace;", "info"),
        ("srs_log_level warn;", "warn"),
        ("srs_log_level_v2 trace;", "trace"),
        ("srs_log_level_v2 info; srs_log_level error;", "info"),
    ] {
        assert_eq!(srs(text).config.log.level, want, "{text}");
    }
}

#[test]
fn words_are_quoted_and_comments_skipped() {
    for (text, want) in [
        (r"pid a;", "a"),
        (r"pid 'a b';", "a b"),
        (r#"pid "a;{}#b";"#, "a;{}#b"),
        (r#"pid "a\"b\\c\d";"#, r#"a"b\c\d"#),
        (r#"pid "it's";"#, "it's"),
        ("pid a#b;", "a#b"),
        ("# pid x;\npid # y;\n a # z\n;", "a"),
        ("pid \u{4e2d}\u{6587};", "\u{4e2d}\u{6587}"),
    ] {
        assert_eq!(srs(text).config.pid, Some(want.into()), "{text}");
    }
}

#[test]
fn includes_are_read_from_beside_the_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect(name);
    std::fs::create_dir(dir.path().join("vhosts")).expect("a directory");
    write("main.conf", "listen 1936; include vhosts/a.conf vhosts/b.conf;");
    write("vhosts/a.conf", "vhost a { include play.conf; }");
    write("vhosts/b.conf", "vhost b { hls { enabled on; } }");
    write("vhosts/play.conf", "play { gop_cache off; }");
    let loaded = Config::load(&dir.path().join("main.conf")).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(loaded.config.vhosts.len(), 2);
    assert!(!loaded.config.vhosts[0].play.gop_cache);
    let b = dir.path().join("vhosts/b.conf");
    let note =
        format!("{}:1: `hls` has no effect: forwarder speaks RTMP and HTTP-FLV only", b.display());
    assert_eq!(loaded.notes, [note]);

    write("vhosts/play.conf", "play { gop_cach off; }");
    let error = Config::load(&dir.path().join("main.conf")).expect_err("a mistake").to_string();
    let play = dir.path().join("vhosts/play.conf");
    let start = format!("{}:1:8: unknown directive `gop_cach`\n", play.display());
    assert!(error.starts_with(&start), "{error}");
}

#[test]
fn includes_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("main.conf");
    for (text, want) in [
        ("include main.conf;", "too many files include each other"),
        ("include none.conf;", "No such file or directory"),
        ("include;", "`include` needs a file"),
    ] {
        std::fs::write(&path, text).expect("a file");
        let error = Config::import(&path).expect_err(text).to_string();
        assert!(error.contains(want), "{error}");
    }
    std::fs::write(&path, format!("include {};", "e.conf ".repeat(65))).expect("a file");
    std::fs::write(dir.path().join("e.conf"), "").expect("a file");
    assert!(Config::import(&path).is_err());
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let _ = Config::from_srs_conf(&text);
    }

    #[test]
    fn what_is_accepted_writes_toml_that_reads_back(
        words in prop::collection::vec(
            prop::sample::select(vec![
                "vhost", "a", "{", "}", ";", "forward", "enabled", "on", "destination", "b:1",
                "play", "queue_length", "10", "listen", "1935", "pid", "'x y'", "chunk_size",
                "128", "hls", "gop_cache", "off",
            ]),
            0..40,
        )
    ) {
        if let Ok(loaded) = Config::from_srs_conf(&words.join(" ")) {
            let text = loaded.config.to_toml();
            let back = Config::from_toml(&text, "f.toml").map_err(|error| error.to_string());
            prop_assert_eq!(back, Ok(loaded.config));
        }
    }
}

#[test]
fn a_backend_takes_the_place_of_destinations_as_in_srs() {
    let text = "vhost a {\n forward {\n  enabled on;\n  destination b:1936;\n  backend http://h:80/f;\n }\n}";
    let Loaded { config, notes } = srs(text);
    let forward = &config.vhosts[0].forward;
    assert!(forward.enabled && forward.destination.is_empty());
    assert_eq!(forward.backend, "http://h:80/f".parse().ok());
    assert_eq!(forward.backend_failure, BackendFailure::Static, "a publisher is not to suffer");
    assert_eq!(
        notes,
        [
            "srs.conf:4: `destination b:1936` has no effect: with a backend SRS forwards to what that says alone"
        ]
    );
    let off = srs("vhost a { forward { enabled off; backend what; } }").config;
    assert_eq!(off.vhosts[0].forward.backend, None);
}
