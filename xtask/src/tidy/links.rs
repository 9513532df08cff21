//! Links between pages of the checkout.

use super::{Finding, Source, Tree};

/// Every relative link of a Markdown page leads to a file or directory, and every anchor to a heading.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let pages = tree.files.iter().filter(|file| file.has_extension("md"));
    pages
        .flat_map(|page| {
            links(page).into_iter().filter_map(|(line, link)| Some(Finding::line(&page.path, line, broken(tree, page, &link)?)))
        })
        .collect()
}

/// The targets of `](…)`, outside of fenced blocks and of code in backticks.
fn links(page: &Source) -> Vec<(usize, String)> {
    let mut fenced = false;
    let mut found = Vec::new();
    for (number, line) in page.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        for rest in prose.split("](").skip(1) {
            if let Some((target, _)) = rest.split_once(')') {
                found.push((number, target.to_owned()));
            }
        }
    }
    found
}

fn broken(tree: &Tree, page: &Source, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (target, anchor) = link.split_once('#').map_or((link, None), |(target, anchor)| (target, Some(anchor)));
    let path = if target.is_empty() { page.path.clone() } else { resolve(&page.path, target)? };
    let directory = format!("{path}/");
    if path.is_empty() || tree.files.iter().any(|file| file.path.starts_with(&directory)) || tree.binaries.contains(&path) {
        return None;
    }
    let Some(file) = tree.file(&path) else { return Some(format!("leads nowhere: {link}")) };
    match anchor {
        Some(anchor) if file.has_extension("md") && !headings(file).iter().any(|slug| slug == anchor) => {
            Some(format!("no such heading: {link}"))
        }
        Some(_) | None => None,
    }
}

/// `target`, seen from `page`, as a path of the checkout; what leaves the checkout stays as it is and is found broken.
fn resolve(page: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop()?;
    for part in target.trim_end_matches('/').split('/') {
        match part {
            "." | "" => {}
            ".." => {
                if parts.pop().is_none() {
                    return Some("..".to_owned());
                }
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

/// Headings as forges turn them into anchors.
fn headings(page: &Source) -> Vec<String> {
    let slug = |title: &str| -> String {
        let kept = title.trim().to_lowercase();
        kept.chars().filter_map(|c| if c == ' ' { Some('-') } else { (c.is_alphanumeric() || c == '-' || c == '_').then_some(c) }).collect()
    };
    page.text.lines().filter(|line| line.starts_with('#')).map(|line| slug(line.trim_start_matches('#'))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn broken_links_are_found() {
        let bad = "[a](b.md) [c](../../out.md) [d](#none) [e](docs/x.md#no-such)";
        assert_eq!(check(&sample(&[("README.md", bad), ("docs/x.md", "# X")])).len(), 4);
    }

    #[test]
    fn good_links_pass() {
        let readme =
            "# It works!\n[a](docs/x.md#the-end-of-it) [b](docs) [c](https://example.org/x) [d](#it-works) `[e](f)`\n```\n[g](h)\n```";
        let x = "# X\n## The end of it\n[up](../README.md)";
        assert_eq!(check(&sample(&[("README.md", readme), ("docs/x.md", x)])), []);
    }
}
