//! How the values of `values` are read and written by serde.
//!
//! A refusal is raised while the one value is being read, so that toml knows its place.
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize as _;
use serde::de::{self, DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde::ser::{SerializeSeq as _, Serializer};

use super::values::{
    CHUNK_SIZE_MAX, CHUNK_SIZE_MIN, Listed, Repeatable, at_least_a_moment, buffer_in_range,
    bytes_in_range, in_range, parse_buffer, parse_bytes, parse_duration, parse_level, parse_listen,
    parse_origin_vhost, parse_resolver, parse_token, parse_vhost_name, show_bytes, show_duration,
    unique,
};
use super::{
    Destination, DestinationError, ForwardTarget, ForwardTargetError, HttpUrl, HttpUrlError, Secret,
};

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
    d.deserialize_any(Scalar { what: "a duration", text: parse_duration, integer: no_unit })
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
    Err(format!("a duration needs a unit\nwrite \"{number}s\" or \"{number}ms\""))
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

/// A size in bytes of what the kernel may hold; 0: as it likes.
pub(super) fn buffer<'de, D: Deserializer<'de>>(d: D) -> Result<usize, D::Error> {
    d.deserialize_any(Scalar {
        what: "a size",
        text: parse_buffer,
        integer: |number| {
            u64::try_from(number)
                .map_err(|_| format!("{number} is not a size"))
                .and_then(buffer_in_range)
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
        return Err(de::Error::custom("nothing to listen on\nwrite listen = [\"0.0.0.0:1935\"]"));
    }
    Ok(listen)
}

/// One destination or a list of them; the list may be empty.
pub(super) fn destinations<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Destination>, D::Error> {
    d.deserialize_any(OneOrMany(|| Scalar {
        what: "a destination",
        text: |text| text.parse().map_err(|error: DestinationError| error.to_string()),
        integer: |number| Err(format!("{number} is not a destination\nwrite \"host:{number}\"")),
    }))
}

/// One destination with TLS or a list of them; the list may be empty.
pub(super) fn secure_destinations<'de, D: Deserializer<'de>>(
    d: D,
) -> Result<Vec<Destination>, D::Error> {
    d.deserialize_any(OneOrMany(|| Scalar {
        what: "a destination with TLS",
        // A backend's is the same: a host and its port.
        text: |text| match text.replacen("https://", "rtmps://", 1).parse::<Destination>() {
            Ok(destination) if destination.tls => Ok(destination),
            Ok(_) => Err(NO_TLS.to_owned()),
            Err(error) => Err(error.to_string()),
        },
        integer: |_| Err(NO_TLS.to_owned()),
    }))
}

const NO_TLS: &str = "only targets with TLS have certificates\nwrite \"rtmps://host[:port]\" or \"https://host[:port]\"";

/// A place to forward to.
pub(super) fn forward_target<'de, D: Deserializer<'de>>(d: D) -> Result<ForwardTarget, D::Error> {
    d.deserialize_any(FORWARD_TARGET)
}

/// One place to forward to or a list of them; the list may be empty.
pub(super) fn forward_targets<'de, D: Deserializer<'de>>(
    d: D,
) -> Result<Vec<ForwardTarget>, D::Error> {
    d.deserialize_any(OneOrMany(|| FORWARD_TARGET))
}

const FORWARD_TARGET: Scalar<ForwardTarget> = Scalar {
    what: "a destination",
    text: |text| text.parse().map_err(|error: ForwardTargetError| error.to_string()),
    integer: |number| Err(format!("{number} is not a destination\nwrite \"host:{number}\"")),
};

/// One of something or a list of them; the list may be empty.
pub(super) fn several<'de, D: Deserializer<'de>, T: Listed>(d: D) -> Result<Vec<T>, D::Error> {
    d.deserialize_any(OneOrMany(|| Scalar {
        what: T::WHAT,
        text: |text| text.parse().map_err(|error: T::Err| error.to_string()),
        integer: |_| Err(format!("{} stands in quotes", T::WHAT)),
    }))
}

/// A backend.
pub(super) fn backend<'de, D: Deserializer<'de>>(d: D) -> Result<Option<HttpUrl>, D::Error> {
    d.deserialize_any(Scalar {
        what: "a backend",
        text: |text| text.parse().map_err(|error: HttpUrlError| error.to_string()),
        integer: |number| Err(format!("{number} is not a URL")),
    })
    .map(Some)
}

/// Writes a backend, with its keys.
pub(super) fn write_backend<S: Serializer>(
    backend: &Option<HttpUrl>,
    s: S,
) -> Result<S::Ok, S::Error> {
    s.serialize_some(&backend.as_ref().map(HttpUrl::written))
}

/// A vhost's name.
pub(super) fn vhost_name<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    d.deserialize_any(Scalar {
        what: "a vhost's name",
        text: parse_vhost_name,
        integer: |number| parse_vhost_name(&number.to_string()),
    })
}

/// The vhost named to an origin.
pub(super) fn origin_vhost<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    d.deserialize_any(Scalar {
        what: "a vhost's name",
        text: parse_origin_vhost,
        integer: |number| parse_origin_vhost(&number.to_string()),
    })
}

/// A secret word of an HTTP header.
pub(super) fn token<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    d.deserialize_any(Scalar {
        what: "a token",
        text: parse_token,
        integer: |number| parse_token(&number.to_string()),
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
        while let Some(item) = items.next_element_seed(Item { form: (self.0)(), seen: &seen })? {
            seen.push(item);
        }
        Ok(seen)
    }
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
        (self.form.text)(text).and_then(|item| unique(item, self.seen)).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        (self.form.integer)(number).and_then(|item| unique(item, self.seen)).map_err(E::custom)
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

/// Writes a place to forward to, with its keys.
pub(super) fn write_target<S: Serializer>(to: &ForwardTarget, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&to.written())
}

/// Writes a list of them.
pub(super) fn write_targets<S: Serializer>(
    targets: &[ForwardTarget],
    s: S,
) -> Result<S::Ok, S::Error> {
    s.collect_seq(targets.iter().map(ForwardTarget::written))
}

/// A DNS server.
pub(super) fn resolver<'de, D: Deserializer<'de>>(d: D) -> Result<Option<SocketAddr>, D::Error> {
    d.deserialize_any(Scalar {
        what: "the address of a DNS server",
        text: parse_resolver,
        integer: |number| parse_resolver(&number.to_string()),
    })
    .map(Some)
}

/// Writes what has a text form, if there is something.
pub(super) fn write_display<S: Serializer>(
    value: &Option<impl fmt::Display>,
    s: S,
) -> Result<S::Ok, S::Error> {
    s.serialize_some(&value.as_ref().map(ToString::to_string))
}

/// Writes URLs of backends, with their keys.
pub(super) fn write_http_urls<S: Serializer>(urls: &[HttpUrl], s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(urls.iter().map(HttpUrl::written))
}

/// Writes keys.
pub(super) fn write_secrets<S: Serializer>(keys: &[Secret], s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(keys.iter().map(Secret::reveal))
}

/// Writes a path; TOML has no bytes, so one that is not UTF-8 loses what cannot be shown.
/// A path, which an empty text is not.
pub(super) fn optional_path<'de, D: Deserializer<'de>>(d: D) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(d)?;
    if path.as_os_str().is_empty() {
        return Err(de::Error::custom("an empty path\ntake the key out for none"));
    }
    Ok(Some(path))
}

/// `rtmp://host[:port]`, without a `/` at its end.
pub(super) fn optional_server<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(d)?;
    let server = text.strip_suffix('/').unwrap_or(&text);
    let place = server.strip_prefix("rtmp://").or_else(|| server.strip_prefix("rtmps://"));
    match place.map(str::parse::<Destination>) {
        Some(Ok(_)) => Ok(Some(server.to_owned())),
        Some(Err(error)) => Err(de::Error::custom(error)),
        None => {
            Err(de::Error::custom(format!("`{text}` is no server\nwrite \"rtmp://host:1935\"")))
        }
    }
}

pub(super) fn write_path<S: Serializer>(
    path: &Option<impl AsRef<Path>>,
    s: S,
) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => s.serialize_some(&path.as_ref().to_string_lossy()),
        None => s.serialize_none(),
    }
}
