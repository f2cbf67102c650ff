//! The logs of one stream: the one that is always there, of chunks, and one for each other form that
//! somebody reads.
//!
//! What is read in another form is written in it once, for all who read it so; a stream that nobody
//! reads so pays nothing.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::form::Form;
use super::headers::Headers;
use super::log::{Appended, Log, LogLimits, Tail, Wake};
use super::pool::Pool;
use super::segment::Segment;
use crate::rtmp::chunk::{ChunkReader, Position};
use crate::rtmp::message::MediaMessage;

/// How long a log stays without a reader: one who reloads finds it, and its group of pictures is not
/// copied anew.
const LINGER: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub(super) struct Logs {
    chunks: Log,
    others: Vec<Other>,
    pool: Arc<Pool>,
}

#[derive(Debug)]
struct Other {
    log: Log,
    /// Since when it was seen to have no reader.
    idle: Option<Instant>,
}

impl Logs {
    pub(super) fn new(limits: LogLimits, pool: &Arc<Pool>) -> Self {
        let chunks = Log::new(Form::Chunks, limits, Arc::clone(pool));
        Self { chunks, others: Vec::new(), pool: Arc::clone(pool) }
    }

    /// The log of chunks.
    pub(super) fn chunks(&self) -> &Log {
        &self.chunks
    }

    /// The log of this form, if there is one; it is while it has a reader.
    pub(super) fn of(&self, form: Form) -> Option<&Log> {
        self.all().find(|log| log.form == form)
    }

    /// Registers a reader of a form, with a log that has the newest group of pictures.
    pub(super) fn attach(&mut self, form: Form, wake: Box<dyn Wake>) -> Arc<Tail> {
        let log = match self.others.iter().position(|other| other.log.form == form) {
            _ if form == Form::Chunks => &mut self.chunks,
            Some(at) => {
                self.others[at].idle = None;
                &mut self.others[at].log
            }
            None => {
                let log = self.written_as(form);
                self.others.push(Other { log, idle: None });
                let last = self.others.len() - 1;
                &mut self.others[last].log
            }
        };
        let tail = Arc::new(Tail::new(wake, log.head));
        log.tails.push(Arc::clone(&tail));
        tail
    }

    /// The goodbye of a reader.
    pub(super) fn detach(&mut self, tail: &Arc<Tail>) {
        for log in self.all_mut() {
            log.tails.retain(|other| !Arc::ptr_eq(other, tail));
        }
    }

    /// Lets go of logs that nobody has read for a while.
    pub(super) fn trim(&mut self, now: Instant) {
        self.others.retain_mut(|other| {
            if !other.log.tails.is_empty() {
                other.idle = None;
                return true;
            }
            let since = *other.idle.get_or_insert(now);
            now.saturating_duration_since(since) < LINGER
        });
    }

    /// See [`Log::append`].
    pub(super) fn append(&mut self, media: &MediaMessage<'_>, now_ms: u64) -> io::Result<Appended> {
        for other in &mut self.others {
            other.log.append(media, now_ms)?;
        }
        self.chunks.append(media, now_ms)
    }

    /// See [`Log::notify`].
    pub(super) fn notify(&mut self) {
        self.all_mut().for_each(Log::notify);
    }

    /// See [`Log::notify_of_little_audio`].
    pub(super) fn notify_of_little_audio(&self) {
        self.all().for_each(Log::notify_of_little_audio);
    }

    /// See [`Log::end_of_publish`].
    pub(super) fn end_of_publish(&mut self) {
        self.all_mut().for_each(Log::end_of_publish);
    }

    /// See [`Log::begin_group`].
    pub(super) fn begin_group(&mut self) {
        self.all_mut().for_each(Log::begin_group);
    }

    /// See [`Log::replace_headers`].
    pub(super) fn replace_headers(&mut self, headers: &Headers) -> Arc<Headers> {
        for other in &mut self.others {
            other.log.replace_headers(&headers.only(other.log.form));
        }
        self.chunks.replace_headers(headers)
    }

    /// Bytes held.
    pub(super) fn held_bytes(&self) -> u64 {
        self.all().map(Log::held_bytes).sum()
    }

    fn all(&self) -> impl Iterator<Item = &Log> {
        std::iter::once(&self.chunks).chain(self.others.iter().map(|other| &other.log))
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Log> {
        std::iter::once(&mut self.chunks).chain(self.others.iter_mut().map(|other| &mut other.log))
    }

    /// A log of another form that goes on where that of chunks stands. Without memory for the group
    /// of pictures it begins with what comes next.
    fn written_as(&self, form: Form) -> Log {
        let mut log = self.chunks.begin_as(form);
        match copy_gop(&self.chunks, &mut log) {
            Ok(()) => log,
            Err(_) => {
                let mut log = Log::new(form, self.chunks.limits, Arc::clone(&self.pool));
                log.catch_up_with(&self.chunks);
                log
            }
        }
    }
}

/// Appends the newest group of pictures of `from`, a log of chunks, to `to`.
fn copy_gop(from: &Log, to: &mut Log) -> io::Result<()> {
    let Some(gop) = from.gop.as_ref().filter(|_| to.gop_is_wanted()) else {
        to.catch_up_with(from);
        return Ok(());
    };
    let mut reader = ChunkReader::resume(&Position {
        chunk_size: from.limits.chunk_size,
        open: None,
        header: Vec::new(),
        streams: Vec::new(),
    });
    let held = |segment: &&Arc<Segment>| segment.end() > gop.offset && segment.base() < from.head;
    let segments: Vec<_> = from.segments.iter().filter(held).collect();
    let entries = segments.iter().flat_map(|segment| segment.entries().clone());
    let mut entries = entries.filter(|entry| entry.offset >= gop.offset);
    for (at, segment) in segments.iter().enumerate() {
        let end = segments.get(at + 1).map_or(from.head, |next| next.base());
        let mut bytes = segment.slice(gop.offset, end);
        while let Some(message) = reader.read(&mut bytes).map_err(io::Error::other)? {
            let entry = entries.next().ok_or(io::ErrorKind::UnexpectedEof)?;
            let (timestamp, payload) = (message.timestamp, message.payload);
            let media =
                MediaMessage { kind: entry.kind.media(), timestamp, msid: message.msid, payload };
            to.append(&media, entry.arrived_ms)?;
        }
    }
    to.catch_up_with(from);
    Ok(())
}
