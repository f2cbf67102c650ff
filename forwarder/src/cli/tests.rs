//! What the command line promises.
use std::path::Path;

use clap::CommandFactory as _;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::Config;
use crate::http::{Facts, Options, Serve, serve};
use crate::status::reload::{ConfigStatus, Outcome, Reloaded};
use crate::status::srs::Identity;
use crate::status::srs::{SrsStream, SrsVhost, Summary};
use crate::status::{
    ClientPage, ClientQuery, ClientStatus, ForwardStatus, Kbps, LegStatus, ProcessStatus,
    PullStatus, Snapshot, StandbyStatus, StreamStatus, Totals,
};

#[test]
fn clap_finds_no_fault() {
    Cli::command().debug_assert();
}

#[test]
fn both_ways_of_saying_it_are_understood() {
    let parse = |line: &str| Cli::try_parse_from(line.split(' '));
    let bare = parse("forwarder -c f").expect("run");
    assert_eq!((bare.config.as_deref(), bare.test), (Some(Path::new("f")), false));
    let test = parse("forwarder -t -c f").expect("check");
    assert_eq!((test.config.as_deref(), test.test), (Some(Path::new("f")), true));
    for line in [
        "forwarder run -c f",
        "forwarder check -c f --print",
        "forwarder import f",
        "forwarder status",
        "forwarder status --api [::1]:1985 --json",
        "forwarder status --clients --sort skips --count 3",
    ] {
        assert!(parse(line).is_ok_and(|cli| cli.command.is_some()), "{line}");
    }
    let bad = ["forwarder", "forwarder run", "forwarder -t", "forwarder -c f status"];
    for line in bad.into_iter().chain(["forwarder status --sort lag"]) {
        assert!(parse(line).is_err_and(|error| error.use_stderr()), "{line}");
    }
    for line in ["forwarder -v", "forwarder -V", "forwarder --version", "forwarder --help"] {
        assert!(parse(line).is_err_and(|error| !error.use_stderr()), "{line}");
    }
}

#[test]
fn a_refused_configuration_is_refused_by_all() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("a.toml");
    std::fs::write(&config, "listne = 1935").expect("a file");
    let test = Cli { config: Some(config.clone()), test: true, version: None, command: None };
    assert_eq!(dispatch(test), Err(Failure::Refused));
    let run = Cli { config: Some(config.clone()), test: false, version: None, command: None };
    assert_eq!(dispatch(run), Err(Failure::Refused));
    assert_eq!(check::run(&check::Args { config, print: true }), Err(Failure::Refused));
}

#[test]
fn an_import_loads_to_the_same_and_carries_its_notes() {
    let loaded = Config::from_srs_conf("listen 1936; daemon on;").expect("a configuration");
    let text = import::translation("a\nb.conf", &loaded);
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("# imported from a?b.conf"));
    assert!(lines.next().is_some_and(|line| line.starts_with("# srs.conf:1: `daemon on`")));
    assert_eq!(Config::from_toml(&text, "f").expect("TOML"), loaded.config);
}

#[derive(Clone)]
struct Told;

impl Facts for Told {
    fn snapshot(&self) -> Snapshot {
        snapshot()
    }

    fn options(&self) -> Options {
        Options {
            series_of_streams: true,
            crossdomain: true,
            token: String::new(),
            raw_reload: false,
            identity: Identity::draw(),
        }
    }

    async fn reload(&self) -> Outcome {
        Ok(Reloaded::default())
    }

    fn process(&self) -> ProcessStatus {
        ProcessStatus::default()
    }

    fn summary(&self) -> Summary {
        Summary::default()
    }

    fn is_ready(&self) -> bool {
        true
    }

    fn refresh_forwards(&self, _: Option<&str>) -> usize {
        0
    }

    async fn clients(&self, _: ClientQuery) -> ClientPage {
        ClientPage::default()
    }

    async fn kick(&self, _: &str) -> bool {
        false
    }

    async fn streams(&self) -> Vec<SrsStream> {
        Vec::new()
    }

    async fn vhosts(&self) -> Vec<SrsVhost> {
        Vec::new()
    }

    async fn client(&self, _: &str) -> Option<ClientStatus> {
        None
    }
}

#[test]
fn clients_are_a_table() {
    let player = ClientStatus {
        id: "7".into(),
        url: "v.test/live/a".into(),
        peer: "10.0.0.9:40000".into(),
        state: "blocked".into(),
        lag_ms: 1200,
        skips: 2,
        blocked_ms: 300,
        send_bytes: 3 << 20,
        recv_bytes: 4 << 10,
        kbps: Kbps { recv_30s: 0, send_30s: 500 },
        alive: 61.5,
        ..ClientStatus::default()
    };
    let page = ClientPage { clients: vec![player], total: 12, unanswered: 1 };
    assert_eq!(
        status::clients::table(&page),
        "\
CLIENT  ADDRESS         STREAM         STATE    LAG      SKIPS  BLOCKED  SENT     RECEIVED  RATE          UP
7       10.0.0.9:40000  v.test/live/a  blocked  1200 ms  2      300 ms   3.0 MiB  4.0 KiB   500.0 kbit/s  1m01s
1 of 12 clients
1 shards did not tell theirs in time
"
    );
}

#[tokio::test]
async fn status_asks_the_api() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(serve(listener, Serve::Api, Told, shutdown.clone()));
    let asked = status::Asked::get(status::STATUS);
    let (_, body) = status::ask(&address, &asked).await.expect("an answer");
    assert_eq!(serde_json::from_slice::<Snapshot>(&body).expect("a snapshot"), snapshot());
    shutdown.cancel();
    serving.await.expect("no panic").expect("a clean end");
    assert!(status::ask(&address, &asked).await.is_err());
}

#[test]
fn status_is_a_table() {
    assert_eq!(
        status::table(&snapshot()),
        "\
forwarder 0.1.0, pid 4711, up 1h01m, 14 connections, splice kernel (backlog 1.5 MiB of 512.0 MiB)
listening on 0.0.0.0:1935, [::]:1936
configuration /etc/f.toml, loaded 1m30s ago
the last reload was refused: /etc/f.toml:3:1: unknown key `listne`
since start: 20 connections, 1 refused, 2 errors, 1.5 GiB received, 3.0 KiB sent, 5 skips

STREAM             STATE    PLAYERS        BITRATE     CODECS    SKIPS  PUBLISHER
live/livestream    live     12             2.5 Mbit/s  h264 aac  0      10.0.0.1:5000, standby 10.0.0.2:5001 (not ready), 2 switched
v.test/live/b?[2J  waiting  0              0 bit/s     -         0      -
live/c             legs     1 (1 by legs)  0 bit/s     -         0      -

FORWARD          DESTINATION      STATE           LAG    ATTEMPTS  SENT     SKIPS  LAST ERROR
live/livestream  127.0.0.1:19351  forwarding      12 ms  0         1.0 KiB  0      -
live/livestream  127.0.0.1:19352  waiting 350 ms  0 ms   4         0 B      1      connection refused

PULL    ORIGIN         STATE    PLAYERS  ATTEMPTS  RECEIVED  LAST ERROR
live/b  10.0.0.7:1935  pulling  3        0         5.0 MiB   closed by the origin

LEG OF          KIND  STREAM  ORIGIN         PATH    MOVED    BACKLOG  UNSPLICES
10.0.0.9:40000  play  live/c  10.0.0.7:1935  kernel  3.0 MiB  0 B      1
"
    );
    let mut many = snapshot();
    many.legs = vec![many.legs[0].clone(); 200];
    let many = status::table(&many);
    assert!(many.ends_with("\nand 150 more, which --json shows\n"), "{many}");
    let idle = status::table(&Snapshot::default());
    assert!(idle.ends_with("\n\nno streams\n"), "{idle}");
}

fn streams() -> Vec<StreamStatus> {
    let forwarding = ForwardStatus {
        destination: "127.0.0.1:19351".into(),
        state: "forwarding".into(),
        sent_bytes: 1024,
        lag_ms: 12,
        ..ForwardStatus::default()
    };
    let waiting = ForwardStatus {
        destination: "127.0.0.1:19352".into(),
        state: "waiting".into(),
        attempt: 4,
        next_retry_ms: 350,
        last_error: "connection refused".into(),
        skips: 1,
        ..ForwardStatus::default()
    };
    let standby = StandbyStatus { peer: "10.0.0.2:5001".into(), ..StandbyStatus::default() };
    let live = StreamStatus {
        vhost: "__defaultVhost__".into(),
        app: "live".into(),
        stream: "livestream".into(),
        state: "live".into(),
        publisher: "10.0.0.1:5000".into(),
        standbys: vec![standby],
        switches: 2,
        players: 12,
        bitrate_bps: 2_512_000,
        video: "h264".into(),
        audio: "aac".into(),
        forwards: vec![forwarding, waiting],
        ..StreamStatus::default()
    };
    let odd = StreamStatus {
        vhost: "v.test".into(),
        app: "live".into(),
        stream: "b\u{1b}[2J".into(),
        state: "waiting".into(),
        ..StreamStatus::default()
    };
    let elsewhere = StreamStatus {
        vhost: "__defaultVhost__".into(),
        app: "live".into(),
        stream: "c".into(),
        state: "legs".into(),
        players: 1,
        legs: 1,
        ..StreamStatus::default()
    };
    vec![live, odd, elsewhere]
}

fn snapshot() -> Snapshot {
    let pull = PullStatus {
        vhost: "__defaultVhost__".into(),
        app: "live".into(),
        stream: "b".into(),
        origin: "10.0.0.7:1935".into(),
        state: "pulling".into(),
        players: 3,
        received_bytes: 5 << 20,
        last_error: "closed by the origin".into(),
        ..PullStatus::default()
    };
    let leg = LegStatus {
        kind: "play".into(),
        peer: "10.0.0.9:40000".into(),
        vhost: "__defaultVhost__".into(),
        app: "live".into(),
        stream: "c".into(),
        origin: "10.0.0.7:1935".into(),
        path: "kernel".into(),
        bytes: 3 << 20,
        unsplices: 1,
        ..LegStatus::default()
    };
    Snapshot {
        names: Vec::new(),
        backends: Vec::new(),
        version: "0.1.0".into(),
        pid: 4711,
        uptime_s: 3_700,
        connections: 14,
        shards: Vec::new(),
        splice: "kernel".into(),
        kernel_backlog: 3 << 19,
        kernel_backlog_limit: 512 << 20,
        listen: vec!["0.0.0.0:1935".into(), "[::]:1936".into()],
        config: ConfigStatus {
            file: "/etc/f.toml".into(),
            age_s: 90,
            last_error: "/etc/f.toml:3:1: unknown key `listne`\n  |\n".into(),
            ..ConfigStatus::default()
        },
        pulls: vec![pull],
        legs: vec![leg],
        streams: streams(),
        totals: Totals {
            connections: 20,
            refused: 1,
            errors: 2,
            received_bytes: 3 << 29,
            sent_bytes: 3 << 10,
            skips: 5,
            ..Totals::default()
        },
    }
}
