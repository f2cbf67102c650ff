//! Tables of names and URLs, good ones and hostile ones.
use super::*;

fn character(part: &'static str, c: char) -> UrlError {
    UrlError::Character(part, c)
}

#[test]
#[rustfmt::skip] // a row a line
fn requests_are_normalised() {
    for (name, tc_url, app, stream, expected) in [
        ("plain", "rtmp://h/live", "live", "s", ["h", "live", "s", ""]),
        ("port", "rtmp://h:1936/live", "live", "s", ["h", "live", "s", ""]),
        ("IPv6", "rtmp://[::1]:1936/live", "live", "s", ["::1", "live", "s", ""]),
        ("other scheme", "rtmpt://h/live", "live", "s", ["h", "live", "s", ""]),
        ("instance", "rtmp://h/app/inst", "app/inst", "s", ["h", "app/inst", "s", ""]),
        ("default instance", "rtmp://h/live/_definst_", "live/_definst_", "s", ["h", "live", "s", ""]),
        ("default instance before the stream", "rtmp://h/live", "live", "_definst_/s", ["h", "live", "s", ""]),
        ("slash behind the app", "rtmp://h/live/", "live/", "s", ["h", "live", "s", ""]),
        ("slash before the stream", "rtmp://h/live", "live", "/s", ["h", "live", "s", ""]),
        ("slashes in a row", "rtmp://h//live//", "live", "//s/", ["h", "live", "s", ""]),
        ("stream with slashes", "rtmp://h/live", "live", "a/s", ["h", "live/a", "s", ""]),
        ("parameters", "rtmp://h/live", "live", "s?k=v&e=1", ["h", "live", "s", "k=v&e=1"]),
        ("parameter with a slash", "rtmp://h/live", "live", "s?sig=a/b+c==", ["h", "live", "s", "sig=a/b+c=="]),
        ("parameter with a question mark", "rtmp://h/live", "live", "s?u=a?b", ["h", "live", "s", "u=a?b"]),
        ("parameter without a value", "rtmp://h/live", "live", "s?flag&&k=v&", ["h", "live", "s", "flag&k=v"]),
        ("question mark alone", "rtmp://h/live", "live", "s?", ["h", "live", "s", ""]),
        ("vhost behind the app", "rtmp://h/live?vhost=v", "live?vhost=v", "s", ["v", "live", "s", ""]),
        ("vhost behind the stream", "rtmp://h/live", "live", "s?vhost=v", ["v", "live", "s", ""]),
        ("vhost among parameters", "rtmp://h/live", "live", "s?a=1&vhost=v&b=2", ["v", "live", "s", "a=1&b=2"]),
        ("parameters in both places", "rtmp://h/live?vhost=v&a=1", "live", "s?b=2", ["v", "live", "s", "b=2&a=1"]),
        ("vhosts in both places", "rtmp://h/live?vhost=v", "live", "s?vhost=w", ["w", "live", "s", ""]),
        ("hash for a question mark", "rtmp://h/live#vhost=v", "live", "s", ["v", "live", "s", ""]),
        ("dots for a question mark", "rtmp://h/live...vhost...v", "live...vhost...v", "s", ["v", "live", "s", ""]),
        ("dots behind the stream", "rtmp://h/live", "live", "s...vhost...v", ["v", "live", "s", ""]),
        ("domain", "rtmp://h/live?domain=v", "live", "s", ["v", "live", "s", ""]),
        ("vhost goes before domain", "rtmp://h/live", "live", "s?domain=d&vhost=v", ["v", "live", "s", ""]),
        ("empty vhost", "rtmp://h/live", "live", "s?vhost=", ["h", "live", "s", ""]),
        ("name of the default vhost", "rtmp://h/live?vhost=__defaultVhost__", "live", "s", ["h", "live", "s", ""]),
        ("stream in the app", "rtmp://h/live/s", "live/s", "", ["h", "live", "s", ""]),
        ("stream in the app, with parameters", "rtmp://h/live/s?k=v", "live/s", "", ["h", "live", "s", "k=v"]),
        ("stream in the app, parameters alone", "rtmp://h/live/s", "live/s", "?k=v", ["h", "live", "s", "k=v"]),
        ("no app", "rtmp://h", "", "s", ["h", "live", "s", ""]),
        ("app only outside the tcUrl", "rtmp://h/", "a/b?vhost=v", "s", ["v", "a/b", "s", ""]),
        ("tcUrl goes before app", "rtmp://h/a", "b", "s", ["h", "a", "s", ""]),
        ("white space around", " rtmp://h/live\r\n", "live\n", "\ts\n", ["h", "live", "s", ""]),
        ("spaces inside", "rtmp://h/my live", "my live", "a b", ["h", "mylive", "ab", ""]),
        ("UTF-8", "rtmp://h/živě", "živě", "канал", ["h", "živě", "канал", ""]),
        ("dot inside", "rtmp://h/live", "live", "s.flv", ["h", "live", "s.flv", ""]),
        ("percent sign", "rtmp://h/live", "live", "100%", ["h", "live", "100%", ""]),
        ("harmless percent code", "rtmp://h/live", "live", "a%20b", ["h", "live", "a%20b", ""]),
    ] {
        let request = Request::resolve(tc_url, app, stream).unwrap_or_else(|e| panic!("{name}: {e}"));
        let Request { vhost, app, stream, param } = &request;
        assert_eq!([vhost, app, stream, param].map(String::as_str), expected, "{name}");
        let key = StreamKey::new(vhost, app, stream).unwrap();
        assert_eq!((key.vhost(), key.app(), key.stream()), (expected[0], expected[1], expected[2]));
    }
}

#[test]
#[rustfmt::skip] // a row a line
fn hostile_requests_are_refused() {
    let long = |n: usize| "a".repeat(n);
    let too_long = |part, len, limit| UrlError::TooLong { part, len, limit };
    for (name, tc_url, stream, expected) in [
        ("nothing", "", "s", UrlError::Empty("tcUrl")),
        ("no scheme", "h/live", "s", UrlError::Scheme),
        ("no host", "rtmp:///live", "s", UrlError::Empty("host")),
        ("user", "rtmp://u:p@h/live", "s", UrlError::User),
        ("no stream", "rtmp://h/live", "", UrlError::Empty("stream")),
        ("no stream nor app", "rtmp://h", "", UrlError::Empty("stream")),
        ("only slashes", "rtmp://h/live", "///", UrlError::Empty("stream")),
        ("60 kB of tcUrl", &long(60_000), "s", too_long("tcUrl", 60_000, MAX_LEN)),
        ("60 kB of stream", "rtmp://h/live", &long(60_000), too_long("stream", 60_000, MAX_LEN)),
        ("256 bytes of stream", "rtmp://h/live", &long(256), too_long("stream", 256, 255)),
        ("256 bytes of app", &format!("rtmp://h/a/{}", long(254)), "s", too_long("app", 256, 255)),
        ("256 bytes of vhost", "rtmp://h/live", &format!("s?vhost={}", long(256)), too_long("vhost", 256, 255)),
        ("line end in tcUrl", "rtmp://h/live\r\nGET /", "s", character("tcUrl", '\r')),
        ("terminal escape in tcUrl", "rtmp://h/\x1b[31mlive", "s", character("tcUrl", '\x1b')),
        ("line end in stream", "rtmp://h/live", "a\nb", character("stream", '\n')),
        ("NUL in stream", "rtmp://h/live", "a\0b", character("stream", '\0')),
        ("NUL in a parameter", "rtmp://h/live", "a?k=\0", character("stream", '\0')),
        ("C1 control character", "rtmp://h/live", "a\u{9b}b", character("stream", '\u{9b}')),
        ("backslash", "rtmp://h/live", r"a\b", character("stream", '\\')),
        ("app that climbs", "rtmp://h/../../etc", "s", UrlError::Dots("app")),
        ("stream that climbs", "rtmp://h/live", "..", UrlError::Dots("stream")),
        ("stream that climbs inside", "rtmp://h/live", "a/../b", UrlError::Dots("app")),
        ("hidden file", "rtmp://h/live", ".ssh", UrlError::Dots("stream")),
        ("dots in a row", "rtmp://h/live", "a..b", UrlError::Dots("stream")),
        ("encoded dots", "rtmp://h/live", "%2e%2e", UrlError::Dots("stream")),
        ("half encoded dots", "rtmp://h/live", "a.%2Eb", UrlError::Dots("stream")),
        ("encoded slash", "rtmp://h/live", "a%2fb", character("stream", '/')),
        ("encoded backslash", "rtmp://h/live", "a%5cb", character("stream", '\\')),
        ("encoded NUL", "rtmp://h/live", "a%00", character("stream", '\0')),
        ("encoded dots in the app", "rtmp://h/%2e%2e/x", "s", UrlError::Dots("app")),
        ("slash in vhost", "rtmp://h/live", "s?vhost=a/b", character("vhost", '/')),
        ("vhost that climbs", "rtmp://h/live", "s?vhost=..", UrlError::Dots("vhost")),
        ("five elements of app", "rtmp://h/a/b/c/d/e", "s", UrlError::Depth),
        ("port that is none", "rtmp://h:x/live", "s", UrlError::Port),
    ] {
        assert_eq!(Request::resolve(tc_url, "live", stream), Err(expected), "{name}");
    }
    let fits = Request::resolve("rtmp://h/a/b/c/d", "", &format!("{}?k={}", long(255), long(3000)));
    assert_eq!(fits.unwrap().app, "a/b/c/d");
}

#[test]
fn keys_are_checked_and_displayed() {
    let key = |vhost, app, stream| StreamKey::new(vhost, app, stream);
    assert_eq!(key(DEFAULT_VHOST, "live", "s").unwrap().to_string(), "/live/s");
    assert_eq!(key("v.example", "a/b", "s").unwrap().to_string(), "v.example/a/b/s");
    assert_ne!(key("v", "live", "s"), key("V", "live", "s"), "byte for byte");
    for (vhost, app, stream, expected) in [
        ("", "a", "s", UrlError::Empty("vhost")),
        ("v", "", "s", UrlError::Empty("app")),
        ("v", "a", "", UrlError::Empty("stream")),
        ("v", "/a", "s", UrlError::Empty("app")),
        ("v", "a/", "s", UrlError::Empty("app")),
        ("v", "a//b", "s", UrlError::Empty("app")),
        ("v", "a/.b", "s", UrlError::Dots("app")),
        ("v", "a", "b/s", character("stream", '/')),
        ("v", "a", "s?k=v", character("stream", '?')),
        ("v", "a?vhost=v", "s", character("app", '?')),
        ("v", "a", "s#k", character("stream", '#')),
        ("v/w", "a", "s", character("vhost", '/')),
        ("v", "a", "s\u{7f}", character("stream", '\u{7f}')),
    ] {
        assert_eq!(key(vhost, app, stream), Err(expected), "{vhost:?} {app:?} {stream:?}");
    }
}

#[test]
#[rustfmt::skip] // a row a line
fn urls_are_parsed_and_put_together() {
    for (text, host, port, app, stream, tc_url) in [
        ("rtmp://h/live/s", "h", 1935, "live", "s", "rtmp://h/live"),
        ("RTMP://h:1935/live/s", "h", 1935, "live", "s", "rtmp://h/live"),
        ("rtmp://h:19350/a/b/s", "h", 19350, "a/b", "s", "rtmp://h:19350/a/b"),
        ("rtmp://127.0.0.1:1/live/s", "127.0.0.1", 1, "live", "s", "rtmp://127.0.0.1:1/live"),
        ("rtmp://[2001:db8::1]/live/s", "2001:db8::1", 1935, "live", "s", "rtmp://[2001:db8::1]/live"),
        ("rtmp://[::1]:65535/live/s", "::1", 65535, "live", "s", "rtmp://[::1]:65535/live"),
        ("rtmp://h/live/s?token=a/b&c", "h", 1935, "live", "s?token=a/b&c", "rtmp://h/live"),
        ("rtmp://h/live?vhost=v/s", "h", 1935, "live", "s?vhost=v", "rtmp://h/live"),
        ("rtmp://h/live/_definst_/s", "h", 1935, "live", "s", "rtmp://h/live"),
        ("rtmp://h//live/s/", "h", 1935, "live", "s", "rtmp://h/live"),
        ("rtmp://h/live/s?", "h", 1935, "live", "s", "rtmp://h/live"),
    ] {
        let url = text.parse::<RtmpUrl>().unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(
            (url.host.as_str(), url.port, url.app.as_str(), url.stream.as_str(), url.tc_url().as_str()),
            (host, port, app, stream, tc_url),
            "{text}"
        );
        let again = format!("{}/{}", url.tc_url(), url.stream).parse();
        assert_eq!(again, Ok(url), "{text}: the same URL again");
    }
}

#[test]
fn urls_that_are_none_are_refused() {
    for (text, expected) in [
        ("", UrlError::Scheme),
        ("h/live/s", UrlError::Scheme),
        ("http://h/live/s", UrlError::Scheme),
        ("rtmp:/h/live/s", UrlError::Scheme),
        ("rtmps://h/live/s", UrlError::Tls),
        ("RTMPS://h/live/s", UrlError::Tls),
        ("rtmp://u@h/live/s", UrlError::User),
        ("rtmp:///live/s", UrlError::Empty("host")),
        ("rtmp://:1935/live/s", UrlError::Empty("host")),
        ("rtmp://::1/live/s", UrlError::Host),
        ("rtmp://[::1/live/s", UrlError::Host),
        ("rtmp://[::1]x/live/s", UrlError::Host),
        ("rtmp://[h]/live/s", UrlError::Host),
        ("rtmp://h:/live/s", UrlError::Port),
        ("rtmp://h:0/live/s", UrlError::Port),
        ("rtmp://h:+80/live/s", UrlError::Port),
        ("rtmp://h:65536/live/s", UrlError::Port),
        ("rtmp://h", UrlError::Empty("stream")),
        ("rtmp://h/s", UrlError::Empty("stream")),
        ("rtmp://h/live/?k=v", UrlError::Empty("stream")),
        ("rtmp://h/../s", UrlError::Dots("app")),
        ("rtmp://h/live/%2e%2e", UrlError::Dots("stream")),
        ("rtmp://h/live/s\n", character("URL", '\n')),
    ] {
        assert_eq!(text.parse::<RtmpUrl>(), Err(expected), "{text:?}");
    }
}

#[test]
fn text_for_logs_is_escaped_and_capped() {
    assert_eq!(escaped("rtmp://h/live").to_string(), "rtmp://h/live");
    assert_eq!(escaped("a\r\n\x1b[31m\0b").to_string(), r"a\r\n\u{1b}[31m\0b");
    assert_eq!(escaped("\u{202e}\"\\").to_string(), r#"\u{202e}\"\\"#);
    assert_eq!(escaped(&"ř".repeat(256)).to_string(), "ř".repeat(256));
    assert_eq!(escaped(&"ř".repeat(257)).to_string(), "ř".repeat(256) + "...");
}
