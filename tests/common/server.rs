//! The server under test.
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use forwarder::status::reload::{Outcome, Reloaded};
use forwarder::status::{ClientPage, ClientStatus, Snapshot, StreamStatus};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::process::Process;
use super::{free_address, seconds, wait_until};

/// What to start a server with.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    global: String,
    play: String,
    publish: String,
    forward: String,
    edge: String,
    splice: Option<&'static str>,
    more: String,
    exporter: String,
    http_api: String,
    http_server: String,
    http_remux: String,
    rtmp: Option<SocketAddr>,
}

impl Setup {
    /// A short grace, so that players end soon after the publisher did.
    pub fn new() -> Self {
        Self::default().publish("grace = \"1s\"")
    }

    /// A line at the top.
    pub fn global(mut self, line: &str) -> Self {
        writeln!(self.global, "{line}").unwrap();
        self
    }

    /// A line of `[vhost.play]` of the default vhost.
    pub fn play(mut self, line: &str) -> Self {
        writeln!(self.play, "{line}").unwrap();
        self
    }

    /// A line of `[vhost.publish]`, in place of those before.
    pub fn publish(mut self, line: &str) -> Self {
        self.publish = format!("{line}\n");
        self
    }

    /// Forwards what is published on the default vhost.
    pub fn forward_to(mut self, destinations: &[SocketAddr]) -> Self {
        self.forward = forward_section(destinations);
        self
    }

    /// Text of `[vhost.forward]`, which is on, and of tables in it.
    pub fn forward(mut self, text: &str) -> Self {
        self.forward = format!("[vhost.forward]\nenabled = true\n{text}\n");
        self
    }

    /// Which players of the edge get a leg of their own; none if this is not said.
    pub fn splice(mut self, which: &'static str) -> Self {
        self.splice = Some(which);
        self
    }

    /// Makes it an edge of `origins`.
    pub fn edge_of(mut self, origins: &[SocketAddr]) -> Self {
        let list = quoted(origins);
        self.edge = format!("[vhost.edge]\nenabled = true\norigin = [{list}]\n{}", self.edge);
        self
    }

    /// A line of `[vhost.edge]`.
    pub fn edge(mut self, line: &str) -> Self {
        writeln!(self.edge, "{line}").unwrap();
        self
    }

    /// Another table of the default vhost: its name, and its lines.
    pub fn section(mut self, name: &str, lines: &str) -> Self {
        assert!(!self.more.contains("[[vhost]]"), "before other vhosts");
        writeln!(self.more, "[vhost.{name}]\n{lines}").unwrap();
        self
    }

    /// Another vhost.
    pub fn vhost(mut self, name: &str, destinations: &[SocketAddr]) -> Self {
        writeln!(self.more, "[[vhost]]\nname = \"{name}\"").unwrap();
        self.more += "[vhost.publish]\ngrace = \"1s\"\n";
        self.more += &forward_section(destinations);
        self
    }

    /// Serves metrics on an address of their own too; `more` lines of `[exporter]`.
    pub fn exporter(mut self, listen: SocketAddr, more: &str) -> Self {
        self.exporter = format!("[exporter]\nenabled = true\nlisten = \"{listen}\"\n{more}\n");
        self
    }

    /// A line of `[http_api]`.
    pub fn http_api(mut self, line: &str) -> Self {
        writeln!(self.http_api, "{line}").unwrap();
        self
    }

    /// Serves players over HTTP too.
    pub fn http_server(mut self, listen: SocketAddr) -> Self {
        self.http_server = format!("[http_server]\nenabled = true\nlisten = \"{listen}\"\n");
        self.http_remux = format!("[vhost.http_remux]\nenabled = true\n{}", self.http_remux);
        self
    }

    /// A line of `[vhost.http_remux]`.
    pub fn http_remux(mut self, line: &str) -> Self {
        writeln!(self.http_remux, "{line}").unwrap();
        self
    }

    /// Where to listen, else anywhere.
    pub fn listen(mut self, rtmp: SocketAddr) -> Self {
        self.rtmp = Some(rtmp);
        self
    }

    /// Starts a server and waits until it accepts.
    #[track_caller]
    pub fn start(self) -> Server {
        let rtmp = self.rtmp.unwrap_or_else(free_address);
        let api = free_address();
        Server::start("forwarder.toml", &self.text(rtmp, api), rtmp, api)
    }

    /// The configuration of a server that listens there.
    pub fn text(mut self, rtmp: SocketAddr, api: SocketAddr) -> String {
        if !self.edge.is_empty() {
            writeln!(self.edge, "splice = \"{}\"", self.splice.unwrap_or("never")).unwrap();
        }
        format!(
            "listen = [\"{rtmp}\"]\n{}[http_api]\nenabled = true\nlisten = \"{api}\"\n{}{}{}\
             [[vhost]]\nname = \"__defaultVhost__\"\n\
             [vhost.play]\n{}[vhost.publish]\n{}{}{}{}{}",
            self.global,
            self.http_api,
            self.exporter,
            self.http_server,
            self.play,
            self.publish,
            self.forward,
            self.edge,
            self.http_remux,
            self.more,
        )
    }
}

fn forward_section(destinations: &[SocketAddr]) -> String {
    if destinations.is_empty() {
        return String::new();
    }
    let list = quoted(destinations);
    format!("[vhost.forward]\nenabled = true\ndestination = [{list}]\n")
}

fn quoted(addresses: &[SocketAddr]) -> String {
    let list: Vec<String> = addresses.iter().map(|a| format!("\"{a}\"")).collect();
    list.join(", ")
}

/// A running server; killed on drop. Its log must not tell of a panic.
pub struct Server {
    /// Where RTMP is served.
    pub rtmp: SocketAddr,
    /// Where the API is served.
    pub api: SocketAddr,
    config: PathBuf,
    process: Process,
    dir: TempDir,
}

impl Server {
    /// Starts one with the configuration text `config`, that must say `rtmp` and `api`.
    #[track_caller]
    pub fn start(file: &str, config: &str, rtmp: SocketAddr, api: SocketAddr) -> Self {
        let dir = TempDir::new().expect("temporary directory");
        let path = dir.path().join(file);
        std::fs::write(&path, config).expect("configuration");
        let process = spawn(dir.path(), &path);
        let mut server = Self { rtmp, api, config: path, process, dir };
        server.wait_listening();
        server
    }

    #[track_caller]
    fn wait_listening(&mut self) {
        let (rtmp, api) = (self.rtmp, self.api);
        let process = &mut self.process;
        wait_until("the server listens", seconds(10), || {
            if let Some(status) = process.try_wait() {
                panic!("the server ended: {status}\n{}", process.log());
            }
            TcpStream::connect(api).is_ok() && process.log().contains("listening")
        });
        wait_until("RTMP is accepted", seconds(5), || TcpStream::connect(rtmp).is_ok());
    }

    /// Where its configuration is.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Writes another configuration where it looks for it.
    #[track_caller]
    pub fn write(&self, config: &str) {
        std::fs::write(&self.config, config).expect("configuration");
    }

    /// Has it load its configuration again, and gives what came of it.
    #[track_caller]
    pub fn reload(&self) -> Outcome {
        let answer = http(self.api, "POST", "/api/v1/reload", "").expect("an answer");
        let mut body: Value = serde_json::from_str(&answer.body).expect("JSON");
        match answer.status {
            200 => Ok(serde_json::from_value(body["reload"].take()).expect("what changed")),
            400 => Err(serde_json::from_value(body["error"].take()).expect("a refusal")),
            _ => panic!("reload: {answer:?}"),
        }
    }

    /// Loads what `setup` says, at the addresses that it has.
    #[track_caller]
    pub fn reload_to(&self, setup: Setup) -> Reloaded {
        self.write(&setup.text(self.rtmp, self.api));
        self.reload().unwrap_or_else(|refused| panic!("{}", refused.shown))
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again where it was.
    #[track_caller]
    pub fn restart(&mut self) {
        self.process = spawn(self.dir.path(), &self.config);
        self.wait_listening();
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// SIGTERM, then waits for its end; gives the exit code.
    #[track_caller]
    pub fn terminate(&mut self) -> Option<i32> {
        self.process.signal(Signal::SIGTERM);
        self.process.wait(seconds(15)).code()
    }

    /// A place for files of this test.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().is_none()
    }

    /// URL of `app/stream` on it.
    pub fn url(&self, path: &str) -> String {
        format!("rtmp://{}/{path}", self.rtmp)
    }

    /// What the API says.
    #[track_caller]
    pub fn status(&self) -> Snapshot {
        let body = http_get(self.api, "/api/v1/status").expect("status");
        serde_json::from_str(&body).unwrap_or_else(|e| panic!("status: {e}: {body}"))
    }

    /// What the API says of clients; `query` is empty or begins with `?`.
    #[track_caller]
    pub fn clients(&self, query: &str) -> ClientPage {
        let body = http_get(self.api, &format!("/api/v1/clients{query}")).expect("clients");
        serde_json::from_str(&body).unwrap_or_else(|e| panic!("clients: {e}: {body}"))
    }

    /// What the API says of the client with this id; `None` if that there is none.
    #[track_caller]
    pub fn client(&self, id: &str) -> Option<ClientStatus> {
        let body = http_get(self.api, &format!("/api/v1/clients/{id}")).expect("a client");
        let mut body: Value = serde_json::from_str(&body).expect("JSON");
        match body["code"].as_u64() {
            Some(0) => Some(serde_json::from_value(body["client"].take()).expect("a client")),
            Some(2049) => None,
            _ => panic!("client {id}: {body}"),
        }
    }

    /// What the API says of `app/stream` (on any vhost), if there is one.
    #[track_caller]
    pub fn stream(&self, path: &str) -> Option<StreamStatus> {
        let is_it = |s: &StreamStatus| format!("{}/{}", s.app, s.stream) == path;
        self.status().streams.into_iter().find(is_it)
    }

    /// Whether `app/stream` has a publisher.
    #[track_caller]
    pub fn is_live(&self, path: &str) -> bool {
        self.stream(path).is_some_and(|s| s.state == "live")
    }

    /// Waits until `app/stream` has `n` players.
    #[track_caller]
    pub fn wait_players(&self, path: &str, n: usize) {
        wait_until(&format!("{n} players of {path}"), seconds(15), || {
            self.stream(path).is_some_and(|s| s.players == n)
        });
    }

    /// Waits until `app/stream` has a publisher.
    #[track_caller]
    pub fn wait_live(&self, path: &str) {
        wait_until(&format!("{path} is live"), seconds(15), || self.is_live(path));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let log = self.log();
            assert!(!log.contains("panicked"), "the server panicked:\n{log}");
        }
    }
}

/// `forwarder run -c config`, not waited for.
pub fn spawn(dir: &Path, config: &Path) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forwarder"));
    command.args(["run", "-c"]).arg(config).current_dir(dir).env_remove("RUST_LOG");
    Process::spawn(dir, "forwarder", "the workspace", &mut command)
}

/// An answer of the API.
#[derive(Debug)]
pub struct Answer {
    /// HTTP's.
    pub status: u16,
    /// Its headers, names in small letters.
    pub head: String,
    /// What follows them.
    pub body: String,
}

/// Asks with `headers`, each with its line's end.
pub fn http(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
) -> std::io::Result<Answer> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(seconds(5)))?;
    write!(
        socket,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n"
    )?;
    let mut reply = String::new();
    socket.read_to_string(&mut reply)?;
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other(format!("{path}: {reply}")))?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// The body of a `GET`.
pub fn http_get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let answer = http(address, "GET", path, "")?;
    if answer.status != 200 {
        return Err(std::io::Error::other(format!("{path}: {answer:?}")));
    }
    Ok(answer.body)
}

/// A master and the slaves it forwards to.
pub struct Cluster {
    /// Where to publish.
    pub master: Server,
    /// Where to play.
    pub slaves: Vec<Server>,
}

impl Cluster {
    /// Starts `n` slaves and their master.
    #[track_caller]
    pub fn start(n: usize) -> Self {
        let slaves: Vec<Server> = (0..n).map(|_| Setup::new().start()).collect();
        let addresses: Vec<SocketAddr> = slaves.iter().map(|s| s.rtmp).collect();
        let master = Setup::new().forward_to(&addresses).start();
        Self { master, slaves }
    }
}
