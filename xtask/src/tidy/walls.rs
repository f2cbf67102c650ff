//! Which folder may use what, and import whom.
use super::Violation;
use super::source::{Source, has_word};

/// Words a folder's shipped code must do without.
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "forwarder/src/rtmp/",
        &["tokio", "std::net", "Instant::now", "SystemTime", "rand::", "std::fs"],
    ),
    ("forwarder/src/hub/", &["tokio::net", "std::net", "toml", "config::"]),
];

/// Names that begin like a forbidden one and do no I/O: an address is a value.
const HARMLESS: &[&str] = &["std::net::Ipv4Addr", "std::net::Ipv6Addr", "std::net::IpAddr"];

/// Modules of the crate that each one may import besides itself. Those not named may import all:
/// they put the server together.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("rtmp", &[]),
    ("status", &[]),
    ("tls", &["splice"]),
    ("config", &["rtmp", "tls"]),
    ("telemetry", &["config"]),
    ("hub", &["rtmp", "status"]),
    ("privilege", &[]),
    ("splice", &["privilege", "rtmp", "status"]),
    ("access", &["config", "rtmp"]),
    ("look_ups", &[]),
    ("hooks", &["config", "look_ups", "rtmp", "status", "telemetry", "tls"]),
    (
        "conn",
        &[
            "access",
            "config",
            "hooks",
            "hub",
            "look_ups",
            "rtmp",
            "splice",
            "status",
            "telemetry",
            "tls",
        ],
    ),
    ("forward", &["config", "conn", "hooks", "hub", "rtmp", "status", "telemetry", "tls"]),
    ("edge", &["config", "conn", "forward", "hub", "rtmp", "splice", "status", "telemetry"]),
    ("http", &["config", "conn", "hub", "rtmp", "status", "telemetry"]),
];

/// Where `unsafe` may stand.
const UNSAFE: &[&str] = &[
    "forwarder/src/splice/",
    "forwarder/src/hub/segment.rs",
    "forwarder/src/conn/ring.rs",
    "forwarder-ebpf/",
];

/// Forbidden words, `unsafe` and `aya` outside their places.
pub fn check_words(path: &str, source: &Source, out: &mut Vec<Violation>) {
    for (number, line) in source.all() {
        if has_word(line, "unsafe") && !UNSAFE.iter().any(|place| path.starts_with(place)) {
            let message = format!("`unsafe` outside {}", UNSAFE.join(", "));
            out.push(Violation::new(path, number, message));
        }
        let kernel_side = ["forwarder/src/splice/", "forwarder-ebpf/"];
        if has_word(line, "aya") && !kernel_side.iter().any(|place| path.starts_with(place)) {
            out.push(Violation::new(path, number, "`aya` outside forwarder/src/splice/"));
        }
    }
    if is_test_file(path) {
        return;
    }
    for (folder, words) in FORBIDDEN.iter().filter(|(folder, _)| path.starts_with(folder)) {
        for (number, line) in source.shipped() {
            let line = HARMLESS.iter().fold(line.to_owned(), |line, name| line.replace(name, ""));
            for word in words.iter().filter(|word| has_word(&line, word)) {
                out.push(Violation::new(path, number, format!("`{word}` in {folder}")));
            }
        }
    }
}

/// Imports that go up or sideways.
pub fn check_imports(path: &str, source: &Source, out: &mut Vec<Violation>) {
    let Some(module) = module_of(path) else {
        return;
    };
    let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) else {
        return;
    };
    if is_test_file(path) {
        return;
    }
    for (number, imported) in imports(source) {
        if imported != module && !allowed.contains(&imported.as_str()) {
            let message = format!("{module} may not import {imported}");
            out.push(Violation::new(path, number, message));
        }
    }
}

fn is_test_file(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name == "tests.rs" || name == "golden.rs" || path.contains("/tests/")
}

/// The module of the crate that a file belongs to.
fn module_of(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("forwarder/src/")?;
    inside.split_once('/').map(|(module, _)| module).or_else(|| inside.strip_suffix(".rs"))
}

/// First names after `crate::` in shipped code, with their lines; groups are taken apart.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    // Depth of braces inside a `crate::{` group; names at depth 1 are modules.
    let mut depth = 0_usize;
    for (number, line) in source.shipped() {
        let mut rest = line;
        loop {
            if depth == 0 {
                let Some(at) = find_crate(rest) else { break };
                rest = &rest[at..];
                match rest.strip_prefix('{') {
                    Some(group) => (depth, rest) = (1, group),
                    None => found.extend(leading_name(rest).map(|name| (number, name))),
                }
            } else {
                (depth, rest) = read_group(rest, depth, &mut |name| found.push((number, name)));
                if depth > 0 {
                    break;
                }
            }
        }
    }
    found
}

/// Where the name after the next `crate::` starts.
fn find_crate(line: &str) -> Option<usize> {
    const CRATE: &str = "crate::";
    let at = line.match_indices(CRATE).find(|(at, _)| {
        let before = line[..*at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    });
    at.map(|(at, _)| at + CRATE.len())
}

/// Reads on inside a group: gives the depth at the end and what follows its closing brace.
fn read_group<'a>(
    line: &'a str,
    mut depth: usize,
    module: &mut dyn FnMut(String),
) -> (usize, &'a str) {
    let mut fresh = true;
    for (at, c) in line.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' => fresh = true,
            _ if c.is_whitespace() => (),
            _ => {
                if depth == 1 && fresh {
                    leading_name(&line[at..]).into_iter().for_each(&mut *module);
                }
                fresh = false;
            }
        }
        if depth == 0 {
            return (0, &line[at + 1..]);
        }
    }
    (depth, "")
}

fn leading_name(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    // A capital is an item of the crate's root, a lower case letter a module.
    name.starts_with(char::is_lowercase).then_some(name)
}
