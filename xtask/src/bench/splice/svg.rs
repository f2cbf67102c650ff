//! A plot of horizontal bars, as text.
use std::fmt::Write as _;

/// Bars that belong together.
pub struct Group {
    /// Above them.
    pub title: String,
    /// Name and value.
    pub bars: Vec<(String, f64)>,
}

/// All groups below each other on one scale, with a line at 1.
pub fn plot(title: &str, groups: &[Group]) -> String {
    let bars = || groups.iter().flat_map(|group| &group.bars);
    let most = bars().map(|bar| bar.1).filter(|value| value.is_finite()).fold(1.0, f64::max);
    let scale = (WIDTH - LEFT - RIGHT) / most;
    let mut body = String::new();
    let mut y = TOP;
    for group in groups {
        text(&mut body, 10.0, y + 14.0, "bold", &group.title);
        y += 22.0;
        let first = y;
        for (at, (name, value)) in group.bars.iter().enumerate() {
            let colour = COLOURS[at % COLOURS.len()];
            // A difference of two noisy sums may be less than nothing.
            let width = if value.is_finite() { value.max(0.0) * scale } else { 0.0 };
            text(&mut body, 20.0, y + 12.0, "normal", name);
            _ = writeln!(
                body,
                r#"<rect x="{LEFT}" y="{y}" width="{width:.1}" height="14" fill="{colour}"/>"#
            );
            text(&mut body, LEFT + width + 5.0, y + 12.0, "normal", &format!("{value:.2}"));
            y += 18.0;
        }
        let one = LEFT + scale;
        _ = writeln!(
            body,
            r##"<path d="M{one:.1} {first}V{y}" stroke="#888" stroke-dasharray="3"/>"##
        );
        y += 14.0;
    }
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" font-family="sans-serif" font-size="12">"#
    );
    _ = writeln!(svg, "\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>");
    text(&mut svg, 10.0, 20.0, "bold", title);
    svg + &body + "</svg>\n"
}

fn text(svg: &mut String, x: f64, y: f64, weight: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    _ = writeln!(svg, r#"<text x="{x:.1}" y="{y}" font-weight="{weight}">{words}</text>"#);
}

const WIDTH: f64 = 720.0;
/// Room for names, for the figures, and for the title.
const LEFT: f64 = 150.0;
const RIGHT: f64 = 60.0;
const TOP: f64 = 34.0;
const COLOURS: &[&str] = &["#888888", "#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_values_and_none_runs_backwards() {
        let bars = [("a<b", 1.0), ("b", 2.0), ("c", -1.0), ("d", f64::NAN)];
        let bars = bars.map(|(name, value)| (name.to_owned(), value)).to_vec();
        let svg = plot("T", &[Group { title: "G".to_owned(), bars }]);
        for width in ["\"255.0\"", "\"510.0\"", "\"0.0\""] {
            assert!(svg.contains(&format!("width={width}")), "{width}: {svg}");
        }
        assert!(svg.contains("a&lt;b") && svg.ends_with("</svg>\n"));
    }
}
