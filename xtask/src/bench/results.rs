//! The results: on the terminal, as a table for people, as JSON.

use std::fmt::Write;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::figures::Figure;
use crate::workspace::Workspace;

/// Prints the table.
pub(super) fn show(figures: &[Figure]) {
    print!("{}", table(figures));
}

/// Writes `bench/results/<date>.md` and `.json`; a later run on the same day replaces an earlier one of the same
/// measurements. `part` names them, unless they are all.
pub(super) fn write(workspace: &Workspace, machine: &Value, part: &[String], figures: &[Figure]) -> Result<()> {
    let directory = workspace.root.join("bench/results");
    std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    let day = machine["date"].as_str().and_then(|date| date.get(..10)).unwrap_or("undated");
    let stem = std::iter::once(day).chain(part.iter().map(String::as_str)).collect::<Vec<_>>().join("-");
    let put = |extension: &str, text: String| {
        let path = directory.join(&stem).with_extension(extension);
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        eprintln!("==> {}", path.display());
        Ok::<_, anyhow::Error>(())
    };
    put("md", page(machine, figures))?;
    put("json", serde_json::to_string_pretty(&data(machine, figures))? + "\n")
}

fn page(machine: &Value, figures: &[Figure]) -> String {
    let mut text = format!("# Measured {}\n\n", machine["date"].as_str().unwrap_or("some day"));
    for (key, value) in machine.as_object().into_iter().flatten().filter(|(key, _)| *key != "date") {
        let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        // Writing into a String cannot fail.
        let _ = writeln!(text, "- {}: {shown}", key.replace('_', " "));
    }
    text + "\n" + &table(figures)
}

fn table(figures: &[Figure]) -> String {
    let mut text = "| id | what | runs | p50 | min | max | limit | |\n|---|---|---|---|---|---|---|---|\n".to_owned();
    for f in figures {
        let limit = f.limit.map(|limit| format!("{} {}", round(limit), f.unit)).unwrap_or_default();
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} {} | {} | {} | {limit} | {} |",
            f.id,
            f.what,
            f.runs,
            round(f.p50),
            f.unit,
            round(f.min),
            round(f.max),
            f.verdict(),
        );
    }
    text
}

/// Three significant digits are all that such a measurement has.
fn round(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn data(machine: &Value, figures: &[Figure]) -> Value {
    let figure = |f: &Figure| {
        json!({
            "id": f.id, "what": f.what, "unit": f.unit, "runs": f.runs, "p50": f.p50, "min": f.min, "max": f.max,
            "limit": f.limit, "met": f.limit.map(|limit| f.p50 <= limit),
        })
    };
    json!({"machine": machine, "figures": figures.iter().map(figure).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_whether_its_limit_is_kept() {
        let figures = [Figure::of("a", "something", "ms", &[123.4]).at_most(200.0), Figure::of("b", "other", "x", &[1.234])];
        let text = table(&figures);
        assert!(text.contains("| `a` | something | 1 | 123 ms | 123 | 123 | 200 ms | met |"), "{text}");
        assert!(text.contains("| `b` | other | 1 | 1.23 x | 1.23 | 1.23 |  |  |"), "{text}");
        assert_eq!(data(&Value::Null, &figures)["figures"][0]["met"], true);
    }
}
