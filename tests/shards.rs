//! Connections are dealt to shards evenly, whatever they play and whoever leaves.
mod common;

use std::collections::HashMap;
use std::net::TcpStream;

use common::peer::Peer;
use common::server::{Server, Setup};
use common::{seconds, wait_until};
use forwarder::rtmp::session::Goal;

const SHARDS: usize = 4;

fn start() -> Server {
    let server = Setup::new().global(&format!("threads = {SHARDS}")).start();
    // The harness looked whether it listens.
    wait_until("that has been seen", seconds(5), || server.log().contains("connection closed"));
    wait_until("nobody is connected", seconds(5), || connections(&server) == [0; SHARDS]);
    server
}

fn connections(server: &Server) -> Vec<usize> {
    server.status().shards.iter().map(|shard| shard.connections).collect()
}

fn players(server: &Server) -> Vec<usize> {
    server.status().shards.iter().map(|shard| shard.players).collect()
}

#[track_caller]
fn assert_even(what: &str, counts: &[usize], all: usize) {
    assert_eq!((counts.len(), counts.iter().sum::<usize>()), (SHARDS, all), "{what}: {counts:?}");
    let ends = counts.iter().min().zip(counts.iter().max());
    assert!(ends.is_some_and(|(least, most)| most - least <= 1), "{what}: {counts:?}");
}

#[test]
fn players_are_even_over_shards_also_when_those_of_one_shard_leave() {
    let server = start();
    let mut by_shard: HashMap<usize, Vec<Peer>> = HashMap::new();
    let mut before = players(&server);
    for n in 0..36 {
        // Half of them play one stream, the others several.
        let stream = if n % 2 == 0 { "live/a".to_owned() } else { format!("live/{}", n % 5) };
        let player = Peer::play(server.rtmp, &stream);
        let mut after = Vec::new();
        wait_until("it plays", seconds(10), || {
            after = players(&server);
            after.iter().sum::<usize>() == n + 1
        });
        assert_even("as they come", &after, n + 1);
        let shard = (0..SHARDS).find(|at| after[*at] != before[*at]).unwrap();
        by_shard.entry(shard).or_default().push(player);
        before = after;
    }
    drop(by_shard.remove(&2));
    wait_until("they are gone", seconds(10), || connections(&server)[2] == 0);
    let left = by_shard.values().map(Vec::len).sum::<usize>();
    let new: Vec<Peer> = (left..36).map(|_| Peer::play(server.rtmp, "live/a")).collect();
    wait_until("others play", seconds(10), || players(&server).iter().sum::<usize>() == 36);
    assert_even("after others came", &players(&server), 36);
    drop(new);
}

#[test]
fn a_burst_is_even_over_shards() {
    let server = start();
    let sockets: Vec<TcpStream> =
        (0..41).map(|_| TcpStream::connect(server.rtmp).unwrap()).collect();
    let all = sockets.len();
    wait_until("all are taken", seconds(10), || connections(&server).iter().sum::<usize>() == all);
    assert_even("connections", &connections(&server), all);
    let dial = |socket| Peer::on(socket, "127.0.0.1", Goal::Play, "live/a").started();
    let peers: Vec<Peer> = sockets.into_iter().map(dial).collect();
    wait_until("all play", seconds(20), || players(&server).iter().sum::<usize>() == all);
    assert_even("players", &players(&server), all);
    drop(peers);
}
