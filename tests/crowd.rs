//! Many players of one stream: those who cannot keep up, those who come all at once, and all of them
//! as the API shows them.
mod common;

use std::net::SocketAddr;
use std::thread;

use common::compare::{Start, assert_headers_once, assert_same_sequence, assert_whole_messages};
use common::legs::{edge_of, paths, wait_legs};
use common::media::Synthetic;
use common::peer::{End, Live, Peer, Recorder};
use common::process::resident;
use common::server::{Server, Setup};
use common::{seconds, wait_until};
use forwarder::status::ClientStatus;

/// What the API says of the client at `address`, if it is one.
fn client(server: &Server, address: SocketAddr) -> Option<ClientStatus> {
    let peer = address.to_string();
    server.clients("?count=1000").clients.into_iter().find(|client| client.peer == peer)
}

#[test]
fn slow_and_stuck_players_harm_nobody_and_their_skips_are_told() {
    const HEALTHY: usize = 40;
    const SLOW: usize = 6;
    const STUCK: usize = 4;
    // 5 Mbit/s, a keyframe each 480 ms
    let source = Synthetic { fps: 25, gop: 12, frame_bytes: 25_000, start: 0 };
    let server = Setup::new().play("queue_length = \"1s\"").play("write_timeout = \"5s\"").start();
    let healthy: Vec<_> = (0..HEALTHY).map(|_| Recorder::start(server.rtmp, "live/a")).collect();
    let few = |n: usize| -> Vec<(SocketAddr, Recorder)> {
        (0..n).map(|_| Recorder::with_little_room(server.rtmp, "live/a")).collect()
    };
    let (slow, stuck) = (few(SLOW), few(STUCK));
    let live = Live::start(server.rtmp, "live/a", source);
    let all = || healthy.iter().chain(slow.iter().chain(&stuck).map(|(_, player)| player));
    wait_until("all play", seconds(20), || all().all(|player| player.count() > 10));

    let pid = server.status().pid;
    let rss = resident(pid);
    slow.iter().for_each(|(_, player)| player.read_at_most(150_000));
    stuck.iter().for_each(|(_, player)| player.pause(true));
    let mut most_rss = 0;
    let (mut blocked, mut lagging) = (0, 0);
    wait_until("the slow ones skip, the stuck ones are gone", seconds(90), || {
        most_rss = resident(pid).max(most_rss);
        let told = |(address, _): &(SocketAddr, Recorder)| client(&server, *address);
        let stuck: Vec<_> = stuck.iter().filter_map(told).collect();
        blocked = stuck.iter().map(|client| client.blocked_ms).max().unwrap_or(0).max(blocked);
        let slow: Vec<_> = slow.iter().filter_map(told).collect();
        assert_eq!(slow.len(), SLOW, "one that reads is closed");
        lagging = slow.iter().map(|client| client.lag_ms).max().unwrap_or(0).max(lagging);
        stuck.is_empty() && slow.iter().all(|client| client.skips >= 2)
    });
    let rss = most_rss.saturating_sub(rss);
    eprintln!("blocked for {blocked} ms, {lagging} ms behind; the process grew by {rss} bytes");
    assert!(blocked > 500, "nobody was seen blocked for more than {blocked} ms");
    assert!(lagging > 500, "nobody was seen more than {lagging} ms behind");
    // A second of the stream is 0.6 MB, and it is there once, whoever is behind.
    assert!(rss < 12 << 20, "the process grew by {rss} bytes");

    slow.iter().for_each(|(_, player)| player.read_at_most(0));
    wait_until("the slow ones are back", seconds(20), || {
        slow.iter().all(|(_, player)| {
            player.tags().last().is_some_and(|t| t.timestamp + 500 > live.edge())
        })
    });
    live.wait_more(30);
    let mut most_skips = server.clients("?sort=skips").clients;
    most_skips.truncate(6);
    let told: Vec<_> = slow.iter().map(|(address, _)| client(&server, *address)).collect();
    let sent = live.stop(End::Polite);
    for (label, player) in healthy.into_iter().enumerate().map(|(n, p)| (format!("player {n}"), p))
    {
        let got = player.until_last(&sent, seconds(10));
        assert_same_sequence(&label, &sent, &got, Start::First);
    }
    for ((address, player), told) in slow.into_iter().zip(told) {
        let label = format!("slow player {address}");
        let got = player.until_last(&sent, seconds(10));
        let seen = assert_whole_messages(&label, &sent, &got);
        assert_headers_once(&label, &sent, &got);
        assert_eq!(told.map(|told| told.skips), Some(seen as u64), "{label}: skips");
    }
    assert!(most_skips.iter().all(|client| client.skips >= 2), "{most_skips:?}");
    assert!(most_skips.is_sorted_by_key(|client| u64::MAX - client.skips), "{most_skips:?}");
}

#[test]
fn players_that_come_all_at_once_begin_with_a_keyframe_and_disturb_nobody() {
    const BEFORE: usize = 20;
    const STORM: usize = 150;
    let server = Setup::new().start();
    let before: Vec<_> = (0..BEFORE).map(|_| Recorder::start(server.rtmp, "live/a")).collect();
    let live = Live::start(server.rtmp, "live/a", Synthetic::default());
    live.wait_more(80);
    let address = server.rtmp;
    let storm: Vec<_> = thread::scope(|scope| {
        let joining: Vec<_> =
            (0..STORM).map(|_| scope.spawn(move || Recorder::start(address, "live/a"))).collect();
        joining.into_iter().map(|player| player.join().expect("a player")).collect()
    });
    wait_until("all play", seconds(20), || storm.iter().all(|player| player.count() > 20));
    live.wait_more(60);
    let sent = live.stop(End::Polite);
    for (n, player) in before.into_iter().enumerate() {
        let got = player.until_last(&sent, seconds(20));
        assert_same_sequence(&format!("player {n}"), &sent, &got, Start::First);
    }
    for (n, player) in storm.into_iter().enumerate() {
        let got = player.until_last(&sent, seconds(20));
        let label = format!("player {n} of the storm");
        assert_same_sequence(&label, &sent, &got, Start::Keyframe);
        assert_headers_once(&label, &sent, &got);
    }
}

#[test]
fn the_api_shows_who_publishes_and_who_plays() {
    let server = Setup::new().global("threads = 3").start();
    let publisher = Peer::publish(server.rtmp, "live/a");
    let live_peer = publisher.local();
    let live = Live::of(publisher, Synthetic::default(), 0);
    let players: Vec<_> = (0..12)
        .map(|_| {
            let peer = Peer::play(server.rtmp, "live/a");
            (peer.local(), Recorder::of(peer))
        })
        .collect();
    let waiting = Peer::play(server.rtmp, "live/later");
    wait_until("media", seconds(20), || players.iter().all(|(_, player)| player.count() > 60));
    let all = server.clients("?count=100");
    assert_eq!((all.total, all.clients.len(), all.unanswered), (14, 14, 0));
    let expected: Vec<_> = [live_peer]
        .into_iter()
        .chain(players.iter().map(|(address, _)| *address))
        .chain([waiting.local()])
        .map(|address| address.to_string())
        .collect();
    let peers = |clients: &[ClientStatus]| -> Vec<String> {
        clients.iter().map(|client| client.peer.clone()).collect()
    };
    assert_eq!(
        peers(&all.clients),
        expected,
        "in the order in which they came, whatever the shard"
    );

    let first = &all.clients[0];
    assert_eq!((&*first.kind, first.publish, &*first.state), ("fmle-publish", true, "publishing"));
    assert!(first.recv_bytes > 50_000 && first.send_bytes > 3_000, "{first:?}");
    for client in &all.clients[1..13] {
        assert_eq!(
            (&*client.kind, client.publish, &*client.state),
            ("rtmp-play", false, "playing")
        );
        assert_eq!((&*client.url, &*client.name, &*client.ip), ("/live/a", "a", "127.0.0.1"));
        assert!(client.tc_url.starts_with("rtmp://"), "{client:?}");
        assert!(client.send_bytes > 50_000 && client.recv_bytes > 3_000, "{client:?}");
        assert!(client.kbps.send_30s > 100 && client.alive > 0.0, "{client:?}");
        assert_eq!((client.skips, client.blocked_ms), (0, 0));
    }
    assert_eq!((&*all.clients[13].state, &*all.clients[13].name), ("waiting", "later"));

    assert_eq!(peers(&server.clients("").clients), expected[..10], "ten, as SRS");
    assert_eq!(peers(&server.clients("?start=10&count=3").clients), expected[10..]);
    assert_eq!(server.client(&first.id).expect("a client").peer, first.peer);
    assert!(server.client("nobody").is_none());
    let (address, player) = players.into_iter().next().expect("a player");
    let id = client(&server, address).expect("it plays").id;
    drop(player);
    wait_until("it is gone", seconds(5), || server.client(&id).is_none());
    assert_eq!(server.client(&first.id).expect("a client").id, first.id, "ids stay");
    live.stop(End::Polite);
}

#[test]
fn players_and_publishers_with_legs_are_clients() {
    for (kernel, path) in paths() {
        let origin = Setup::new().start();
        let edge = edge_of(&[origin.rtmp], kernel).start();
        let publisher = Peer::publish(edge.rtmp, "live/a");
        let encoder = publisher.local();
        let live = Live::of(publisher, Synthetic::default(), 0);
        origin.wait_live("live/a");
        let peer = Peer::play(edge.rtmp, "live/a");
        let (address, player) = (peer.local(), Recorder::of(peer));
        wait_legs(&edge, 2);
        wait_until("both are carried", seconds(15), || {
            let on_path = |address| {
                client(&edge, address).is_some_and(|client: ClientStatus| client.state == path)
            };
            player.count() > 20 && on_path(address) && on_path(encoder)
        });
        live.wait_more(30);
        let shown = client(&edge, address).expect("the player");
        assert_eq!((&*shown.kind, &*shown.url), ("rtmp-play", "/live/a"), "{path}");
        assert!(shown.send_bytes > 50_000, "{path}: {shown:?}");
        let shown = client(&edge, encoder).expect("the encoder");
        assert_eq!((&*shown.kind, shown.publish), ("fmle-publish", true), "{path}");
        assert!(shown.recv_bytes > 50_000, "{path}: {shown:?}");
        live.stop(End::Polite);
    }
}
