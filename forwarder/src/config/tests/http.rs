//! Players over HTTP, in both forms of a configuration.
use super::super::{Config, HttpRemux, HttpServer, Loaded};

fn srs(text: &str) -> Loaded {
    Config::from_srs_conf(text).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn what_srs_has_of_it_is_taken_over() {
    let loaded = srs("
        http_server { enabled on; listen 8088 [::]:8089; dir ./objs/nginx/html; crossdomain off; }
        vhost __defaultVhost__ {
            http_remux {
                enabled on; mount [vhost]/[app]/[stream].flv; hstrs on; fast_cache 0;
                guess_has_av off; has_audio off; has_video on; drop_if_not_match on;
            }
        }
        vhost other { http_remux { enabled on; mount [vhost]/x/[stream].aac; fast_cache 30; } }
    ");
    let listen = vec!["0.0.0.0:8088".parse().unwrap(), "[::]:8089".parse().unwrap()];
    let server = HttpServer { enabled: true, listen, crossdomain: false };
    assert_eq!(loaded.config.http_server, server);
    let remux = HttpRemux { enabled: true, guess_has_av: false, has_audio: false, has_video: true };
    assert_eq!(loaded.config.vhosts[0].http_remux, remux);
    assert_eq!(
        loaded.config.vhosts[1].http_remux,
        HttpRemux { enabled: true, ..HttpRemux::default() }
    );
    assert_eq!(
        loaded.notes,
        [
            "srs.conf:2: `dir ./objs/nginx/html` has no effect: streams are served, and no files",
            "srs.conf:9: `mount [vhost]/x/[stream].aac` has no effect: streams are FLV, at \
             /[app]/[stream].flv of each vhost",
            "srs.conf:9: `fast_cache 30` has no effect: it is for MP3 and AAC, which are not served",
        ]
    );
    assert_eq!(Config::from_toml(&loaded.config.to_toml(), "f").unwrap(), loaded.config);
}

#[test]
fn it_has_a_port_of_its_own() {
    let api = "[http_api]\nenabled = true\nlisten = \"127.0.0.1:8080\"\n";
    let on = "[http_server]\nenabled = true\n";
    for (text, line, who) in [
        (format!("{api}{on}"), 5, "http_api"),
        (format!("{api}{on}listen = [\"[::]:8080\", \"127.0.0.1:8080\"]\n"), 6, "http_api"),
        (format!("[exporter]\nenabled = true\nlisten = 8080\n{on}"), 5, "exporter"),
        (format!("listen = 8080\n{on}"), 3, "RTMP"),
    ] {
        let error = Config::from_toml(&text, "f.toml").expect_err(&text).to_string();
        assert!(error.starts_with(&format!("f.toml:{line}:")), "{error}");
        assert!(error.contains(&format!("http_server and {who} cannot both listen on")), "{error}");
        assert!(error.contains("listen = [\"0.0.0.0:8080\"]"), "{error}");
    }
    for text in [
        format!("{api}[http_server]\nlisten = 8080\n"),
        format!("{api}{on}listen = \"127.0.0.2:8080\"\n"),
        format!("[http_api]\nlisten = \"127.0.0.1:8080\"\n{on}"),
    ] {
        Config::from_toml(&text, "f.toml").unwrap_or_else(|error| panic!("{error}"));
    }
    let srs = "http_api { enabled on; listen 8080; }\nhttp_server { enabled on; }";
    let error = Config::from_srs_conf(srs).unwrap_err().to_string();
    assert!(error.starts_with("srs.conf:2:1: http_server and http_api cannot both"), "{error}");
}

#[test]
fn a_stream_has_some_kind_of_media() {
    let off = "[[vhost]]\n[vhost.http_remux]\nguess_has_av = false\nhas_audio = false\n";
    Config::from_toml(off, "f.toml").unwrap_or_else(|error| panic!("{error}"));
    let error = Config::from_toml(&format!("{off}has_video = false\n"), "f.toml").unwrap_err();
    assert!(error.to_string().contains("neither audio nor video would be sent"), "{error}");
    let srs =
        "vhost v { http_remux { enabled on; guess_has_av off; has_audio off; has_video off; } }";
    let error = Config::from_srs_conf(srs).unwrap_err().to_string();
    assert!(error.starts_with("srs.conf:1:11: neither audio nor video"), "{error}");
}
