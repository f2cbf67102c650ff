//! `cargo xtask soak splice`: legs under random load for as long as one likes, every byte compared.
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use forwarder::splice::soak::{Soaked, soak};
use forwarder::splice::{Mode, Splice, WhyNot};

use crate::process;

/// Which streams.
#[derive(clap::Args)]
pub struct Args {
    /// Streams on each path.
    #[arg(long, default_value_t = 200)]
    iterations: u64,
    /// Of each stream, but for those that one end cuts short.
    #[arg(long, default_value_t = 16 << 20)]
    bytes: usize,
    /// Which path.
    #[arg(long, value_enum, default_value_t = Path::Both)]
    path: Path,
    /// Of the first stream; the next ones count up from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Streams at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// No stream begins after so many seconds on one path.
    #[arg(long, default_value_t = 600)]
    max_seconds: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Path {
    Kernel,
    User,
    Both,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    if args.path != Path::User {
        let splice = Splice::start(Mode::Always);
        if let Some(why) = splice.why_not() {
            bail!("the kernel carries nothing here: {why}");
        }
        soak_path("kernel", &Arc::new(splice), args)?;
    }
    if args.path != Path::Kernel {
        soak_path("user", &Arc::new(Splice::user(WhyNot::Disabled)), args)?;
    }
    Ok(())
}

/// Streams of one path, `jobs` at a time, until the first that is wrong.
fn soak_path(path: &str, splice: &Arc<Splice>, args: &Args) -> Result<()> {
    let begin = Instant::now();
    let end = begin + Duration::from_secs(args.max_seconds);
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let sum = Mutex::new(Soaked::default());
    let failures = Mutex::new(Vec::new());
    let is_over = || stop.load(Ordering::Relaxed) || process::interrupted() || Instant::now() > end;
    thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                while !is_over() {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= args.iterations {
                        return;
                    }
                    match soak(1, args.bytes, splice, args.seed.wrapping_add(n)) {
                        Ok(soaked) => add(&sum, soaked, path, begin),
                        Err(wrong) => {
                            failures.lock().unwrap_or_else(PoisonError::into_inner).push(wrong);
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{}", line(path, &sum, begin.elapsed(), failures.len()));
    check_forgotten(splice)?;
    match failures.as_slice() {
        [] if sum.iterations == 0 => bail!("{path}: no stream was carried"),
        [] => process::check_interrupt(),
        failures => bail!("{path}: {}", failures.join("\n")),
    }
}

/// Counts one stream, and says how far it is now and then.
fn add(sum: &Mutex<Soaked>, soaked: Soaked, path: &str, begin: Instant) {
    let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
    sum.iterations += soaked.iterations;
    sum.bytes += soaked.bytes;
    sum.unsplices += soaked.unsplices;
    sum.cuts += soaked.cuts;
    sum.redirected += soaked.redirected;
    sum.overs += soaked.overs;
    if sum.iterations.is_multiple_of(SAY_EVERY) {
        println!("  {}", line(path, &sum, begin.elapsed(), 0));
    }
}

fn line(path: &str, sum: &Soaked, took: Duration, wrong: usize) -> String {
    format!(
        "{path}: {} streams ({} cut short), {} bytes compared, {} redirected in the kernel, \
         {} returns ({} over the soft limit), {wrong} wrong, {:.0} s",
        sum.iterations,
        sum.cuts,
        sum.bytes,
        sum.redirected,
        sum.unsplices,
        sum.overs,
        took.as_secs_f64(),
    )
}

/// Whether the kernel has forgotten all pairs; it takes a moment.
fn check_forgotten(splice: &Splice) -> Result<()> {
    let begin = Instant::now();
    loop {
        match splice.pairs()? {
            0 => return Ok(()),
            n if begin.elapsed() > FORGOTTEN_WITHIN => {
                bail!("the kernel's maps still have {n} pairs")
            }
            _ => thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Streams between two lines of progress.
const SAY_EVERY: u64 = 50;
/// How long the last pairs may take to go.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(5);
