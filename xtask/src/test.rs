//! `cargo xtask test`: everything that must hold before a change goes in, and a sum at the end.
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{ebpf, packages, process, python, tidy};

/// What to test.
#[derive(clap::Args)]
pub struct Args {
    /// Unit tests only, and nothing is installed.
    #[arg(long)]
    quick: bool,
    /// Passed on to the test programs: a filter, or their options.
    #[arg(last = true)]
    filter: Vec<String>,
}

/// What test programs said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sum {
    passed: u32,
    failed: u32,
    /// Lines `skipped: what and why` that tests print when this machine lacks something.
    skipped: Vec<String>,
    /// Lines `not fetched: what and why` of tests whose other side is in no package of the system, and
    /// was not to be had. A registry that is away says nothing about this tree.
    not_fetched: Vec<String>,
}

impl Sum {
    /// Counts one line of output.
    fn line(&mut self, line: &str) {
        // Under --nocapture the line follows `test name ... ` without a newline.
        for (mark, told) in
            [("skipped: ", &mut self.skipped), ("not fetched: ", &mut self.not_fetched)]
        {
            if let Some((_, why)) = line.split_once(mark)
                && (line.starts_with(mark) || line.starts_with("test "))
            {
                told.push(why.to_owned());
            }
        }
        // `test result: ok. 3 passed; 0 failed; 0 ignored; ...`
        if let Some((_, counts)) = line.split_once("test result: ") {
            for count in counts.split(['.', ';']).map(str::trim) {
                match count.split_once(' ') {
                    Some((n, "passed")) => self.passed += n.parse::<u32>().unwrap_or(0),
                    Some((n, "failed")) => self.failed += n.parse::<u32>().unwrap_or(0),
                    _ => (),
                }
            }
        }
    }
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let missing = if args.quick {
        ebpf::Missing::Leave
    } else {
        packages::install()?;
        ebpf::Missing::Install
    };
    let mut failed = Vec::new();
    let mut step = |name: &str, result: Result<()>| {
        if let Err(error) = result {
            eprintln!("{name}: {error:#}");
            failed.push(name.to_owned());
        }
    };
    if !args.quick
        && let Err(error) = python::install()
    {
        eprintln!("not fetched: {error:#}");
    }
    println!("==> cargo xtask ebpf");
    step("ebpf", ebpf::prepare(missing).map(drop));
    println!("==> cargo fmt --all --check");
    step("fmt", process::run(cargo().args(["fmt", "--all", "--check"])));
    println!("==> cargo xtask tidy");
    step("tidy", tidy::run());
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    println!("==> cargo {}", clippy.join(" "));
    step("clippy", process::run(cargo().args(clippy)));
    let mut sum = Sum::default();
    step("test", cargo_test(args, &mut sum));
    println!("\npassed {}, failed {}, skipped {}", sum.passed, sum.failed, sum.skipped.len());
    for why in &sum.skipped {
        println!("  skipped: {why}");
    }
    for why in &sum.not_fetched {
        println!("  not fetched: {why}");
    }
    if !args.quick && !sum.skipped.is_empty() && kernel_path_works() {
        // `forwarder doctor` loads the kernel program and moves bytes through it.
        failed.push("tests were skipped although the kernel path works here".to_owned());
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    println!("all good");
    Ok(())
}

/// Runs the tests, shows what they print and counts.
fn cargo_test(args: &Args, sum: &mut Sum) -> Result<()> {
    let mut command = cargo();
    command.args(["test", "--workspace", "--no-fail-fast"]);
    if args.quick {
        command.args(["--lib", "--bins"]);
    }
    // What passed tests printed is shown too: that is where a skipped test says so.
    command.args(["--", "--show-output"]).args(&args.filter);
    println!("==> {}", process::show(&command));
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let output = child.stdout.take().context("no output of cargo")?;
    let mut stdout = std::io::stdout();
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        stdout.write_all(&line)?;
        stdout.write_all(b"\n")?;
        sum.line(&String::from_utf8_lossy(&line));
    }
    let status = child.wait()?;
    if !status.success() || sum.failed > 0 {
        bail!("{status}, {} tests failed", sum.failed);
    }
    Ok(())
}

fn kernel_path_works() -> bool {
    let mut doctor = cargo();
    doctor.args(["run", "--quiet", "--package", "forwarder", "--", "doctor"]);
    doctor.status().is_ok_and(|status| status.success())
}

fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(tidy::root());
    cargo
}

#[cfg(test)]
mod tests {
    use super::Sum;

    #[test]
    fn sums_over_programs_and_counts_what_was_skipped() {
        let mut sum = Sum::default();
        let output = "test a ... ok\n\
            test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; in 0.1s\n\
            skipped: needs ffmpeg 6\n\
            test b ... skipped: needs nginx\n\
            nothing was skipped: really\n\
            not fetched: a player from a registry\n\
            test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out\n";
        output.lines().for_each(|line| sum.line(line));
        let skipped = vec!["needs ffmpeg 6".to_owned(), "needs nginx".to_owned()];
        let not_fetched = vec!["a player from a registry".to_owned()];
        assert_eq!(sum, Sum { passed: 15, failed: 2, skipped, not_fetched });
    }
}
