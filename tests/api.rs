//! The HTTP API answers as SRS does where SRS has words, and as its own description says.
mod common;

use std::collections::BTreeSet;
use std::process::Command;

use common::external::{Publish, ffmpeg_publish};
use common::legs::{edge_of, paths, wait_legs};
use common::media::{Clip, Synthetic};
use common::peer::{End, Live, Recorder};
use common::server::{Answer, Server, Setup, http};
use common::sink::Sink;
use common::{free_address, seconds, wait_until};
use serde_json::{Value, json};

#[track_caller]
fn ask(server: &Server, method: &str, path: &str, headers: &str) -> Answer {
    http(server.api, method, path, headers).expect("an answer")
}

#[track_caller]
fn get(server: &Server, path: &str) -> Value {
    let answer = ask(server, "GET", path, "");
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    serde_json::from_str(&answer.body).unwrap_or_else(|e| panic!("{path}: {e}: {}", answer.body))
}

/// `of` with the kind of each value in its place; SRS's integers are told from its decimals.
fn shape(of: &Value) -> Value {
    match of {
        Value::Null => "null".into(),
        Value::Bool(_) => "bool".into(),
        Value::Number(n) if n.is_f64() => "decimal".into(),
        Value::Number(_) => "integer".into(),
        Value::String(_) => "string".into(),
        Value::Array(all) => Value::Array(all.iter().take(1).map(shape).collect()),
        Value::Object(all) => all.iter().map(|(k, v)| (k.clone(), shape(v))).collect(),
    }
}

/// The shape of `answer`, in which fields of ours may stand beside those of SRS.
fn shape_of_srs(answer: &Value, srs: &Value) -> Value {
    match (answer, srs) {
        (Value::Object(answer), Value::Object(srs)) => srs
            .iter()
            .filter_map(|(k, of)| Some((k.clone(), shape_of_srs(answer.get(k)?, of))))
            .collect(),
        (Value::Array(answer), Value::Array(srs)) => {
            let pairs = answer.iter().zip(srs);
            Value::Array(pairs.take(1).map(|(answer, of)| shape_of_srs(answer, of)).collect())
        }
        _ => shape(answer),
    }
}

/// What ffprobe says of video and audio of `clip`, in SRS's words.
fn probed(clip: &Clip) -> [Value; 2] {
    let mut ffprobe = Command::new("ffprobe");
    ffprobe.args(["-v", "error", "-show_streams", "-of", "json"]).arg(&clip.path);
    let said = ffprobe.output().expect("ffprobe").stdout;
    let said: Value = serde_json::from_slice(&said).expect("JSON");
    let of = |kind: &str| {
        let mut streams = said["streams"].as_array().expect("streams").iter();
        streams.find(|stream| stream["codec_type"] == kind).expect(kind).clone()
    };
    let (video, audio) = (of("video"), of("audio"));
    assert_eq!([&video["codec_name"], &audio["codec_name"]], ["h264", "aac"]);
    assert_eq!([&video["profile"], &audio["profile"]], ["Constrained Baseline", "LC"]);
    let level = video["level"].as_u64().expect("a level");
    let rate: u32 = audio["sample_rate"].as_str().and_then(|n| n.parse().ok()).expect("a rate");
    [
        json!({ "codec": "H264", "profile": "Baseline(Constrained)", "width": video["width"],
            "level": format!("{}.{}", level / 10, level % 10).trim_end_matches(".0"),
            "height": video["height"] }),
        json!({ "codec": "AAC", "sample_rate": rate, "channel": audio["channels"],
            "profile": "LC" }),
    ]
}

/// `fields` in SRS's envelope, as shapes.
fn enveloped(fields: &Value) -> Value {
    let mut all = json!({ "code": 0, "server": "vid-0a1b2c3", "service": "0a1b2c3d", "pid": "1" });
    let more = fields.as_object().expect("fields").clone();
    all.as_object_mut().expect("fields").extend(more);
    shape(&all)
}

#[test]
fn answers_have_the_shape_of_srs() {
    let server = Setup::new().start();
    let clip = Clip::plain();
    let how = Publish { endless: true, ..Publish::default() };
    let mut publisher = ffmpeg_publish(server.dir(), &clip.path, &server.url("live/a"), how);
    let player = Recorder::start(server.rtmp, "live/a");
    wait_until("media", seconds(15), || player.count() > 30);

    let kbps = json!({ "recv_30s": 1, "send_30s": 1 });
    let vhost = json!({
        "id": "vid-0a1b2c3", "name": "__defaultVhost__", "enabled": true, "clients": 2,
        "streams": 1, "send_bytes": 1, "recv_bytes": 1, "kbps": kbps, "hls": { "enabled": false },
    });
    let stream = json!({
        "id": "vid-0a1b2c3", "name": "a", "vhost": "vid-0a1b2c3", "app": "live",
        "tcUrl": "rtmp://127.0.0.1/live", "url": "/live/a", "live_ms": 1, "clients": 2,
        "frames": 1, "send_bytes": 1, "recv_bytes": 1, "kbps": kbps,
        "publish": { "active": true, "cid": "1" },
        "video": { "codec": "H264", "profile": "High", "level": "3.1", "width": 1, "height": 1 },
        "audio": { "codec": "AAC", "sample_rate": 44100, "channel": 2, "profile": "LC" },
    });
    let client = json!({
        "id": "1", "vhost": "vid-0a1b2c3", "stream": "vid-0a1b2c3", "ip": "127.0.0.1",
        "pageUrl": "", "swfUrl": "", "tcUrl": "rtmp://127.0.0.1/live", "url": "/live/a",
        "name": "a", "type": "fmle-publish", "publish": true, "alive": 1.5, "send_bytes": 1,
        "recv_bytes": 1, "kbps": kbps,
    });
    let version = json!({ "major": 0, "minor": 1, "revision": 0, "version": "0.1.0" });
    let summary = json!({
        "ok": true, "now_ms": 1,
        "self": { "version": "0.1.0", "pid": 1, "ppid": 1, "argv": "a", "cwd": "/", "mem_kbyte": 1,
            "mem_percent": 0.5, "cpu_percent": 0.5, "srs_uptime": 1 },
        "system": { "cpu_percent": 0.5, "disk_read_KBps": 0, "disk_write_KBps": 0,
            "disk_busy_percent": 0.5, "mem_ram_kbyte": 1, "mem_ram_percent": 0.5,
            "mem_swap_kbyte": 0, "mem_swap_percent": 0.5, "cpus": 2, "cpus_online": 2,
            "uptime": 1.5, "ilde_time": 1.5, "load_1m": 0.5, "load_5m": 0.5, "load_15m": 0.5,
            "net_sample_time": 1, "net_recv_bytes": 1, "net_send_bytes": 1, "net_recvi_bytes": 1,
            "net_sendi_bytes": 1, "srs_sample_time": 1, "srs_recv_bytes": 1, "srs_send_bytes": 1,
            "conn_sys": 1, "conn_sys_et": 1, "conn_sys_tw": 1, "conn_sys_udp": 1, "conn_srs": 1 },
    });
    let id =
        |path: &str, what: &str| get(&server, path)[what][0]["id"].as_str().unwrap().to_owned();
    let of_vhost = format!("/api/v1/vhosts/{}", id("/api/v1/vhosts/", "vhosts"));
    let of_stream = format!("/api/v1/streams/{}", id("/api/v1/streams/", "streams"));
    let of_client = format!("/api/v1/clients/{}", id("/api/v1/clients/", "clients"));
    for (path, sample) in [
        ("/api/v1/versions", json!({ "data": version })),
        ("/api/v1/summaries", json!({ "data": summary })),
        ("/api/v1/vhosts/", json!({ "vhosts": [vhost] })),
        ("/api/v1/streams/", json!({ "streams": [stream] })),
        ("/api/v1/clients/", json!({ "clients": [client] })),
        (&of_vhost, json!({ "vhost": vhost })),
        (&of_stream, json!({ "stream": stream })),
        (&of_client, json!({ "client": client })),
        ("/api/v1/vhosts/vid-none", json!({})),
    ] {
        let srs = enveloped(&sample);
        assert_eq!(shape_of_srs(&get(&server, path), &srs), srs, "{path}");
    }

    let codes = ["vhosts", "streams", "clients"].map(|all| {
        let answer = get(&server, &format!("/api/v1/{all}/none"));
        assert_eq!(answer.as_object().unwrap().len(), 4, "{answer}");
        answer["code"].clone()
    });
    assert_eq!(codes, [2014, 2048, 2049]);
    let stream = &get(&server, &of_stream)["stream"];
    let clients = get(&server, "/api/v1/clients")["clients"].clone();
    for client in clients.as_array().unwrap() {
        assert_eq!([&client["vhost"], &client["stream"]], [&stream["vhost"], &stream["id"]]);
        if client["publish"] == true {
            assert_eq!(stream["publish"], json!({ "active": true, "cid": client["id"] }));
            assert_eq!(stream["tcUrl"], client["tcUrl"]);
        }
    }
    assert_eq!((clients.as_array().unwrap().len(), &stream["clients"]), (2, &json!(2)));
    let probed = probed(&clip);
    assert_eq!([&stream["video"], &stream["audio"]], [&probed[0], &probed[1]]);
    let frames = |answer: &Value| answer["stream"]["frames"].as_u64().unwrap();
    let before = frames(&get(&server, &of_stream));
    wait_until("more frames", seconds(5), || frames(&get(&server, &of_stream)) > before);
    publisher.kill();
}

#[test]
fn a_client_is_sent_away_by_those_who_may() {
    let server = Setup::new().http_api("token = \"s3cret\"").start();
    let live = Live::start(server.rtmp, "live/a", Synthetic::default());
    let player = Recorder::start(server.rtmp, "live/a");
    wait_until("media", seconds(5), || player.count() > 10);
    let path = |kind: &str| {
        let all = server.clients("").clients;
        let client = all.into_iter().find(|client| client.kind == kind).expect(kind);
        format!("/api/v1/clients/{}", client.id)
    };
    let (of_player, of_publisher) = (path("rtmp-play"), path("fmle-publish"));
    for headers in [
        "Authorization: Bearer guess\r\n",
        "Origin: http://a.test\r\n",
        "X-Forwarded-For: 192.0.2.1\r\n",
        "Referer: http://a.test/\r\n",
    ] {
        let answer = ask(&server, "DELETE", &of_player, headers);
        assert_eq!(answer.status, 401, "{headers}");
        assert!(answer.head.contains("www-authenticate: Bearer"), "{}", answer.head);
    }
    assert_eq!(server.clients("").total, 2);

    let code = |path: &str, headers: &str| -> Value {
        let answer = ask(&server, "DELETE", path, headers);
        assert_eq!(answer.status, 200);
        serde_json::from_str::<Value>(&answer.body).expect("JSON")["code"].clone()
    };
    assert_eq!(code(&of_player, ""), 0);
    wait_until("the player is gone", seconds(5), || player.ended());
    server.wait_players("live/a", 0);
    assert!(server.is_live("live/a"), "nobody else is");
    assert_eq!(code(&of_player, ""), 2049);
    assert_eq!(code(&of_publisher, "Authorization: Bearer s3cret\r\n"), 0);
    wait_until("the publisher is gone", seconds(5), || live.is_over());
    wait_until("its stream too", seconds(5), || !server.is_live("live/a"));
}

#[test]
fn a_player_with_a_leg_is_sent_away_and_its_bytes_stay_counted() {
    for (kernel, path) in paths() {
        let origin = Setup::new().start();
        let edge = edge_of(&[origin.rtmp], kernel).start();
        let live = Live::start(origin.rtmp, "live/a", Synthetic::default());
        let player = Recorder::start(edge.rtmp, "live/a");
        wait_legs(&edge, 1);
        wait_until("media", seconds(10), || player.count() > 60);
        let client = edge.clients("").clients.remove(0);
        assert_eq!(client.state, path);
        let answer = ask(&edge, "DELETE", &format!("/api/v1/clients/{}", client.id), "");
        assert!(answer.body.starts_with("{\"code\":0,"), "{}", answer.body);
        wait_until("the player is gone", seconds(5), || player.ended());
        wait_legs(&edge, 0);
        origin.wait_players("live/a", 0);
        let got: usize = player.tags().iter().map(|tag| tag.body.len()).sum();
        let legs = edge.status().totals.legs;
        assert!(legs.kernel_bytes + legs.user_bytes >= got as u64, "{got} and {legs:?}");
        assert_eq!(legs.kernel_bytes > legs.user_bytes, path == "kernel", "{legs:?}");
        let page = ask(&edge, "GET", "/metrics", "").body;
        for (path, bytes) in [("kernel", legs.kernel_bytes), ("user", legs.user_bytes)] {
            let line = format!("\nforwarder_leg_bytes_total{{path=\"{path}\"}} {bytes}\n");
            assert!(page.contains(&line), "{line} in {page}");
        }
        live.stop(End::Polite);
    }
}

#[test]
fn pages_of_other_sites_may_read_unless_that_is_off() {
    let (open, shut) = (Setup::new().start(), Setup::new().http_api("crossdomain = false").start());
    for (server, is_open) in [(&open, true), (&shut, false)] {
        for (method, path) in [
            ("GET", "/api/v1/versions"),
            ("HEAD", "/api/v1/streams/"),
            ("OPTIONS", "/api/v1/clients/1"),
        ] {
            let answer = ask(server, method, path, "Origin: http://a.test\r\n");
            assert_eq!(answer.status, 200, "{method}");
            assert_eq!(answer.body.is_empty(), method != "GET", "{method}: {}", answer.body);
            assert_eq!(
                answer.head.contains("access-control-allow-origin: *"),
                is_open,
                "{}",
                answer.head
            );
        }
    }
    assert!(!ask(&open, "OPTIONS", "/api/v1/clients/1", "").head.contains("DELETE"));
}

/// What `value` says against `schema`, by the rules of JSON Schema that the document uses; notes
/// the named schemas that were met.
fn differs(
    doc: &Value,
    schema: &Value,
    value: &Value,
    met: &mut BTreeSet<String>,
) -> Option<String> {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.rsplit('/').next().expect("a name");
        let inner = differs(doc, &doc["components"]["schemas"][name], value, met);
        if inner.is_none() {
            met.insert(name.to_owned());
        }
        return inner.map(|why| format!("{name}: {why}"));
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let whys: Option<Vec<String>> = any.iter().map(|s| differs(doc, s, value, met)).collect();
        return whys.map(|whys| whys.join(" and "));
    }
    let kind = schema["type"].as_str().unwrap_or("no type");
    let fits = match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "integer" => value.is_u64(),
        "number" => value.is_number(),
        _ => false,
    };
    if !fits {
        return Some(format!("{value} is no {kind}"));
    }
    if let Some(items) = value.as_array() {
        return items.iter().find_map(|item| differs(doc, &schema["items"], item, met));
    }
    let (fields, properties) = (value.as_object()?, schema["properties"].as_object()?);
    let missing = properties.keys().find(|key| !fields.contains_key(*key));
    if let Some(key) = missing.or_else(|| fields.keys().find(|key| !properties.contains_key(*key)))
    {
        return Some(format!("`{key}` is on one side only"));
    }
    fields.iter().find_map(|(key, field)| {
        Some(format!("{key}: {}", differs(doc, &properties[key], field, met)?))
    })
}

#[test]
fn the_description_is_what_is_answered() {
    let sink = Sink::start(free_address());
    let to = format!("\"{}\", \"{}\", \"dns+nobody.test\"", sink.address, free_address());
    let origin = Setup::new()
        .global(&format!("resolver = \"{}\"", free_address()))
        .forward(&format!("destination = [{to}]\nbackend = \"http://{}/\"", free_address()))
        .publish("second = \"stand_by\"")
        .start();
    let edge = Setup::new().edge_of(&[origin.rtmp]).splice("auto").start();
    let live = Live::start(origin.rtmp, "live/a", Synthetic::default());
    let standby = Live::start(origin.rtmp, "live/a", Synthetic::default());
    standby.wait_more(30);
    live.wait_more(30);
    let with_leg = Recorder::start(edge.rtmp, "live/a");
    wait_until("a leg", seconds(10), || with_leg.count() > 5);
    let shared = Recorder::start(edge.rtmp, "live/a");
    wait_until("a pull", seconds(10), || shared.count() > 5);

    let doc = get(&origin, "/api/v1/openapi.json");
    let mut met = BTreeSet::new();
    for server in [&origin, &edge] {
        for (path, methods) in doc["paths"].as_object().expect("paths") {
            if methods.get("get").is_none() {
                continue;
            }
            let list = path.trim_end_matches("/{id}");
            let ids: Vec<String> = if list == path {
                vec![String::new()]
            } else {
                let all = get(server, list)[list.rsplit('/').next().unwrap()].clone();
                let ids = all.as_array().expect("a list").iter();
                let ids = ids.map(|one| one["id"].as_str().expect("an id").to_owned());
                ids.chain(["none".to_owned()]).collect()
            };
            if methods.get("get").is_none() {
                continue;
            }
            for id in ids {
                let asked = path.replace("{id}", &id);
                let content = &methods["get"]["responses"]["200"]["content"];
                if content.get("text/plain").is_some() {
                    assert_eq!(ask(server, "GET", &asked, "").status, 200, "{asked}");
                    continue;
                }
                let answer = get(server, &asked);
                let why = differs(&doc, &content["application/json"]["schema"], &answer, &mut met);
                assert_eq!(why, None, "{asked}: {answer}");
            }
        }
        for (method, path, asked) in [
            ("DELETE", "/api/v1/clients/{id}", "/api/v1/clients/none"),
            ("POST", "/api/v1/forwards/refresh", "/api/v1/forwards/refresh?stream=live/a"),
        ] {
            let told = &doc["paths"][path][method.to_lowercase()]["responses"];
            for (headers, status) in [("", "200"), ("Origin: http://a.test\r\n", "401")] {
                let answer = ask(server, method, asked, headers);
                assert_eq!(answer.status.to_string(), status, "{asked}");
                let body = serde_json::from_str(&answer.body).expect("JSON");
                let schema = &told[status]["content"]["application/json"]["schema"];
                assert_eq!(differs(&doc, schema, &body, &mut met), None, "{body}");
            }
        }
    }
    reloads_as_described(&origin, &doc, &mut met);
    each_write_was_asked_for(&doc);
    let described = doc["components"]["schemas"].as_object().expect("schemas");
    let unmet: Vec<&String> = described.keys().filter(|name| !met.contains(*name)).collect();
    assert_eq!(unmet, [""; 0], "described and never answered");
    live.stop(End::Polite);
    standby.stop(End::Polite);
}

/// What changes something by the description is what this test asks for.
#[track_caller]
fn each_write_was_asked_for(doc: &Value) {
    let writes: Vec<String> = doc["paths"]
        .as_object()
        .expect("paths")
        .iter()
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().expect("methods").keys();
            methods.filter(|method| *method != "get").map(move |method| format!("{method} {path}"))
        })
        .collect();
    let asked = [
        "delete /api/v1/clients/{id}",
        "post /api/v1/forwards/refresh",
        "post /api/v1/raw",
        "post /api/v1/reload",
    ];
    assert_eq!(writes, asked, "described, and asked for above");
}

/// Answers to who has the configuration loaded again, in our way and in that of SRS.
#[track_caller]
fn reloads_as_described(server: &Server, doc: &Value, met: &mut BTreeSet<String>) {
    let text = std::fs::read_to_string(server.config()).expect("configuration");
    let mut look = |method: &str, path: &str, headers: &str, status: &str| {
        let answer = ask(server, method, path, headers);
        let body = serde_json::from_str(&answer.body).expect("JSON");
        let bare = path.split('?').next().expect("a path");
        let answers = &doc["paths"][bare][method.to_lowercase()]["responses"];
        let schema = &answers[status]["content"]["application/json"]["schema"];
        assert_eq!(answer.status.to_string(), status, "{path}: {body}");
        assert_eq!(differs(doc, schema, &body, met), None, "{path}: {body}");
        body
    };
    let raw = "/api/v1/raw?rpc";
    look("GET", &format!("{raw}=raw"), "", "200");
    for rpc in ["reload", "reload-fetch", ""] {
        assert_eq!(look("GET", &format!("{raw}={rpc}"), "", "200")["code"], 1061, "{rpc}");
    }
    server.write(&text.replace("[http_api]\n", "[http_api]\nraw_reload = true\n"));
    look("POST", "/api/v1/reload", "Origin: http://a.test\r\n", "401");
    let body = look("POST", "/api/v1/reload", "", "200");
    assert_eq!(body["reload"]["changes"][0]["key"], "http_api.raw_reload", "{body}");
    server.write("listne = 1935");
    assert_eq!(look("POST", "/api/v1/reload", "", "400")["code"], 1023);
    let body = look("GET", &format!("{raw}=reload-fetch"), "", "200");
    assert_eq!([&body["data"]["err"], &body["data"]["state"]], [&json!(1023), &json!(10)]);
    for method in ["GET", "POST"] {
        look(method, &format!("{raw}=reload"), "Origin: http://a.test\r\n", "401");
        look(method, &format!("{raw}=reload"), "", "200");
    }
    assert_eq!(look("GET", &format!("{raw}=update"), "", "200")["code"], 1060);
}
