//! Destinations that DNS names: each address is one, and they come and go while streams are live.
mod common;

use std::net::SocketAddr;

use common::compare::{Start, assert_headers_once, assert_same_sequence, assert_whole_messages};
use common::dns::{Dns, loopback};
use common::flv::Tag;
use common::media::Synthetic;
use common::peer::{End, Live, Recorder};
use common::server::{Server, Setup, http};
use common::sink::{Received, Sink};
use common::{free_address, seconds, wait_until};
use forwarder::status::{ForwardStatus, NameStatus};

fn forwards(server: &Server) -> Vec<ForwardStatus> {
    server.stream("live/a").map(|stream| stream.forwards).unwrap_or_default()
}

/// The only name that is followed.
#[track_caller]
fn name(server: &Server) -> NameStatus {
    let mut names = server.status().names;
    assert_eq!(names.len(), 1, "{names:?}");
    names.remove(0)
}

/// Where streams are forwarded to now.
fn up(server: &Server) -> Vec<String> {
    let up = |it: &ForwardStatus| matches!(&*it.state, "forwarding" | "stalled");
    let mut to: Vec<String> =
        forwards(server).into_iter().filter(up).map(|it| it.destination).collect();
    to.sort();
    to
}

fn refresh(server: &Server) {
    let answer = http(server.api, "POST", "/api/v1/forwards/refresh", "").expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.body.contains("\"asked\":1"), "{answer:?}");
}

fn only(sink: &Sink) -> Received {
    let received = sink.received();
    assert_eq!(received.len(), 1, "connections");
    received[0].clone()
}

/// Whole messages without a gap, that end before those published do.
#[track_caller]
fn assert_cut_off(label: &str, published: &[Tag], got: &[Tag]) {
    assert_eq!(assert_whole_messages(label, published, got), 0, "{label}: a gap");
    let last = |tags: &[Tag]| tags.iter().rfind(|tag| tag.is_frame()).cloned();
    assert_ne!(last(got), last(published), "{label}: it never left");
}

#[test]
fn addresses_come_and_go_and_streams_follow() {
    let dir = tempfile::tempdir().expect("a folder");
    let port = free_address().port();
    let at = |last: u8| SocketAddr::new(loopback(last), port);
    let mut dns = Dns::start(dir.path(), &[("slaves.test", 2), ("slaves.test", 4)], &[]);
    let stays = Setup::new().listen(at(2)).start();
    let comes = Setup::new().listen(at(3)).start();
    let goes = Sink::start(at(4));
    let master = Setup::new()
        .global(&format!("resolver = \"{}\"", dns.address))
        .forward(&format!("destination = [\"dns+slaves.test:{port}\"]"))
        .start();
    wait_until("both are known", seconds(20), || name(&master).addresses.len() == 2);

    let all = Recorder::start(stays.rtmp, "live/a");
    let live = Live::start(master.rtmp, "live/a", Synthetic::default());
    wait_until("both have it", seconds(20), || goes.count() > 30 && all.count() > 30);
    assert!(forwards(&master).iter().all(|it| it.found_by == format!("dns+slaves.test:{port}")));
    assert_eq!(only(&goes).tc_url, format!("rtmp://slaves.test:{port}/live"));

    // one more
    let late = Recorder::start(comes.rtmp, "live/a");
    dns.set(&[("slaves.test", 2), ("slaves.test", 3), ("slaves.test", 4)]);
    comes.wait_live("live/a");
    wait_until("it has media", seconds(20), || late.count() > 10);
    assert_eq!(up(&master), [2, 3, 4].map(|last| at(last).to_string()));

    // one less
    dns.set(&[("slaves.test", 2), ("slaves.test", 3)]);
    wait_until("it is told the end", seconds(20), || only(&goes).unpublished);
    wait_until("and left", seconds(20), || only(&goes).closed && forwards(&master).len() == 2);
    live.wait_more(20);

    // no address at all, which is held for a mistake
    dns.set(&[]);
    wait_until("it is empty", seconds(20), || name(&master).last_error.contains("no address"));
    // and no server
    dns.kill();
    refresh(&master);
    wait_until("nobody answers", seconds(30), || {
        let error = name(&master).last_error;
        !error.is_empty() && !error.contains("no address")
    });
    let before = [all.count(), late.count()];
    live.wait_more(50);
    wait_until("streams go on", seconds(20), || {
        all.count() > before[0] + 20 && late.count() > before[1] + 20
    });
    assert_eq!(up(&master), [2, 3].map(|last| at(last).to_string()));
    assert_eq!(name(&master).addresses.len(), 2);
    assert!(forwards(&master).iter().all(|it| it.connects == 1), "{:?}", forwards(&master));

    // it answers again, and one that has left is back
    let back = Sink::start(at(5));
    dns.set_before_start(&[("slaves.test", 2), ("slaves.test", 3), ("slaves.test", 5)]);
    dns.restart();
    wait_until("the new one has it", seconds(40), || {
        refresh(&master);
        back.count() > 20
    });
    assert_eq!(name(&master).last_error, "");

    let sent = live.stop(End::Polite);
    let got = all.until_last(&sent, seconds(10));
    assert_same_sequence("the one that stays", &sent, &got, Start::First);
    let got = late.until_last(&sent, seconds(10));
    assert_same_sequence("the one that comes", &sent, &got, Start::Keyframe);
    assert_headers_once("the one that comes", &sent, &got);
    wait_until("unpublished", seconds(10), || only(&back).unpublished);
    assert_same_sequence("the new one", &sent, &only(&back).tags, Start::Keyframe);
    assert_headers_once("the new one", &sent, &only(&back).tags);
    assert_cut_off("the one that went", &sent, &only(&goes).tags);
    let failures = master.log().matches("look-up failed").count();
    assert_eq!(failures, 1, "one line for all that went wrong:\n{}", master.log());
}

#[test]
fn a_service_names_hosts_and_ports() {
    let dir = tempfile::tempdir().expect("a folder");
    let ports = [free_address().port(), free_address().port()];
    let at = |last: u8, which: usize| SocketAddr::new(loopback(last), ports[which]);
    let services = [
        ("_rtmp._tcp.slaves.test", "a.test", ports[0], 0, 10),
        ("_rtmp._tcp.slaves.test", "b.test", ports[1], 9, 0),
        ("_rtmp._tcp.slaves.test", "gone.test", ports[1], 0, 0),
    ];
    let dns = Dns::start(dir.path(), &[("a.test", 2), ("b.test", 3)], &services);
    let sinks = [at(2, 0), at(3, 1), at(4, 1)].map(Sink::start);
    let master = Setup::new()
        .global(&format!("resolver = \"{}\"", dns.address))
        .forward("destination = [\"srv+rtmp://_rtmp._tcp.slaves.test/[app]/copy-[stream]\"]")
        .start();
    let live = Live::start(master.rtmp, "live/a", Synthetic::default());
    wait_until("both have it, whatever their priority", seconds(30), || {
        sinks[..2].iter().all(|sink| sink.count() > 20)
    });
    let names = sinks[..2].iter().map(|sink| (only(sink).tc_url, only(sink).stream));
    let hosts = [("a.test", ports[0]), ("b.test", ports[1])];
    let want =
        hosts.map(|(host, port)| (format!("rtmp://{host}:{port}/live"), "copy-a".to_owned()));
    assert_eq!(names.collect::<Vec<_>>(), want);
    assert!(name(&master).last_error.contains("gone.test"), "{:?}", name(&master));

    // a host moves
    dns.set(&[("a.test", 2), ("b.test", 4)]);
    wait_until("where it went", seconds(40), || {
        refresh(&master);
        sinks[2].count() > 20
    });
    wait_until("where it was", seconds(20), || only(&sinks[1]).unpublished);
    // All of this may take less than a frame.
    live.wait_more(10);
    let sent = live.stop(End::Polite);
    wait_until("unpublished", seconds(10), || {
        [0, 2].iter().all(|at| only(&sinks[*at]).unpublished)
    });
    assert_same_sequence("a", &sent, &only(&sinks[0]).tags, Start::Keyframe);
    assert_cut_off("b, before", &sent, &only(&sinks[1]).tags);
    assert_same_sequence("b, after", &sent, &only(&sinks[2]).tags, Start::Keyframe);
}
