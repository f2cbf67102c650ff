//! Names that DNS turns into destinations, each asked for again and again.

mod resolver;
mod set;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::RngExt;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::config::{self, ForwardTarget};
use crate::conn::Context;
use crate::status::NameStatus;

use resolver::Resolver;
pub(crate) use set::Found;
use set::{News, Set, Update};

/// A name to be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name {
    how: config::Discovery,
    host: String,
    /// Of its addresses; a service's records name others.
    port: u16,
}

impl Name {
    /// The name in `target`; `None`: that is one place.
    pub(super) fn of(target: &ForwardTarget) -> Option<Self> {
        let at = &target.url.at;
        Some(Self { how: target.discovery?, host: at.host.clone(), port: at.port })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.how {
            config::Discovery::Dns => write!(f, "dns+{}:{}", self.host, self.port),
            config::Discovery::Srv => write!(f, "srv+{}", self.host),
        }
    }
}

/// Every name that is followed.
#[derive(Debug)]
pub(super) struct Discovery {
    context: Arc<Context>,
    resolver: Arc<Resolver>,
    names: Mutex<HashMap<Name, Followed>>,
    /// Rung when some name's addresses have changed.
    changed: Arc<Notify>,
}

#[derive(Debug)]
struct Followed {
    known: Arc<Known>,
    task: JoinHandle<()>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is known of one name.
#[derive(Debug, Default)]
struct Known {
    set: Mutex<Set>,
    ask_now: Notify,
}

impl Known {
    fn set(&self) -> MutexGuard<'_, Set> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Discovery {
    /// Rings `changed` when some name's addresses have changed.
    pub(super) fn new(context: Arc<Context>, changed: Arc<Notify>) -> Self {
        Self { context, resolver: Arc::default(), names: Mutex::default(), changed }
    }

    /// Follows these names and no others.
    pub(super) fn follow(&self, wanted: &HashSet<Name>) {
        let mut names = self.lock();
        names.retain(|name, _| wanted.contains(name));
        for name in wanted {
            if !names.contains_key(name) {
                let known = Arc::<Known>::default();
                let task = tokio::spawn(follow(
                    Arc::clone(&self.context),
                    Arc::clone(&self.resolver),
                    name.clone(),
                    Arc::clone(&known),
                    Arc::clone(&self.changed),
                ));
                names.insert(name.clone(), Followed { known, task });
            }
        }
    }

    /// What `name` stands for, as far as that is known.
    pub(super) fn found(&self, name: &Name) -> Vec<Found> {
        let names = self.lock();
        names.get(name).map_or_else(Vec::new, |it| it.known.set().found().cloned().collect())
    }

    /// Has every name asked for at once; how many there are.
    pub(super) fn refresh(&self) -> usize {
        let names = self.lock();
        names.values().for_each(|it| it.known.ask_now.notify_one());
        names.len()
    }

    /// Every name, by its text.
    pub(super) fn status(&self) -> Vec<NameStatus> {
        let names = self.lock();
        let status = names.iter().map(|(name, it)| {
            let set = it.known.set();
            NameStatus {
                name: name.to_string(),
                addresses: set.found().map(|found| found.address.to_string()).collect(),
                last_error: set.error().to_owned(),
            }
        });
        let mut status: Vec<NameStatus> = status.collect();
        status.sort_by(|a, b| a.name.cmp(&b.name));
        status
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, Followed>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks for `name` for ever.
async fn follow(
    context: Arc<Context>,
    resolver: Arc<Resolver>,
    name: Name,
    known: Arc<Known>,
    changed: Arc<Notify>,
) {
    loop {
        let server = context.config().resolver;
        let answer = resolver.look_up(&name, server).await;
        let (update, error) = {
            let mut set = known.set();
            (set.take(answer), set.error().to_owned())
        };
        report(&name, &update, &error);
        if !update.added.is_empty() || !update.gone.is_empty() {
            changed.notify_one();
        }
        // Servers that were started together shall not ask together for ever.
        let pause = update.pause.mul_f64(rand::rng().random_range(0.9..1.0));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = known.ask_now.notified() => {}
        }
    }
}

fn report(name: &Name, update: &Update, error: &str) {
    let list = |all: &[Found]| {
        let all: Vec<String> = all.iter().map(|found| found.address.to_string()).collect();
        all.join(" ")
    };
    match update.news {
        News::Failing => warn!(%name, error, "look-up failed, the last addresses stay"),
        News::Recovered => info!(%name, "looked up again"),
        News::None => {}
    }
    if !update.added.is_empty() || !update.gone.is_empty() {
        let (added, gone) = (list(&update.added), list(&update.gone));
        info!(%name, added, gone, "destinations changed");
    }
}
