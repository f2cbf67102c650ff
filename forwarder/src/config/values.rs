//! How single values are written: durations, sizes, numbers, addresses.
//!
//! A refusal is one line, optionally followed by a newline and the mend; `Source::error` puts the
//! place around it.
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::error::near_miss;
use super::{Destination, Domain, ForwardTarget, HttpUrl, Network, Secret};

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
/// Each holds a group of pictures in memory.
pub(super) const STANDBYS_MAX: i64 = 8;
/// Less would skip within one keyframe of an ordinary stream.
const BYTES_MIN: u64 = 64 << 10;
const BYTES_MAX: u64 = 64 << 30;
/// Less holds no chunk; more does not fit into what Linux takes for SO_SNDBUF, which it doubles.
const BUFFER_MIN: u64 = 4 << 10;
const BUFFER_MAX: u64 = 512 << 20;
/// Deadlines shorter than this end healthy connections.
const TIMEOUT_MIN: Duration = Duration::from_millis(100);
/// IANA "domain".
const DNS_PORT: u16 = 53;
/// Keeps deadlines far from the end of every clock.
const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);

// === text to value ===

/// `"3s"`, `"350ms"`, `"10m"`: a whole number and one unit.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
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
pub(super) fn parse_bytes(text: &str) -> Result<usize, String> {
    count_bytes(text).and_then(bytes_in_range)
}

/// As `parse_bytes`, for what the kernel is asked to hold; 0: as much as it likes.
pub(super) fn parse_buffer(text: &str) -> Result<usize, String> {
    count_bytes(text).and_then(buffer_in_range)
}

fn count_bytes(text: &str) -> Result<u64, String> {
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
    number
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| format!("`{text}` is not a size\nwrite a whole number: \"1536K\""))
}

pub(super) fn bytes_in_range(bytes: u64) -> Result<usize, String> {
    usize::try_from(bytes)
        .ok()
        .filter(|_| (BYTES_MIN..=BYTES_MAX).contains(&bytes))
        .ok_or_else(|| format!("{bytes} bytes is out of range\nfrom 64KiB to 64GiB"))
}

pub(super) fn buffer_in_range(bytes: u64) -> Result<usize, String> {
    usize::try_from(bytes)
        .ok()
        .filter(|_| bytes == 0 || (BUFFER_MIN..=BUFFER_MAX).contains(&bytes))
        .ok_or_else(|| format!("{bytes} bytes is out of range\nfrom 4KiB to 512MiB, or 0"))
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

/// `ip`, `ip:port` or `[ipv6]:port` of a DNS server, whose port is 53 if it is left out.
pub(super) fn parse_resolver(text: &str) -> Result<SocketAddr, String> {
    if let Ok(ip) = text.parse() {
        return Ok(SocketAddr::new(ip, DNS_PORT));
    }
    let address = text.parse().ok().filter(|address: &SocketAddr| address.port() != 0);
    address.ok_or_else(|| {
        format!(
            "`{text}` is not the address of a DNS server\nwrite \"10.0.0.2\" or \"10.0.0.2:53\""
        )
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

/// Stands for the vhost's own name, as in SRS.
pub(super) const VHOST_VARIABLE: &str = "[vhost]";

/// The vhost named to an origin: a name, perhaps with `[vhost]` in it.
pub(super) fn parse_origin_vhost(text: &str) -> Result<String, String> {
    parse_vhost_name(&text.replace(VHOST_VARIABLE, "v"))
        .map(|_| text.to_owned())
        .map_err(|_| format!("`{text}` is not a vhost's name\nwrite a name or \"[vhost]\""))
}

/// A token of RFC 6750 (`b64token`): what may stand behind `Bearer`; may be empty.
pub(super) fn parse_token(text: &str) -> Result<String, String> {
    if text.chars().all(|c| c.is_ascii_alphanumeric() || "-._~+/=".contains(c)) {
        return Ok(text.to_owned());
    }
    Err("a token consists of letters, digits and -._~+/=".to_owned())
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

// === lists ===

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

/// What a list may hold that is read and written as text.
pub(super) trait Listed: FromStr<Err: fmt::Display> + PartialEq + fmt::Display {
    /// What it is, with its article.
    const WHAT: &str;
}

impl Listed for HttpUrl {
    const WHAT: &str = "a backend's URL";
}

impl Listed for Network {
    const WHAT: &str = "an address or network";
}

impl Listed for Domain {
    const WHAT: &str = "a domain";
}

impl Listed for Secret {
    const WHAT: &str = "a key";
}

impl<T: Listed> Repeatable for T {
    fn may_repeat(&self) -> bool {
        false
    }
}

impl Repeatable for ForwardTarget {
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
    let (unit, name) =
        UNITS.into_iter().find(|(unit, _)| nanos.is_multiple_of(*unit)).unwrap_or((1, "ns"));
    format!("{}{name}", nanos / unit)
}

pub(super) fn show_bytes(bytes: usize) -> String {
    let (shift, unit) = [(30, "GiB"), (20, "MiB"), (10, "KiB")]
        .into_iter()
        .find(|(shift, _)| bytes != 0 && bytes.is_multiple_of(1 << shift))
        .unwrap_or((0, "B"));
    format!("{}{unit}", bytes >> shift)
}
