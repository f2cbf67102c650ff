//! The relay under test: accepts, dials the sink, and has a leg carry what comes.
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use forwarder::splice::{Leg, LegOptions, LegPath, LegStatus, Mode, Splice, WhyNot};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::sleep;

use super::Way;
use super::load::CHUNK;
use crate::net::loopback;
use crate::process;

/// Where to listen, whom to dial, how to carry.
#[derive(Clone, Copy, clap::Args)]
pub struct Args {
    #[arg(long)]
    listen: u16,
    #[arg(long)]
    sink: u16,
    /// A connection here is answered with [`Carried`] as JSON.
    #[arg(long)]
    control: u16,
    #[arg(long, value_enum)]
    way: Way,
}

/// What legs say of themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Legs in the kernel at this moment.
    pub in_kernel: u64,
    /// Legs in user space.
    pub in_user: u64,
    /// How often they have come back from the kernel.
    pub returns: u64,
}

impl Carried {
    fn add(&mut self, status: LegStatus) {
        match status.path {
            LegPath::Kernel => self.in_kernel += 1,
            LegPath::User => self.in_user += 1,
        }
        self.returns += status.unsplices;
    }
}

/// Relays until killed.
pub fn run(args: &Args) -> Result<()> {
    process::raise_open_files()?;
    let splice = match args.way {
        Way::Copy | Way::Splice => Splice::user(WhyNot::Disabled),
        Way::Kernel | Way::KernelWalk => Splice::start(Mode::Always),
        Way::Auto => Splice::start(Mode::Auto),
        Way::Direct | Way::Haproxy => bail!("{} is no leg of ours", args.way.name()),
    };
    if let Some(why) = splice.why_not().filter(|_| args.way.needs_kernel()) {
        bail!("the kernel carries nothing here: {why}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, serve(args, &Arc::new(splice)))
}

async fn serve(args: &Args, splice: &Arc<Splice>) -> Result<()> {
    let listener = TcpListener::bind(loopback(args.listen)).await?;
    let control = TcpListener::bind(loopback(args.control)).await?;
    let (ask, asked) = watch::channel(());
    let board = Rc::<RefCell<Carried>>::default();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (source, _) = accepted?;
                let leg = dial(source, *args, Arc::clone(splice));
                let (asked, board) = (asked.clone(), Rc::clone(&board));
                spawn_local(async move {
                    // A sink that is not there yet was a look at whether we listen.
                    if let Ok(leg) = leg.await {
                        carry(leg, asked, &board).await;
                    }
                });
            }
            accepted = control.accept() => {
                let (asker, _) = accepted?;
                *board.borrow_mut() = Carried::default();
                ask.send_replace(());
                spawn_local(answer(asker, Rc::clone(&board)));
            }
        }
    }
}

async fn dial(source: TcpStream, args: Args, splice: Arc<Splice>) -> Result<Leg> {
    let target = TcpStream::connect(loopback(args.sink)).await?;
    source.set_nodelay(true)?;
    target.set_nodelay(true)?;
    let options = LegOptions {
        chunk_size: CHUNK,
        // A leg that has to know where the chunks stand reads all it carries: a plain copy.
        walk: matches!(args.way, Way::Copy | Way::KernelWalk),
        soft_limit: SOFT_LIMIT,
        hard_limit: HARD_LIMIT,
        write_timeout: Duration::from_secs(30),
    };
    let mut leg = Leg::new(&splice, Rc::new(source), Rc::new(target), options);
    leg.arm();
    Ok(leg)
}

/// Until it ends; says how it does whenever asked.
async fn carry(mut leg: Leg, mut asked: watch::Receiver<()>, board: &RefCell<Carried>) {
    asked.mark_unchanged();
    loop {
        tokio::select! {
            biased;
            ended = leg.run() => {
                eprintln!("a leg ended: {ended:?}");
                return;
            }
            changed = asked.changed() => {
                if changed.is_err() {
                    return;
                }
                board.borrow_mut().add(leg.status());
            }
        }
    }
}

async fn answer(mut asker: TcpStream, board: Rc<RefCell<Carried>>) {
    sleep(ANSWER_AFTER).await;
    let carried = *board.borrow();
    if let Ok(json) = serde_json::to_vec(&carried) {
        // An asker that is gone has no question any more.
        _ = asker.write_all(&json).await;
    }
}

/// By then every leg has been asked.
const ANSWER_AFTER: Duration = Duration::from_millis(300);
/// Bytes on their way above which a leg comes back from the kernel, and never exceeded.
const SOFT_LIMIT: usize = 4 << 20;
const HARD_LIMIT: usize = 64 << 20;
