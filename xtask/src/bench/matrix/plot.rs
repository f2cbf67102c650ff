//! A plot of points and lines, as SVG that suits light and dark pages.
use std::fmt::Write as _;

/// All of a plot.
pub struct Plot<'a> {
    /// Above it.
    pub title: &'a str,
    /// To the right.
    pub x: Axis<'a>,
    /// Upwards.
    pub y: Axis<'a>,
    /// What is in it; those without points are left out.
    pub series: Vec<Series>,
}

/// What is along an edge; logarithmic.
pub struct Axis<'a> {
    /// Quantity and unit.
    pub label: &'a str,
}

/// Points that belong together.
pub struct Series {
    /// In the legend.
    pub name: String,
    /// Which of the colours.
    pub colour: usize,
    /// Whether the line is broken.
    pub is_dashed: bool,
    /// Place and words beside it, which may be none.
    pub points: Vec<(f64, f64, String)>,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = 48.0;
const COLOURS: usize = 8;

const STYLE: &str = "<style>
text { fill: #333; font: 12px sans-serif } .title { font-weight: bold; font-size: 13px }
.grid { stroke: #8884; fill: none } .axis { stroke: #888; fill: none } .small { font-size: 10px }
.line { fill: none; stroke-width: 1.5 } .dash { stroke-dasharray: 5 3 }
.c0 { stroke: #1f6fb4; fill: #1f6fb4 } .c1 { stroke: #d1601f; fill: #d1601f }
.c2 { stroke: #6b6b6b; fill: #6b6b6b } .c3 { stroke: #2a8f4a; fill: #2a8f4a }
.c4 { stroke: #a43bb0; fill: #a43bb0 } .c5 { stroke: #b8324a; fill: #b8324a }
.c6 { stroke: #8a7a1a; fill: #8a7a1a } .c7 { stroke: #2a9d9d; fill: #2a9d9d }
@media (prefers-color-scheme: dark) { text { fill: #ddd } .c2 { stroke: #aaa; fill: #aaa }
.c0 { stroke: #5aa9ee; fill: #5aa9ee } .c1 { stroke: #f08a4b; fill: #f08a4b } }
.line { fill: none }
</style>
";

/// As text.
pub fn svg(plot: &Plot<'_>) -> String {
    let is_shown = |point: &&(f64, f64, String)| point.0 > 0.0 && point.1 > 0.0;
    let points = || plot.series.iter().flat_map(|one| one.points.iter().filter(is_shown));
    let across = Scale::new(points().map(|point| point.0), LEFT, WIDTH - RIGHT);
    let up = Scale::new(points().map(|point| point.1), HEIGHT - BOTTOM, TOP);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n{STYLE}"
    );
    text(&mut svg, (10.0, 20.0), "title", "start", plot.title);
    grid(&mut svg, &across, &up);
    let middle = f64::midpoint(LEFT, WIDTH - RIGHT);
    text(&mut svg, (middle, HEIGHT - 10.0), "", "middle", plot.x.label);
    let turned = f64::midpoint(TOP, HEIGHT - BOTTOM);
    _ = writeln!(
        svg,
        "<text transform=\"translate(14 {turned}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        escape(plot.y.label)
    );
    let mut legend = TOP + 8.0;
    for series in &plot.series {
        let shown: Vec<_> = series.points.iter().filter(is_shown).collect();
        if shown.is_empty() {
            continue;
        }
        let class = format!("c{}", series.colour % COLOURS);
        let dash = if series.is_dashed { " dash" } else { "" };
        let places: Vec<_> = shown.iter().map(|(x, y, _)| (across.at(*x), up.at(*y))).collect();
        let path: Vec<_> = places.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        _ = writeln!(svg, "<path class=\"{class} line{dash}\" d=\"M{}\"/>", path.join("L"));
        for ((x, y), (_, _, words)) in places.iter().zip(&shown) {
            _ = writeln!(svg, "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>");
            if !words.is_empty() {
                text(&mut svg, (x + 5.0, y - 5.0), "small", "start", words);
            }
        }
        let x = WIDTH - RIGHT + 12.0;
        _ = writeln!(svg, "<path class=\"{class} line{dash}\" d=\"M{x} {legend}h22\"/>");
        text(&mut svg, (x + 28.0, legend + 4.0), "", "start", &series.name);
        legend += 18.0;
    }
    svg + "</svg>\n"
}

/// Lines at powers of ten and at 2 and 5 of them, with what they stand for.
fn grid(svg: &mut String, across: &Scale, up: &Scale) {
    for value in across.ticks() {
        let x = across.at(value);
        let bottom = HEIGHT - BOTTOM;
        _ = writeln!(svg, "<path class=\"grid\" d=\"M{x:.1} {TOP}V{bottom}\"/>");
        text(svg, (x, bottom + 16.0), "small", "middle", &shown(value));
    }
    for value in up.ticks() {
        let y = up.at(value);
        _ = writeln!(svg, "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{}\"/>", WIDTH - RIGHT);
        text(svg, (LEFT - 6.0, y + 4.0), "small", "end", &shown(value));
    }
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    _ = writeln!(svg, "<path class=\"axis\" d=\"M{LEFT} {TOP}V{bottom}H{right}\"/>");
}

fn shown(value: f64) -> String {
    if value >= 1000.0 { format!("{}k", value / 1000.0) } else { format!("{value}") }
}

fn text(svg: &mut String, (x, y): (f64, f64), class: &str, anchor: &str, words: &str) {
    let words = escape(words);
    _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\" text-anchor=\"{anchor}\">{words}</text>"
    );
}

fn escape(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;")
}

/// From a value's logarithm to a place.
struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// All of `values`, which are above zero, between two places.
    fn new(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
        values.for_each(|value| (least, most) = (least.min(value), most.max(value)));
        if least > most {
            (least, most) = (1.0, 10.0);
        }
        // Some room at both ends.
        Self { low: (least * 0.8).log10(), high: (most * 1.3).log10(), from, to }
    }

    fn at(&self, value: f64) -> f64 {
        self.from + (value.log10() - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    fn ticks(&self) -> Vec<f64> {
        let mut ticks = Vec::new();
        // Of what is measured here nothing is smaller or larger.
        for power in -4..=9_i32 {
            for step in [1.0, 2.0, 5.0] {
                let value = step * 10_f64.powi(power);
                if (self.low..=self.high).contains(&value.log10()) {
                    ticks.push(value);
                }
            }
        }
        ticks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_where_they_belong_and_what_is_no_number_is_left_out() {
        let point = |x, y| (x, y, String::new());
        let series = |name: &str, points| Series {
            name: name.to_owned(),
            colour: 0,
            is_dashed: false,
            points,
        };
        let svg = svg(&Plot {
            title: "a < b",
            x: Axis { label: "players" },
            y: Axis { label: "ms" },
            series: vec![
                series("one", vec![point(100.0, 1.0), point(1000.0, 10.0), point(f64::NAN, 1.0)]),
                series("none", vec![point(0.0, 1.0)]),
            ],
        });
        assert!(svg.contains("a &lt; b") && svg.ends_with("</svg>\n"));
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(svg.contains(">one<") && !svg.contains(">none<"));
        assert!(svg.contains(">1k<") && !svg.contains("NaN"));
    }

    #[test]
    fn a_decade_is_as_wide_as_the_next() {
        let scale = Scale::new([1.0, 100.0].into_iter(), 0.0, 100.0);
        let (one, ten, hundred) = (scale.at(1.0), scale.at(10.0), scale.at(100.0));
        assert!(((ten - one) - (hundred - ten)).abs() < 1e-9);
        assert!(one > 0.0 && hundred < 100.0);
        assert!(scale.ticks().contains(&20.0) && !scale.ticks().contains(&200.0));
        assert!(Scale::new(std::iter::empty(), 0.0, 1.0).at(2.0).is_finite());
    }
}
