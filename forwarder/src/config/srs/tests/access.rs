//! Who may come, in SRS's words.
use super::super::super::{Config, OnFailure};

fn vhost(block: &str) -> crate::config::Vhost {
    let text = format!("listen 1935; vhost __defaultVhost__ {{ {block} }}");
    let loaded = Config::from_srs_conf(&text).unwrap_or_else(|error| panic!("{error}"));
    // What is imported can be written and read again.
    let again = Config::from_toml(&loaded.config.to_toml(), "f.toml");
    assert_eq!(again.unwrap_or_else(|error| panic!("{error}")), loaded.config);
    loaded.config.vhosts.into_iter().next().expect("a vhost")
}

fn shown<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

#[test]
fn security_has_its_rules() {
    let security = vhost(
        "security { enabled on; deny play 1.2.3.4; deny play 5.6.7.8/16; allow publish all; \
         allow play 2001:db8::/32; deny publish ::1; }",
    )
    .security;
    assert!(security.enabled);
    assert_eq!(shown(&security.deny_play), ["1.2.3.4", "5.6.7.8/16"]);
    assert_eq!(shown(&security.allow_publish), ["all"]);
    assert_eq!(shown(&security.allow_play), ["2001:db8::/32"]);
    assert_eq!(shown(&security.deny_publish), ["::1"]);
    assert!(!vhost("security { deny play all; }").security.enabled);
}

#[test]
fn refer_has_its_domains_in_both_forms() {
    let refer = vhost("refer { enabled on; all github.com github.io; play a.example; }").refer;
    assert!(refer.enabled);
    assert_eq!(shown(&refer.all), ["github.com", "github.io"]);
    assert_eq!((shown(&refer.play), refer.publish.len()), (vec!["a.example".to_owned()], 0));
    let refer = vhost("refer github.com; refer_play a.example; refer_publish b.example;").refer;
    assert!(refer.enabled);
    assert_eq!(
        [shown(&refer.all), shown(&refer.play), shown(&refer.publish)].concat(),
        ["github.com", "a.example", "b.example"]
    );
}

#[test]
fn hooks_have_their_urls() {
    let hooks = vhost(
        "http_hooks { enabled on; on_connect http://127.0.0.1:8085/api/v1/clients http://h/b?k=1; \
         on_close http://127.0.0.1:8085/api/v1/clients; on_publish http://h/p; \
         on_unpublish http://h/u; on_play https://h/s; on_stop http://h/t; }",
    )
    .hooks;
    assert!(hooks.enabled && hooks.on_failure == OnFailure::Refuse);
    let urls: Vec<String> = hooks.on_connect.iter().map(|url| url.written()).collect();
    assert_eq!(urls, ["http://127.0.0.1:8085/api/v1/clients", "http://h/b?k=1"]);
    let one = |urls: &[crate::config::HttpUrl]| shown(urls).concat();
    assert_eq!(one(&hooks.on_publish), "http://h/p");
    assert_eq!(one(&hooks.on_unpublish), "http://h/u");
    assert_eq!(one(&hooks.on_play), "https://h/s");
    assert_eq!(one(&hooks.on_stop), "http://h/t");
    assert_eq!(vhost("http_hooks { enabled off; on_play ftp://h/s; }").hooks.on_play, []);
}

#[test]
fn what_would_let_strangers_in_is_refused() {
    for (block, want) in [
        ("security { enabled on; deny play; }", "a rule is an action and an address"),
        ("security { enabled on; deny view all; }", "expected publish or play"),
        ("security { enabled on; deny play 10.0.0.0/40; }", "not an address"),
        ("security { enabled on; deny play all all; }", "one address to a rule"),
        ("security { enabled on; forbid play all; }", "unknown directive"),
        ("refer { enabled on; all http://a; }", "not a domain"),
        ("refer { enabled on; some a; }", "unknown directive"),
        ("http_hooks { enabled on; on_play ftp://h/s; }", "a backend is a URL such as"),
        ("http_hooks { enabled on; on_play; }", "needs a value"),
        ("http_hooks { enabled on; on_plya http://h/s; }", "did you mean `on_play`?"),
    ] {
        let text = format!("vhost __defaultVhost__ {{ {block} }}");
        let error = Config::from_srs_conf(&text).expect_err(block).to_string();
        assert!(error.contains(want), "{block}: {error}");
    }
}
