//! How single values are written: durations, sizes, numbers, addresses.
//!
//! A refusal is one line, optionally followed by a newline and the mend; `Source::error` puts the
//! place around it.
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use serde::de::{self, DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde::ser::{SerializeSeq as _, Serializer};
use tracing_subscriber::EnvFilter;

use super::Destination;
use super::error::near_miss;

/// Smallest chunk size to send; SRS has the same bounds.
pub(super) const CHUNK_SIZE_MIN: i64 = 128;
/// Largest chunk size to send.
pub(super) const CHUNK_SIZE_MAX: i64 = 65536;
/// Acknowledgement windows are sums of 32 bits that peers read as signed.
pub(super) const ACK_SIZE_MAX: i64 = i32::MAX as i64;
/// A bound, so that a slip of the finger is refused.
pub(super) const CONNECTIONS_MAX: i64 = 10_000_000;
/// As `CONNECTIONS_MAX`.
pub(super) const GOP_FRAMES_MAX: i64 = 1_000_000;
/// As `CONNECTIONS_MAX`.
pub(super) const THREADS_MAX: i64 = 1024;
/// Less would skip within one keyframe of an ordinary stream.
const BYTES_MIN: u64 = 64 << 10;
const BYTES_MAX: u64 = 64 << 30;
/// Deadlines shorter than this end healthy connections.
const TIMEOUT_MIN: Duration = Duration::from_millis(100);
/// Keeps deadlines far from the end of every clock.
const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);

// === text to value ===

/// `"3s"`, `"350ms"`, `"10m"`: a whole number and one unit.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    let nanos: u64 = match unit {
        "ns" => 1,
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => {
            return Err(format!(
                "`{text}` is not a duration\na duration is a whole number and a unit: \"10s\" (ns, us, ms, s, m, h)"
            ));
        }
    };
    number
        .and_then(|number| number.checked_mul(nanos))
        .map(Duration::from_nanos)
        .ok_or_else(|| format!("`{text}` is not a duration\nwrite a whole number: \"1500ms\""))
        .and_then(bounded)
}

/// `duration` if it is at most a day.
pub(super) fn bounded(duration: Duration) -> Result<Duration, String> {
    if duration > DURATION_MAX {
        return Err("a duration is at most 24h".to_owned());
    }
    Ok(duration)
}

/// `duration` if it is long enough for a deadline.
pub(super) fn at_least_a_moment(duration: Duration) -> Result<Duration, String> {
    if duration < TIMEOUT_MIN {
        return Err(format!("must be at least {}", show_duration(TIMEOUT_MIN)));
    }
    bounded(duration)
}

/// A number of bytes, or `"16MiB"`; K, M and G count in 1024s with or without `iB`.
fn parse_bytes(text: &str) -> Result<usize, String> {
    let (number, unit) = split_unit(text);
    let shift = match unit {
        "" | "B" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        _ => {
            return Err(format!(
                "`{text}` is not a size\na size is a whole number with or without a unit: \"16MiB\" (K, M, G, KiB, MiB, GiB)"
            ));
        }
    };
    let bytes = number
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| format!("`{text}` is not a size\nwrite a whole number: \"1536K\""))?;
    bytes_in_range(bytes)
}

fn bytes_in_range(bytes: u64) -> Result<usize, String> {
    usize::try_from(bytes)
        .ok()
        .filter(|_| (BYTES_MIN..=BYTES_MAX).contains(&bytes))
        .ok_or_else(|| format!("{bytes} bytes is out of range\nfrom 64KiB to 64GiB"))
}

/// `number` if it is within the bounds.
pub(super) fn in_range<T: TryFrom<i64>>(number: i64, min: i64, max: i64) -> Result<T, String> {
    T::try_from(number)
        .ok()
        .filter(|_| (min..=max).contains(&number))
        .ok_or_else(|| format!("{number} is out of range\nfrom {min} to {max}"))
}

/// `1935`, `0.0.0.0:1935` or `[::]:1935`; a port alone listens on every IPv4 address, as in SRS.
pub(super) fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse() {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port));
    }
    text.parse().map_err(|_| {
        format!("`{text}` is not an address to listen on\nwrite \"1935\", \"0.0.0.0:1935\" or \"[::]:1935\"")
    })
}

/// A vhost's name, compared byte for byte with what clients ask for.
pub(super) fn parse_vhost_name(text: &str) -> Result<String, String> {
    let refused = |c: char| c.is_control() || c.is_whitespace() || "/?&=#\\".contains(c);
    if text.is_empty() || text.len() > 255 || text.contains(refused) {
        return Err(format!("`{text}` is not a vhost's name"));
    }
    Ok(text.to_owned())
}

/// A level's name or an env-filter expression. A lone word that is no level would be taken as a
/// target by the filter and silence everything else, so it is refused.
pub(super) fn parse_level(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    if LEVELS.contains(&text) {
        return Ok(text.to_owned());
    }
    if !text.contains('=') {
        let mend = near_miss(text, LEVELS).map_or_else(
            || "error, warn, info, debug, trace or off".to_owned(),
            |level| format!("did you mean `{level}`?"),
        );
        return Err(format!("`{text}` is not a log level\n{mend}"));
    }
    match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("`{text}` is not a log filter: {error}")),
    }
}

fn split_unit(text: &str) -> (Option<u64>, &str) {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    (number.parse().ok(), unit.trim_start())
}

// === value to text ===

/// The shortest form that reads back as the same duration.
pub(super) fn show_duration(duration: Duration) -> String {
    const UNITS: [(u128, &str); 6] = [
        (3_600_000_000_000, "h"),
        (60_000_000_000, "m"),
        (1_000_000_000, "s"),
        (1_000_000, "ms"),
        (1_000, "us"),
        (1, "ns"),
    ];
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    let (unit, name) = UNITS
        .into_iter()
        .find(|(unit, _)| nanos.is_multiple_of(*unit))
        .unwrap_or((1, "ns"));
    format!("{}{name}", nanos / unit)
}

fn show_bytes(bytes: usize) -> String {
    let (shift, unit) = [(30, "GiB"), (20, "MiB"), (10, "KiB")]
        .into_iter()
        .find(|(shift, _)| bytes != 0 && bytes.is_multiple_of(1 << shift))
        .unwrap_or((0, "B"));
    format!("{}{unit}", bytes >> shift)
}

// === serde ===

/// Deserialises what may be written as text or as an integer.
struct Scalar<T> {
    what: &'static str,
    text: fn(&str) -> Result<T, String>,
    integer: fn(i64) -> Result<T, String>,
}

impl<T> Visitor<'_> for Scalar<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.text)(text).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        (self.integer)(number).map_err(E::custom)
    }
}

/// A duration of 0 or more.
pub(super) fn duration<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    d.deserialize_any(Scalar {
        what: "a duration",
        text: parse_duration,
        integer: no_unit,
    })
}

/// A duration that is a deadline.
pub(super) fn timeout<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    d.deserialize_any(Scalar {
        what: "a duration",
        text: |text| parse_duration(text).and_then(at_least_a_moment),
        integer: no_unit,
    })
}

fn no_unit(number: i64) -> Result<Duration, String> {
    Err(format!(
        "a duration needs a unit\nwrite \"{number}s\" or \"{number}ms\""
    ))
}

/// A size in bytes.
pub(super) fn bytes<'de, D: Deserializer<'de>>(d: D) -> Result<usize, D::Error> {
    d.deserialize_any(Scalar {
        what: "a size",
        text: parse_bytes,
        integer: |number| {
            u64::try_from(number)
                .map_err(|_| format!("{number} is not a size"))
                .and_then(bytes_in_range)
        },
    })
}

/// A whole number from `MIN` to `MAX`.
pub(super) fn count<'de, D, T, const MIN: i64, const MAX: i64>(d: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<i64>,
{
    d.deserialize_any(Scalar {
        what: "a whole number",
        text: |text| {
            Err(format!(
                "a whole number stands without quotes\nfrom {MIN} to {MAX}, not \"{text}\""
            ))
        },
        integer: |number| in_range(number, MIN, MAX),
    })
}

/// As `count`, for what may be left out.
pub(super) fn optional_chunk_size<'de, D: Deserializer<'de>>(
    d: D,
) -> Result<Option<u32>, D::Error> {
    count::<_, _, CHUNK_SIZE_MIN, CHUNK_SIZE_MAX>(d).map(Some)
}

/// One address to listen on.
pub(super) fn listen<'de, D: Deserializer<'de>>(d: D) -> Result<SocketAddr, D::Error> {
    d.deserialize_any(LISTEN)
}

const LISTEN: Scalar<SocketAddr> = Scalar {
    what: "an address to listen on",
    text: parse_listen,
    integer: |port| {
        let port = u16::try_from(port).map_err(|_| format!("{port} is not a port"))?;
        Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port))
    },
};

/// One address or a list of them.
pub(super) fn listens<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<SocketAddr>, D::Error> {
    let listen = d.deserialize_any(OneOrMany(|| LISTEN))?;
    if listen.is_empty() {
        return Err(de::Error::custom(
            "nothing to listen on\nwrite listen = [\"0.0.0.0:1935\"]",
        ));
    }
    Ok(listen)
}

/// One destination or a list of them; the list may be empty.
pub(super) fn destinations<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Destination>, D::Error> {
    d.deserialize_any(OneOrMany(|| Scalar {
        what: "a destination",
        text: |text| {
            text.parse()
                .map_err(|error: super::DestinationError| error.to_string())
        },
        integer: |number| {
            Err(format!(
                "{number} is not a destination\nwrite \"host:{number}\""
            ))
        },
    }))
}

/// A vhost's name.
pub(super) fn vhost_name<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    d.deserialize_any(Scalar {
        what: "a vhost's name",
        text: parse_vhost_name,
        integer: |number| parse_vhost_name(&number.to_string()),
    })
}

/// A log level or filter.
pub(super) fn level<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    d.deserialize_any(Scalar {
        what: "a log level",
        text: parse_level,
        integer: |number| parse_level(&number.to_string()),
    })
}

/// A list in which nothing stands twice, or one item without the list.
struct OneOrMany<T>(fn() -> Scalar<T>);

impl<'de, T: PartialEq + Repeatable + fmt::Display> Visitor<'de> for OneOrMany<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} or a list of them", (self.0)().what)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
        (self.0)().visit_str(text).map(|item| vec![item])
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Vec<T>, E> {
        (self.0)().visit_i64(number).map(|item| vec![item])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
        let mut seen = Vec::new();
        while let Some(item) = items.next_element_seed(Item {
            form: (self.0)(),
            seen: &seen,
        })? {
            seen.push(item);
        }
        Ok(seen)
    }
}

/// What may stand in a list twice after all.
pub(super) trait Repeatable {
    /// Whether a second one is no mistake.
    fn may_repeat(&self) -> bool;
}

impl Repeatable for SocketAddr {
    /// Port 0 is another port each time.
    fn may_repeat(&self) -> bool {
        self.port() == 0
    }
}

impl Repeatable for Destination {
    fn may_repeat(&self) -> bool {
        false
    }
}

/// Refuses `item` if it is among `seen`.
pub(super) fn unique<T>(item: T, seen: &[T]) -> Result<T, String>
where
    T: PartialEq + Repeatable + fmt::Display,
{
    if seen.contains(&item) && !item.may_repeat() {
        return Err(format!("{item} stands here twice"));
    }
    Ok(item)
}

/// One item of a list. It is checked against those before it while it is being deserialised, so
/// that the error is about this item and not about the list.
struct Item<'a, T> {
    form: Scalar<T>,
    seen: &'a [T],
}

impl<'de, T: PartialEq + Repeatable + fmt::Display> DeserializeSeed<'de> for Item<'_, T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<T, D::Error> {
        d.deserialize_any(self)
    }
}

impl<T: PartialEq + Repeatable + fmt::Display> Visitor<'_> for Item<'_, T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.form.what)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.form.text)(text)
            .and_then(|item| unique(item, self.seen))
            .map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        (self.form.integer)(number)
            .and_then(|item| unique(item, self.seen))
            .map_err(E::custom)
    }
}

/// Writes a duration with its unit.
pub(super) fn write_duration<S: Serializer>(value: &Duration, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&show_duration(*value))
}

/// Writes a size with its unit.
pub(super) fn write_bytes<S: Serializer>(value: &usize, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&show_bytes(*value))
}

/// Writes a list of what has a text form.
pub(super) fn write_list<T, S>(items: &[T], s: S) -> Result<S::Ok, S::Error>
where
    T: fmt::Display,
    S: Serializer,
{
    let mut list = s.serialize_seq(Some(items.len()))?;
    for item in items {
        list.serialize_element(&item.to_string())?;
    }
    list.end()
}

/// Writes a path; TOML has no bytes, so one that is not UTF-8 loses what cannot be shown.
pub(super) fn write_path<S: Serializer>(
    path: &Option<impl AsRef<Path>>,
    s: S,
) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => s.serialize_some(&path.as_ref().to_string_lossy()),
        None => s.serialize_none(),
    }
}
