//! Each rule finds what it is for and lets clean code pass.
use super::{Violation, check_rust, files, manifest};

/// Messages for `text` as `path`, as `line: message`.
fn check(path: &str, text: &str) -> Vec<String> {
    let mut out = Vec::new();
    check_rust(path, text, &mut out);
    messages(out)
}

fn messages(mut violations: Vec<Violation>) -> Vec<String> {
    violations.sort();
    violations.iter().map(|v| format!("{}: {}", v.line, v.message)).collect()
}

const RTMP: &str = "forwarder/src/rtmp/chunk/reader.rs";
const HUB: &str = "forwarder/src/hub/log.rs";

#[test]
fn clean_code_passes() {
    let text = "//! Without tokio or unsafe: todo!() is a word here.\n\
        use std::time::Instant;\n\
        use crate::rtmp::{Timestamp, message::kind};\n\
        /* tokio */ const A: &str = \"tokio // unsafe\"; const B: &str = r#\"rand::\"#;\n\
        fn f(now: Instant) -> char { '\"' }\n\
        let ip = host.parse::<std::net::Ipv6Addr>();\n\
        #![forbid(unsafe_code)]\n";
    assert_eq!(check(RTMP, text), [""; 0]);
}

#[test]
fn the_core_has_no_runtime_no_clock_no_sockets_no_randomness_no_files() {
    let text = "//! x\nuse tokio::time;\nuse std::net::TcpStream;\nlet t = Instant::now();\n\
        let t = std::time::SystemTime::UNIX_EPOCH;\nrand::random();\nstd::fs::read(p);\n";
    let expected = [
        "2: `tokio` in forwarder/src/rtmp/",
        "3: `std::net` in forwarder/src/rtmp/",
        "4: `Instant::now` in forwarder/src/rtmp/",
        "5: `SystemTime` in forwarder/src/rtmp/",
        "6: `rand::` in forwarder/src/rtmp/",
        "7: `std::fs` in forwarder/src/rtmp/",
    ];
    assert_eq!(check(RTMP, text), expected);
    assert_eq!(check("forwarder/src/conn/mod.rs", text), [""; 0]);
}

#[test]
fn unit_tests_may_use_what_the_code_may_not() {
    let inline = "//! x\n#[cfg(test)]\nmod tests {\n    fn f() { Instant::now(); }\n}\n";
    assert_eq!(check(RTMP, inline), [""; 0]);
    let golden = "//! x\nuse std::fs;\nuse crate::hub;\n";
    assert_eq!(check("forwarder/src/rtmp/session/tests.rs", golden), [""; 0]);
    assert_eq!(check("forwarder/src/rtmp/golden.rs", golden), [""; 0]);
}

#[test]
fn code_after_a_test_module_in_its_own_file_is_still_code() {
    let text = "//! x\n#[cfg(test)]\nmod tests;\nuse std::fs;\n";
    assert_eq!(check(RTMP, text), ["4: `std::fs` in forwarder/src/rtmp/"]);
}

#[test]
fn the_hub_knows_no_sockets_and_no_configuration() {
    let text = "//! x\nuse tokio::net::TcpStream;\nuse crate::config::Config;\n";
    let expected = [
        "2: `tokio::net` in forwarder/src/hub/",
        "3: `config::` in forwarder/src/hub/",
        "3: hub may not import config",
    ];
    assert_eq!(check(HUB, text), expected);
    assert_eq!(check(HUB, "//! x\nuse tokio::sync::Notify;\nuse crate::rtmp;\n"), [""; 0]);
}

#[test]
fn imports_go_downwards() {
    let upwards = [
        (RTMP, "crate::hub::Hub", "rtmp may not import hub"),
        (RTMP, "crate::status::Snapshot", "rtmp may not import status"),
        (HUB, "crate::conn::Shard", "hub may not import conn"),
        ("forwarder/src/conn/shard.rs", "crate::forward::Forwarder", "conn may not import forward"),
        ("forwarder/src/forward/mod.rs", "crate::http::serve", "forward may not import http"),
        ("forwarder/src/edge.rs", "crate::server::Server", "edge may not import server"),
        ("forwarder/src/status.rs", "crate::hub::Hub", "status may not import hub"),
    ];
    for (path, import, message) in upwards {
        let text = format!("//! x\nuse {import};\n");
        assert_eq!(check(path, &text), [format!("2: {message}")], "{path}");
        assert_eq!(check("forwarder/src/cli/run.rs", &text), [""; 0]);
        assert_eq!(check("xtask/src/run.rs", &text), [""; 0]);
    }
}

#[test]
fn groups_of_imports_are_taken_apart() {
    let text = "//! x\nuse crate::{\n    rtmp::{Timestamp, url},\n    conn::Shard, http,\n};\n\
        fn f() -> crate::forward::Forwarder { crate::Error }\n";
    let expected = [
        "4: hub may not import conn",
        "4: hub may not import http",
        "6: hub may not import forward",
    ];
    assert_eq!(check(HUB, text), expected);
}

#[test]
fn unsafe_and_aya_have_an_address() {
    let text = "//! x\nlet x = unsafe { f() };\nuse aya::Ebpf;\n";
    let found = check("forwarder/src/conn/mod.rs", text);
    assert_eq!(found.len(), 2);
    assert!(found[0].starts_with("2: `unsafe` outside"), "{found:?}");
    assert_eq!(found[1], "3: `aya` outside forwarder/src/splice/");
    assert_eq!(check("forwarder/src/splice/load.rs", text), [""; 0]);
    let mapping = "//! x\nlet x = unsafe { f() };\n";
    assert_eq!(check("forwarder/src/hub/segment.rs", mapping), [""; 0]);
    assert_eq!(check("xtask/src/main.rs", mapping).len(), 1);
}

#[test]
fn placeholders_are_found_even_in_tests() {
    let text = "//! x\nfn f() { todo!() }\n#[cfg(test)]\nmod tests {\n#[ignore]\n\
        fn g() { dbg!(1); unimplemented!() }\n}\n";
    let expected = ["2: `todo!(`", "5: `#[ignore`", "6: `dbg!(`", "6: `unimplemented!(`"];
    assert_eq!(check("xtask/src/main.rs", text), expected);
}

#[test]
fn shape_of_files() {
    assert_eq!(
        check("a.rs", "use x;\n"),
        ["1: does not start with `//!` and what the file is for"]
    );
    assert_eq!(check("a.rs", "//! x \n\tlet a;\n"), ["1: trailing whitespace", "2: tab"]);
    let long = format!("//! x\n{}", "let a;\n".repeat(600));
    assert_eq!(check("a.rs", &long), ["0: 601 lines, more than 600: split it"]);
}

#[test]
fn literals_of_several_lines_keep_their_spaces() {
    let text = "//! x\nconst A: &str = r#\"a \n\t\"b\" \n\"#; \nconst B: &str = \"a \nb\";\n";
    assert_eq!(check("a.rs", text), ["4: trailing whitespace"]);
}

#[test]
fn a_line_break_of_markdown_is_not_trailing_whitespace() {
    let mut out = Vec::new();
    files::check_whitespace("README.md", "a  \nb \n", &mut out);
    assert_eq!(messages(out), ["2: trailing whitespace"]);
}

#[test]
fn dependencies_have_a_reason() {
    let text = "[package]\nname = \"x\"\n[workspace.dependencies]\n# why\na = \"1\"\nb-c = \"1\"\n\
        # what\ntoml = \"1\"\n[profile.release]\nlto = 1\n";
    let mut out = Vec::new();
    manifest::check(text, Some("We use `a`, b-c-d and toml-edit."), &mut out);
    let expected = [
        "6: ARCHITECTURE.md does not name `b-c`",
        "6: no comment above `b-c` that says what it is for",
        "8: ARCHITECTURE.md does not name `toml`",
    ];
    assert_eq!(messages(out), expected);
}
