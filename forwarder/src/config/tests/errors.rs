//! Refusals of the TOML form, word for word.
use super::super::Config;

#[test]
fn every_refusal_names_place_text_and_mend() {
    for (name, text, want) in REFUSALS {
        let error = Config::from_toml(text, "f.toml").expect_err(name);
        assert_eq!(error.to_string(), *want, "{name}");
    }
}

/// What is wrong, the text, the message.
const REFUSALS: &[(&str, &str, &str)] = &[
    (
        "a misspelt key",
        "max_conections = 1\n",
        r#"f.toml:1:1: unknown key `max_conections`
  |
1 | max_conections = 1
  | ^^^^^^^^^^^^^^
  = did you mean `max_connections`?"#,
    ),
    (
        "a token that no header can carry",
        "[http_api]\ntoken = \"a b\"\n",
        r#"f.toml:2:9: a token consists of letters, digits and -._~+/=
  |
2 | token = "a b"
  |         ^^^^^"#,
    ),
    (
        "a key of a feature that is not there",
        "dash = true\n",
        r#"f.toml:1:1: unknown key `dash`
  |
1 | dash = true
  | ^^^^
  = known here: listen, max_connections, threads, pid, resolver, drain_timeout, drain_to, kernel, kernel_backlog_limit, io_uring, rtmps, tls, chunk_size, log, http_api, exporter, http_server, vhost"#,
    ),
    (
        "a key in the wrong table",
        "[[vhost]]\ngop_cache = true\n",
        r#"f.toml:2:1: unknown key `gop_cache`
  |
2 | gop_cache = true
  | ^^^^^^^^^
  = `gop_cache` belongs in [vhost.play]"#,
    ),
    (
        "a top level key below a table",
        "[log]\nlisten = 1935\n",
        r#"f.toml:2:1: unknown key `listen`
  |
2 | listen = 1935
  | ^^^^^^
  = `listen` belongs at the top, above every [table]"#,
    ),
    (
        "a misspelt key behind a tab",
        "[[vhost]]\n[vhost.forward]\n\tdestinaton = [\"a\"]\n",
        r#"f.toml:3:2: unknown key `destinaton`
  |
3 |  destinaton = ["a"]
  |  ^^^^^^^^^^
  = did you mean `destination`?"#,
    ),
    (
        "a key twice",
        "threads = 1\nthreads = 2\n",
        r#"f.toml:2:1: duplicate key
  |
2 | threads = 2
  | ^^^^^^^"#,
    ),
    (
        "broken syntax",
        "listen = [\"1935\"\n",
        r#"f.toml:1:17: unclosed array, expected `]`
  |
1 | listen = ["1935"
  |                 ^"#,
    ),
    (
        "one listener twice",
        "listen = [\"1935\", \"0.0.0.0:1935\"]\n",
        r#"f.toml:1:19: 0.0.0.0:1935 stands here twice
  |
1 | listen = ["1935", "0.0.0.0:1935"]
  |                   ^^^^^^^^^^^^^^"#,
    ),
    (
        "a host name to listen on",
        "listen = \"localhost:1935\"\n",
        r#"f.toml:1:10: `localhost:1935` is not an address to listen on
  |
1 | listen = "localhost:1935"
  |          ^^^^^^^^^^^^^^^^
  = write "1935", "0.0.0.0:1935" or "[::]:1935""#,
    ),
    (
        "no listener",
        "listen = []\n",
        r#"f.toml:1:10: nothing to listen on
  |
1 | listen = []
  |          ^^
  = write listen = ["0.0.0.0:1935"]"#,
    ),
    (
        "a pid file without a name",
        "pid = \"\"\n",
        r#"f.toml:1:7: an empty path
  |
1 | pid = ""
  |       ^^
  = take the key out for none"#,
    ),
    (
        "a listener of the wrong type",
        "listen = true\n",
        r#"f.toml:1:10: invalid type: boolean `true`, expected an address to listen on or a list of them
  |
1 | listen = true
  |          ^^^^"#,
    ),
    (
        "a port that is too large",
        "[http_api]\nlisten = 70000\n",
        r#"f.toml:2:10: 70000 is not a port
  |
2 | listen = 70000
  |          ^^^^^"#,
    ),
    (
        "a number out of range",
        "max_connections = 0\n",
        r#"f.toml:1:19: 0 is out of range
  |
1 | max_connections = 0
  |                   ^
  = from 1 to 10000000"#,
    ),
    (
        "a number in quotes",
        "max_connections = \"10\"\n",
        r#"f.toml:1:19: a whole number stands without quotes
  |
1 | max_connections = "10"
  |                   ^^^^
  = from 1 to 10000000, not "10""#,
    ),
    (
        "a fraction",
        "max_connections = 1.5\n",
        r#"f.toml:1:19: invalid type: floating point `1.5`, expected a whole number
  |
1 | max_connections = 1.5
  |                   ^^^"#,
    ),
    (
        "a word for a switch",
        "[http_api]\nenabled = \"on\"\n",
        r#"f.toml:2:11: invalid type: string "on", expected a boolean
  |
2 | enabled = "on"
  |           ^^^^"#,
    ),
    (
        "a duration without a unit",
        "drain_timeout = 30\n",
        r#"f.toml:1:17: a duration needs a unit
  |
1 | drain_timeout = 30
  |                 ^^
  = write "30s" or "30ms""#,
    ),
    (
        "a server without a scheme",
        "drain_to = \"other.example\"\n",
        r#"f.toml:1:12: `other.example` is no server
  |
1 | drain_to = "other.example"
  |            ^^^^^^^^^^^^^^^
  = write "rtmp://host:1935""#,
    ),
    (
        "a server with a path",
        "drain_to = \"rtmp://other.example/live\"\n",
        r#"f.toml:1:12: `other.example/live` is not a host name or address
  |
1 | drain_to = "rtmp://other.example/live"
  |            ^^^^^^^^^^^^^^^^^^^^^^^^^^^"#,
    ),
    (
        "a duration with an unknown unit",
        "drain_timeout = \"30 sec\"\n",
        r#"f.toml:1:17: `30 sec` is not a duration
  |
1 | drain_timeout = "30 sec"
  |                 ^^^^^^^^
  = a duration is a whole number and a unit: "10s" (ns, us, ms, s, m, h)"#,
    ),
    (
        "a duration that is too long",
        "drain_timeout = \"25h\"\n",
        r#"f.toml:1:17: a duration is at most 24h
  |
1 | drain_timeout = "25h"
  |                 ^^^^^"#,
    ),
    (
        "a deadline of nothing",
        "[[vhost]]\n[vhost.play]\nqueue_length = \"0s\"\n",
        r#"f.toml:3:16: must be at least 100ms
  |
3 | queue_length = "0s"
  |                ^^^^"#,
    ),
    (
        "a size with an unknown unit",
        "[[vhost]]\n[vhost.play]\nqueue_bytes = \"16 cups\"\n",
        r#"f.toml:3:15: `16 cups` is not a size
  |
3 | queue_bytes = "16 cups"
  |               ^^^^^^^^^
  = a size is a whole number with or without a unit: "16MiB" (K, M, G, KiB, MiB, GiB)"#,
    ),
    (
        "a size that is too small",
        "[[vhost]]\n[vhost.play]\nqueue_bytes = 1\n",
        r#"f.toml:3:15: 1 bytes is out of range
  |
3 | queue_bytes = 1
  |               ^
  = from 64KiB to 64GiB"#,
    ),
    (
        "a misspelt log level",
        "[log]\nlevel = \"inof\"\n",
        r#"f.toml:2:9: `inof` is not a log level
  |
2 | level = "inof"
  |         ^^^^^^
  = did you mean `info`?"#,
    ),
    (
        "a broken log filter",
        "[log]\nlevel = \"a=b=c\"\n",
        r#"f.toml:2:9: `a=b=c` is not a log filter: error parsing level filter: expected one of "off", "error", "warn", "info", "debug", "trace", or a number 0-5
  |
2 | level = "a=b=c"
  |         ^^^^^^^"#,
    ),
    (
        "one table for the list of vhosts",
        "[vhost]\nname = \"a\"\n",
        r#"f.toml:1:1: vhosts are a list
  |
1 | [vhost]
  | ^^^^^^^
  = write [[vhost]], in double brackets"#,
    ),
    (
        "a chunk size that is too small",
        "[[vhost]]\nchunk_size = 127\n",
        r#"f.toml:2:14: 127 is out of range
  |
2 | chunk_size = 127
  |              ^^^
  = from 128 to 65536"#,
    ),
    (
        "a default chunk size that is too large",
        "chunk_size = 65537\n",
        r#"f.toml:1:14: 65537 is out of range
  |
1 | chunk_size = 65537
  |              ^^^^^
  = from 128 to 65536"#,
    ),
    (
        "a blank in a vhost's name",
        "[[vhost]]\nname = \"a b\"\n",
        r#"f.toml:2:8: `a b` is not a vhost's name
  |
2 | name = "a b"
  |        ^^^^^"#,
    ),
    (
        "one vhost twice",
        "[[vhost]]\nname = \"a\"\n[[vhost]]\nname = \"a\"\n",
        r#"f.toml:3:1: vhost `a` stands here twice
  |
3 | [[vhost]]
  | ^^^^^^^^^"#,
    ),
    (
        "a forward without a destination",
        "[[vhost]]\n[vhost.forward]\nenabled = true\n",
        r#"f.toml:3:11: forward is on and has no destination
  |
3 | enabled = true
  |           ^^^^
  = add destination = ["host:1935"]"#,
    ),
    (
        "an edge without an origin",
        "[[vhost]]\n[vhost.edge]\nenabled = true\n",
        r#"f.toml:3:11: edge is on and has no origin
  |
3 | enabled = true
  |           ^^^^
  = add origin = ["host:1935"]"#,
    ),
    (
        "a vhost for the origin that is none",
        "[[vhost]]\n[vhost.edge]\nvhost = \"[host]/\"\n",
        r#"f.toml:3:9: `[host]/` is not a vhost's name
  |
3 | vhost = "[host]/"
  |         ^^^^^^^^^
  = write a name or "[vhost]""#,
    ),
    (
        "one destination twice",
        "[[vhost]]\n[vhost.forward]\ndestination = [\n  \"a\",\n  \"a:1935\",\n]\n",
        r#"f.toml:5:3: a:1935 stands here twice
  |
5 |   "a:1935",
  |   ^^^^^^^^"#,
    ),
    (
        "a URL that names no stream",
        "[[vhost]]\n[vhost.forward]\ndestination = \"rtmp://a/live\"\n",
        r#"f.toml:3:15: empty stream
  |
3 | destination = "rtmp://a/live"
  |               ^^^^^^^^^^^^^^^
  = write "rtmp://host/app/stream"; [app] and [stream] stand for the publisher's"#,
    ),
    (
        "a URL whose host is the publisher's choice",
        "[[vhost]]\n[[vhost.forward.to]]\nurl = \"rtmp://[app]/live/a\"\n",
        r#"f.toml:3:7: `[app]` is not a host name or address
  |
3 | url = "rtmp://[app]/live/a"
  |       ^^^^^^^^^^^^^^^^^^^^^"#,
    ),
    (
        "a variable that is none",
        "[[vhost]]\n[[vhost.forward.to]]\nurl = \"rtmp://a/live/[name]\"\n",
        r#"f.toml:3:7: `[name]` has no place there
  |
3 | url = "rtmp://a/live/[name]"
  |       ^^^^^^^^^^^^^^^^^^^^^^
  = known are [vhost], [app], [stream] and [param]"#,
    ),
    (
        "a port as destination",
        "[[vhost]]\n[vhost.forward]\ndestination = 1935\n",
        r#"f.toml:3:15: 1935 is not a destination
  |
3 | destination = 1935
  |               ^^^^
  = write "host:1935""#,
    ),
    (
        "a backend that speaks no HTTP",
        "[[vhost]]\n[vhost.hooks]\non_play = \"rtmps://a/b\"\n",
        r#"f.toml:3:11: a backend is a URL such as `http://127.0.0.1:8085/api/v1/hooks`
  |
3 | on_play = "rtmps://a/b"
  |           ^^^^^^^^^^^^^"#,
    ),
    (
        "a token that nobody can have",
        "[[vhost]]\n[vhost.tokens]\nplay = true\n",
        r#"f.toml:2:1: a token is wanted that nobody can have
  |
2 | [vhost.tokens]
  | ^^^^^^^^^^^^^^
  = add a secret, or a publish_key or play_key"#,
    ),
];
