//! Dependencies are hired with a reason: in the manifest, and in ARCHITECTURE.md.
use super::Violation;

const PATH: &str = "Cargo.toml";

/// Each dependency of the workspace has a comment above it and is named in `architecture`.
pub fn check(manifest: &str, architecture: Option<&str>, out: &mut Vec<Violation>) {
    let mut inside = false;
    let mut previous = "";
    for (at, line) in manifest.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            inside = line == "[workspace.dependencies]";
        } else if inside && let Some((name, _)) = line.split_once('=') {
            let name = name.trim();
            if !previous.starts_with('#') {
                let message = format!("no comment above `{name}` that says what it is for");
                out.push(Violation::new(PATH, at + 1, message));
            }
            if architecture.is_some_and(|text| !names(text, name)) {
                let message = format!("ARCHITECTURE.md does not name `{name}`");
                out.push(Violation::new(PATH, at + 1, message));
            }
        }
        previous = line;
    }
}

/// Whether `text` has `name` as a crate's name: `toml` does not stand in `toml-edit`.
fn names(text: &str, name: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    text.match_indices(name).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + name.len()..].chars().next();
        !before.is_some_and(part_of_name) && !after.is_some_and(part_of_name)
    })
}
