//! Who may publish and play: by address, page and token, with real clients.
mod common;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use common::compare::{Start, assert_same_sequence};
use common::external::{Player, Publish, ffmpeg_publish};
use common::media::{Clip, Synthetic};
use common::peer::{End, Live, Peer, Recorder, Seen};
use common::server::{Server, Setup};
use common::{free_address, seconds, wait_until};
use forwarder::rtmp::session::Goal;

/// Whether the server takes it; if not, what it said.
#[track_caller]
fn outcome(address: SocketAddr, goal: Goal, path: &str) -> Result<(), String> {
    let mut peer = Peer::open(address, goal, path);
    loop {
        match peer.next(seconds(20)) {
            Some(Seen::Started) => return Ok(()),
            Some(Seen::Status(code)) if code == "NetStream.Play.Reset" => {}
            Some(seen) => return Err(format!("{seen:?}")),
            None => panic!("no answer"),
        }
    }
}

#[test]
fn addresses_are_allowed_and_denied_on_ipv4_and_ipv6() {
    for (listen, me, others) in [
        (free_address(), "127.0.0.0/8", "127.0.0.2"),
        (SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], free_address().port())), "::1", "::2/127"),
    ] {
        let rules = format!(
            "enabled = true\nallow_publish = \"{me}\"\nallow_play = \"all\"\ndeny_play = [\"{me}\"]"
        );
        let server = Setup::new().listen(listen).section("security", &rules).start();
        let live = Live::start(server.rtmp, "live/a", Synthetic::default());
        let said = outcome(server.rtmp, Goal::Play, "live/a").expect_err("it is denied");
        assert!(said.contains("NetStream.Play.Failed"), "{said}");
        assert_eq!(server.status().totals.denied, 1);
        assert!(
            server.log().contains("play of /live/a: its address is denied"),
            "{}",
            server.log()
        );
        live.wait_more(10);
        live.stop(End::Polite);

        let rules = format!("enabled = true\nallow_publish = \"{others}\"");
        let server = Setup::new().listen(listen_again(listen)).section("security", &rules).start();
        let said = outcome(server.rtmp, Goal::Publish, "live/a").expect_err("it is not allowed");
        assert!(said.contains("NetStream.Publish.Denied"), "{said}");
    }
}

/// Another free port of the same address.
fn listen_again(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), free_address().port())
}

#[test]
fn security_of_an_srs_conf_is_kept() {
    let (rtmp, api) = (free_address(), free_address());
    let config = format!(
        "listen {rtmp}; http_api {{ enabled on; listen {api}; }}\n\
         vhost __defaultVhost__ {{ security {{ enabled on; deny publish 127.0.0.1; }} }}\n"
    );
    let server = Server::start("srs.conf", &config, rtmp, api);
    assert!(outcome(server.rtmp, Goal::Publish, "live/a").is_err());
    assert_eq!(outcome(server.rtmp, Goal::Play, "live/a"), Ok(()), "some deny and no allow");
}

#[test]
fn players_come_from_the_pages_that_are_listed() {
    let rules = "enabled = true\nplay = [\"example.com\"]";
    let server = Setup::new().section("refer", rules).start();
    // Publishers are not asked for a page.
    let live = Live::start(server.rtmp, "live/a", Synthetic::default());
    let url = server.url("live/a");
    let mut denied = 0;
    for (page, may) in [
        ("https://www.example.com/live.html", true),
        ("http://badexample.com/", false),
        ("http://example.com.evil.test/?http://example.com", false),
        ("http://EXAMPLE.com:8080", true),
    ] {
        let player = Player::ffmpeg_on_page(server.dir(), &url, page);
        if may {
            server.wait_players("live/a", 1);
        } else {
            denied += 1;
            wait_until(page, seconds(20), || server.status().totals.denied == denied);
        }
        drop(player);
        server.wait_players("live/a", 0);
    }
    assert!(outcome(server.rtmp, Goal::Play, "live/a").is_err(), "no page at all");
    live.stop(End::Polite);
}

const SECRETS: &str = "secret = [\"the-new-secret-of-tests\", \"the-old-secret-of-tests\"]";

/// What `forwarder token` prints.
#[track_caller]
fn token(config: &Path, args: &[&str]) -> Result<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forwarder"));
    let output = command.args(["token", "-c"]).arg(config).args(args).output().expect("forwarder");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[test]
fn ffmpeg_publishes_and_plays_with_a_token_and_not_without() {
    let rules =
        format!("publish = true\nplay = true\n{SECRETS}\nplay_key = \"key-of-all-players\"");
    let server = Setup::new().section("tokens", &rules).start();
    let config = server.dir().join("forwarder.toml");
    let (dir, clip) = (server.dir(), Clip::plain());
    let good = token(&config, &["publish", "live/cam", "--expires", "10m"]).expect("a token");
    assert!(good.starts_with("cam?token="), "{good}");

    let of_another = token(&config, &["publish", "live/cam2"]).expect("a token");
    let of_another = of_another.replace("cam2", "cam");
    let to_play = token(&config, &["play", "live/cam"]).expect("a token");
    for (n, bad) in
        ["cam", "cam?token=0&expires=9999999999", &of_another, &to_play].iter().enumerate()
    {
        let path = format!("live/{bad}");
        let mut ffmpeg = ffmpeg_publish(dir, &clip.path, &server.url(&path), Publish::default());
        // It may not notice before it sends what nobody reads.
        let refused = u64::try_from(n).unwrap() + 1;
        wait_until("it is refused", seconds(20), || server.status().totals.denied == refused);
        assert!(!ffmpeg.wait(seconds(30)).success(), "ffmpeg was content: {}", ffmpeg.log());
        assert!(!server.is_live("live/cam"));
    }

    let url = server.url(&format!("live/{good}"));
    let publisher = ffmpeg_publish(dir, &clip.path, &url, Publish { offset: 0, endless: true });
    server.wait_live("live/cam");
    assert!(outcome(server.rtmp, Goal::Play, "live/cam").is_err(), "a player without a token");
    assert!(outcome(server.rtmp, Goal::Play, &format!("live/{good}")).is_err(), "to publish only");
    let player = Player::ffmpeg(dir, &server.url(&format!("live/{to_play}")));
    server.wait_players("live/cam", 1);
    let second = Recorder::start(server.rtmp, "live/cam?token=key-of-all-players");
    wait_until("media", seconds(20), || second.count() > 50);
    drop((publisher, player));
    let log = server.log();
    let secrets = ["the-new-secret", "the-old-secret", "key-of-all-players"];
    let tokens = [&good, &to_play].map(|it| it.split(['=', '&']).nth(1).unwrap());
    for hidden in secrets.iter().chain(&tokens) {
        assert!(!log.contains(hidden), "{hidden} is in the log:\n{log}");
    }
    assert!(log.contains("wrong token") && log.contains("no token"), "{log}");
}

#[test]
fn secrets_are_rotated_and_tokens_expire() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("old.toml");
    let old = "[[vhost]]\n[vhost.tokens]\nsecret = \"the-old-secret-of-tests\"\n";
    std::fs::write(&file, old).unwrap();
    let server = Setup::new().section("tokens", &format!("publish = true\n{SECRETS}")).start();
    let path = |text: &str| format!("live/{text}");
    let of_old = token(&file, &["publish", "live/cam"]).expect("a token");
    let live = Live::start(server.rtmp, &path(&of_old), Synthetic::default());
    let player = Recorder::start(server.rtmp, "live/cam");
    live.wait_more(30);
    let sent = live.stop(End::Polite);
    let got = player.until_last(&sent, seconds(10));
    assert_same_sequence("player", &sent, &got, Start::Keyframe);

    let short = token(&file, &["publish", "live/brief", "--expires", "1s"]).expect("a token");
    wait_until("it expires", seconds(20), || {
        // Until then the one before may not have left yet.
        let said = outcome(server.rtmp, Goal::Publish, &path(&short));
        said.is_err_and(|said| said.contains("NetStream.Publish.Denied"))
    });
    assert!(server.log().contains("the token has expired"), "{}", server.log());

    for (args, why) in [
        (&["publish", "cam"][..], "app/stream"),
        (&["publish", "live/cam", "--expires", "soon"], "not a duration"),
        (&["publish", "live/../cam"], "dot"),
    ] {
        let error = token(&file, args).expect_err("it is refused");
        assert!(error.contains(why), "{args:?}: {error}");
    }
    std::fs::write(&file, "").unwrap();
    let error = token(&file, &["play", "live/cam"]).expect_err("there is no secret");
    assert!(error.contains("has no secret"), "{error}");
}
