//! A shard: one thread, one runtime, its share of the sockets.

use std::cell::{RefCell, RefMut};
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio_util::task::TaskTracker;

use super::Context;
use super::client::Clients;
use super::fanout::Fanout;

type Job = Box<dyn FnOnce(Rc<Shard>) + Send>;

/// What the tasks of one shard share.
#[derive(Debug)]
pub struct Shard {
    context: Arc<Context>,
    fanout: Rc<Fanout>,
    clients: Clients,
    tasks: TaskTracker,
    load: Arc<AtomicUsize>,
    scratch: RefCell<Box<[u8]>>,
}

impl Shard {
    /// What all shards share.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Runs `task` on this shard to its end, also while the process stops.
    pub fn spawn(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        self.load.fetch_add(1, Ordering::Relaxed);
        let load = Arc::clone(&self.load);
        self.tasks.spawn_local(async move {
            task.await;
            load.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// One receive buffer for every socket of the shard: sessions keep nothing that is whole.
    pub fn scratch(&self) -> RefMut<'_, Box<[u8]>> {
        self.scratch.borrow_mut()
    }

    pub(super) fn fanout(&self) -> &Rc<Fanout> {
        &self.fanout
    }

    pub(super) fn clients(&self) -> &Clients {
        &self.clients
    }
}

/// How other threads give a shard work.
#[derive(Clone, Debug)]
pub struct ShardHandle {
    jobs: mpsc::Sender<Job>,
    load: Arc<AtomicUsize>,
}

impl ShardHandle {
    /// Runs `job` on the shard's thread; it may spawn tasks there. Waits while the shard has too
    /// many jobs; after the shard has ended the job is dropped.
    pub async fn run(&self, job: impl FnOnce(Rc<Shard>) + Send + 'static) {
        // Jobs that wait count as load, or a burst would all go to one shard.
        self.load.fetch_add(1, Ordering::Relaxed);
        let job = |shard: Rc<Shard>| {
            job(Rc::clone(&shard));
            shard.load.fetch_sub(1, Ordering::Relaxed);
        };
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
            let load = Arc::new(AtomicUsize::new(0));
            handles.push(ShardHandle { jobs, load: Arc::clone(&load) });
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let context = Arc::clone(context);
            let thread = thread::Builder::new().name(format!("shard-{at}"));
            threads.push(thread.spawn(move || {
                let shard = Rc::new(Shard {
                    context,
                    fanout: Rc::default(),
                    clients: Clients::default(),
                    tasks: TaskTracker::new(),
                    load,
                    scratch: RefCell::new(vec![0; SCRATCH_BYTES].into()),
                });
                LocalSet::new().block_on(&runtime, shard_main(shard, inbox));
            })?);
        }
        Ok(Self { handles, threads })
    }

    /// The shard with the least to do.
    pub fn least_loaded(&self) -> &ShardHandle {
        let load = |handle: &&ShardHandle| handle.load.load(Ordering::Relaxed);
        self.handles.iter().min_by_key(load).unwrap_or(&self.handles[0])
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
