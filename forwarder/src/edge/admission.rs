//! Showing a client's `connect` to an origin before the client is served: SRS's `token_traverse`.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Edges, refusal};
use crate::config::Vhost;
use crate::conn::{Ask, Refusal, Shard};
use crate::forward::{Failure, dial};
use crate::rtmp::session::{ClientConfig, ClientEvent, ClientSession, ConnectRequest, Goal};
use crate::rtmp::url::StreamKey;

const HANDSHAKE_RANDOM: usize = 1536;

/// Asks again, without the `connect`, for whom an origin admits.
pub(super) async fn run(edges: Arc<Edges>, vhost: Vhost, mut ask: Ask, shard: Rc<Shard>) {
    let (key, connect) = match &mut ask {
        Ask::Play(ask) => (&ask.key, ask.connect.take()),
        Ask::Publish(ask) => (&ask.key, ask.connect.take()),
    };
    let Some(connect) = connect else { return };
    let judged = tokio::select! {
        judged = judge(&edges, &vhost, key, &connect, &shard) => judged,
        () = shard.context().stop.cancelled() => return,
    };
    match judged {
        Ok(()) => shard.context().upstream.ask(ask),
        // The client may be gone.
        Err(refusal) => match ask {
            Ask::Play(ask) => _ = ask.reply.send(Err(refusal::of_play(&refusal))),
            Ask::Publish(ask) => _ = ask.reply.send(Err(refusal::of_publish(&refusal))),
        },
    }
}

/// The word of the first origin that answers. Nobody is admitted without.
async fn judge(
    edges: &Edges,
    vhost: &Vhost,
    key: &StreamKey,
    connect: &ConnectRequest,
    shard: &Shard,
) -> Result<(), Refusal> {
    let within = vhost.edge.connect_timeout;
    for origin in edges.origins.order(&vhost.edge, key, Instant::now()) {
        let Ok(io) = dial(shard, &origin, within, within).await else {
            edges.origins.failed(&origin, Instant::now());
            continue;
        };
        let mut session = session(vhost, connect);
        let Ok(said) = timeout(within, converse(&io, &mut session, shard)).await else {
            edges.origins.failed(&origin, Instant::now());
            continue;
        };
        // nginx-rtmp says no by closing.
        return said.map_err(|failure| failure.refusal.unwrap_or_else(|| rejected(&failure.why)));
    }
    Err(rejected("no origin answers"))
}

fn rejected(why: &str) -> Refusal {
    Refusal::new("NetConnection.Connect.Rejected", why)
}

fn session(vhost: &Vhost, connect: &ConnectRequest) -> ClientSession {
    let config = ClientConfig {
        goal: Goal::Connect,
        tc_url: connect.tc_url.clone(),
        app: connect.app.clone(),
        stream: String::new(),
        chunk_size: vhost.chunk_size,
        digest: true,
        forwarder: None,
        deadline: vhost.edge.connect_timeout,
    };
    let random: [u8; HANDSHAKE_RANDOM] = rand::random();
    let mut session = ClientSession::new(config, Box::new(random), Instant::now());
    session.speak_for(connect.clone());
    session
}

/// Talks until `connect` is answered.
async fn converse(
    io: &TcpStream,
    session: &mut ClientSession,
    shard: &Shard,
) -> Result<(), Failure> {
    let mut out = Vec::new();
    loop {
        out.append(&mut session.take_output());
        while !out.is_empty() {
            io.writable().await?;
            match io.try_write(&out) {
                Ok(n) => drop(out.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        io.readable().await?;
        let mut scratch = shard.scratch();
        let n = match io.try_read(&mut scratch) {
            Ok(0) => return Err(Failure::new("closed by the origin")),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        };
        let mut input = scratch.get(..n).unwrap_or_default();
        while let Some(event) = session.read(Instant::now(), &mut input)? {
            if event == ClientEvent::Connected {
                return Ok(());
            }
        }
    }
}
