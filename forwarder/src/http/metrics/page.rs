//! Prometheus's text format, version 0.0.4: families of samples with labels.
use std::fmt::{self, Display, Write as _};

/// The media type of a [`Page`].
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page being written.
#[derive(Debug, Default)]
pub(super) struct Page(String);

/// A metric whose samples are being written. Samples of one family stand together, and each has
/// other labels than those before: a reader refuses the whole page otherwise.
pub(super) struct Family<'a> {
    page: &'a mut String,
    name: &'static str,
}

/// Names and values of labels.
pub(super) type Labels<'a> = &'a [(&'static str, &'a str)];

impl Page {
    /// A value that goes up and down.
    pub(super) fn gauge(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "gauge", help)
    }

    /// A value that grows from the start of what it counts; its name ends in `_total`.
    pub(super) fn counter(&mut self, name: &'static str, help: &str) -> Family<'_> {
        debug_assert!(name.ends_with("_total"), "{name}");
        self.family(name, "counter", help)
    }

    /// The text.
    pub(super) fn into_text(self) -> String {
        self.0
    }

    fn family(&mut self, name: &'static str, kind: &str, help: &str) -> Family<'_> {
        self.put(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Family { page: &mut self.0, name }
    }

    fn put(&mut self, text: fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("a string takes everything");
    }
}

impl Family<'_> {
    /// The only sample.
    pub(super) fn is(mut self, value: impl Display) {
        self.with(&[], value);
    }

    /// One sample of several.
    pub(super) fn with(&mut self, labels: Labels<'_>, value: impl Display) {
        self.page.push_str(self.name);
        for (i, (name, value)) in labels.iter().enumerate() {
            self.page.push(if i == 0 { '{' } else { ',' });
            self.page.push_str(name);
            self.page.push_str("=\"");
            escape(value, self.page);
            self.page.push('"');
        }
        if !labels.is_empty() {
            self.page.push('}');
        }
        writeln!(self.page, " {value}").expect("a string takes everything");
    }
}

fn escape(value: &str, out: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_may_hold_anything() {
        let mut page = Page::default();
        page.gauge("a_b", "What.").with(&[("x", "q\"\\\nä"), ("y", "")], 1.5);
        page.counter("c_total", "How many.").is(u64::MAX);
        assert_eq!(
            page.into_text(),
            "# HELP a_b What.\n# TYPE a_b gauge\na_b{x=\"q\\\"\\\\\\nä\",y=\"\"} 1.5\n\
             # HELP c_total How many.\n# TYPE c_total counter\nc_total 18446744073709551615\n"
        );
    }
}
