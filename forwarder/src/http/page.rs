//! Which part of a list is asked for, by SRS's rules.

use serde::Deserialize;

use crate::status::{ClientOrder, ClientQuery};

/// SRS gives ten at least, and unless it is asked for more.
const LEAST: i64 = 10;

/// The query of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Page {
    start: String,
    count: String,
    sort: ClientOrder,
}

impl Page {
    /// How many are left out at first.
    pub(super) fn start(&self) -> usize {
        usize::try_from(integer(&self.start)).unwrap_or(0)
    }

    /// How many are given then.
    pub(super) fn count(&self) -> usize {
        usize::try_from(integer(&self.count).max(LEAST)).unwrap_or(usize::MAX)
    }

    /// Its part of `items`.
    pub(super) fn of<T>(&self, items: Vec<T>) -> Vec<T> {
        items.into_iter().skip(self.start()).take(self.count()).collect()
    }

    /// As a question for clients.
    pub(super) fn clients(&self) -> ClientQuery {
        ClientQuery { start: self.start(), count: self.count(), sort: self.sort }
    }
}

/// As atoi(3), by which SRS reads: what is no number is 0.
fn integer(text: &str) -> i64 {
    let text = text.trim_start();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let digits = digits.chars().map_while(|c| c.to_digit(10));
    let size = digits.fold(0_i64, |n, digit| n.saturating_mul(10).saturating_add(digit.into()));
    sign * size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_as_srs_reads_it() {
        let page = |start: &str, count: &str| {
            let page = Page { start: start.into(), count: count.into(), ..Page::default() };
            (page.start(), page.count())
        };
        assert_eq!(page("", ""), (0, 10));
        assert_eq!(page("5", "20"), (5, 20));
        assert_eq!(page("-1", "3"), (0, 10));
        assert_eq!(page("7x", "x"), (7, 10));
        let most = usize::try_from(i64::MAX).unwrap();
        assert_eq!(page("0", "99999999999999999999"), (0, most));
    }
}
