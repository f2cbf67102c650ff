//! Refusals of SRS's `.conf`, word for word.
use crate::config::Config;

#[test]
fn every_refusal_names_place_text_and_mend() {
    for (name, text, want) in REFUSALS {
        let error = Config::from_srs_conf(text).expect_err(name);
        assert_eq!(error.to_string(), *want, "{name}");
    }
}

/// What is wrong, the text, the message.
const REFUSALS: &[(&str, &str, &str)] = &[
    (
        "a misspelt directive",
        "listne 1935;",
        r#"srs.conf:1:1: unknown directive `listne`
  |
1 | listne 1935;
  | ^^^^^^
  = did you mean `listen`?"#,
    ),
    (
        "a directive of no server",
        "foo bar;",
        r#"srs.conf:1:1: unknown directive `foo`
  |
1 | foo bar;
  | ^^^
  = SRS does not know it here either"#,
    ),
    (
        "no semicolon at the end",
        "listen 1935",
        r#"srs.conf:1:8: a `;` is missing after this
  |
1 | listen 1935
  |        ^^^^"#,
    ),
    (
        "no semicolon before a directive",
        "max_connections 1000\nlisten 1935;",
        r#"srs.conf:2:1: `max_connections` takes one value
  |
2 | listen 1935;
  | ^^^^^^
  = is a `;` missing before this?"#,
    ),
    (
        "no semicolon in a list",
        "listen 1935\nmax_connections 1000;",
        r#"srs.conf:2:1: `max_connections` is not an address to listen on
  |
2 | max_connections 1000;
  | ^^^^^^^^^^^^^^^
  = write "1935", "0.0.0.0:1935" or "[::]:1935""#,
    ),
    (
        "an open block",
        "listen 1935;\nvhost a {\n",
        r#"srs.conf:2:9: this `{` is never closed
  |
2 | vhost a {
  |         ^"#,
    ),
    (
        "a brace too many",
        "listen 1935; }",
        r#"srs.conf:1:14: this `}` closes nothing
  |
1 | listen 1935; }
  |              ^"#,
    ),
    (
        "a lone semicolon",
        "; listen 1935;",
        r#"srs.conf:1:1: a directive's name must stand before this
  |
1 | ; listen 1935;
  | ^"#,
    ),
    (
        "an open quote",
        "pid \"a;\n",
        r#"srs.conf:1:5: this quote is never closed
  |
1 | pid "a;
  |     ^"#,
    ),
    (
        "blocks without end",
        "a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { ",
        r#"srs.conf:1:67: too many blocks inside each other
  |
1 | { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a 
  |                                                             ^"#,
    ),
    (
        "a word for a number",
        "max_connections many;",
        r#"srs.conf:1:17: expected a whole number from 1 to 10000000, not `many`
  |
1 | max_connections many;
  |                 ^^^^"#,
    ),
    (
        "a number out of range",
        "max_connections 0;",
        r#"srs.conf:1:17: 0 is out of range
  |
1 | max_connections 0;
  |                 ^
  = from 1 to 10000000"#,
    ),
    (
        "no value",
        "listen;",
        r#"srs.conf:1:1: `listen` needs a value
  |
1 | listen;
  | ^^^^^^"#,
    ),
    (
        "an unknown log level",
        "srs_log_level loud;",
        r#"srs.conf:1:15: expected verbose, info, trace, warn or error, not `loud`
  |
1 | srs_log_level loud;
  |               ^^^^"#,
    ),
    (
        "an include without a directory",
        "include a.conf;",
        r#"srs.conf:1:1: there is no directory to include from
  |
1 | include a.conf;
  | ^^^^^^^"#,
    ),
    (
        "a vhost without a name",
        "vhost { }",
        r#"srs.conf:1:1: `vhost` needs a value
  |
1 | vhost { }
  | ^^^^^"#,
    ),
    (
        "one vhost twice",
        "vhost a { } vhost a { }",
        r#"srs.conf:1:19: vhost `a` stands here twice
  |
1 | vhost a { } vhost a { }
  |                   ^"#,
    ),
    (
        "a misspelt block",
        "vhost a { securty { } }",
        r#"srs.conf:1:11: unknown directive `securty`
  |
1 | vhost a { securty { } }
  |           ^^^^^^^
  = did you mean `security`?"#,
    ),
    (
        "ingest",
        "vhost a { ingest i { enabled on; } }",
        r#"srs.conf:1:11: `ingest i` is not supported
  |
1 | vhost a { ingest i { enabled on; } }
  |           ^^^^^^
  = without it, its inputs would not be pulled; if that is fine, take it out"#,
    ),
    (
        "exec",
        "vhost a { exec { enabled on; } }",
        r#"srs.conf:1:11: `exec` is not supported
  |
1 | vhost a { exec { enabled on; } }
  |           ^^^^
  = without it, its programs would not be started; if that is fine, take it out"#,
    ),
    (
        "an edge without an origin",
        "vhost a { cluster { mode remote; } }",
        r#"srs.conf:1:11: an edge needs an origin
  |
1 | vhost a { cluster { mode remote; } }
  |           ^^^^^^^
  = add `origin host:1935;`"#,
    ),
    (
        "one origin twice",
        "vhost a { cluster { mode remote; origin b b:1935; } }",
        r#"srs.conf:1:43: b:1935 stands here twice
  |
1 | vhost a { cluster { mode remote; origin b b:1935; } }
  |                                           ^^^^^^"#,
    ),
    (
        "an edge that pulls by HTTP",
        "vhost a { cluster { mode remote; origin b; protocol flv; } }",
        r#"srs.conf:1:44: `protocol flv` is not supported
  |
1 | vhost a { cluster { mode remote; origin b; protocol flv; } }
  |                                            ^^^^^^^^
  = without it, origins would be asked by RTMP; if that is fine, take it out"#,
    ),
    (
        "a vhost for the origin that is none",
        "vhost a { cluster { mode remote; origin b; vhost a/b; } }",
        r#"srs.conf:1:50: `a/b` is not a vhost's name
  |
1 | vhost a { cluster { mode remote; origin b; vhost a/b; } }
  |                                                  ^^^
  = write a name or "[vhost]""#,
    ),
    (
        "an origin cluster",
        "vhost a { cluster { origin_cluster on; } }",
        r#"srs.conf:1:21: `origin_cluster on` is not supported
  |
1 | vhost a { cluster { origin_cluster on; } }
  |                     ^^^^^^^^^^^^^^
  = without it, players would not be sent to the origin that has their stream; if that is fine, take it out"#,
    ),
    (
        "a misspelt directive of cluster",
        "vhost a { cluster { mod remote; } }",
        r#"srs.conf:1:21: unknown directive `mod`
  |
1 | vhost a { cluster { mod remote; } }
  |                     ^^^
  = did you mean `mode`?"#,
    ),
    (
        "a backend that would be sent a password",
        "vhost a { forward { enabled on; backend https://u:p@h; } }",
        r#"srs.conf:1:41: a backend's URL has no user in it
  |
1 | vhost a { forward { enabled on; backend https://u:p@h; } }
  |                                         ^^^^^^^^^^^^^
  = put a key into its query"#,
    ),
    (
        "a URL that names no stream",
        "vhost a { forward { enabled on; destination rtmp://a/live; } }",
        r#"srs.conf:1:45: empty stream
  |
1 | vhost a { forward { enabled on; destination rtmp://a/live; } }
  |                                             ^^^^^^^^^^^^^
  = write "rtmp://host/app/stream"; [app] and [stream] stand for the publisher's"#,
    ),
    (
        "one destination twice",
        "vhost a { forward { enabled on; destination a a:1935; } }",
        r#"srs.conf:1:47: a:1935 stands here twice
  |
1 | vhost a { forward { enabled on; destination a a:1935; } }
  |                                               ^^^^^^"#,
    ),
    (
        "a deadline of nothing",
        "vhost a { play { queue_length 0; } }",
        r#"srs.conf:1:31: must be at least 100ms
  |
1 | vhost a { play { queue_length 0; } }
  |                               ^"#,
    ),
    (
        "a misspelt directive of play",
        "vhost a { play { queue_lenght 10; } }",
        r#"srs.conf:1:18: unknown directive `queue_lenght`
  |
1 | vhost a { play { queue_lenght 10; } }
  |                  ^^^^^^^^^^^^
  = did you mean `queue_length`?"#,
    ),
    (
        "a misspelt directive of publish",
        "vhost a { publish { normal_timout 10; } }",
        r#"srs.conf:1:21: unknown directive `normal_timout`
  |
1 | vhost a { publish { normal_timout 10; } }
  |                     ^^^^^^^^^^^^^
  = did you mean `normal_timeout`?"#,
    ),
    (
        "a chunk size that is too small",
        "vhost a { chunk_size 100; }",
        r#"srs.conf:1:22: 100 is out of range
  |
1 | vhost a { chunk_size 100; }
  |                      ^^^
  = from 128 to 65536"#,
    ),
    (
        "a latency that is too long",
        "vhost a { play { mw_latency 999999999; } }",
        r#"srs.conf:1:29: a duration is at most 24h
  |
1 | vhost a { play { mw_latency 999999999; } }
  |                             ^^^^^^^^^"#,
    ),
    (
        "an API with a password",
        "http_api { enabled on; auth { enabled on; } }",
        r#"srs.conf:1:24: `auth` is not supported
  |
1 | http_api { enabled on; auth { enabled on; } }
  |                        ^^^^
  = without it, everybody who reaches the API could use it; if that is fine, take it out"#,
    ),
    (
        "a directive the API does not have",
        "http_api { port 1985; }",
        r#"srs.conf:1:12: unknown directive `port`
  |
1 | http_api { port 1985; }
  |            ^^^^
  = SRS does not know it here either"#,
    ),
];
