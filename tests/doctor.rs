//! What `forwarder doctor` says, with each set of privileges.
mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::unistd::geteuid;

/// The binary where an unprivileged user can run it.
fn program(dir: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let copy = dir.join("forwarder");
    std::fs::copy(env!("CARGO_BIN_EXE_forwarder"), &copy).expect("copy");
    for path in [dir, &copy] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("mode");
    }
    copy
}

/// `forwarder doctor` as nobody with these capabilities.
fn doctor(program: &Path, capabilities: &[&str]) -> Output {
    let set: String = capabilities.iter().map(|name| format!(",+{name}")).collect();
    Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(format!("--bounding-set=-all{set}"))
        .arg(format!("--inh-caps=-all{set}"))
        .arg(format!("--ambient-caps=-all{set}"))
        .arg(program)
        .arg("doctor")
        .output()
        .expect("setpriv (util-linux)")
}

#[test]
fn the_kernel_path_needs_three_capabilities_and_says_so() {
    if !geteuid().is_root() {
        println!("skipped: only root can take capabilities away");
        return;
    }
    let dir = tempfile::tempdir().expect("folder");
    let program = program(dir.path());
    let all = ["bpf", "net_admin", "perfmon"];
    let full = doctor(&program, &all);
    let text = String::from_utf8_lossy(&full.stdout).into_owned();
    if text.contains("not supported") || text.contains("built without") {
        println!("skipped: no kernel path here: {text}");
        assert_eq!(full.status.code(), Some(1), "{text}");
        return;
    }
    assert_eq!(full.status.code(), Some(0), "{text}");
    assert!(text.contains("self-test: passed"), "{text}");
    assert!(text.ends_with("splice: kernel\n"), "{text}");
    for missing in 0..all.len() {
        let mut some = all.to_vec();
        let without = some.remove(missing);
        let output = doctor(&program, &some);
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "without {without}: {text}");
        assert!(text.contains("splice: user ("), "without {without}: {text}");
        let lacks = format!("CAP_{} no", without.to_uppercase());
        assert!(text.contains(&lacks), "without {without}: {text}");
    }
    let none = doctor(&program, &[]);
    let text = String::from_utf8_lossy(&none.stdout);
    assert!(text.contains("splice: user (not permitted"), "{text}");
    assert!(text.contains("mend: run as root"), "{text}");
}
