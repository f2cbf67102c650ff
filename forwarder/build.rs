//! Gives `--version` the git hash, when the sources are a checkout and git is there, and the
//! binary the kernel program, when somebody has built it.
//!
//! Nothing is built here but what cargo builds: `cargo xtask ebpf` makes the kernel program, and a
//! host without it gets a server that carries every leg in user space.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    git_hash();
    kernel_program();
}

fn git_hash() {
    let suffix = git(&["rev-parse", "--short=10", "HEAD"])
        .map_or_else(String::new, |hash| format!(" (git {hash})"));
    println!("cargo::rustc-env=FORWARDER_GIT_SUFFIX={suffix}");
    // The log of HEAD grows with every commit and checkout.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"])
        && Path::new(&log).exists()
    {
        println!("cargo::rerun-if-changed={log}");
    }
}

/// Copies `$FORWARDER_BPF_OBJECT`, else `target/bpf/forwarder.o`, to where the sources include it
/// from, and sets `bpf_object`.
fn kernel_program() {
    const OBJECT: &str = "FORWARDER_BPF_OBJECT";
    println!("cargo::rustc-check-cfg=cfg(bpf_object)");
    println!("cargo::rerun-if-env-changed={OBJECT}");
    println!("cargo::rerun-if-env-changed=CARGO_TARGET_DIR");
    let object = match env::var_os(OBJECT) {
        Some(object) => {
            println!("cargo::rerun-if-changed={}", object.display());
            PathBuf::from(object)
        }
        None => {
            let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
            let folder = Path::new("..").join(target).join("bpf");
            // A path that is not there would count as changed in every build.
            if fs::create_dir_all(&folder).is_ok() {
                println!("cargo::rerun-if-changed={}", folder.display());
            }
            let object = folder.join("forwarder.o");
            if !object.exists() {
                return;
            }
            object
        }
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    match fs::copy(&object, out.join("forwarder.o")) {
        Ok(_) => println!("cargo::rustc-cfg=bpf_object"),
        Err(error) => println!("cargo::error=cannot copy {}: {error}", object.display()),
    }
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned()).filter(|text| !text.is_empty())
}
