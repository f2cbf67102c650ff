//! What a player of an edge has asked for holds when another origin serves it.
mod common;

use std::net::SocketAddr;

use common::media::Synthetic;
use common::peer::{End, Live};
use common::raw::Raw;
use common::server::{Cluster, Setup};
use common::{seconds, wait_until};
use forwarder::rtmp::amf0::Value;

#[test]
fn a_player_that_has_paused_is_sent_nothing_by_its_next_origin() {
    let mut cluster = Cluster::start(2);
    let origins: Vec<SocketAddr> = cluster.slaves.iter().map(|slave| slave.rtmp).collect();
    let edge = Setup::new().edge_of(&origins).splice("always").start();
    let live = Live::start(cluster.master.rtmp, "live/a", Synthetic::default());
    cluster.slaves.iter().for_each(|slave| slave.wait_live("live/a"));
    let mut player = Raw::connect(edge.rtmp);
    player.ready();
    player.play("a");
    player.expect("NetStream.Play.Start");
    let leg = || edge.status().legs.remove(0);
    let pause = |on| vec![Value::Null, Value::Boolean(on)];
    player.command(1, "pause", 0.0, pause(true));
    player.expect("NetStream.Pause.Notify");
    let used = leg().origin;
    let used = cluster.slaves.iter_mut().find(|slave| slave.rtmp.to_string() == used).unwrap();
    used.kill();
    player.expect("NetStream.Play.Start");
    player.expect("NetStream.Pause.Notify");
    wait_until("another origin", seconds(5), || leg().connects == 2);
    // Two looks at the leg with nothing in between, while frames are published.
    let mut bytes = leg().bytes;
    wait_until("silence", seconds(5), || {
        live.wait_more(30);
        std::mem::replace(&mut bytes, leg().bytes) == bytes
    });
    player.command(1, "pause", 0.0, pause(false));
    player.expect("NetStream.Unpause.Notify");
    wait_until("media", seconds(5), || leg().bytes > bytes + 20_000);
    live.stop(End::Polite);
}
