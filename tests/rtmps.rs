//! RTMP in TLS: clients, destinations and origins, with certificates that are good, bad and renewed.
mod common;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;

use common::compare::{Start, assert_same_media, assert_same_sequence, assert_whole_messages};
use common::external::{Player, Publish, ffmpeg_publish};
use common::media::{Clip, Synthetic};
use common::nginx::Nginx;
use common::peer::{End, Live, Recorder};
use common::process::resident;
use common::raw::Raw;
use common::server::{Server, Setup};
use common::tls::{Authority, Tunnel, listener, shown};
use common::{free_address, seconds, wait_until};
use forwarder::status::ForwardStatus;
use nix::sys::signal::Signal;

const HERE: &str = "IP:127.0.0.1";

/// A server that listens with TLS too, where that is, and who vouches for it.
fn secure(authority: &Authority, setup: Setup) -> (Server, SocketAddr) {
    let (address, certificate) = (free_address(), authority.certify("server", HERE));
    let server = setup.global(&listener(address, &[&certificate])).start();
    wait_until("TLS is listened on", seconds(10), || TcpStream::connect(address).is_ok());
    (server, address)
}

#[test]
fn ffmpeg_publishes_and_plays_what_others_get() {
    let authority = Authority::new();
    let (server, address) = secure(&authority, Setup::new());
    let (dir, url) = (server.dir(), format!("rtmps://{address}/live/a"));
    let (clip, how) = (Clip::plain(), Publish::default());
    let published = clip.published(dir, how);
    let players = [
        ("ffmpeg with TLS", Player::ffmpeg(dir, &url)),
        ("rtmpdump without", Player::rtmpdump(dir, &server.url("live/a"))),
    ];
    server.wait_players("live/a", 2);
    let mut publisher = ffmpeg_publish(dir, &clip.path, &url, how);
    server.wait_live("live/a");
    let status = server.status();
    assert_eq!((status.connections, status.totals.tls_connections), (3, 2), "{status:?}");
    assert_eq!(status.listen, [server.rtmp.to_string(), format!("rtmps://{address}")]);
    let clients = server.clients("").clients;
    assert!(clients.iter().all(|client| client.ip == "127.0.0.1"), "{clients:?}");
    publisher.succeed(seconds(30));
    for (label, player) in players {
        assert_same_media(label, &published, &player.finish(seconds(20)), Start::First);
    }
    assert_eq!(server.status().totals.errors, 0, "{}", server.log());
}

#[test]
fn certificates_are_chosen_by_name_and_renewed_under_running_connections() {
    let authority = Authority::new();
    let [one, two, new, torn, last] = ["one", "two", "new", "torn", "last"]
        .map(|name| authority.certify(name, &format!("DNS:{name}.example")));
    let address = free_address();
    let server = Setup::new().global(&listener(address, &[&one, &two])).start();
    let seen = |name: &str| shown(address, name);
    wait_until("TLS is listened on", seconds(10), || seen("one.example") == "one");
    assert_eq!([seen("two.example"), seen("other.example")], ["two", "one"]);

    let tunnel = Tunnel::to(server.dir(), address);
    let live = Live::start(tunnel.address, "live/a", Synthetic::default());
    let player = Recorder::start(tunnel.address, "live/a");
    wait_until("it plays", seconds(10), || player.count() > 20);

    // A key that belongs to another: what was good before is shown on.
    std::fs::copy(&torn.key, &two.key).expect("copy");
    wait_until("it is refused", seconds(20), || server.log().contains("those from before stay"));
    assert_eq!(seen("two.example"), "two");
    let log = server.log();
    let line = log.lines().find(|line| line.contains("those from before stay")).unwrap_or_default();
    assert!(line.contains("two.key") && line.contains("does not belong"), "{line}");

    new.replace(&two);
    wait_until("the new one is shown", seconds(20), || seen("new.example") == "new");
    assert_eq!([seen("one.example"), seen("two.example")], ["one", "one"]);

    // A reload looks at once, not when files are looked at next.
    last.replace(&one);
    server.signal(Signal::SIGHUP);
    wait_until("it was reloaded", seconds(10), || server.status().config.reloads == 1);
    assert_eq!(seen("last.example"), "last");
    let sent = live.stop(End::Polite);
    let got = player.until_last(&sent, seconds(10));
    assert_same_sequence("under a renewal", &sent, &got, Start::First);
}

#[test]
fn streams_are_forwarded_to_who_can_prove_what_it_is() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (good, good_at) = secure(&authority, Setup::new());
    let dir = tempfile::tempdir().expect("temporary directory");
    let wrong = [
        authority.certify("elsewhere", "DNS:elsewhere.example"),
        authority.certify_expired("expired", HERE),
        stranger.certify("stranger", HERE),
    ];
    let tunnels = wrong.map(|shown| Tunnel::before(dir.path(), good.rtmp, &shown));
    let [name, time, issuer] = &tunnels;
    let blind = Tunnel::before(dir.path(), good.rtmp, &stranger.certify("blind", HERE));
    let all = [
        (good_at, "good"),
        (name.address, "name"),
        (time.address, "time"),
        (issuer.address, "issuer"),
        (good.rtmp, "plain"),
        (blind.address, "blind"),
    ];
    let to = all.map(|(at, stream)| format!("\"rtmps://{at}/live/{stream}\""));
    let ca = authority.cert();
    let tls = format!("[tls]\nca = \"{}\"\ninsecure = \"rtmps://{}\"", ca.display(), blind.address);
    let list = format!("destination = [{}]\nretry_max = \"1s\"", to.join(", "));
    let master = Setup::new().forward(&list).global(&tls).start();
    let live = Live::start(master.rtmp, "live/a", Synthetic::default());
    for (at, want) in [
        (name.address, "not valid for name"),
        (time.address, "expired"),
        (issuer.address, "no authority that is trusted"),
        (good.rtmp, "may not speak TLS"),
    ] {
        wait_until(want, seconds(20), || forward(&master, at).last_error.contains(want));
        assert_ne!(forward(&master, at).state, "forwarding", "{want}");
    }
    let players = ["live/good", "live/blind"].map(|path| {
        good.wait_live(path);
        Recorder::start(good.rtmp, path)
    });
    wait_until("they play", seconds(10), || players.iter().all(|player| player.count() > 60));
    let sent = live.stop(End::Polite);
    for player in players {
        let got = player.until_last(&sent, seconds(15));
        assert_same_sequence("in TLS", &sent, &got, Start::Keyframe);
    }
    for stream in ["live/name", "live/time", "live/issuer", "live/plain"] {
        assert!(good.stream(stream).is_none(), "{stream} came through");
    }
    assert!(master.status().totals.tls_failures >= 4);
}

/// The forward of live/a to `at`.
fn forward(server: &Server, at: SocketAddr) -> ForwardStatus {
    let mut forwards = server.stream("live/a").map(|stream| stream.forwards).unwrap_or_default();
    forwards.retain(|forward| forward.destination.contains(&at.to_string()));
    forwards.pop().unwrap_or_default()
}

#[test]
fn a_foreign_server_behind_a_foreign_tls_is_a_destination() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().expect("temporary directory");
    let nginx = Nginx::start(dir.path(), None);
    let tunnel = Tunnel::before(dir.path(), nginx.address(), &authority.certify("nginx", HERE));
    let to = format!("destination = \"rtmps://{}\"", tunnel.address);
    let ca = format!("[tls]\nca = \"{}\"", authority.cert().display());
    let master = Setup::new().forward(&to).global(&ca).start();
    let player = Player::rtmpdump(master.dir(), &nginx.url("a"));
    wait_until("rtmpdump plays", seconds(10), || nginx.plays() == 1);
    let (clip, how) = (Clip::plain(), Publish::default());
    let published = clip.published(master.dir(), how);
    ffmpeg_publish(master.dir(), &clip.path, &master.url("live/a"), how).succeed(seconds(30));
    assert_same_media("nginx", &published, &player.finish(seconds(20)), Start::Anywhere);
}

#[test]
fn an_edge_plays_and_publishes_over_tls() {
    let authority = Authority::new();
    let (origin, origin_at) = secure(&authority, Setup::new());
    for splice in ["never", "always"] {
        let (edge_at, shown) = (free_address(), authority.certify("edge", HERE));
        let tables = format!(
            "[tls]\nca = \"{}\"\n{}",
            authority.cert().display(),
            listener(edge_at, &[&shown])
        );
        let edge = Setup::new()
            .edge(&format!("[vhost.edge]\nenabled = true\norigin = \"rtmps://{origin_at}\""))
            .splice(splice)
            .global(&tables)
            .start();
        let tunnel = Tunnel::to(edge.dir(), edge_at);
        let path = format!("live/{splice}");
        let live = Live::start(tunnel.address, &path, Synthetic::default());
        origin.wait_live(&path);
        let here = Recorder::start(origin.rtmp, &path);
        let there = Recorder::start(tunnel.address, &path);
        wait_until("both play", seconds(15), || here.count() > 60 && there.count() > 60);
        let sent = live.stop(End::Polite);
        for (label, player) in [("at the origin", here), ("at the edge", there)] {
            let got = player.until_last(&sent, seconds(15));
            assert_same_sequence(&format!("{splice} {label}"), &sent, &got, Start::Keyframe);
        }
        let legs = edge.status().totals.legs;
        let moved = legs.user_bytes + legs.kernel_bytes > 0;
        assert_eq!(moved, splice == "always", "{legs:?}");
    }
}

#[test]
fn who_speaks_something_else_is_told_apart_in_a_line() {
    let authority = Authority::new();
    let short = "handshake_timeout = \"1s\"";
    let (address, shown) = (free_address(), authority.certify("server", HERE));
    let lines =
        listener(address, &[&shown]).replace("enabled = true", &format!("enabled = true\n{short}"));
    let server = Setup::new().global("max_connections = 3").global(&lines).start();
    wait_until("TLS is listened on", seconds(10), || TcpStream::connect(address).is_ok());
    let said = |what: &str| server.log().lines().filter(|line| line.contains(what)).count();

    let mut plain = Raw::connect(address);
    plain.send(&[3; 1537]);
    assert!(plain.is_closed_within(seconds(10)), "RTMP without TLS is served");
    wait_until("a line", seconds(5), || said("does not speak TLS") == 1);

    let mut client = Command::new("openssl");
    client.args(["s_client", "-connect", &server.rtmp.to_string()]);
    let mut client =
        common::process::Process::spawn(server.dir(), "s_client", "openssl", &mut client);
    assert!(!client.wait(seconds(10)).success(), "TLS where there is none");
    wait_until("a line", seconds(5), || said("looks like TLS") == 1);

    // Three who take their time with the handshake have all places, and lose them.
    let mut slow: Vec<TcpStream> =
        (0..3).map(|_| TcpStream::connect(address).expect("connect")).collect();
    slow.iter_mut().for_each(|io| io.write_all(&[22, 3, 1, 2]).expect("a beginning"));
    wait_until("all are given up", seconds(15), || said("no handshake in time") == 3);
    for io in &mut slow {
        io.set_read_timeout(Some(seconds(10))).expect("a time-out");
        let closed = io.read(&mut [0; 64]);
        assert!(!matches!(&closed, Err(e) if e.kind() == ErrorKind::WouldBlock), "{closed:?}");
    }
    wait_until("their places are free", seconds(5), || server.status().connections == 0);
    let totals = server.status().totals;
    assert_eq!((totals.tls_failures, totals.tls_connections), (4, 0), "{totals:?}");
}

#[test]
fn a_connection_ends_in_tls_as_it_should() {
    let authority = Authority::new();
    let (server, address) = secure(&authority, Setup::new());
    let roots = forwarder::tls::authorities(&authority.cert()).expect("our authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().expect("versions");
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    let open = || {
        let io = TcpStream::connect(address).expect("connect");
        io.set_read_timeout(Some(seconds(10))).expect("a time-out");
        let name = address.ip().into();
        let tls = rustls::ClientConnection::new(Arc::clone(&config), name).expect("a name");
        rustls::StreamOwned::new(tls, io)
    };
    // The server closes: a close_notify comes before the end, or this would be an error.
    let mut bad = open();
    bad.write_all(b"GET / HTTP/1.1\r\n").expect("a request");
    assert_eq!(bad.read(&mut [0; 64]).expect("a close_notify"), 0);
    // The client says that it ends, and the server answers in kind.
    let mut polite = open();
    polite.write_all(&[3]).expect("a version");
    polite.conn.send_close_notify();
    polite.flush().expect("a close_notify");
    assert_eq!(polite.read(&mut [0; 64]).expect("a close_notify"), 0);
    // The client is gone.
    let mut rude = open();
    rude.write_all(&[3]).expect("a version");
    drop(rude);
    wait_until("all are gone", seconds(10), || {
        let status = server.status();
        status.connections == 0 && status.totals.tls_connections == 3
    });
}

#[test]
fn a_player_that_reads_nothing_is_held_up_and_closed() {
    const HEAVY: Synthetic = Synthetic { fps: 25, gop: 25, frame_bytes: 100_000, start: 0 };
    let authority = Authority::new();
    let bounds = Setup::new()
        .play("queue_bytes = \"8MiB\"")
        .play("gop_cache_max_bytes = \"4MiB\"")
        .play("write_timeout = \"8s\"");
    let (server, address) = secure(&authority, bounds);
    let pid = server.status().pid;
    let tunnel = Tunnel::to(server.dir(), address);
    let healthy = Recorder::start(tunnel.address, "live/a");
    let stuck = Recorder::start(tunnel.address, "live/a");
    let live = Live::start(server.rtmp, "live/a", HEAVY);
    wait_until("both play", seconds(20), || healthy.count() > 20 && stuck.count() > 20);
    let before = resident(pid);
    stuck.pause(true);
    let mut most = 0;
    wait_until("it is closed", seconds(60), || {
        most = most.max(resident(pid));
        server.log().contains("the peer does not read")
    });
    let grown = most.saturating_sub(before);
    eprintln!("at most {grown} more bytes");
    // The log may hold what the stuck one has not got, and segments that wait to be used again.
    assert!(grown < 40 << 20, "{grown} more bytes");
    assert!(server.status().totals.skips > 0, "it was never behind");
    let before = healthy.count();
    live.wait_more(50);
    wait_until("the other goes on", seconds(10), || healthy.count() > before + 40);
    let sent = live.stop(End::Polite);
    assert_whole_messages("the other", &sent, &healthy.until_last(&sent, seconds(20)));
    wait_until("nothing is left", seconds(20), || server.status().connections == 0);
}

#[test]
fn bad_files_are_refused_with_their_line() {
    let authority = Authority::new();
    let [one, two] = ["one", "two"].map(|name| authority.certify(name, HERE));
    let dir = tempfile::tempdir().expect("temporary directory");
    let table = |cert: &std::path::Path, key: &std::path::Path| {
        format!(
            "[rtmps]\nenabled = true\n[[rtmps.certificate]]\ncert = \"{}\"\nkey = \"{}\"\n",
            cert.display(),
            key.display()
        )
    };
    let gone = dir.path().join("gone.pem");
    for (text, line, why) in [
        (table(&gone, &one.key), ":4:", "No such file"),
        (table(&one.key, &one.key), ":4:", "no certificate in it"),
        (table(&one.cert, &one.cert), ":5:", "no private key in it"),
        (table(&one.cert, &two.key), ":5:", "does not belong"),
        ("[rtmps]\nenabled = true\n".to_owned(), ":2:", "no certificate"),
        ("[tls]\nca = \"/dev/null\"\n".to_owned(), ":2:", "no certificate in it"),
        ("[tls]\ninsecure = \"a:443\"\n".to_owned(), ":2:", "rtmps://"),
    ] {
        assert_refused(dir.path(), "forwarder.toml", &text, line, why);
    }
    let conf =
        |more: &str| format!("rtmps {{\nenabled on;\n{more}\n}}\nvhost __defaultVhost__ {{ }}\n");
    let pair = |cert: &std::path::Path, key: &std::path::Path| {
        conf(&format!("listen 1443;\ncert {};\nkey {};", cert.display(), key.display()))
    };
    assert_refused(dir.path(), "srs.conf", &conf(""), ":1:", "no certificate");
    assert_refused(dir.path(), "srs.conf", &pair(&gone, &one.key), ":4:", "No such file");
    assert_refused(dir.path(), "srs.conf", &pair(&one.cert, &two.key), ":5:", "does not belong");
    let (status, said) = checked(dir.path(), "srs.conf", &pair(&one.cert, &one.key));
    assert!(status, "{said}");
}

#[track_caller]
fn assert_refused(dir: &std::path::Path, file: &str, text: &str, line: &str, why: &str) {
    let (fine, said) = checked(dir, file, text);
    assert!(
        !fine && said.contains(&format!("{file}{line}")) && said.contains(why),
        "{text}\n{said}"
    );
}

/// Whether `forwarder -t` takes the file, and what it says.
fn checked(dir: &std::path::Path, file: &str, text: &str) -> (bool, String) {
    let path = dir.join(file);
    std::fs::write(&path, text).expect("configuration");
    let mut command = Command::new(env!("CARGO_BIN_EXE_forwarder"));
    let said = command.args(["-t", "-c"]).arg(&path).output().expect("forwarder");
    (said.status.success(), String::from_utf8_lossy(&said.stderr).into_owned())
}
