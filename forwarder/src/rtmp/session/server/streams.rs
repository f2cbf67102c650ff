//! The message streams of one connection.

/// Message streams one connection may have at a time. Clients use one; Flash a few.
pub(super) const MAX_STREAMS: u32 = 8;

/// A message stream made by `createStream`.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) msid: u32,
    pub(super) state: State,
}

/// What a message stream is used for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    Idle,
    /// `publish` of this name (with parameters) waits for the caller's answer.
    AskedPublish(Box<str>),
    /// `play` waits for the caller's answer.
    AskedPlay,
    /// Being published under this name, with parameters.
    Publishing(Box<str>),
    Playing,
}

/// All message streams of a connection.
#[derive(Debug, Default)]
pub(super) struct Streams(Vec<Stream>);

impl Streams {
    /// Makes a stream and returns its id: the lowest free one, so the first is 1, which is what
    /// shared media is encoded for.
    pub(super) fn create(&mut self) -> Option<u32> {
        let msid = (1..=MAX_STREAMS).find(|msid| self.0.iter().all(|s| s.msid != *msid))?;
        self.0.push(Stream { msid, state: State::Idle });
        Some(msid)
    }

    /// Forgets a stream.
    pub(super) fn delete(&mut self, msid: u32) {
        self.0.retain(|s| s.msid != msid);
    }

    pub(super) fn get_mut(&mut self, msid: u32) -> Option<&mut Stream> {
        self.0.iter_mut().find(|s| s.msid == msid)
    }

    /// The state of a stream that exists.
    pub(super) fn state(&self, msid: u32) -> Option<&State> {
        self.0.iter().find(|s| s.msid == msid).map(|s| &s.state)
    }

    pub(super) fn is_publishing(&self, msid: u32) -> bool {
        matches!(self.state(msid), Some(State::Publishing(_)))
    }

    pub(super) fn is_playing(&self, msid: u32) -> bool {
        self.state(msid) == Some(&State::Playing)
    }

    /// Whether any stream is published, played, or about to be.
    pub(super) fn any_in_use(&self) -> bool {
        self.0.iter().any(|s| s.state != State::Idle)
    }

    /// The only stream in use, if exactly one is.
    pub(super) fn only_one_in_use(&self) -> Option<u32> {
        let mut used = self.0.iter().filter(|s| s.state != State::Idle);
        match (used.next(), used.next()) {
            (Some(stream), None) => Some(stream.msid),
            _ => None,
        }
    }

    /// The stream published as `name`; parameters do not count on either side.
    pub(super) fn published_as(&self, name: &str) -> Option<u32> {
        let same = |s: &&Stream| match &s.state {
            State::Publishing(published) => bare(published) == bare(name),
            _ => false,
        };
        self.0.iter().find(same).map(|s| s.msid)
    }
}

/// A stream name without its parameters.
fn bare(name: &str) -> &str {
    name.split_once('?').map_or(name, |(bare, _)| bare)
}
