//! The results as bars, ours above the peer's, with ranges as whiskers and a dashed line where the limit ends. An SVG by hand: two
//! rectangles a row need no library.

use crate::peers::{Results, figures};
use crate::relay::spread;
use crate::rows::{Row, Series};
use std::fmt::Write;

const WIDTH: f64 = 980.0;
const HEAD: f64 = 58.0;
const ROW: f64 = 72.0;
/// Where bars begin, how long the longest is, and where figures stand.
const LEFT: f64 = 260.0;
const LONGEST: f64 = 480.0;
const FIGURES: f64 = LEFT + LONGEST + 20.0;
const BAR: f64 = 14.0;

const OURS: &str = "#2b6ca3";
const THEIRS: &str = "#a9b1b8";
const LIMIT: &str = "#c0392b";

/// The drawing.
pub fn svg(results: &Results) -> String {
    let height = HEAD + ROW * results.rows.len() as f64 + 10.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    text(&mut out, 16.0, 24.0, "font-size=\"16\" font-weight=\"bold\"", "The relay beside its peers");
    let how = format!("median of {} rounds of {} s, whiskers: least and greatest", results.rounds, results.seconds);
    text(&mut out, 16.0, 42.0, "fill=\"#555\"", &[results.host.as_str(), &how].join("; "));
    for (at, row) in results.rows.iter().enumerate() {
        draw_row(&mut out, HEAD + ROW * at as f64, row);
    }
    out + "</svg>\n"
}

fn draw_row(out: &mut String, top: f64, row: &Row) {
    let scale = Scale::of(row);
    text(out, 16.0, top + 16.0, "font-weight=\"bold\"", &format!("{}, {}", row.what, row.scene));
    let verdict =
        format!("{:.2} x, limit {}: {}", row.ratio, row.limit, if row.holds { "holds" } else { "does not hold" });
    let color = if row.holds { "#2e7d32" } else { LIMIT };
    text(out, WIDTH - 16.0, top + 16.0, &format!("text-anchor=\"end\" fill=\"{color}\""), &verdict);
    bar(out, top + 24.0, &row.ours, &row.unit, OURS, &scale);
    bar(out, top + 44.0, &row.peer, &row.unit, THEIRS, &scale);
    let limit = scale.x(spread(&row.peer.values).1 * row.limit.ratio());
    line(out, [limit, top + 21.0, limit, top + 61.0], &format!("stroke=\"{LIMIT}\" stroke-dasharray=\"4 3\""));
}

fn bar(out: &mut String, top: f64, series: &Series, unit: &str, color: &str, scale: &Scale) {
    let (least, median, greatest) = spread(&series.values);
    let middle = top + BAR / 2.0;
    text(out, LEFT - 8.0, middle + 4.0, "text-anchor=\"end\"", &series.relay);
    let width = scale.x(median) - LEFT;
    let _ = writeln!(out, "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{color}\"/>");
    let (from, to) = (scale.x(least), scale.x(greatest));
    for part in
        [[from, middle, to, middle], [from, middle - 4.0, from, middle + 4.0], [to, middle - 4.0, to, middle + 4.0]]
    {
        line(out, part, "stroke=\"#222\"");
    }
    text(out, FIGURES, middle + 4.0, "fill=\"#333\"", &format!("{} {unit}", figures(series)));
}

/// From a row's values to places: its greatest whisker, or its limit, is as long as the longest bar.
struct Scale {
    per_value: f64,
}

impl Scale {
    fn of(row: &Row) -> Scale {
        let peer = spread(&row.peer.values);
        let greatest = spread(&row.ours.values).2.max(peer.2).max(peer.1 * row.limit.ratio());
        // A row of zeros has no bars.
        Scale { per_value: if greatest > 0.0 { LONGEST / greatest } else { 0.0 } }
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + value * self.per_value
    }
}

fn line(out: &mut String, [x1, y1, x2, y2]: [f64; 4], style: &str) {
    let _ = writeln!(out, "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" {style}/>");
}

fn text(out: &mut String, x: f64, y: f64, style: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{words}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::Limit;

    #[test]
    fn bars_are_as_long_as_medians_and_words_are_escaped() {
        let series = |values: &[f64]| Series { relay: "a <b> & c".into(), values: values.into(), loss: 0.0, wrong: 0 };
        let row = Row {
            what: "CPU".into(),
            scene: "here".into(),
            unit: "us".into(),
            ours: series(&[1.0, 2.0, 3.0]),
            peer: series(&[8.0, 4.0, 6.0]),
            ratio: 2.0 / 6.0,
            ratio_range: (0.1, 0.9),
            limit: Limit::AtMost(0.5),
            holds: true,
        };
        let drawn = svg(&Results { host: "host".into(), seconds: 1, rounds: 3, rows: vec![row] });
        // 2 and 6 of 8, which is the longest whisker; the limit at half of 6.
        for part in
            ["width=\"120.0\"", "width=\"360.0\"", "x1=\"440.0\" y1=\"79.0\" x2=\"440.0\"", "0.33 x, limit 0.5: holds"]
        {
            assert!(drawn.contains(part), "{part} in {drawn}");
        }
        assert!(drawn.contains("a &lt;b&gt; &amp; c") && !drawn.contains("<b>"));
    }
}
