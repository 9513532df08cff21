//! The reference pages, made from the code they describe; a test holds them against `docs/`.
//!
//! `SMOLVM_BLESS=1 cargo test -p smolvm-cli` writes them anew.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use smolvm_model::config::KEYS;
use smolvm_model::error_code::ErrorCode;

use crate::args::tree;
use crate::{env, exit};

const CLI_HEAD: &str = "\
# Command line

This page is made from the command line itself (`SMOLVM_BLESS=1 cargo test -p smolvm-cli`); a test fails when it is out of date.

`smolvm sandbox VERB` is the same as `smolvm VERB`, and `smolvm-cleanup` the same as `smolvm cleanup`. Data goes to stdout and nothing
else does; errors are `error:`, `caused by:` and `hint:` lines on stderr. Progress is shown on a terminal only.
";

const JSON: &str = "\
## JSON

With `--json` a command prints one object on stdout, also when it fails, and also when the command line is wrong:

```
{\"ok\": true, \"command\": \"sandbox.create\", \"exit_code\": 0, \"data\": {…}, \"error\": null}
```

`ok` is true exactly when `exit_code` is 0, and `exit_code` is the exit status. `error` is `{\"code\", \"message\", \"recovery\"?, \"details\"?}`;
its codes are in [errors.md](errors.md). On partial failure both `data` and `error` are filled. Each command's `data` has a JSON Schema in
`schemas/`, by the name in `command`. Fields are only ever added.
";

const ERRORS_HEAD: &str = "\
# Error codes

This page is made from the code (`SMOLVM_BLESS=1 cargo test -p smolvm-cli`); a test fails when it is out of date.

Scripts match on the code: it is in `error.code` of `--json`, in `failed[].code` of `delete` and `cleanup`, and never changes its meaning.
The exit status is the one of a command that failed with this code and has no better: `run` and `exec` give 125 for what failed before the
guest command ran, and `cleanup` gives 1 for everything but usage and interruption.

| code | exit status | meaning |
|---|---|---|
";

/// What each code means, for people who meet it.
fn meaning(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::UsageError => "the command line is wrong; nothing was looked at or done",
        ErrorCode::NotFound => "there is no sandbox, image or command of that name",
        ErrorCode::AlreadyExists => "the name is taken",
        ErrorCode::InvalidState => "the sandbox is not in a state that allows this; `recovery` has the way there",
        ErrorCode::Refused => "refused on purpose; the message says what would allow it",
        ErrorCode::PermissionDenied => "the user lacks a right",
        ErrorCode::MissingDependency => {
            "a program, a kernel feature or a prepared file is missing; `smolvm doctor` and `smolvm setup` help"
        }
        ErrorCode::Unsupported => "not possible on this machine or in this version",
        ErrorCode::Timeout => "a time limit passed",
        ErrorCode::Unreachable => {
            "a file system did not answer in time (a network mount whose server is away, a program behind a mount that stands still), or a registry cannot be reached"
        }
        ErrorCode::GuestError => "the guest, or a command in it, failed",
        ErrorCode::PartialFailure => "some of several parts failed, the rest was done; `data` says which",
        ErrorCode::Busy => "another live command holds what is needed; try again",
        ErrorCode::Changed => "it changed between a look and the act, so it was left alone; look again",
        ErrorCode::ResourceExhausted => "too little disk, memory or address space for what was asked",
        ErrorCode::StateCorrupt => "the state database cannot be used as it is; `recovery` has the way out",
        ErrorCode::Interrupted => "ended by a signal before it was done",
        ErrorCode::Internal => "a defect in smolvm, or a call to the host that failed in an unforeseen way",
    }
}

fn cli_page() -> String {
    let mut page = CLI_HEAD.to_owned();
    page.push_str("\n## Exit status\n\n| status | meaning |\n|---|---|\n");
    for (status, meaning) in exit::TABLE {
        // Writing into a String cannot fail.
        let _ = writeln!(page, "| {status} | {meaning} |");
    }
    page.push_str("\n`cleanup` uses 0, 1 and 2 only, and 130 for Ctrl-C.\n\n");
    page.push_str(JSON);
    page.push_str("\n## Environment\n\n| variable | meaning |\n|---|---|\n");
    for variable in env::ALL {
        let _ = writeln!(page, "| `{}` | {} |", variable.name, variable.meaning);
    }
    page.push_str("\n## Commands\n\n");
    let mut root = tree().term_width(100);
    root.build();
    let _ = write!(page, "```\n{}```\n", help_of(&mut root));
    for command in root.get_subcommands_mut().filter(|command| !command.is_hide_set()) {
        if command.get_name() == "sandbox" {
            continue;
        }
        let name = command.get_name().to_owned();
        let help = help_of(command);
        let _ = write!(page, "\n### {name}\n\n```\n{help}```\n");
        for verb in command.get_subcommands_mut() {
            let help = help_of(verb);
            let _ = write!(page, "\n### {name} {}\n\n```\n{help}```\n", verb.get_name());
        }
    }
    page
}

fn help_of(command: &mut clap::Command) -> String {
    let mut text = String::new();
    for line in command.render_help().to_string().lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn errors_page() -> String {
    ErrorCode::ALL.iter().fold(ERRORS_HEAD.to_owned(), |mut page, code| {
        let _ = writeln!(page, "| `{code}` | {} | {} |", code.exit_status(), meaning(*code));
        page
    })
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

#[expect(clippy::disallowed_methods, reason = "a switch of the tests, not of the product")]
fn blessed() -> bool {
    std::env::var_os("SMOLVM_BLESS").is_some_and(|value| value == "1")
}

fn check(name: &str, page: &str) {
    let path = docs().join(name);
    if blessed() {
        std::fs::write(&path, page).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(there == page, "docs/{name} is out of date: SMOLVM_BLESS=1 cargo test -p smolvm-cli");
}

/// The table of settings, between the headings of its page.
fn config_page() -> String {
    let page = std::fs::read_to_string(docs().join("config.md")).unwrap_or_default();
    let (Some(begin), Some(end)) = (page.find("## Settings\n"), page.find("## The file\n")) else { return String::new() };
    let mut table = "## Settings\n\n| setting | variable | option | what it settles | without it |\n|---|---|---|---|---|\n".to_owned();
    for d in KEYS {
        let _ = writeln!(table, "| `{}` | `{}` | `{}` | {} | {} |", d.key, d.variable, d.option, d.meaning, d.default);
    }
    format!("{}{table}\n{}", &page[..begin], &page[end..])
}

#[test]
fn the_table_of_settings_is_current() {
    check("config.md", &config_page());
}

#[test]
fn the_command_line_page_is_current() {
    check("cli.md", &cli_page());
}

#[test]
fn the_error_page_is_current() {
    check("errors.md", &errors_page());
}

#[test]
fn every_visible_command_has_help_with_an_example() {
    let mut root = tree();
    root.build();
    let shown = |command: &&mut clap::Command| !command.is_hide_set() && command.get_name() != "sandbox";
    let verbs = |command: &mut clap::Command| {
        let verbs: Vec<clap::Command> = command.get_subcommands().cloned().collect();
        if verbs.is_empty() { vec![command.clone()] } else { verbs }
    };
    for mut command in root.get_subcommands_mut().filter(shown).flat_map(verbs) {
        let command = &mut command;
        let help = help_of(command);
        assert!(help.contains("Example"), "{}", command.get_name());
        assert!(help.contains("smolvm "), "{}", command.get_name());
    }
}

#[test]
fn the_tree_is_sound() {
    tree().debug_assert();
}
