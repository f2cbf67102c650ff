//! `cargo xtask ebpf`: builds the kernel program, with whichever compiler of this machine can.
//!
//! The program needs a compiler that has the sources of `core` beside it (there is no prebuilt one
//! for the bpf target) and bpf-linker. Two compilers qualify: rustup's nightly with rust-src, and
//! Debian's rustc-web. A machine that has neither still builds, runs and tests everything else.
use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cluster, packages, process, tidy};

/// What to build.
#[derive(clap::Args)]
pub struct Args {
    /// Fail if it cannot be built; without, that is said and no error.
    #[arg(long)]
    required: bool,
    /// With a line for each segment, shown by a server with the feature `bpf-log`. For debugging.
    #[arg(long)]
    log: bool,
}

/// How it went.
pub enum Outcome {
    /// Built now, by the route named.
    Built(String),
    /// Built before from the same sources.
    Current,
    /// It cannot be built here, and why.
    Impossible(String),
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let feature = if args.log { "log" } else { "program" };
    match prepare_with(feature, Missing::Install)? {
        Outcome::Impossible(why) if args.required => bail!("no kernel program: {why}"),
        _ => Ok(()),
    }
}

/// What to do about tools that are not there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Install them if we may.
    Install,
    /// Go on without.
    Leave,
}

/// Builds the program if its sources or tools have changed, and says in one line how that went.
/// An error only if tools that are there fail.
pub fn prepare(missing: Missing) -> Result<Outcome> {
    prepare_with("program", missing)
}

fn prepare_with(feature: &str, missing: Missing) -> Result<Outcome> {
    let mut tools = Tools::find();
    if missing == Missing::Install && tools.is_err() {
        match install() {
            Ok(()) => tools = Tools::find(),
            Err(why) => {
                tools = tools.map_err(|lacking| format!("{lacking}; {why:#}").replace('\n', "; "))
            }
        }
    }
    let outcome = match tools {
        Ok(tools) => tools.build(feature)?,
        Err(_) if is_of(&sources(&tidy::root())?) => Outcome::Current,
        Err(why) => Outcome::Impossible(why),
    };
    match &outcome {
        Outcome::Built(route) => println!("kernel program: built by {route}"),
        Outcome::Current => println!("kernel program: up to date"),
        Outcome::Impossible(why) => {
            // An object of other sources would be embedded, and not fit the server.
            let _ = fs::remove_file(object());
            let hint = match missing {
                Missing::Install => "",
                Missing::Leave => "; `cargo xtask setup` installs what it takes",
            };
            println!("kernel program: not built, legs stay in user space: {why}{hint}");
        }
    }
    Ok(outcome)
}

/// Whether the object there was made from what begins with `inputs`.
fn is_of(inputs: &str) -> bool {
    let made = fs::read_to_string(object().with_extension("inputs")).unwrap_or_default();
    object().is_file() && made.starts_with(inputs)
}

/// Where forwarder's build looks for the program.
fn object() -> PathBuf {
    cluster::target().join("bpf/forwarder.o")
}

/// A compiler that can, and what else it takes.
struct Tools {
    /// For people, with why another was not taken.
    route: String,
    cargo: Command,
    /// What the compiler and the linker say of themselves.
    versions: String,
}

impl Tools {
    /// rustup's nightly, else the system's compiler; an error says what is lacking.
    fn find() -> Result<Self, String> {
        let linker = linker().ok_or("there is no bpf-linker")?;
        let linker_version = output(Command::new(&linker).arg("--version"))
            .ok_or_else(|| format!("{} does not run", linker.display()))?;
        let nightly = Self::nightly();
        let (mut tools, not_taken) = match nightly {
            Ok(tools) => (tools, None),
            Err(why_not_nightly) => match Self::system() {
                Ok(tools) => (tools, Some(why_not_nightly)),
                Err(why_not_system) => return Err(format!("{why_not_nightly}, {why_not_system}")),
            },
        };
        if let Some(why) = not_taken {
            tools.route = format!("{} ({why})", tools.route);
        }
        tools.versions.push_str(&linker_version);
        let flags = format!("-C linker={} -C link-arg=--btf", linker.display());
        tools.cargo.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS", flags);
        Ok(tools)
    }

    fn nightly() -> Result<Self, String> {
        let rustup =
            |args: &[&str]| output(Command::new("rustup").args(["run", "nightly"]).args(args));
        let sysroot =
            rustup(&["rustc", "--print", "sysroot"]).ok_or("there is no rustup nightly")?;
        if !has_core(&sysroot) {
            return Err("rustup's nightly has no rust-src".to_owned());
        }
        let versions = rustup(&["rustc", "-vV"]).ok_or("rustup's nightly does not run")?;
        let mut cargo = Command::new("rustup");
        cargo.args(["run", "nightly", "cargo"]);
        Ok(Self { route: "rustup's nightly".to_owned(), cargo, versions })
    }

    fn system() -> Result<Self, String> {
        let rustc = || Command::new(SYSTEM_RUSTC);
        let sysroot =
            output(rustc().args(["--print", "sysroot"])).ok_or("there is no system rustc")?;
        if !has_core(&sysroot) {
            return Err("the system's rustc has no library sources".to_owned());
        }
        let versions = output(rustc().arg("-vV")).ok_or("the system's rustc does not run")?;
        let mut cargo = Command::new(SYSTEM_CARGO);
        // A stable compiler that may use what only nightly may: the target has no prebuilt core.
        cargo.env("RUSTC", SYSTEM_RUSTC).env("RUSTC_BOOTSTRAP", "1");
        Ok(Self { route: "the system's compiler".to_owned(), cargo, versions })
    }

    /// Compiles, unless the object there was made from the same.
    fn build(mut self, feature: &str) -> Result<Outcome> {
        let object = object();
        let inputs = format!("{} {feature}\n{}", sources(&tidy::root())?, self.versions);
        if is_of(&inputs) {
            return Ok(Outcome::Current);
        }
        let folder = cluster::target().join("bpf-build");
        // What cargo sets for the toolchain that runs us is not for the one that we run.
        for name in ["RUSTUP_TOOLCHAIN", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER"] {
            self.cargo.env_remove(name);
        }
        self.cargo
            .current_dir(tidy::root())
            .env("CARGO_PROFILE_RELEASE_LTO", "fat")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
            // The linker makes BTF from it, and the verifier's complaints name lines.
            .env("CARGO_PROFILE_RELEASE_DEBUG", "full")
            .args("build --quiet --locked --release --package forwarder-ebpf".split(' '))
            .args("--bin forwarder-bpf -Z build-std=core --features".split(' '))
            .args([feature, "--target", TARGET, "--target-dir"])
            .arg(&folder);
        process::run(&mut self.cargo).context("the kernel program does not compile")?;
        let built = folder.join(TARGET).join("release/forwarder-bpf");
        fs::create_dir_all(cluster::target().join("bpf"))?;
        fs::copy(&built, &object).with_context(|| format!("cannot copy {}", built.display()))?;
        fs::write(object.with_extension("inputs"), inputs)?;
        Ok(Outcome::Built(self.route))
    }
}

/// Hash of all files that decide what comes out.
fn sources(root: &Path) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    let crate_folder = root.join("forwarder-ebpf");
    let mut files = vec![crate_folder.join("Cargo.toml"), root.join("Cargo.lock")];
    for entry in fs::read_dir(crate_folder.join("src"))? {
        files.push(entry?.path());
    }
    files.sort();
    for file in files {
        let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        (file.file_name(), bytes).hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

/// Gets the system's compiler and the linker: packages as root, then the linker by cargo.
fn install() -> Result<()> {
    if !Path::new(SYSTEM_RUSTC).exists() || !Path::new(LLVM).join("bin/llvm-config").exists() {
        packages::get("the kernel program", PACKAGES)?;
    }
    if linker().is_some() {
        return Ok(());
    }
    println!(
        "installing for the kernel program: bpf-linker {LINKER_VERSION} (takes a minute or two)"
    );
    let mut paths = vec![Path::new(LLVM).join("bin")];
    paths.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .env("PATH", std::env::join_paths(paths)?)
        .env("LLVM_SYS_221_PREFIX", LLVM)
        .args(["install", "--quiet", "--locked", "bpf-linker", "--version", LINKER_VERSION])
        .args(["--no-default-features", "--features", "llvm-22"]);
    process::run(&mut cargo)
}

/// In PATH, or where cargo installs to.
fn linker() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(home.map(|home| home.join("bin")))
        .map(|folder| folder.join("bpf-linker"))
        .find(|linker| linker.is_file())
}

fn has_core(sysroot: &str) -> bool {
    let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
    library.is_dir()
}

/// What a command that succeeds prints.
fn output(command: &mut Command) -> Option<String> {
    // Which toolchain is asked is ours to say, not cargo's that runs us.
    let output = command.env_remove("RUSTUP_TOOLCHAIN").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then_some(text)
}

const TARGET: &str = "bpfel-unknown-none";
const SYSTEM_RUSTC: &str = "/usr/bin/rustc";
const SYSTEM_CARGO: &str = "/usr/bin/cargo";

/// Debian's LLVM 22, which both compilers' bitcode fits.
const LLVM: &str = "/usr/lib/llvm-22";
const LINKER_VERSION: &str = "0.13.0";

/// Debian packages: a compiler of this year with its library's sources, and LLVM to build the
/// linker with.
const PACKAGES: &[&str] = &[
    "rustc-web",
    "cargo-web",
    "rust-web-src",
    "llvm-22-dev",
    "libpolly-22-dev",
    "libzstd-dev",
    "zlib1g-dev",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_decide_whether_it_is_built_again() {
        let folder = std::env::temp_dir().join(format!("xtask-ebpf-{}", std::process::id()));
        fs::create_dir_all(folder.join("forwarder-ebpf/src")).unwrap();
        for file in ["Cargo.lock", "forwarder-ebpf/Cargo.toml", "forwarder-ebpf/src/main.rs"] {
            fs::write(folder.join(file), file).unwrap();
        }
        let first = sources(&folder).unwrap();
        assert_eq!(first, sources(&folder).unwrap());
        fs::write(folder.join("forwarder-ebpf/src/main.rs"), "changed").unwrap();
        let second = sources(&folder).unwrap();
        assert_ne!(first, second);
        fs::write(folder.join("forwarder-ebpf/src/walk.rs"), "").unwrap();
        assert_ne!(second, sources(&folder).unwrap());
        fs::remove_dir_all(folder).unwrap();
    }
}
