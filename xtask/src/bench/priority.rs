//! Who of the load goes before the rest of it.
use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;

use crate::process;

/// Before the rest of the load go those whose delay would look like the server's, so much.
const STEPS: i32 = 10;
/// Nothing goes before this.
const FIRST: i32 = -20;

/// Whether [`raise`] does anything.
pub fn may_raise() -> bool {
    geteuid().is_root() && process::exists("renice") && own() > FIRST
}

/// The nice value of this process.
pub fn own() -> i32 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    nice(&stat).unwrap_or_default()
}

/// Field 19; the name, field 2, is in parentheses and may hold spaces.
fn nice(stat: &str) -> Option<i32> {
    stat.rsplit_once(") ")?.1.split(' ').nth(16)?.parse().ok()
}

/// Puts the threads that publish and sample before those that only count, if we may.
pub fn raise() -> Result<()> {
    if !may_raise() {
        return Ok(());
    }
    let mut renice = Command::new("renice");
    renice.args(["-n", &(own() - STEPS).max(FIRST).to_string(), "-p"]);
    for task in fs::read_dir("/proc/self/task")? {
        let path = task?.path();
        // It may have ended since.
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        if ["probe", "sink", "publish-"].iter().any(|one| name.starts_with(one)) {
            renice.args(path.file_name());
        }
    }
    renice.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = renice.status().context("renice")?;
    if !status.success() {
        bail!("renice: {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nice_value_is_found_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 20 -5 1 0 99";
        assert_eq!(nice(stat), Some(-5));
        assert_eq!(nice("7 (a"), None);
        assert!((FIRST..20).contains(&own()));
    }
}
