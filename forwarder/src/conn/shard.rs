//! A shard: one thread, one runtime, its share of the sockets.

use std::cell::{RefCell, RefMut};
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::client::Clients;
use super::fanout::Fanout;
use super::{Context, Totals};

type Job = Box<dyn FnOnce(Rc<Shard>) + Send>;

/// What the tasks of one shard share.
#[derive(Debug)]
pub struct Shard {
    context: Arc<Context>,
    fanout: Rc<Fanout>,
    clients: Clients,
    tasks: TaskTracker,
    gauges: Arc<Gauges>,
    leave: CancellationToken,
    stop: CancellationToken,
    scratch: RefCell<Box<[u8]>>,
}

/// What one shard has. Only its own thread writes most of it, often: so it has cache lines of its
/// own (two, which processors fetch in pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Gauges {
    /// Tasks, and jobs that wait.
    load: AtomicUsize,
    /// Connections accepted.
    pub connections: AtomicUsize,
    /// Those of them that play a stream from the hub.
    pub players: AtomicUsize,
    /// Bytes received from publishers and origins since start.
    pub received_bytes: AtomicU64,
}

/// One of something that a shard has, until dropped.
#[derive(Debug)]
pub(super) struct Counted {
    gauges: Arc<Gauges>,
    of: fn(&Gauges) -> &AtomicUsize,
}

impl Counted {
    pub(super) fn new(gauges: &Arc<Gauges>, of: fn(&Gauges) -> &AtomicUsize) -> Self {
        of(gauges).fetch_add(1, Ordering::Relaxed);
        Self { gauges: Arc::clone(gauges), of }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.of)(&self.gauges).fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shard {
    /// What all shards share.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Runs `task` on this shard to its end, also while the process stops.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.spawn_counted(task, Counted::new(&self.gauges, |gauges| &gauges.load));
    }

    fn spawn_counted(&self, task: impl Future<Output = ()> + 'static, counted: Counted) {
        // An async block has room for what it is given beside what it awaits, so twice for a task
        // that lives in it: https://github.com/rust-lang/rust/issues/62958.
        let task = Box::pin(task);
        self.tasks.spawn_local(async move {
            task.await;
            drop(counted);
        });
    }

    /// Counts bytes received from publishers and origins.
    pub fn count_received(&self, bytes: u64) {
        Totals::add(&self.gauges.received_bytes, bytes);
    }

    /// One receive buffer for every socket of the shard: sessions keep nothing that is whole.
    pub fn scratch(&self) -> RefMut<'_, Box<[u8]>> {
        self.scratch.borrow_mut()
    }

    pub(super) fn fanout(&self) -> &Rc<Fanout> {
        &self.fanout
    }

    pub(super) fn gauges(&self) -> &Arc<Gauges> {
        &self.gauges
    }

    /// Cancelled with the one of the process. Every connection asks it whenever it is woken, and
    /// that takes a lock: one for each shard.
    pub(super) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Cancelled when players are asked to go, as [`Self::stop`].
    pub(super) fn leave(&self) -> &CancellationToken {
        &self.leave
    }

    pub(super) fn clients(&self) -> &Clients {
        &self.clients
    }
}

/// How other threads give a shard work.
#[derive(Clone, Debug)]
pub struct ShardHandle {
    jobs: mpsc::Sender<Job>,
    gauges: Arc<Gauges>,
}

impl ShardHandle {
    /// Runs the task that `begin` makes there on the shard, to its end. Waits while the shard has too
    /// many jobs; after the shard has ended there is no task.
    pub async fn spawn<T: Future<Output = ()> + 'static>(
        &self,
        begin: impl FnOnce(Rc<Shard>) -> T + Send + 'static,
    ) {
        // It counts as load from now on, once, or a burst would not be spread evenly.
        let counted = Counted::new(&self.gauges, |gauges| &gauges.load);
        self.run(|shard| {
            let task = begin(Rc::clone(&shard));
            shard.spawn_counted(task, counted);
        })
        .await;
    }

    /// Runs `job` on the shard's thread. Waits while the shard has too many jobs; after the shard has
    /// ended the job is dropped.
    pub async fn run(&self, job: impl FnOnce(Rc<Shard>) + Send + 'static) {
        // An error means that the process stops: there is nobody left to run it.
        _ = self.jobs.send(Box::new(job)).await;
    }
}

/// All shards of the process.
#[derive(Debug)]
pub struct Shards {
    handles: Vec<ShardHandle>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Shards {
    /// Starts `n` shards. Errors: the threads or their runtimes could not be made.
    pub fn start(context: &Arc<Context>, n: usize) -> io::Result<Self> {
        let (mut handles, mut threads) = (Vec::new(), Vec::new());
        for at in 0..n.max(1) {
            let (jobs, inbox) = mpsc::channel(JOBS);
            let gauges = Arc::<Gauges>::default();
            handles.push(ShardHandle { jobs, gauges: Arc::clone(&gauges) });
            let context = Arc::clone(context);
            let thread = thread::Builder::new().name(format!("shard-{at}"));
            // A local runtime stays on the thread that makes it.
            let (made, is_made) = std::sync::mpsc::sync_channel(1);
            threads.push(thread.spawn(move || {
                let (runtime, outcome) = match local_runtime() {
                    Ok(runtime) => (Some(runtime), Ok(())),
                    Err(error) => (None, Err(error)),
                };
                // It is waited for.
                _ = made.send(outcome);
                let Some(runtime) = runtime else { return };
                let shard = Rc::new(Shard {
                    leave: context.leaving.players.child_token(),
                    stop: context.stop.child_token(),
                    fanout: Rc::new(Fanout::new(&context)),
                    context,
                    clients: Clients::default(),
                    tasks: TaskTracker::new(),
                    gauges,
                    scratch: RefCell::new(vec![0; SCRATCH_BYTES].into()),
                });
                runtime.block_on(shard_main(shard, inbox));
            })?);
            is_made.recv().map_err(io::Error::other)??;
        }
        Ok(Self { handles, threads })
    }

    /// The shard with the least to do: the fewest connections and other tasks. Which of several is
    /// left to chance: clients that come in turns, such as an encoder and its player, would
    /// otherwise leave all encoders to one shard.
    pub fn least_loaded(&self) -> &ShardHandle {
        let mut best = &self.handles[0];
        let (mut least, mut equal) = (usize::MAX, 0);
        for handle in &self.handles {
            let load = handle.gauges.load.load(Ordering::Relaxed);
            if load < least {
                (best, least, equal) = (handle, load, 1);
            } else if load == least {
                equal += 1;
                if rand::random_ratio(1, equal) {
                    best = handle;
                }
            }
        }
        best
    }

    /// What each shard has.
    pub fn gauges(&self) -> Vec<Arc<Gauges>> {
        self.handles.iter().map(|handle| Arc::clone(&handle.gauges)).collect()
    }

    pub(super) fn handles(&self) -> &[ShardHandle] {
        &self.handles
    }

    /// Lets the shards end once their tasks have, and waits for that.
    pub fn join(self) {
        drop(self.handles);
        for thread in self.threads {
            // A shard that panicked has said so on stderr.
            _ = thread.join();
        }
    }
}

/// Tasks of a local runtime are woken by others of its thread without a lock and without a write
/// to the descriptor that ends a wait.
fn local_runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default())
}

async fn shard_main(shard: Rc<Shard>, mut jobs: mpsc::Receiver<Job>) {
    let fanout = tokio::task::spawn_local(Rc::clone(&shard.fanout).run());
    while let Some(job) = jobs.recv().await {
        job(Rc::clone(&shard));
    }
    shard.tasks.close();
    shard.tasks.wait().await;
    fanout.abort();
}

/// Connections and tasks that may wait to be taken up by a shard.
const JOBS: usize = 1024;

/// A read takes at most so much; large enough for a keyframe at 20 Mbit/s.
const SCRATCH_BYTES: usize = 128 << 10;
