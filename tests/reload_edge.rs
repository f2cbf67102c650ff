//! An edge whose configuration is loaded again keeps what it pulls and carries, but for origins that
//! are gone.
mod common;

use std::net::SocketAddr;

use common::compare::{Start, assert_same_sequence};
use common::legs::{edge_of, paths, wait_carried, wait_legs};
use common::media::Synthetic;
use common::peer::{End, Live, Peer, Recorder};
use common::server::{Cluster, Server, Setup};
use common::{seconds, wait_until};

/// The only pull's origin, and how often it connected.
#[track_caller]
fn pull(edge: &Server) -> (String, u64) {
    let pulls = edge.status().pulls;
    assert_eq!(pulls.len(), 1, "{pulls:?}");
    (pulls[0].origin.clone(), pulls[0].connects)
}

fn origins(cluster: &Cluster) -> [SocketAddr; 2] {
    [cluster.slaves[0].rtmp, cluster.slaves[1].rtmp]
}

#[test]
fn a_pull_leaves_an_origin_that_is_removed_and_players_miss_nothing() {
    let cluster = Cluster::start(2);
    let both = origins(&cluster);
    let edge = Setup::new().edge_of(&both).start();
    let live = Live::start(cluster.master.rtmp, "live/a", Synthetic::default());
    cluster.slaves.iter().for_each(|slave| slave.wait_live("live/a"));
    let players: Vec<_> = (0..5).map(|_| Recorder::start(edge.rtmp, "live/a")).collect();
    wait_until("media", seconds(20), || players.iter().all(|player| player.count() > 20));
    let (first, connects) = pull(&edge);
    let other = both.into_iter().find(|origin| origin.to_string() != first).expect("another");

    // what is as it was is left alone
    edge.reload_to(Setup::new().edge_of(&both).vhost("a.test", &[]).play("queue_length = \"9s\""));
    live.wait_more(30);
    assert_eq!(pull(&edge), (first.clone(), connects));
    let changed = edge.reload_to(Setup::new().edge_of(&[other]));
    assert!(changed.changes.iter().any(|change| change.what == "1 removed"), "{changed:?}");
    wait_until("the other origin", seconds(10), || {
        pull(&edge) == (other.to_string(), connects + 1)
    });
    live.wait_more(30);
    // one that is added takes nothing that runs
    edge.reload_to(Setup::new().edge_of(&both));
    live.wait_more(30);
    assert_eq!(pull(&edge), (other.to_string(), connects + 1));

    let sent = live.stop(End::Polite);
    for (at, player) in players.into_iter().enumerate() {
        let got = player.until_last(&sent, seconds(20));
        assert_same_sequence(&format!("player {at}"), &sent, &got, Start::Keyframe);
    }
}

#[test]
fn legs_stay_with_origins_that_stay() {
    for (kernel, path) in paths() {
        let cluster = Cluster::start(2);
        let both = origins(&cluster);
        let edge = edge_of(&both, kernel).start();
        let live = Live::start(cluster.master.rtmp, "live/a", Synthetic::default());
        cluster.slaves.iter().for_each(|slave| slave.wait_live("live/a"));
        let players: Vec<(String, Recorder)> = (0..6)
            .map(|_| Peer::play(edge.rtmp, "live/a"))
            .map(|peer| (peer.local().to_string(), Recorder::of(peer)))
            .collect();
        wait_until("media", seconds(20), || players.iter().all(|(_, player)| player.count() > 20));
        wait_legs(&edge, 6);
        let connects = || {
            let mut legs = edge.status().legs;
            legs.sort_by(|a, b| a.peer.cmp(&b.peer));
            assert!(legs.iter().all(|leg| leg.path == path), "{legs:?}");
            legs.into_iter().map(|leg| (leg.peer, leg.origin, leg.connects)).collect::<Vec<_>>()
        };
        let before = connects();
        let more = edge_of(&both, kernel).vhost("a.test", &[]).play("queue_length = \"9s\"");
        edge.reload_to(more);
        live.wait_more(30);
        assert_eq!(connects(), before, "{path}: a reload that is about others");

        let [gone, kept] = both.map(|origin| origin.to_string());
        edge.reload_to(edge_of(&both[1..], kernel));
        wait_until("all are with the other", seconds(15), || {
            edge.status().legs.iter().filter(|leg| leg.origin == kept).count() == 6
        });
        live.wait_more(60);
        let sent = live.stop(End::Polite);
        let last = sent.iter().rfind(|tag| tag.is_frame()).expect("frames");
        let mut stayed = 0;
        for (address, player) in players {
            wait_until("the last frame", seconds(20), || player.has(last) || player.ended());
            let (_, origin, _) = before.iter().find(|(peer, ..)| *peer == address).expect("a leg");
            assert!(player.has(last), "{path}: {address} of {origin} was disconnected");
            if *origin != gone {
                stayed += 1;
                assert_same_sequence(&address, &sent, &player.tags(), Start::Keyframe);
            }
        }
        assert!((1..6).contains(&stayed), "{path}: {stayed} stayed");
    }
}

#[test]
fn publishers_go_to_another_origin_when_theirs_is_removed() {
    for (kernel, path) in paths() {
        let slaves = [Setup::new().start(), Setup::new().start()];
        let both = [slaves[0].rtmp, slaves[1].rtmp];
        // one with a leg, and one that is relayed
        for splice in ["always", "never"] {
            let setup = |origins: &[SocketAddr]| edge_of(origins, kernel).splice(splice);
            let edge = setup(&both).start();
            let name = format!("live/{splice}");
            let live = Live::start(edge.rtmp, &name, Synthetic::default());
            if splice == "always" {
                wait_carried(&edge, path);
            }
            let holder = || slaves.iter().position(|slave| slave.is_live(&name));
            wait_until("an origin has it", seconds(10), || holder().is_some());
            let first = holder().expect("an origin");
            let other = 1 - first;
            edge.reload_to(setup(&both).vhost("a.test", &[]));
            live.wait_more(30);
            assert_eq!(holder(), Some(first));
            edge.reload_to(setup(&both[other..=other]));
            slaves[other].wait_live(&name);
            wait_until("the first has it no more", seconds(10), || !slaves[first].is_live(&name));
            let player = Recorder::start(slaves[other].rtmp, &name);
            live.wait_more(60);
            let sent = live.stop(End::Polite);
            let got = player.until_last(&sent, seconds(20));
            assert_same_sequence(&format!("{path}, {splice}"), &sent, &got, Start::Keyframe);
        }
    }
}
