//! A configuration that is loaded again disturbs nothing but what has changed, and a file that is
//! wrong changes nothing.
mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};

use common::compare::{Start, assert_same_sequence, assert_whole_messages};
use common::media::Synthetic;
use common::peer::{End, Live, Peer, Recorder, Seen};
use common::process::resident;
use common::server::{Server, Setup, http, http_get};
use common::sink::Sink;
use common::tls::{Authority, listener};
use common::{free_address, seconds, wait_until};
use forwarder::status::reload::{Refused, Reloaded};
use nix::sys::signal::Signal;

/// `forwarder` with these arguments.
fn forwarder(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forwarder"));
    command.args(args).output().expect("forwarder")
}

/// `forwarder reload`: its exit code, and what it says on stdout and stderr.
fn reload_by_command(server: &Server) -> (Option<i32>, String, String) {
    let api = server.api.to_string();
    let output = forwarder(&["reload", "--api", &api]);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Each change as `key: what`.
fn told(reloaded: &Reloaded) -> Vec<String> {
    reloaded.changes.iter().map(|change| format!("{}: {}", change.key, change.what)).collect()
}

/// A publisher and players of it who miss nothing.
struct Watched {
    live: Live,
    players: Vec<Recorder>,
}

impl Watched {
    #[track_caller]
    fn start(server: SocketAddr, path: &str, source: Synthetic, players: usize) -> Self {
        let live = Live::start(server, path, source);
        let players: Vec<_> = (0..players).map(|_| Recorder::start(server, path)).collect();
        wait_until("media", seconds(60), || players.iter().all(|player| player.count() > 5));
        Self { live, players }
    }

    /// Ends the publish: each player got every byte from where it joined, on one connection.
    #[track_caller]
    fn assert_whole(self, label: &str) {
        let sent = self.live.stop(End::Polite);
        let last = sent.iter().rfind(|tag| tag.is_frame()).expect("frames");
        for (at, player) in self.players.into_iter().enumerate() {
            wait_until("the last frame", seconds(60), || player.has(last) || player.ended());
            let label = format!("{label}, player {at}");
            assert_same_sequence(&label, &sent, &player.tags(), Start::Keyframe);
        }
    }
}

#[test]
fn a_bad_file_changes_nothing_and_says_why() {
    let taken = TcpListener::bind(free_address()).expect("an address");
    let setup = Setup::new().global("max_connections = 50");
    let server = setup.start();
    let good = std::fs::read_to_string(server.config()).expect("configuration");
    let watched = Watched::start(server.rtmp, "live/a", Synthetic::default(), 2);
    let before = server.status();

    let taken = format!("\"{}\"", taken.local_addr().expect("an address"));
    let listens = good.replacen("listen = [", &format!("listen = [{taken}, "), 1);
    let exporter = format!("{good}[exporter]\nenabled = true\nlisten = {taken}\n");
    let bad = [
        (good.replace("max_connections = 50", "max_connections = 60\nlistne = 1"), 3),
        (good.replace("max_connections = 50", "max_connections = \"many\""), 2),
        (good.replace("max_connections = 50", "max_connections = 60\n[broken"), 3),
        (format!("{good}[vhost.edge]\nenabled = true\n"), good.lines().count() + 2),
        (listens.replace("= 50", "= 60"), 0),
        (exporter.replace("= 50", "= 60"), 0),
    ];
    for (text, line) in &bad {
        server.write(text);
        let refused: Refused = *server.reload().expect_err("it is wrong");
        assert_eq!(refused.line, *line, "{refused:?}");
        assert!(!refused.message.is_empty() && refused.shown.contains(&refused.message));
        let (code, out, err) = reload_by_command(&server);
        assert_eq!((code, out.as_str(), &err), (Some(1), "", &refused.shown));
        if *line > 0 {
            assert!(refused.column > 0 && refused.shown.contains('^'), "{refused:?}");
            let path = server.config().to_str().expect("a path");
            let check = forwarder(&["check", "-c", path]);
            assert_eq!(String::from_utf8_lossy(&check.stderr).trim_end(), err);
        } else {
            assert!(err.contains("in use") && err.contains("listen on"), "{err}");
        }
        let after = server.status();
        assert_eq!(after.config.last_error, refused.shown);
        assert_eq!(
            (after.config.loaded_ms, after.listen),
            (before.config.loaded_ms, before.listen.clone())
        );
    }
    std::fs::remove_file(server.config()).expect("remove");
    assert!(server.reload().is_err());
    let metrics = http_get(server.api, "/metrics").expect("metrics");
    assert!(metrics.contains("\nforwarder_config_last_reload_successful 0\n"), "{metrics}");

    // SIGHUP says it in the log
    server.write(&bad[0].0);
    let reloads = server.status().config.reloads;
    server.signal(Signal::SIGHUP);
    wait_until("a reload", seconds(10), || server.status().config.reloads > reloads);
    wait_until("a line", seconds(5), || server.log().matches("unknown key `listne`").count() > 2);

    server.write(&good);
    server.signal(Signal::SIGHUP);
    wait_until("it is fine again", seconds(10), || server.status().config.last_error.is_empty());
    let metrics = http_get(server.api, "/metrics").expect("metrics");
    assert!(metrics.contains("\nforwarder_config_last_reload_successful 1\n"), "{metrics}");
    assert!(server.status().config.loaded_ms > before.config.loaded_ms);
    assert_eq!(reload_by_command(&server), (Some(0), "nothing has changed".into(), String::new()));
    watched.assert_whole("bad files");
}

#[test]
fn what_needs_a_restart_stays_and_is_named() {
    let server = Setup::new().global("threads = 2").start();
    let text = std::fs::read_to_string(server.config()).expect("configuration");
    server.write(&text.replace("threads = 2", "threads = 3\nmax_connections = 7"));
    let (code, out, _) = reload_by_command(&server);
    assert_eq!(code, Some(0));
    assert!(out.contains("threads: 2 -> 3 (needs a restart: it stays as it was)"), "{out}");
    assert!(out.contains("max_connections: 10000 -> 7"), "{out}");
    assert_eq!(server.status().shards.len(), 2);
    // the rest of the file is in force: the API's own connections do not count
    let _seven: Vec<Peer> = (0..7).map(|_| idle(server.rtmp)).collect();
    wait_until("seven are in", seconds(5), || server.status().connections == 7);
    let refused = || server.status().totals.refused;
    let _eighth = TcpStream::connect(server.rtmp).expect("connect");
    wait_until("the eighth is closed", seconds(5), || refused() > 0);
    // it is named each time, as it differs each time
    assert_eq!(told(&server.reload().expect("fine")), ["threads: 2 -> 3"]);
}

/// A connection that waits for a stream.
#[track_caller]
fn idle(server: SocketAddr) -> Peer {
    Peer::play(server, "live/nobody")
}

#[test]
fn the_log_level_follows() {
    let server = Setup::new().start();
    let text = std::fs::read_to_string(server.config()).expect("configuration");
    drop(idle(server.rtmp));
    wait_until("it is gone", seconds(5), || server.log().contains("connection closed"));
    server.write(&format!("{text}[log]\nlevel = \"debug\"\n"));
    assert_eq!(told(&server.reload().expect("fine")), ["log.level: info -> debug"]);
    let debug = |log: String| log.lines().filter(|line| line.contains("DEBUG")).count();
    assert_eq!(debug(server.log()), 0);
    drop(idle(server.rtmp));
    wait_until("it says more", seconds(5), || debug(server.log()) > 0);
}

#[test]
fn listeners_come_and_go_and_connections_stay() {
    let server = Setup::new().start();
    let (first, second, moved) = (server.rtmp, free_address(), free_address());
    let watched = Watched::start(first, "live/a", Synthetic::default(), 1);
    let text = std::fs::read_to_string(server.config()).expect("configuration");
    let listen = |addresses: &str| {
        let begin = text.find('\n').expect("a line");
        server.write(&format!("listen = [{addresses}]{}", &text[begin..]));
        server.reload().unwrap_or_else(|refused| panic!("{}", refused.shown))
    };
    listen(&format!("\"{first}\", \"{second}\""));
    assert_eq!(server.status().listen, [first.to_string(), second.to_string()]);
    let by_second = Recorder::start(second, "live/a");

    // the port stays and the address becomes another, in both directions
    let any = SocketAddr::from(([0, 0, 0, 0], first.port()));
    listen(&format!("\"{any}\", \"{second}\""));
    assert_eq!(server.status().listen, [second.to_string(), any.to_string()]);
    let by_any = Recorder::start(SocketAddr::from(([127, 0, 0, 2], first.port())), "live/a");
    listen(&format!("\"{first}\""));
    wait_until("it is closed", seconds(5), || TcpStream::connect(second).is_err());
    let other = SocketAddr::from(([127, 0, 0, 2], first.port()));
    wait_until("it is closed", seconds(5), || TcpStream::connect(other).is_err());
    drop(idle(first));

    // one with IPv6 takes IPv4 too, unless that is asked for beside it
    let both = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, first.port()));
    listen(&format!("\"{both}\""));
    drop(idle(first));
    listen(&format!("\"{both}\", \"{any}\""));
    drop(idle(first));
    drop(idle(SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, first.port()))));

    let mut watched = watched;
    watched.players.extend([by_second, by_any]);
    // the API tells that it has moved from where it was
    let there = text.replace(&server.api.to_string(), &moved.to_string());
    server.write(&format!("{there}[exporter]\nenabled = true\nlisten = \"{second}\"\n"));
    let reloaded = server.reload().expect("fine");
    assert_eq!(
        told(&reloaded)[..2],
        [
            "exporter.enabled: false -> true",
            &format!("exporter.listen: 127.0.0.1:9972 -> {second}")
        ]
    );
    wait_until("it is closed", seconds(5), || TcpStream::connect(server.api).is_err());
    assert!(http_get(moved, "/api/v1/status").expect("status").contains("live"));
    assert!(http_get(second, "/metrics").expect("metrics").contains("forwarder_streams"));
    // and it is switched off over itself
    server.write(&text.replace("enabled = true", "enabled = false"));
    assert_eq!(http(moved, "POST", "/api/v1/reload", "").expect("an answer").status, 200);
    for address in [moved, second] {
        wait_until("it is closed", seconds(5), || TcpStream::connect(address).is_err());
    }
    watched.assert_whole("listeners");
}

#[test]
fn clients_of_a_vhost_that_goes_are_told_and_others_stay() {
    let by_http = free_address();
    let setup = || Setup::new().http_server(by_http);
    let (rtmp, api) = (free_address(), free_address());
    // The last table is that of a.test.
    let remux = "[vhost.http_remux]\nenabled = true\n";
    let text = setup().vhost("a.test", &[]).text(rtmp, api) + remux;
    let server = Server::start("forwarder.toml", &text, rtmp, api);
    let others = Watched::start(server.rtmp, "live/b", Synthetic::default(), 2);
    let live = Live::start(server.rtmp, "live/a?vhost=a.test", Synthetic::default());
    let player = Recorder::start(server.rtmp, "live/a?vhost=a.test");
    let mut waiting = Peer::play(server.rtmp, "live/none?vhost=a.test");
    wait_until("media", seconds(10), || player.count() > 10);
    let mut over_http = TcpStream::connect(by_http).expect("connect");
    over_http.write_all(b"GET /live/a.flv?vhost=a.test HTTP/1.1\r\nHost: a\r\n\r\n").expect("send");
    over_http.set_read_timeout(Some(seconds(10))).expect("socket option");
    over_http.read_exact(&mut [0; 9_000]).expect("media");

    let reloaded = server.reload_to(setup());
    assert_eq!(told(&reloaded), ["vhost: removed"]);
    assert_eq!(reloaded.changes[0].vhost, "a.test");
    over_http.read_to_end(&mut Vec::new()).expect("an end");
    wait_until("the player is closed", seconds(10), || player.ended());
    assert!(player.finished(), "it was not told");
    wait_until("the publisher is closed", seconds(10), || live.is_over());
    let seen = waiting.until_closed(seconds(10));
    assert!(seen.contains(&Seen::Finished), "{seen:?}");
    assert!(server.log().contains("its vhost is not served any more"), "{}", server.log());
    wait_until("all is gone", seconds(10), || {
        server.status().streams.iter().all(|stream| stream.vhost != "a.test")
    });
    // who comes again belongs to the default one, and to another that is added
    let live = Live::start(server.rtmp, "live/a?vhost=a.test", Synthetic::default());
    server.wait_live("live/a");
    assert_eq!(server.stream("live/a").expect("a stream").vhost, "__defaultVhost__");
    live.stop(End::Polite);
    server.reload_to(setup().vhost("a.test", &[]));
    let live = Live::start(server.rtmp, "live/a?vhost=a.test", Synthetic::default());
    wait_until("it is in its vhost", seconds(10), || {
        server.status().streams.iter().any(|stream| stream.vhost == "a.test")
    });
    live.stop(End::Polite);
    others.assert_whole("the other vhost");
}

#[test]
fn a_client_that_comes_after_it_gets_what_is_in_force() {
    let server = Setup::new().start();
    let live = Live::start(server.rtmp, "live/a", Synthetic { gop: 2_000, ..Synthetic::default() });
    live.wait_more(40);
    let first = |player: &Recorder| player.tags().iter().find(|tag| tag.is_frame()).cloned();
    let early = Recorder::start(server.rtmp, "live/a");
    wait_until("media", seconds(10), || first(&early).is_some());
    server.reload_to(Setup::new().play("gop_cache = false").play("keyframe_wait = \"0s\""));
    let late = Recorder::start(server.rtmp, "live/a");
    wait_until("media", seconds(10), || first(&late).is_some());
    assert!(first(&early).expect("a frame").is_keyframe());
    assert!(!first(&late).expect("a frame").is_keyframe(), "it begins where the stream is");
    live.stop(End::Polite);
}

#[test]
fn many_reloads_leave_nothing_behind() {
    let server = Setup::new().start();
    let watched = Watched::start(server.rtmp, "live/a", Synthetic::default(), 2);
    let [addresses, secure] = [(); 2].map(|()| [free_address(), free_address()]);
    let slaves = addresses.map(|_| Sink::start(free_address()));
    let authority = Authority::new();
    let certificate = authority.certify("a", "DNS:a.example");
    let turn = |n: usize| {
        let setup = Setup::new()
            .exporter(addresses[n % 2], "")
            .global(&listener(secure[n % 2], &[&certificate]))
            .forward_to(&[slaves[n % 2].address])
            .section("hooks", &format!("enabled = true\non_play = \"http://127.0.0.1:1/{n}\""));
        server
            .reload_to(setup.vhost(&format!("v{}.test", n % 3), &[]).play("queue_length = \"9s\""));
    };
    let pid = server.status().pid;
    let descriptors = || {
        let folder = format!("/proc/{}/fd", pid);
        std::fs::read_dir(folder).expect("descriptors").count()
    };
    let threads = || {
        let folder = format!("/proc/{}/task", pid);
        std::fs::read_dir(folder).expect("threads").count()
    };
    (0..6).for_each(turn);
    wait_until("the old ones are closed", seconds(5), || TcpStream::connect(addresses[0]).is_err());
    let (before, memory) = (descriptors(), resident(pid));
    (0..54).for_each(turn);
    wait_until("as many as before", seconds(10), || descriptors() <= before);
    let grown = resident(pid).saturating_sub(memory);
    assert!(grown < 4 << 20, "{grown} bytes more");
    // those that read files go when they have nothing to do
    assert!(threads() < 16, "{} threads", threads());
    assert_eq!(server.status().config.reloads, 60);
    wait_until("it goes where it shall", seconds(10), || {
        let all = slaves[1].received();
        all.last().is_some_and(|it| it.tags.len() > 5 && !it.unpublished)
    });
    let gone = || slaves[0].received().iter().all(|it| it.closed);
    wait_until("it goes nowhere else", seconds(10), gone);
    watched.assert_whole("60 reloads");
}

#[test]
fn reloads_at_the_same_time_wait_for_each_other() {
    let server = Setup::new().start();
    let text = std::fs::read_to_string(server.config()).expect("configuration");
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let one = |n: usize| {
            let (server, text) = (&server, &text);
            scope.spawn(move || {
                // The file is moved into place, as whoever changes it while it is read should.
                let path = server.dir().join(format!("next{n}"));
                std::fs::write(&path, format!("max_connections = {}\n{text}", 100 + n)).unwrap();
                std::fs::rename(&path, server.config()).unwrap();
                server.reload()
            })
        };
        let threads: Vec<_> = (0..8).map(one).collect();
        threads.into_iter().map(|thread| thread.join().expect("a reload")).collect()
    });
    // Each change is told once, and each begins where the one before ended.
    let steps: Vec<(usize, usize)> = outcomes
        .into_iter()
        .flat_map(|outcome| outcome.expect("fine").changes)
        .map(|change| {
            let (from, to) = change.what.split_once(" -> ").expect("numbers");
            (from.parse().unwrap(), to.parse().unwrap())
        })
        .collect();
    let mut now = 10_000;
    for _ in &steps {
        let step = steps.iter().find(|(from, _)| *from == now);
        now = step.unwrap_or_else(|| panic!("nothing begins at {now}: {steps:?}")).1;
    }
    let file = std::fs::read_to_string(server.config()).expect("configuration");
    assert!(file.starts_with(&format!("max_connections = {now}\n")), "{now}: {file}");
    assert_eq!(server.status().config.reloads, 8);
}

#[test]
fn a_conf_of_srs_is_reloaded_as_srs_is_asked_to() {
    let (rtmp, api, more) = (free_address(), free_address(), free_address());
    let conf = |listen: &str, raw: &str| {
        format!(
            "listen {listen};\ndaemon off;\nhttp_api {{ enabled on; listen {api};\n\
             raw_api {{ enabled on; allow_reload {raw}; }} }}\nvhost __defaultVhost__ {{ }}\n"
        )
    };
    let server = Server::start("srs.conf", &conf(&rtmp.to_string(), "on"), rtmp, api);
    let watched = Watched::start(rtmp, "live/a", Synthetic::default(), 1);
    let ask = |rpc: &str| -> serde_json::Value {
        let body = http_get(api, &format!("/api/v1/raw?rpc={rpc}")).expect("an answer");
        serde_json::from_str(&body).expect("JSON")
    };
    let fetched = || ask("reload-fetch")["data"].clone();
    let state = |data: serde_json::Value| (data["err"].as_u64(), data["state"].as_u64());
    assert_eq!(state(fetched()), (Some(0), Some(0)));
    server.write(&conf(&format!("{rtmp} {more}"), "on"));
    assert_eq!(ask("reload")["code"], 0);
    wait_until("it is finished", seconds(10), || fetched()["rid"] == "1");
    assert_eq!(state(fetched()), (Some(0), Some(90)));
    drop(idle(more));
    server.write(&conf("nowhere", "on"));
    assert_eq!(ask("reload")["code"], 0);
    wait_until("it is refused", seconds(10), || fetched()["rid"] == "2");
    assert_eq!(state(fetched()), (Some(1023), Some(10)));
    let why = fetched()["msg"].as_str().expect("text").to_owned();
    assert!(why.contains("srs.conf:1:") && why.contains('^'), "{why}");
    // one that forbids it is the last one that is asked for
    server.write(&conf(&rtmp.to_string(), "off"));
    assert_eq!(ask("reload")["code"], 0);
    wait_until("it is forbidden", seconds(10), || ask("reload-fetch")["code"] == 1061);
    assert_eq!(ask("reload")["code"], 1061);
    assert_eq!(ask("raw")["http_api"]["raw_api"]["allow_reload"], false);
    watched.assert_whole("SRS's file");
}

/// From the environment, for those who want more of it.
fn number(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().map_or(usual, |text| text.parse().expect("a number"))
}

#[test]
fn under_load_nothing_is_lost_that_is_not_about_it() {
    let (n, forwards) = (number("RELOAD_PLAYERS", 60), number("RELOAD_FORWARDS", 10));
    let sinks: Vec<Sink> = (0..forwards + 2).map(|_| Sink::start(free_address())).collect();
    let [usual @ .., added, of_b] = &*sinks else { panic!("two and more") };
    let [removed, kept @ ..] = usual else { panic!("one and more") };
    let setup = |first: &Sink| {
        let all: Vec<_> = std::iter::once(first).chain(kept).map(|sink| sink.address).collect();
        let setup = Setup::new().forward_to(&all).global("max_connections = 5000");
        setup.vhost("b.test", &[of_b.address]).vhost("c.test", &[])
    };
    let server = setup(removed).start();
    let source = Synthetic { frame_bytes: 900, ..Synthetic::default() };
    let watch = |path: &str, players| Watched::start(server.rtmp, path, source, players);
    let Watched { live, players } = watch("live/a", n - 2 * (n / 4));
    let others = [watch("live/b?vhost=b.test", n / 4), watch("live/c?vhost=c.test", n / 4)];
    let forwarded = |sinks: &[Sink]| sinks.iter().all(|sink| sink.count() > 20);
    wait_until("all destinations have it", seconds(60), || forwarded(usual) && of_b.count() > 20);

    let text = setup(added).text(server.rtmp, server.api);
    let third = "name = \"c.test\"\n";
    server.write(&text.replace(third, &format!("{third}chunk_size = 4096\n")));
    let reloaded = server.reload().unwrap_or_else(|refused| panic!("{}", refused.shown));
    assert_eq!(
        told(&reloaded),
        ["vhost.forward.destination: 1 added, 1 removed", "vhost.chunk_size: 16384 -> 4096"]
    );
    let left = || removed.received().pop().is_some_and(|it| it.unpublished && it.closed);
    wait_until("one is taken leave of", seconds(30), left);
    wait_until("one has it", seconds(30), || added.count() > 50);
    live.wait_more(50);
    assert!(server.reload().expect("fine").changes.is_empty());
    live.wait_more(50);

    let streams = server.status().streams;
    let status = streams.iter().flat_map(|stream| &stream.forwards);
    let status: Vec<_> = status.filter(|forward| forward.state == "forwarding").collect();
    assert_eq!(status.len(), forwards + 1, "{status:?}");
    assert!(status.iter().all(|forward| forward.connects == 1), "{status:?}");
    let sent = live.stop(End::Polite);
    let last = sent.iter().rfind(|tag| tag.is_frame()).expect("frames");
    for (at, player) in players.into_iter().enumerate() {
        wait_until("the last frame", seconds(60), || player.has(last) || player.ended());
        let label = format!("player {at}");
        assert_same_sequence(&label, &sent, &player.tags(), Start::Keyframe);
    }
    for (at, sink) in kept.iter().chain([added]).enumerate() {
        let said = || sink.received().pop().is_some_and(|it| it.unpublished);
        wait_until("the end of the stream", seconds(60), said);
        let received = sink.received();
        assert_eq!(received.len(), 1, "destination {at} was dialled again");
        let label = format!("destination {at}");
        assert_same_sequence(&label, &sent, &received[0].tags, Start::Keyframe);
    }
    let received = removed.received();
    assert_eq!(received.len(), 1);
    assert_eq!(assert_whole_messages("the one that is gone", &sent, &received[0].tags), 0);
    assert_eq!(of_b.received().len(), 1);
    for (watched, name) in others.into_iter().zip(["b", "c"]) {
        watched.assert_whole(name);
    }
}
