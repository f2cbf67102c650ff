//! The configuration in force, which a reload replaces as a whole.

use std::sync::Arc;

use tokio::sync::watch;

use super::Config;

/// Where everybody gets at the configuration.
///
/// What is asked for when it is needed follows a reload by itself. Who has made something of it
/// waits for [`Live::changes`] and looks what has changed.
#[derive(Debug)]
pub struct Live(watch::Sender<Arc<Config>>);

impl Live {
    /// In force from now on.
    pub fn new(config: Config) -> Self {
        Self(watch::Sender::new(Arc::new(config)))
    }

    /// As it is now: it stays the same for whoever keeps it. Costs a lock that is never held for
    /// long, so it is nothing for each message.
    pub fn now(&self) -> Arc<Config> {
        Arc::clone(&self.0.borrow())
    }

    /// Puts `config` into force for whoever asks from now on.
    pub fn replace(&self, config: Arc<Config>) {
        self.0.send_replace(config);
    }

    /// Tells of each reload that changed something.
    pub fn changes(&self) -> watch::Receiver<Arc<Config>> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_keeps_it_keeps_it_and_who_follows_is_told() {
        let live = Live::new(Config::default());
        let (kept, mut changes) = (live.now(), live.changes());
        live.replace(Arc::new(Config { max_connections: 7, ..Config::default() }));
        assert_eq!((kept.max_connections, live.now().max_connections), (10_000, 7));
        assert!(changes.has_changed().expect("it is there"));
        assert_eq!(changes.borrow_and_update().max_connections, 7);
    }
}
