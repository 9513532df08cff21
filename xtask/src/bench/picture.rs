//! A picture of where the time goes: bars of steps, one under the other, on one scale.

use std::fmt::Write;

/// One bar.
#[derive(Debug)]
pub(super) struct Bar {
    /// What it is of.
    pub(super) name: String,
    /// Its steps in their order, with their milliseconds.
    pub(super) steps: Vec<(String, f64)>,
}

const WIDTH: f64 = 860.0;
const LEFT: f64 = 16.0;
const ROW: f64 = 74.0;
const TOP: f64 = 46.0;
/// A step that is narrower has its name in the line below only.
const NARROW: f64 = 54.0;
const COLOURS: [&str; 8] = ["#4c78a8", "#72b7b2", "#54a24b", "#eeca3b", "#f58518", "#e45756", "#b279a2", "#9d755d"];

/// The picture as SVG.
pub(super) fn draw(title: &str, bars: &[Bar]) -> String {
    let longest = bars.iter().map(total).fold(1.0, f64::max);
    let scale = (WIDTH - 2.0 * LEFT) / longest;
    let height = TOP + ROW * count(bars.len());
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"15\" fill=\"#222222\">{}</text>\n",
        plain(title)
    );
    for (number, bar) in bars.iter().enumerate() {
        let y = TOP + ROW * count(number);
        // Writing into a String cannot fail.
        let _ =
            writeln!(svg, "<text x=\"{LEFT}\" y=\"{:.0}\" fill=\"#222222\">{}: {:.0} ms</text>", y + 12.0, plain(&bar.name), total(bar));
        let mut x = LEFT;
        for (index, (step, ms)) in bar.steps.iter().enumerate() {
            let width = ms * scale;
            let colour = COLOURS[index % COLOURS.len()];
            let _ = writeln!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{:.0}\" width=\"{width:.1}\" height=\"24\" fill=\"{colour}\"><title>{}: {ms:.1} ms</title></rect>",
                y + 18.0,
                plain(step)
            );
            if width >= NARROW {
                let middle = x + width / 2.0;
                let _ = writeln!(
                    svg,
                    "<text x=\"{middle:.1}\" y=\"{:.0}\" text-anchor=\"middle\" fill=\"#ffffff\">{}</text>",
                    y + 34.0,
                    plain(step)
                );
            }
            x += width;
        }
        let words: Vec<String> = bar.steps.iter().map(|(step, ms)| format!("{step} {ms:.0}")).collect();
        let _ = writeln!(
            svg,
            "<text x=\"{LEFT}\" y=\"{:.0}\" font-size=\"11\" fill=\"#555555\">{}</text>",
            y + 56.0,
            plain(&words.join(" · "))
        );
    }
    svg + "</svg>\n"
}

fn total(bar: &Bar) -> f64 {
    bar.steps.iter().map(|(_, ms)| ms).sum()
}

fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(0.0, f64::from)
}

fn plain(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_share_a_scale_and_words_cannot_break_the_picture() {
        let bar = |name: &str, steps: &[(&str, f64)]| Bar {
            name: name.into(),
            steps: steps.iter().map(|(s, ms)| ((*s).to_owned(), *ms)).collect(),
        };
        let svg = draw("a < b", &[bar("one", &[("x", 50.0), ("y", 50.0)]), bar("two", &[("x&y", 50.0)])]);
        assert_eq!(svg.matches("<rect x=").count(), 3);
        assert_eq!(svg.matches("width=\"414.0\"").count(), 3, "half of the width each: {svg}");
        assert!(svg.contains("a &lt; b") && svg.contains("x&amp;y") && svg.contains("one: 100 ms"));
    }
}
