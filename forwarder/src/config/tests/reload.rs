//! Each key says when its change takes effect: in the table, and in the commented file.
use super::*;

/// Marks in the commented file.
const MARKS: [(&str, Takes); 3] = [
    ("Reload: at once.", Takes::Now),
    ("Reload: for what begins then.", Takes::Next),
    ("Reload: no, restart.", Takes::Restart),
];

/// Every key of the commented file, with the comment above it.
fn documented() -> Vec<(String, String)> {
    let (mut table, mut comment, mut all) = (String::new(), String::new(), Vec::new());
    let mut in_comment = false;
    for line in EVERY_KEY.lines() {
        // Keys without a default stand in a comment, without a space before them.
        let key = line.strip_prefix('#').filter(|rest| rest.starts_with(char::is_alphabetic));
        let line = key.unwrap_or(line);
        if let Some(name) = line.strip_prefix('[') {
            table = format!("{}.", name.trim_matches(['[', ']']));
        } else if let Some(text) = line.strip_prefix('#') {
            if !in_comment {
                comment.clear();
            }
            comment += text;
        } else if let Some((key, _)) = line.split_once(" = ") {
            all.push((format!("{table}{key}"), comment.clone()));
        }
        in_comment = line.starts_with('#');
    }
    all
}

#[test]
fn every_key_says_what_a_reload_does_with_it() {
    let documented = documented();
    // That the file has every key there is, is a test of its own.
    let mut file: Vec<&str> = documented.iter().map(|(key, _)| key.as_str()).collect();
    let mut table: Vec<&str> = super::super::change::stated().collect();
    file.sort_unstable();
    table.sort_unstable();
    assert_eq!(file, table, "each key stands once in the lists of change.rs");
    for (key, comment) in &documented {
        let marks = MARKS.iter().filter(|(mark, _)| comment.contains(mark));
        let marks: Vec<Takes> = marks.map(|(_, takes)| *takes).collect();
        assert_eq!(marks, [takes(key).unwrap()], "the mark of {key} in conf/forwarder.toml");
    }
}

/// Another value for each key: the text of a file that differs from the commented one there alone.
fn altered(key: &str) -> Config {
    let mut file: toml::Table = toml::from_str(EVERY_KEY).expect("TOML");
    let (path, name) = key.rsplit_once('.').unwrap_or(("", key));
    let mut table = &mut file;
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let inner = table.get_mut(part).expect(key);
        let inner = if inner.is_array() { inner.get_mut(0).expect(key) } else { inner };
        table = inner.as_table_mut().expect(key);
    }
    let another = match table.get(name) {
        None => "/tmp/other.pid".into(),
        Some(toml::Value::Boolean(on)) => (!on).into(),
        Some(toml::Value::Integer(n)) => (n + 128).into(),
        Some(toml::Value::String(text)) => match text.as_str() {
            "auto" => "never".into(),
            text if text.contains("iB") => "77MiB".into(),
            text if values::parse_duration(text).is_ok() => "77s".into(),
            text => panic!("{key} = {text}"),
        },
        Some(other) => panic!("{key} = {other}"),
    };
    table.insert(name.to_owned(), another);
    toml(&toml::to_string(&file).expect("TOML"))
}

#[test]
fn what_needs_a_restart_is_kept_and_named() {
    let running = Config::default();
    let restart: Vec<&str> =
        super::super::change::stated().filter(|key| takes(key) == Some(Takes::Restart)).collect();
    assert!(!restart.is_empty());
    for key in restart {
        let mut next = altered(key);
        let seen = changes(&running, &next);
        assert_eq!(seen.len(), 1, "{key}: {seen:?}");
        assert_eq!((seen[0].key.as_str(), seen[0].takes), (key, Takes::Restart));
        keep(&running, &mut next);
        assert_eq!(next, running, "{key} is not kept");
    }
}

#[test]
fn a_change_is_told_without_secrets() {
    let told = |before: &str, after: &str| -> Vec<String> {
        let seen = changes(&toml(before), &toml(after));
        let one = |change: &Change| {
            let of = change.vhost.as_deref().unwrap_or("-");
            format!("{of} {} {}", change.key, change.what)
        };
        seen.iter().map(one).collect()
    };
    assert!(told("", "").is_empty());
    assert_eq!(told("", "max_connections = 7"), ["- max_connections 10000 -> 7"]);
    assert_eq!(told("", "drain_timeout = \"7s\""), ["- drain_timeout 30s -> 7s"]);
    assert_eq!(told("", "listen = 1936"), ["- listen 1 added, 1 removed"]);
    assert_eq!(told("", "[http_api]\ntoken = \"10s\""), ["- http_api.token changed"]);
    let vhost = |name: &str, rest: &str| format!("[[vhost]]\nname = \"{name}\"\n{rest}");
    let to = |list: &str| {
        vhost("a", &format!("[vhost.forward]\nenabled = true\ndestination = [{list}]\n"))
    };
    assert_eq!(
        told(&to("\"h\", \"i\""), &to("\"i\", \"rtmp://y/live2/SECRET\"")),
        ["a vhost.forward.destination 1 added, 1 removed"]
    );
    assert_eq!(
        told(&to("\"h\", \"i\""), &to("\"i\", \"h\"")),
        ["a vhost.forward.destination reordered"]
    );
    let (one, two) = (vhost("a", ""), vhost("b", "[vhost.play]\ngop_cache = false\n"));
    assert_eq!(told(&one, &two), ["b vhost added", "a vhost removed"]);
    assert!(told(&(one.clone() + &two), &(two.clone() + &one)).is_empty(), "order says nothing");
}
