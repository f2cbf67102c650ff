//! Prometheus reads what the server does, and finds nothing wrong with how it is written.
mod common;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use common::hook_server::HookServer;
use common::legs::wait_legs;
use common::media::Synthetic;
use common::peer::{End, Live, Recorder};
use common::process::Process;
use common::server::{Server, Setup, http_get};
use common::sink::Sink;
use common::tls::{Authority, listener, shown};
use common::viewer::Viewer;
use common::{free_address, seconds, wait_until};
use serde_json::Value;

/// Prometheus itself; it scrapes five times a second.
struct Prometheus {
    address: SocketAddr,
    process: Process,
}

impl Prometheus {
    #[track_caller]
    fn scrape(dir: &Path, targets: &[SocketAddr]) -> Self {
        let (address, config) = (free_address(), dir.join("prometheus.yml"));
        let targets: Vec<String> = targets.iter().map(|it| format!("'{it}'")).collect();
        let targets = targets.join(", ");
        let text = format!(
            "global:\n  scrape_interval: 200ms\n  scrape_timeout: 200ms\n\
             scrape_configs:\n- job_name: forwarder\n  static_configs:\n  - targets: [{targets}]\n"
        );
        std::fs::write(&config, text).expect("configuration");
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", dir.join("prometheus").display()));
        command.arg(format!("--web.listen-address={address}"));
        let process = Process::spawn(dir, "prometheus", "prometheus", &mut command);
        let mut prometheus = Self { address, process };
        wait_until("prometheus answers", seconds(30), || {
            if let Some(status) = prometheus.process.try_wait() {
                panic!("prometheus ended: {status}");
            }
            http_get(address, "/-/ready").is_ok()
        });
        prometheus
    }

    /// The value of a query that has one sample, if it has.
    fn value(&self, query: &str) -> Option<f64> {
        let escape = |byte: u8| format!("%{byte:02x}");
        let query: String = query.bytes().map(escape).collect();
        let answer = http_get(self.address, &format!("/api/v1/query?query={query}")).ok()?;
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        let [sample] = answer["data"]["result"].as_array()?.as_slice() else { return None };
        sample["value"][1].as_str()?.parse().ok()
    }

    #[track_caller]
    fn wait(&self, query: &str, value: f64) {
        let mut last = None;
        let start = std::time::Instant::now();
        while last != Some(value) {
            assert!(start.elapsed() < seconds(20), "{query} is {last:?}, not {value}");
            std::thread::sleep(std::time::Duration::from_millis(50));
            last = self.value(query);
        }
    }
}

/// What `promtool check metrics` has to say of `page`.
fn lint(page: &str) -> (bool, String) {
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped());
    let promtool = promtool.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut promtool = promtool.expect("install prometheus (cargo xtask test does)");
    promtool.stdin.take().expect("stdin").write_all(page.as_bytes()).expect("a page");
    let output = promtool.wait_with_output().expect("its end");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// The value of the only sample that begins with `start`.
#[track_caller]
fn sample(page: &str, start: &str) -> f64 {
    let mut samples = page.lines().filter(|line| line.starts_with(start));
    let line = samples.next().unwrap_or_else(|| panic!("no {start} in\n{page}"));
    assert!(samples.next().is_none(), "{start} more than once");
    line.rsplit_once(' ').expect("a value").1.parse().expect("a number")
}

#[track_caller]
fn page(server: &Server) -> String {
    http_get(server.api, "/metrics").expect("metrics")
}

#[test]
fn prometheus_scrapes_what_was_published_played_and_forwarded() {
    let (exporter, closed) = (free_address(), free_address());
    let slave = Sink::start(free_address());
    let server = Setup::new()
        .publish("grace = \"60s\"")
        .forward_to(&[slave.address, closed])
        .exporter(exporter, "")
        .start();
    let prometheus = Prometheus::scrape(server.dir(), &[exporter]);
    let players = [(); 3].map(|()| Recorder::start(server.rtmp, "live/a"));
    server.wait_players("live/a", 3);
    let live = Live::start(server.rtmp, "live/a", Synthetic::default());
    live.wait_more(60);
    wait_until("it is forwarded", seconds(10), || slave.count() > 30);

    prometheus.wait("up", 1.0);
    let name = "vhost=\"__defaultVhost__\",app=\"live\",stream=\"a\"";
    prometheus.wait(&format!("forwarder_stream_players{{{name}}}"), 3.0);
    prometheus.wait(&format!("forwarder_stream_up{{{name}}}"), 1.0);
    prometheus.wait("forwarder_streams{state=\"live\"}", 1.0);
    let up = |to| format!("forwarder_forward_up{{{name},destination=\"{to}\"}}");
    prometheus.wait(&up(slave.address), 1.0);
    prometheus.wait(&up(closed), 0.0);
    prometheus.wait("forwarder_forwards{state=\"forwarding\"}", 1.0);
    prometheus.wait("sum(forwarder_shard_players{job=\"forwarder\"})", 3.0);

    let sent = live.stop(End::Polite);
    let bytes: usize = sent.iter().map(|tag| tag.body.len()).sum();
    prometheus.wait(&format!("forwarder_stream_receive_bytes_total{{{name}}}"), bytes as f64);
    prometheus.wait("forwarder_streams{state=\"grace\"}", 1.0);
    let (cpu, rss) = ("process_cpu_seconds_total", "process_resident_memory_bytes");
    assert!(prometheus.value(cpu).is_some_and(|seconds| seconds > 0.0));
    assert!(prometheus.value(rss).is_some_and(|bytes| bytes > 1e6));
    drop(players);

    let page = http_get(exporter, "/metrics").expect("metrics");
    assert_eq!(lint(&page), (true, String::new()));
    assert!(http_get(exporter, "/api/v1/status").is_err(), "metrics alone");
}

#[test]
fn what_the_process_takes_is_what_the_kernel_says() {
    let server = Setup::new().start();
    let pid = server.status().pid;
    // Connections to the API that are over are closed by now, or not yet.
    wait_until("open files are told", seconds(10), || {
        let told = sample(&page(&server), "process_open_fds ");
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").count();
        (told - fds as f64).abs() <= 1.0
    });
    let page = page(&server);
    let begun = sample(&page, "process_start_time_seconds ");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert!((0.0..60.0).contains(&(now.as_secs_f64() - begun)), "started at {begun}");
    let resident = common::process::resident(pid) as f64;
    let told = sample(&page, "process_resident_memory_bytes ");
    assert!((told / resident - 1.0).abs() < 0.2, "{told} and {resident}");
    assert_eq!(sample(&page, "forwarder_ready "), 1.0);
}

#[test]
fn names_of_streams_make_no_series_where_they_are_off() {
    let server = Setup::new().exporter(free_address(), "streams = false").start();
    let live = Live::start(server.rtmp, "live/secret", Synthetic::default());
    server.wait_live("live/secret");
    let page = page(&server);
    assert_eq!(sample(&page, "forwarder_streams{state=\"live\"}"), 1.0);
    assert!(!page.contains("secret"), "{page}");
    live.stop(End::Polite);
}

/// Names of families that `page` declares, and of those that it has samples of.
fn families(page: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let declared = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    let name = |line: &str| line.split(['{', ' ']).next().unwrap_or_default().to_owned();
    (declared.map(name).collect(), samples.map(name).collect())
}

#[test]
fn every_family_has_samples_that_promtool_and_prometheus_take() {
    let (authority, hooks) = (Authority::new(), HookServer::start());
    let (slave, rtmps, http_flv) = (Sink::start(free_address()), free_address(), free_address());
    let (of_origin, of_edge) = (free_address(), free_address());
    let to = format!("\"{}\", \"{}\", \"dns+nobody.test\"", slave.address, free_address());
    let origin = Setup::new()
        .global(&format!("resolver = \"{}\"", free_address()))
        .global(&listener(rtmps, &[&authority.certify("server", "IP:127.0.0.1")]))
        .forward(&format!("destination = [{to}]\nbackend = \"http://{}/\"", free_address()))
        .publish("second = \"stand_by\"")
        .section("hooks", &hooks.all())
        .http_server(http_flv)
        .exporter(of_origin, "")
        .start();
    let edge = Setup::new().edge_of(&[origin.rtmp]).splice("auto").exporter(of_edge, "").start();
    let live = Live::start(origin.rtmp, "live/a", Synthetic::default());
    let standby = Live::start(origin.rtmp, "live/a", Synthetic::default());
    let over_http = Viewer::start(http_flv, "/live/a.flv");
    let with_leg = Recorder::start(edge.rtmp, "live/a");
    wait_legs(&edge, 1);
    let shared = Recorder::start(edge.rtmp, "live/a");
    wait_until("all get it", seconds(20), || {
        slave.count() > 10 && over_http.count() > 10 && with_leg.count() > 10 && shared.count() > 10
    });
    assert_eq!(shown(rtmps, "a"), "server");
    origin.write("listne = 1935");
    assert!(origin.reload().is_err());

    let pages = [of_origin, of_edge].map(|at| http_get(at, "/metrics").expect("metrics"));
    for page in &pages {
        assert_eq!(lint(page), (true, String::new()));
    }
    let [(declared, here), (same, there)] = [families(&pages[0]), families(&pages[1])];
    assert_eq!(declared, same);
    let seen: BTreeSet<String> = here.union(&there).cloned().collect();
    assert_eq!(seen, declared, "without a sample, or undeclared");

    let [of_origin_page, of_edge_page] = &pages;
    assert_eq!(sample(of_origin_page, "forwarder_config_last_reload_successful "), 0.0);
    assert_eq!(
        sample(of_origin_page, "forwarder_discovery_up{name=\"dns+nobody.test:1935\"}"),
        0.0
    );
    let at_least_one = [
        "forwarder_hook_requests_total{kind=\"ask\"}",
        "forwarder_tls_connections_total ",
        "forwarder_stream_standbys{",
        "forwarder_backend_failures_total ",
        "forwarder_forwards{state=\"forwarding\"}",
    ];
    for start in at_least_one {
        assert!(sample(of_origin_page, start) >= 1.0, "{start}");
    }
    for start in ["forwarder_pull_up{", "forwarder_pulls{state=\"pulling\"}"] {
        assert_eq!(sample(of_edge_page, start), 1.0, "{start}");
    }
    let legs = of_edge_page.lines().filter(|line| line.starts_with("forwarder_legs{"));
    let n: u32 = legs.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u32>().unwrap()).sum();
    assert_eq!(n, 1, "{of_edge_page}");

    let prometheus = Prometheus::scrape(origin.dir(), &[of_origin, of_edge]);
    prometheus.wait("sum(up)", 2.0);
    let query = "count(count by (__name__) ({__name__=~\"(forwarder|process)_.+\"}))";
    prometheus.wait(query, declared.len() as f64);
    prometheus.wait("sum(forwarder_legs)", 1.0);
    drop((live, standby));
}
