//! Command lines that clap does not take, in our own words' shape: `error:`, `hint:`, the envelope.

use std::ffi::{OsStr, OsString};

use clap::error::ErrorKind;
use smolvm_model::error_code::ErrorCode;

use crate::output::Problem;

/// Most characters of a complaint.
const LONGEST: usize = 400;

/// What a command line that was not taken means.
#[derive(Debug)]
pub(crate) enum Wrong {
    /// Help or version were asked for.
    Asked(clap::Error),
    /// Nothing was asked for: help on stderr, and the status of a usage error.
    Nothing(clap::Error),
    /// It is wrong.
    Usage(Problem),
}

/// Sorts clap's complaint about `path`.
pub(crate) fn wrong(e: clap::Error, path: &str) -> Wrong {
    match e.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Wrong::Asked(e),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Wrong::Nothing(e),
        _ => Wrong::Usage(problem(&e.to_string(), &help_of(path))),
    }
}

/// clap's text is `error: …`, perhaps `tip: …`, `Usage: …`, `For more information …`.
fn problem(text: &str, help: &str) -> Problem {
    let mut message = Vec::new();
    let mut hints = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(first) = line.strip_prefix("error: ") {
            message.push(first);
        } else if let Some(tip) = line.strip_prefix("tip: ") {
            hints.push(tip.to_owned());
        } else if let Some(usage) = line.strip_prefix("Usage: ") {
            hints.push(format!("usage: {usage}"));
        } else if line.starts_with("For more information") {
            break;
        } else if hints.is_empty() {
            message.push(line);
        }
    }
    hints.push(help.to_owned());
    Problem::new(ErrorCode::UsageError, shortened(&message.join(" "))).hint(hints.join("\n"))
}

/// A wrong argument may be as long as an argument can be; nobody reads it to its end.
fn shortened(message: &str) -> String {
    match message.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &message[..at]),
        None => message.to_owned(),
    }
}

/// The command that helps with `path`.
fn help_of(path: &str) -> String {
    match path.strip_prefix("sandbox.").unwrap_or(path) {
        "smolvm" => "smolvm --help".to_owned(),
        words => format!("smolvm {} --help", words.replace('.', " ")),
    }
}

/// Whether `--json` is on the line, before a `--`: then even a usage error goes into the envelope.
pub(crate) fn wants_json(argv: &[OsString]) -> bool {
    words(argv).any(|word| word == "--json")
}

/// The dotted path of the command that the line most likely means.
pub(crate) fn path_of(argv: &[OsString], tree: &clap::Command) -> String {
    let mut skip = false;
    let mut names = words(argv).filter(|word| {
        let value = std::mem::replace(&mut skip, *word == "--home");
        !value && !word.to_string_lossy().starts_with('-')
    });
    let mut next_of = |tree: &'_ clap::Command| names.next().and_then(OsStr::to_str).and_then(|word| tree.find_subcommand(word)).cloned();
    let Some(first) = next_of(tree) else { return "smolvm".to_owned() };
    if !first.has_subcommands() {
        return crate::commands::dotted(None, first.get_name()).to_owned();
    }
    let group = Some(first.get_name()).filter(|name| *name != "sandbox");
    let second = next_of(&first);
    second.map_or("smolvm", |verb| crate::commands::dotted(group, verb.get_name())).to_owned()
}

fn words(argv: &[OsString]) -> impl Iterator<Item = &OsStr> {
    argv.iter().skip(1).map(OsString::as_os_str).take_while(|word| *word != "--")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(line: &str) -> String {
        let argv: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        path_of(&argv, &super::super::tree())
    }

    #[test]
    fn paths_of_lines_that_do_not_parse() {
        for (line, want) in [
            ("smolvm create --nope", "sandbox.create"),
            ("smolvm --home /x ls --nope", "sandbox.list"),
            ("smolvm sandbox rm", "sandbox.delete"),
            ("smolvm cleanup --all --prefix a", "cleanup"),
            ("smolvm template ls --nope", "template.list"),
            ("smolvm template", "smolvm"),
            ("smolvm build --nope", "smolvm"),
            ("smolvm sandbox doctor --nope", "doctor"),
            ("smolvm sandbox", "smolvm"),
            ("smolvm frobnicate", "smolvm"),
            ("smolvm --nope", "smolvm"),
        ] {
            assert_eq!(path(line), want, "{line}");
        }
    }

    #[test]
    fn json_after_two_dashes_is_the_guests() {
        let line = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert!(wants_json(&line("smolvm list --json --nope")));
        assert!(!wants_json(&line("smolvm exec a -- ls --json")));
    }
}
