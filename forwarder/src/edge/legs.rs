//! Which players and encoders have a leg, and to which origins.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::Destination;
use crate::rtmp::url::StreamKey;
use crate::splice::{self, LegPath};
use crate::status::{LegStatus, LegTotals};

/// Every leg of the process.
#[derive(Debug, Default)]
pub(super) struct Legs {
    table: Mutex<Table>,
    totals: Totals,
}

/// What all legs moved since start, also those that are gone.
#[derive(Debug, Default)]
struct Totals {
    kernel_bytes: AtomicU64,
    user_bytes: AtomicU64,
    unsplices: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    entries: HashMap<u64, Arc<Figures>>,
    /// How many players' of a stream.
    of_stream: HashMap<StreamKey, usize>,
    /// How many players' at an origin.
    at_origin: HashMap<Destination, usize>,
}

/// One leg, as everybody sees it.
#[derive(Debug)]
pub(super) struct Figures {
    key: StreamKey,
    kind: Kind,
    place: Mutex<(Option<SocketAddr>, Option<Destination>, LegPath)>,
    connects: AtomicU64,
    bytes: AtomicU64,
    backlog: AtomicU64,
    unsplices: AtomicU64,
    /// Of the leg at work: what those before it moved, and what the kernel carried of its bytes.
    redirected: Mutex<(u64, u64)>,
}

/// Which way a leg goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// From an origin to a player.
    Play,
    /// From an encoder to an origin.
    Publish,
}

/// The place of one leg among the others, until dropped.
#[derive(Debug)]
pub(super) struct Entry {
    legs: Arc<Legs>,
    id: u64,
    figures: Arc<Figures>,
}

impl Legs {
    /// A place for an encoder's leg.
    pub(super) fn enter_publisher(self: &Arc<Self>, key: &StreamKey) -> Entry {
        self.add(&mut self.lock(), key, Kind::Publish)
    }

    /// A place for a player's leg of `key`; `None` if it is to be the only one, and there is one.
    pub(super) fn enter(self: &Arc<Self>, key: &StreamKey, only: bool) -> Option<Entry> {
        let mut table = self.lock();
        let count = table.of_stream.entry(key.clone()).or_default();
        if only && *count > 0 {
            return None;
        }
        *count += 1;
        Some(self.add(&mut table, key, Kind::Play))
    }

    fn add(self: &Arc<Self>, table: &mut Table, key: &StreamKey, kind: Kind) -> Entry {
        let figures = Arc::new(Figures {
            key: key.clone(),
            kind,
            place: Mutex::new((None, None, LegPath::User)),
            connects: AtomicU64::default(),
            bytes: AtomicU64::default(),
            backlog: AtomicU64::default(),
            unsplices: AtomicU64::default(),
            redirected: Mutex::default(),
        });
        let id = table.next;
        table.next += 1;
        table.entries.insert(id, Arc::clone(&figures));
        Entry { legs: Arc::clone(self), id, figures }
    }

    /// How many players' are at `origin`.
    pub(super) fn load(&self, origin: &Destination) -> usize {
        self.lock().at_origin.get(origin).copied().unwrap_or_default()
    }

    /// All of them, in the order in which they came.
    pub(super) fn status(&self) -> Vec<LegStatus> {
        let mut all: Vec<_> =
            self.lock().entries.iter().map(|(id, figures)| (*id, Arc::clone(figures))).collect();
        all.sort_by_key(|(id, _)| *id);
        all.into_iter().map(|(_, figures)| figures.status()).collect()
    }

    /// What they moved since start.
    pub(super) fn totals(&self) -> LegTotals {
        let Totals { kernel_bytes, user_bytes, unsplices } = &self.totals;
        LegTotals {
            kernel_bytes: kernel_bytes.load(Ordering::Relaxed),
            user_bytes: user_bytes.load(Ordering::Relaxed),
            unsplices: unsplices.load(Ordering::Relaxed),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn leave_origin(&mut self, origin: &Destination) {
        if let Some(count) = self.at_origin.get_mut(origin) {
            *count -= 1;
            if *count == 0 {
                self.at_origin.remove(origin);
            }
        }
    }
}

impl Figures {
    fn status(&self) -> LegStatus {
        let (peer, origin, path) = self.place().clone();
        LegStatus {
            kind: match self.kind {
                Kind::Play => "play".into(),
                Kind::Publish => "publish".into(),
            },
            peer: peer.map(|peer| peer.to_string()).unwrap_or_default(),
            vhost: self.key.vhost().into(),
            app: self.key.app().into(),
            stream: self.key.stream().into(),
            origin: origin.map(|origin| origin.to_string()).unwrap_or_default(),
            path: match path {
                LegPath::Kernel => "kernel".into(),
                LegPath::User => "user".into(),
            },
            bytes: self.bytes.load(Ordering::Relaxed),
            backlog: self.backlog.load(Ordering::Relaxed),
            unsplices: self.unsplices.load(Ordering::Relaxed),
            connects: self.connects.load(Ordering::Relaxed),
        }
    }

    fn place(&self) -> MutexGuard<'_, (Option<SocketAddr>, Option<Destination>, LegPath)> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// The leg is that of this player or encoder.
    pub(super) fn serves(&self, peer: SocketAddr) {
        self.figures.place().0 = Some(peer);
    }

    /// It goes to `origin`, or to none for now.
    pub(super) fn moves_to(&self, origin: Option<&Destination>) {
        let mut table = self.legs.lock();
        let before = std::mem::replace(&mut self.figures.place().1, origin.cloned());
        let is_player = self.figures.kind == Kind::Play;
        before.filter(|_| is_player).inspect(|before| table.leave_origin(before));
        if let Some(origin) = origin {
            if is_player {
                *table.at_origin.entry(origin.clone()).or_default() += 1;
            }
            self.figures.connects.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes how the leg stands, that came after others which moved `before` bytes and came back
    /// from the kernel so often; returns how many bytes are new.
    pub(super) fn account(&self, (before, unsplices): (u64, u64), leg: &splice::LegStatus) -> u64 {
        let figures = &self.figures;
        figures.place().2 = leg.path;
        figures.backlog.store(leg.backlog, Ordering::Relaxed);
        let unsplices = unsplices + leg.unsplices;
        let returns =
            unsplices.saturating_sub(figures.unsplices.swap(unsplices, Ordering::Relaxed));
        let bytes = before + leg.bytes;
        let new = bytes.saturating_sub(figures.bytes.swap(bytes, Ordering::Relaxed));
        let mut last = figures.redirected.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = if last.0 == before { last.1 } else { 0 };
        *last = (before, leg.redirected);
        let by_kernel = leg.redirected.saturating_sub(counted).min(new);
        let totals = &self.legs.totals;
        totals.kernel_bytes.fetch_add(by_kernel, Ordering::Relaxed);
        totals.user_bytes.fetch_add(new - by_kernel, Ordering::Relaxed);
        totals.unsplices.fetch_add(returns, Ordering::Relaxed);
        new
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.moves_to(None);
        let mut table = self.legs.lock();
        table.entries.remove(&self.id);
        if self.figures.kind == Kind::Publish {
            return;
        }
        let key = &self.figures.key;
        if let Some(count) = table.of_stream.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                table.of_stream.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legs_are_counted_by_stream_and_origin() {
        let legs = Arc::new(Legs::default());
        let key = StreamKey::new("v", "live", "a").expect("a name");
        let (one, two): (Destination, Destination) =
            ("a".parse().expect("an origin"), "b".parse().expect("an origin"));
        let first = legs.enter(&key, true).expect("the first");
        assert!(legs.enter(&key, true).is_none(), "a second one shares");
        let second = legs.enter(&key, false).expect("legs for all");
        first.moves_to(Some(&one));
        second.moves_to(Some(&one));
        assert_eq!((legs.load(&one), legs.load(&two)), (2, 0));
        second.moves_to(Some(&two));
        assert_eq!((legs.load(&one), legs.load(&two)), (1, 1));
        assert_eq!(legs.status()[1].connects, 2);
        let encoder = legs.enter_publisher(&key);
        encoder.moves_to(Some(&one));
        assert_eq!(legs.load(&one), 1, "it takes nothing from an origin");
        assert_eq!(legs.status()[2].kind, "publish");
        drop(encoder);
        let seen = |bytes, redirected, unsplices| splice::LegStatus {
            path: LegPath::Kernel,
            bytes,
            backlog: 0,
            unsplices,
            overs: 0,
            redirected,
        };
        assert_eq!(first.account((0, 0), &seen(100, 60, 1)), 100);
        assert_eq!(first.account((0, 0), &seen(150, 100, 1)), 50);
        assert_eq!(first.account((150, 1), &seen(130, 120, 2)), 130, "another leg goes on");
        let totals = LegTotals { kernel_bytes: 220, user_bytes: 60, unsplices: 3 };
        assert_eq!(legs.totals(), totals);
        drop(first);
        drop(second);
        assert_eq!((legs.load(&one), legs.load(&two)), (0, 0));
        assert_eq!(legs.totals(), totals, "those that are gone count");
        assert!(legs.enter(&key, true).is_some() && legs.status().is_empty());
    }
}
