//! The index of decisions, made from the decisions.
//!
//! A decision is `docs/adr/NNNN-words.md`, opens with `# NNNN. Title` (or `# Title`) and has a line
//! `Status: …`. The index stands between two markers in `docs/adr/README.md`; `cargo xtask tidy --fix`
//! writes it.

use super::{Finding, Source, Tree};

/// The page with the index.
pub(super) const INDEX: &str = "docs/adr/README.md";
const BEGIN: &str = "<!-- index: written by cargo xtask tidy --fix -->";
const END: &str = "<!-- /index -->";
const TEMPLATE: &str = "0000-";

/// Names, titles, status lines, numbers used once, and the index.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let decisions = decisions(tree);
    for pair in decisions.windows(2) {
        if number(pair[0]) == number(pair[1]) {
            findings.push(Finding::file(&pair[1].path, format!("has the number of {}", pair[0].path)));
        }
    }
    for decision in &decisions {
        if number(decision).is_none() {
            findings.push(Finding::file(&decision.path, "is not named NNNN-words.md"));
        }
        if title(decision).is_none() {
            findings.push(Finding::file(&decision.path, "does not open with a title"));
        }
        if status(decision).is_none() {
            findings.push(Finding::file(&decision.path, "has no line `Status: …`"));
        }
    }
    match (tree.file(INDEX), index(tree)) {
        (None, _) if decisions.is_empty() => {}
        (None, _) => findings.push(Finding::file(INDEX, "is missing")),
        (Some(_), None) => findings.push(Finding::file(INDEX, "has no place for the index (two markers)")),
        (Some(page), Some(text)) if page.text != text => findings.push(Finding::file(INDEX, "is old: run cargo xtask tidy --fix")),
        (Some(_), Some(_)) => {}
    }
    findings
}

/// The page with the index as it should be; `None` when there is no page or it has no markers.
pub(super) fn index(tree: &Tree) -> Option<String> {
    let page = &tree.file(INDEX)?.text;
    let begin = page.find(BEGIN)? + BEGIN.len();
    let end = begin + page[begin..].find(END)?;
    let mut lines = String::from("\n");
    for decision in decisions(tree) {
        let name = decision.path.rsplit('/').next().unwrap_or_default();
        let (title, status) = (title(decision).unwrap_or(name), status(decision).unwrap_or("no status"));
        let number = number(decision).unwrap_or("????");
        lines.extend(["- [", number, " ", title, "](", name, "): ", status, "\n"]);
    }
    Some(format!("{}{lines}{}", &page[..begin], &page[end..]))
}

fn decisions(tree: &Tree) -> Vec<&Source> {
    let name = |file: &Source| file.path.strip_prefix("docs/adr/").map(str::to_owned);
    let mut found: Vec<&Source> = tree
        .files
        .iter()
        .filter(|file| file.has_extension("md") && name(file).is_some_and(|name| name != "README.md" && !name.starts_with(TEMPLATE)))
        .collect();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn number(decision: &Source) -> Option<&str> {
    let (number, _) = decision.path.strip_prefix("docs/adr/")?.split_once('-')?;
    (number.len() == 4 && number.bytes().all(|b| b.is_ascii_digit())).then_some(number)
}

fn title(decision: &Source) -> Option<&str> {
    let title = decision.text.lines().next()?.strip_prefix("# ")?.trim_start_matches("ADR ");
    let digits = title.trim_start_matches(|c: char| c.is_ascii_digit());
    let title = if digits.len() < title.len() { digits.trim_start_matches(['.', ':', ' ', '-']) } else { title };
    (!title.trim().is_empty()).then(|| title.trim())
}

fn status(decision: &Source) -> Option<&str> {
    let prefixes = ["Status: ", "- Status: ", "**Status:** ", "* Status: "];
    decision
        .text
        .lines()
        .find_map(|line| prefixes.iter().find_map(|prefix| line.strip_prefix(prefix)))
        .map(|s| s.trim().trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    const ONE: (&str, &str) = ("docs/adr/0001-a-way.md", "# 0001. A way\n\nStatus: accepted\n");

    fn page(inner: &str) -> String {
        format!("# Decisions\n{BEGIN}{inner}{END}\nrest\n")
    }

    #[test]
    fn a_current_index_passes() {
        let current = page("\n- [0001 A way](0001-a-way.md): accepted\n");
        assert_eq!(check(&sample(&[ONE, (INDEX, &current), ("docs/adr/0000-template.md", "anything")])), []);
        assert_eq!(index(&sample(&[ONE, (INDEX, &page(""))])).unwrap(), current);
    }

    #[test]
    fn gaps_are_found() {
        assert_eq!(check(&sample(&[ONE])).len(), 1, "no page");
        assert_eq!(check(&sample(&[ONE, (INDEX, &page("\n"))])).len(), 1, "old index");
        assert_eq!(check(&sample(&[ONE, (INDEX, "# Decisions")])).len(), 1, "no markers");
        let twice = ("docs/adr/0001-b.md", "no title, no status");
        let findings = check(&sample(&[ONE, twice, (INDEX, &page("\n"))]));
        assert_eq!(findings.len(), 4, "{findings:?}");
    }
}
