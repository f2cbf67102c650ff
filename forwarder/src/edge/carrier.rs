//! The bytes of one encoder on their way to one origin.

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::REMOVED;
use super::legs::Entry;
use super::outlet::{self, Outlet, Said, Words};
use super::prefix::Prefix;
use super::through::Through;
use crate::conn::{EncoderNews, Learned, Shard, Totals};
use crate::forward::Failure;
use crate::rtmp::amf0::Value;
use crate::rtmp::chunk::ChunkReader;
use crate::rtmp::message::{Command, csid};
use crate::rtmp::session::{RECONNECT_REQUEST, SessionError, Transcript};
use crate::splice::{self, Ended, Leg, LegOptions, LegPath, LegStatus, Walk};

/// How often a leg is looked at: for acknowledgements, figures and silence.
const LOOK: Duration = Duration::from_millis(250);

/// How long taking leave of an origin may take, its own goodbye not counted.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long an origin may take nothing of what was sent last. The next publisher may be waiting.
const LEGACY: Duration = Duration::from_secs(2);

/// An encoder that has unpublished says a few commands more; one that has not says this much.
const STILL_PUBLISHES: u64 = 16 << 10;

/// One encoder and its origin.
pub(super) struct Carrier<'a> {
    through: &'a Through,
    shard: &'a Rc<Shard>,
    io: Rc<TcpStream>,
    news: mpsc::Sender<EncoderNews>,
    outlet: Outlet,
    /// The message stream on which the encoder publishes.
    msid: u32,
    entry: Entry,
    look: Interval,
    stop: CancellationToken,
    /// Read and not written, while there is no leg.
    out: Vec<u8>,
    out_since: Instant,
    /// Bytes read before there was a leg.
    read: u64,
    /// The origin lacks bytes that the leg took.
    is_cut: bool,
    /// Bytes read before by the connection, which counted them, that are not accounted for here.
    counted: u64,
    /// Bytes moved in all; those of them that the connection knows of; when they grew last.
    moved: u64,
    told: u64,
    heard: Instant,
    /// The origin said that the publish is over, when so many bytes were moved.
    unpublished: Option<u64>,
}

/// How it ended.
pub(super) enum End {
    /// The encoder's connection was told.
    Told,
    /// The origin is gone. `hung`: it is no good to others either. `left`: a reader that stands
    /// where the bytes go on, and what is known of the stream, if that is known.
    Lost { why: String, hung: bool, left: Option<(ChunkReader, Learned)> },
}

/// Why no more bytes are moved.
enum Stopped {
    /// The origin has closed, or is to be left. That may be for what this encoder sends.
    Lost(String),
    /// The origin takes nothing, or does not answer.
    Hung(String),
    /// The encoder is gone. All it sent was given to the origin.
    Gone(Option<io::Error>),
    /// The encoder is gone, and the origin does not take what it sent.
    Both,
    /// The encoder is to go.
    Dismissed(EncoderNews),
}

/// Something beside the bytes.
enum Event {
    Said(Result<Said, Failure>),
    Look,
    Stop,
    Closed,
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Self {
        Self::Lost(failure.why)
    }
}

impl<'a> Carrier<'a> {
    pub(super) fn new(
        through: &'a Through,
        shard: &'a Rc<Shard>,
        (io, news): (Rc<TcpStream>, mpsc::Sender<EncoderNews>),
        (outlet, msid): (Outlet, u32),
        entry: Entry,
    ) -> Self {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        entry.moves_to(Some(&outlet.origin));
        Self {
            through,
            shard,
            io,
            news,
            outlet,
            msid,
            entry,
            look,
            stop: shard.context().stop.clone(),
            out: Vec::new(),
            out_since: Instant::now(),
            read: 0,
            is_cut: false,
            counted: 0,
            moved: 0,
            told: 0,
            heard: Instant::now(),
            unpublished: None,
        }
    }

    /// Carries to the end.
    pub(super) async fn run(mut self, words: Words, reader: ChunkReader, unread: Vec<u8>) -> End {
        let Words { transcript, position, msid } = words;
        let mut prefix = Prefix::new(reader, Walk::resume(&position), msid);
        let mut leg = None;
        let stopped = match self.read_first(&mut prefix, unread, &transcript).await {
            Err(stopped) => stopped,
            Ok(()) => {
                let leg = leg.insert(self.leg(&prefix));
                self.drive(leg, &transcript).await
            }
        };
        match stopped {
            // An origin may close when the encoder has said that it was all.
            Stopped::Lost(_) | Stopped::Hung(_) if self.is_unpublished() => {
                _ = self.news.send(EncoderNews::Closed("unpublished")).await;
                End::Told
            }
            Stopped::Lost(ref why) | Stopped::Hung(ref why) => {
                let (why, hung) = (why.clone(), matches!(stopped, Stopped::Hung(_)));
                let left = match &leg {
                    Some(leg) => prefix.resume(leg.open()),
                    None => prefix.into_parts(),
                };
                End::Lost { why, hung, left }
            }
            Stopped::Gone(error) => {
                self.through.leave.cancel();
                // The connection may be gone.
                _ = self.news.send(EncoderNews::Gone(error)).await;
                self.outlet.leave(self.shard).await;
                End::Told
            }
            Stopped::Both => {
                _ = self.news.send(EncoderNews::Gone(None)).await;
                End::Told
            }
            Stopped::Dismissed(news) => {
                self.through.leave.cancel();
                let walk = leg.as_ref().map_or_else(|| prefix.walk(), |leg| leg.open().clone());
                _ = timeout(FAREWELL, self.say_goodbye(&walk, msid)).await;
                _ = self.news.send(news).await;
                self.outlet.leave(self.shard).await;
                End::Told
            }
        }
    }

    // === reading what comes first ===

    /// Reads and writes until `prefix` is over.
    async fn read_first(
        &mut self,
        prefix: &mut Prefix,
        unread: Vec<u8>,
        transcript: &Transcript,
    ) -> Result<(), Stopped> {
        prefix.feed(&unread).map_err(broken)?;
        self.read = unread.len() as u64;
        self.counted = self.read;
        self.out = unread;
        loop {
            self.flush()?;
            if self.out.is_empty() && prefix.is_over() {
                return Ok(());
            }
            let (source, target) = (Rc::clone(&self.io), Rc::clone(&self.outlet.io));
            let (may_read, event) = (self.out.is_empty(), self.event());
            let event = tokio::select! {
                ready = source.readable(), if may_read => {
                    ready.map_err(|error| Stopped::Gone(Some(error)))?;
                    None
                }
                ready = target.writable(), if !may_read => {
                    ready.map_err(Failure::from)?;
                    continue;
                }
                event = event => Some(event),
            };
            let Some(event) = event else {
                self.take(prefix)?;
                continue;
            };
            let backlog = self.out.len() as u64;
            let (bytes, path) = (self.read, LegPath::User);
            self.account(&LegStatus {
                path,
                bytes,
                backlog,
                unsplices: 0,
                overs: 0,
                redirected: 0,
            });
            self.on_event(event, backlog, transcript)?;
            if backlog > 0 && self.out_since.elapsed() >= self.through.vhost.forward.hung_timeout {
                return Err(Stopped::Hung("it takes nothing".into()));
            }
        }
    }

    /// Reads what is there.
    fn take(&mut self, prefix: &mut Prefix) -> Result<(), Stopped> {
        let mut scratch = self.shard.scratch();
        let n = match self.io.try_read(&mut scratch) {
            Ok(0) => return Err(Stopped::Gone(None)),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(Stopped::Gone(Some(error))),
        };
        let bytes = scratch.get(..n).unwrap_or_default();
        prefix.feed(bytes).map_err(broken)?;
        self.read += n as u64;
        self.out.extend_from_slice(bytes);
        self.out_since = Instant::now();
        Ok(())
    }

    /// Writes what the origin takes.
    fn flush(&mut self) -> Result<(), Failure> {
        while !self.out.is_empty() {
            match self.outlet.io.try_write(&self.out) {
                Ok(n) => {
                    self.out.drain(..n);
                    self.out_since = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        self.out = Vec::new();
        Ok(())
    }

    // === the leg ===

    fn leg(&self, prefix: &Prefix) -> Leg {
        let vhost = &self.through.vhost;
        let walk = prefix.walk();
        let options = LegOptions {
            chunk_size: walk.chunk_size(),
            walk: true,
            soft_limit: vhost.edge.leg_soft_limit,
            hard_limit: vhost.edge.leg_hard_limit,
            write_timeout: vhost.forward.hung_timeout,
        };
        let splice = &self.shard.context().splice;
        let (source, target) = (Rc::clone(&self.io), Rc::clone(&self.outlet.io));
        let mut leg = Leg::new(splice, source, target, options).following(walk);
        leg.arm();
        leg
    }

    /// Until the leg is over. Then it moves nothing, and knows where it stands.
    async fn drive(&mut self, leg: &mut Leg, transcript: &Transcript) -> Stopped {
        let source = Rc::clone(&self.io);
        let mut gone = false;
        let stopped = loop {
            let event = tokio::select! {
                ended = leg.run() => return match ended {
                    Ended::Source(error) => Stopped::Gone(error),
                    _ if gone => Stopped::Both,
                    Ended::Target(None) => Stopped::Lost("closed by the origin".into()),
                    Ended::Target(Some(error)) => match error.kind() {
                        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                            Stopped::Lost(error.to_string())
                        }
                        _ => Stopped::Hung(error.to_string()),
                    },
                    Ended::Stuck => Stopped::Hung("it takes nothing".into()),
                    Ended::OverLimit => Stopped::Hung("over leg_hard_limit".into()),
                },
                () = splice::closed(&source), if !gone => {
                    gone = true;
                    leg.hurry(LEGACY);
                    self.through.leave.cancel();
                    continue;
                }
                event = self.event() => event,
            };
            let mut figures = leg.status();
            figures.bytes += self.read;
            self.account(&figures);
            if let Err(stopped) = self.on_event(event, figures.backlog, transcript) {
                break stopped;
            }
        };
        // Whatever comes of it, it stands still.
        leg.hurry(LEGACY);
        self.is_cut = leg.stop().await.is_err();
        stopped
    }

    // === beside the bytes ===

    async fn event(&mut self) -> Event {
        tokio::select! {
            said = self.outlet.hear(self.shard) => Event::Said(said),
            _ = self.look.tick() => Event::Look,
            () = self.stop.cancelled() => Event::Stop,
            () = self.news.closed() => Event::Closed,
        }
    }

    fn on_event(
        &mut self,
        event: Event,
        backlog: u64,
        transcript: &Transcript,
    ) -> Result<(), Stopped> {
        match event {
            Event::Said(said) => match said? {
                Said::Ping(ping) => self.tell(EncoderNews::Control(ping)),
                Said::Command(command, raw) => self.on_command(&command, raw, transcript),
            },
            Event::Look => self.look(backlog),
            Event::Stop => Err(Stopped::Dismissed(EncoderNews::Closed("the edge stops"))),
            // There is nobody to tell.
            Event::Closed => Err(Stopped::Dismissed(EncoderNews::Gone(None))),
        }
    }

    fn on_command(
        &mut self,
        command: &Command,
        (kind, msid, payload): (u8, u32, Vec<u8>),
        transcript: &Transcript,
    ) -> Result<(), Stopped> {
        // An error on another message stream is about something else the encoder said.
        if outlet::status(command) == Some(RECONNECT_REQUEST) {
            self.through.edges.origins.ended(&self.outlet.origin, Instant::now());
            return Err(Stopped::Lost("it asked to connect again".into()));
        }
        if command.name != "onStatus" || msid == 0 || msid == self.msid {
            outlet::check(command)?;
        }
        match &*command.name {
            // The encoder has its answers to what was said twice.
            "_result" | "_error" if transcript.has_call(command.transaction) => return Ok(()),
            "_result" | "_error" | "onStatus" | "onFCUnpublish" => {}
            _ => return Ok(()),
        }
        match outlet::status(command) {
            // Under which name is not known here.
            Some("NetStream.Publish.Start") => {
                return Err(Stopped::Dismissed(EncoderNews::Closed("it publishes once more")));
            }
            Some("NetStream.Unpublish.Success") => self.unpublished = Some(self.moved),
            _ => {}
        }
        self.tell(EncoderNews::Command(kind, msid, payload))
    }

    fn look(&mut self, backlog: u64) -> Result<(), Stopped> {
        let new = self.moved - self.told;
        if new > 0 || backlog > 0 {
            self.heard = Instant::now();
        }
        if new > 0 && self.news.try_send(EncoderNews::Moved(new)).is_ok() {
            self.told = self.moved;
        }
        let publish = &self.through.vhost.publish;
        let patience =
            if self.moved == 0 { publish.firstpkt_timeout } else { publish.normal_timeout };
        if self.heard.elapsed() >= patience {
            let error = SessionError::Timeout("nothing from the publisher");
            return Err(Stopped::Dismissed(EncoderNews::Broken(error)));
        }
        if !self.through.may_go_to(&self.outlet.origin) {
            return Err(Stopped::Lost(REMOVED.into()));
        }
        if self.unpublished.is_some() && !self.is_unpublished() {
            return Err(Stopped::Lost("the origin ended the publish".into()));
        }
        Ok(())
    }

    /// Whether the publish is over by the encoder's own word.
    fn is_unpublished(&self) -> bool {
        self.unpublished.is_some_and(|then| self.moved.saturating_sub(then) <= STILL_PUBLISHES)
    }

    fn tell(&self, news: EncoderNews) -> Result<(), Stopped> {
        self.news.try_send(news).map_err(|_| Stopped::Lost("it says too much".into()))
    }

    fn account(&mut self, figures: &LegStatus) {
        self.moved = figures.bytes;
        let new = self.entry.account((0, 0), figures);
        let counted = self.counted.min(new);
        self.counted -= counted;
        self.shard.count_received(new - counted);
        Totals::add(&self.shard.context().totals.sent_bytes, new);
    }

    /// Ends the publish where `walk` stands.
    async fn say_goodbye(&self, walk: &Walk, msid: u32) -> io::Result<()> {
        self.outlet.write(&self.out).await?;
        if walk.is_lost() || self.is_cut {
            return Ok(());
        }
        let mut out = Vec::new();
        let chunk_size = walk.pad(&mut out);
        let name = Value::string(self.through.key.stream());
        for (call, argument) in
            [("FCUnpublish", name), ("deleteStream", Value::Number(f64::from(msid)))]
        {
            let args = vec![Value::Null, argument];
            let command = Command { name: call.to_owned(), transaction: 0.0, args };
            command.encode(csid::COMMAND, 0, chunk_size, &mut out);
        }
        self.outlet.write(&out).await
    }
}

/// The encoder's chunks make no sense.
fn broken(error: crate::rtmp::chunk::ChunkError) -> Stopped {
    Stopped::Dismissed(EncoderNews::Broken(error.into()))
}
