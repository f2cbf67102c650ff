//! `forwarder status`
pub(super) mod clients;

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{Failure, complain, say};
use crate::config::DEFAULT_VHOST;
use crate::status::reload::ConfigStatus;
use crate::status::{
    ClientOrder, ClientQuery, ForwardStatus, LegStatus, PullStatus, Snapshot, StreamStatus,
};

/// Everything a server on this machine has to say fits into a moment.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Ten thousand streams with ten destinations each stay below this.
const MAX_ANSWER: usize = 64 << 20;
/// Where the API tells of the process.
pub(super) const STATUS: &str = "/api/v1/status";
/// Legs shown: an edge may have one for each of thousands of players.
const MAX_LEGS: usize = 50;

/// Show what a running server does
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Address of its HTTP API
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:1985")]
    api: String,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
    /// Show publishers and players one by one
    #[arg(long)]
    clients: bool,
    /// In which order; those with most come first
    #[arg(long, value_enum, value_name = "KEY", default_value = "id", requires = "clients")]
    sort: ClientOrder,
    /// How many of them
    #[arg(long, value_name = "N", default_value_t = 50, requires = "clients")]
    count: usize,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match answer(args) {
        Ok(text) => {
            say(&text);
            Ok(())
        }
        Err(error) => {
            complain(&format!("{}: {error:#}", args.api));
            Err(Failure::Runtime)
        }
    }
}

fn answer(args: &Args) -> anyhow::Result<String> {
    let query = ClientQuery { start: 0, count: args.count, sort: args.sort };
    let path = if args.clients { clients::path(query) } else { STATUS.to_owned() };
    let (status, body) = exchange(&args.api, &Asked::get(&path))?;
    ensure!(status == StatusCode::OK, "the server answers {status}");
    if args.json {
        return Ok(String::from_utf8_lossy(&body).into_owned());
    }
    const FOREIGN: &str = "the answer is not forwarder's";
    if args.clients {
        let mut answer: clients::Answer = serde_json::from_slice(&body).context(FOREIGN)?;
        // The API, as SRS, gives ten at least.
        answer.page.clients.truncate(args.count);
        return Ok(clients::table(&answer.page));
    }
    let snapshot = serde_json::from_slice(&body).context(FOREIGN)?;
    Ok(table(&snapshot))
}

/// What the API is asked.
pub(super) struct Asked<'a> {
    pub(super) method: Method,
    pub(super) path: &'a str,
    pub(super) token: Option<&'a str>,
}

impl<'a> Asked<'a> {
    pub(super) fn get(path: &'a str) -> Self {
        Self { method: Method::GET, path, token: None }
    }
}

/// As [`ask`], with a runtime of its own, for [`TIMEOUT`] at most.
pub(super) fn exchange(address: &str, asked: &Asked<'_>) -> anyhow::Result<(StatusCode, Bytes)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let answer = tokio::time::timeout(TIMEOUT, ask(address, asked)).await;
        answer.unwrap_or_else(|_| bail!("no answer within {} s", TIMEOUT.as_secs()))
    })
}

/// Asks the API at `address`, `host:port`.
pub(super) async fn ask(address: &str, asked: &Asked<'_>) -> anyhow::Result<(StatusCode, Bytes)> {
    let socket = TcpStream::connect(address)
        .await
        .context("cannot connect (is [http_api] enabled there?)")?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
    let mut request = Request::builder().method(&asked.method).uri(asked.path);
    if let Some(token) = asked.token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request
        .header(header::HOST, address)
        .body(Empty::<Bytes>::new())
        .context("not an address")?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        Ok((status, body.map_err(|error| anyhow::anyhow!(error))?.to_bytes()))
    };
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        // The connection may be through as soon as the answer is complete.
        _ = connection => exchange.await,
    }
}

/// What the kernel holds, if it carries legs.
fn in_kernel(snapshot: &Snapshot) -> String {
    match snapshot.kernel_backlog_limit {
        0 => String::new(),
        limit => format!(" (backlog {} of {})", size(snapshot.kernel_backlog), size(limit)),
    }
}

/// Where the configuration came from, and why another was refused.
fn configuration(text: &mut String, config: &ConfigStatus) {
    if config.file.is_empty() {
        return;
    }
    // Writing to a String cannot fail.
    let _ = writeln!(text, "configuration {}, loaded {} ago", config.file, uptime(config.age_s));
    if let Some(error) = config.last_error.lines().next() {
        let _ =
            writeln!(text, "the last reload was refused: {}", error.replace(char::is_control, "?"));
    }
}

/// The snapshot for people.
pub(super) fn table(snapshot: &Snapshot) -> String {
    let mut text = format!(
        "forwarder {}, pid {}, up {}, {} connections, splice {}{}\nlistening on {}\n",
        snapshot.version,
        snapshot.pid,
        uptime(snapshot.uptime_s),
        snapshot.connections,
        snapshot.splice,
        in_kernel(snapshot),
        snapshot.listen.join(", "),
    );
    configuration(&mut text, &snapshot.config);
    let totals = &snapshot.totals;
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "since start: {} connections, {} refused, {} errors, {} received, {} sent, {} skips\n",
        totals.connections,
        totals.refused,
        totals.errors,
        size(totals.received_bytes),
        size(totals.sent_bytes),
        totals.skips,
    );
    if snapshot.streams.is_empty() {
        text.push_str("no streams\n");
    } else {
        streams(&mut text, snapshot);
    }
    if !snapshot.pulls.is_empty() {
        let head = ["PULL", "ORIGIN", "STATE", "PLAYERS", "ATTEMPTS", "RECEIVED", "LAST ERROR"];
        let mut rows = vec![head.map(str::to_owned)];
        rows.extend(snapshot.pulls.iter().map(pull_row));
        text.push('\n');
        text.push_str(&aligned(&rows));
    }
    if !snapshot.legs.is_empty() {
        let head = ["LEG OF", "KIND", "STREAM", "ORIGIN", "PATH", "MOVED", "BACKLOG", "UNSPLICES"];
        let mut rows = vec![head.map(str::to_owned)];
        rows.extend(snapshot.legs.iter().take(MAX_LEGS).map(leg_row));
        text.push('\n');
        text.push_str(&aligned(&rows));
        let more = snapshot.legs.len().saturating_sub(MAX_LEGS);
        if more > 0 {
            let _ = writeln!(text, "and {more} more, which --json shows");
        }
    }
    text
}

fn streams(text: &mut String, snapshot: &Snapshot) {
    let head = ["STREAM", "STATE", "PLAYERS", "BITRATE", "CODECS", "SKIPS", "PUBLISHER"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(snapshot.streams.iter().map(stream_row));
    text.push_str(&aligned(&rows));

    let forwards: Vec<_> = snapshot
        .streams
        .iter()
        .flat_map(|stream| stream.forwards.iter().map(move |forward| (stream, forward)))
        .collect();
    if !forwards.is_empty() {
        let head =
            ["FORWARD", "DESTINATION", "STATE", "LAG", "ATTEMPTS", "SENT", "SKIPS", "LAST ERROR"];
        let mut rows = vec![head.map(str::to_owned)];
        rows.extend(forwards.into_iter().map(|(stream, forward)| forward_row(stream, forward)));
        text.push('\n');
        text.push_str(&aligned(&rows));
    }
}

fn pull_row(pull: &PullStatus) -> [String; 7] {
    [
        name(&pull.vhost, &pull.app, &pull.stream),
        pull.origin.clone(),
        pull.state.clone(),
        pull.players.to_string(),
        pull.attempt.to_string(),
        size(pull.received_bytes),
        or_dash(&pull.last_error),
    ]
}

fn leg_row(leg: &LegStatus) -> [String; 8] {
    [
        leg.peer.clone(),
        leg.kind.clone(),
        name(&leg.vhost, &leg.app, &leg.stream),
        or_dash(&leg.origin),
        leg.path.clone(),
        size(leg.bytes),
        size(leg.backlog),
        leg.unsplices.to_string(),
    ]
}

fn stream_row(stream: &StreamStatus) -> [String; 7] {
    let codecs = match (stream.video.as_str(), stream.audio.as_str()) {
        ("", "") => "-".to_owned(),
        ("", one) | (one, "") => one.to_owned(),
        (video, audio) => format!("{video} {audio}"),
    };
    let players = match stream.legs {
        0 => stream.players.to_string(),
        legs => format!("{} ({legs} by legs)", stream.players),
    };
    [
        name(&stream.vhost, &stream.app, &stream.stream),
        stream.state.clone(),
        players,
        bitrate(stream.bitrate_bps),
        codecs,
        stream.skips.to_string(),
        publishers(stream),
    ]
}

/// Who publishes, who stands by, and how often that changed.
fn publishers(stream: &StreamStatus) -> String {
    let mut text = or_dash(&stream.publisher);
    for standby in &stream.standbys {
        let waits = if standby.ready { "" } else { " (not ready)" };
        let _ = write!(text, ", standby {}{waits}", standby.peer);
    }
    if stream.switches > 0 {
        let _ = write!(text, ", {} switched", stream.switches);
    }
    text
}

fn forward_row(stream: &StreamStatus, forward: &ForwardStatus) -> [String; 8] {
    let state = match forward.next_retry_ms {
        0 => forward.state.clone(),
        ms => format!("{} {ms} ms", forward.state),
    };
    [
        name(&stream.vhost, &stream.app, &stream.stream),
        forward.destination.clone(),
        state,
        format!("{} ms", forward.lag_ms),
        forward.attempt.to_string(),
        size(forward.sent_bytes),
        forward.skips.to_string(),
        or_dash(&forward.last_error),
    ]
}

fn name(vhost: &str, app: &str, stream: &str) -> String {
    if vhost == DEFAULT_VHOST {
        format!("{app}/{stream}")
    } else {
        format!("{vhost}/{app}/{stream}")
    }
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// Columns as wide as their widest cell, two spaces apart; the last one as it comes.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    // What a peer named may not move the terminal's cursor.
    let clean = |cell: &String| cell.replace(char::is_control, "?");
    let rows: Vec<[String; N]> = rows.iter().map(|row| row.each_ref().map(clean)).collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            let _ = write!(line, "{cell:width$}  ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn uptime(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, seconds) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{seconds:02}s"),
        (0, _, _) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

fn bitrate(bps: u64) -> String {
    scaled(bps, 1000, ["bit/s", "kbit/s", "Mbit/s", "Gbit/s"])
}

fn size(bytes: u64) -> String {
    scaled(bytes, 1024, ["B", "KiB", "MiB", "GiB"])
}

/// One decimal in the largest unit that leaves at least 1.
fn scaled(value: u64, step: u64, units: [&str; 4]) -> String {
    let (mut tenths, mut chosen) = (value.saturating_mul(10), units[0]);
    for unit in &units[1..] {
        if tenths < step.saturating_mul(10) {
            break;
        }
        tenths /= step;
        chosen = unit;
    }
    if chosen == units[0] {
        format!("{value} {chosen}")
    } else {
        format!("{}.{} {chosen}", tenths / 10, tenths % 10)
    }
}
