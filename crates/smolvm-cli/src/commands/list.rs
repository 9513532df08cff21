//! `list`: every sandbox.

use std::collections::BTreeSet;
use std::str::FromStr;

use clap::Args;
use serde::Serialize;
use smolvm::list::{Parts, Unrecorded};
use smolvm::view::SandboxView;
use smolvm_model::quantity::display_bytes;
use smolvm_model::state::State;

use super::Verbal;
use crate::args::Common;
use crate::context::Context;
use crate::output::{Columns, Format, Problem, Reply, note};

/// List all sandboxes, newest last
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  smolvm list
  smolvm list --filter state=running --filter label=team=ci --quiet")]
pub(crate) struct List {
    /// Only those that match: state=STATE, stale=true, image=NAME, label=KEY or label=KEY=VALUE; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<Filter>,
    #[command(flatten)]
    common: Common,
}

impl Verbal for List {
    const PATH: &'static str = "sandbox.list";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let vm = context.open_unsettled()?;
        let wanted = |sandbox: &SandboxView| self.filter.iter().all(|filter| filter.matches(sandbox));
        if self.common.json {
            let Parts { parts, broken, orphans } = vm.list_in_parts(|views| elements(&mut views.filter(wanted)))?;
            let broken = broken.iter().map(|row| Broken { id: &row.raw_id, problem: &row.problem }).collect();
            return Ok(Reply::of_json(json(parts, &Rest { broken, orphans: &orphans })));
        }
        if self.common.quiet {
            let found = vm.list_in_parts(|views| views.filter(wanted).fold(String::new(), |text, sandbox| text + &sandbox.id + "\n"))?;
            note_what_is_odd(found.broken.len(), &found.orphans);
            return Ok(Reply::of_text(found.parts.concat()));
        }
        let found = vm.list_in_parts(|views| table(&mut views.filter(wanted), self.common.verbose))?;
        note_what_is_odd(found.broken.len(), &found.orphans);
        let whole = found.parts.into_iter().reduce(|whole, part| whole.join(&part));
        Ok(Reply::of_text(whole.unwrap_or_else(|| table(&mut std::iter::empty(), self.common.verbose)).text()))
    }
}

/// Tells a person what a list does not show.
fn note_what_is_odd(broken: usize, orphans: &[Unrecorded]) {
    if broken > 0 {
        note(&format!("{broken} rows of the ledger are no valid sandboxes; drop them with: smolvm doctor --fix"));
    }
    if !orphans.is_empty() {
        let of: BTreeSet<&str> = orphans.iter().map(|orphan| orphan.id.as_str()).collect();
        let shown: Vec<&str> = of.iter().take(3).copied().collect();
        let more = if of.len() > 3 { ", …" } else { "" };
        note(&format!("{} things on this host are in no record, of {}{more}; see: smolvm doctor", orphans.len(), shown.join(", ")));
    }
}

/// Bytes that one sandbox takes.
const BYTES_EACH: usize = 750;

/// `{"sandboxes":[…],…}` of the elements' parts.
fn json(elements: Vec<String>, rest: &Rest<'_>) -> Vec<String> {
    let mut parts = vec!["{\"sandboxes\":[".to_owned()];
    for part in elements.into_iter().filter(|part| !part.is_empty()) {
        if parts.len() > 1 {
            parts.push(",".to_owned());
        }
        parts.push(part);
    }
    // Strings and string keys only: there is nothing that could fail.
    let rest = serde_json::to_string(rest).unwrap_or_default();
    parts.push(format!("],{}", rest.trim_start_matches('{')));
    parts
}

/// The elements of a JSON array, without its brackets.
fn elements(sandboxes: &mut dyn Iterator<Item = SandboxView>) -> String {
    // As much as they may need: memory that is not touched costs nothing, and none is copied to make room.
    let mut bytes = Vec::with_capacity(sandboxes.size_hint().1.unwrap_or_default() * BYTES_EACH);
    for sandbox in sandboxes {
        if !bytes.is_empty() {
            bytes.push(b',');
        }
        // Into memory, and strings, numbers and string keys only.
        let _ = serde_json::to_writer(&mut bytes, &sandbox);
    }
    String::from_utf8(bytes).unwrap_or_default()
}

/// What else `list --json` tells.
#[derive(Serialize)]
struct Rest<'a> {
    broken: Vec<Broken<'a>>,
    orphans: &'a [Unrecorded],
}

#[derive(Serialize)]
struct Broken<'a> {
    id: &'a str,
    problem: &'a str,
}

fn table(sandboxes: &mut dyn Iterator<Item = SandboxView>, wide: bool) -> Columns {
    let mut headings = vec!["ID", "STATE", "IMAGE", "CPUS", "MEMORY", "ADDRESS", "AGE"];
    if wide {
        headings.extend(["ACCEL", "PID", "LABELS"]);
    }
    let mut table = Columns::new(&headings);
    for s in sandboxes {
        table.cell(&s.id);
        table.cell(&state(&s));
        table.cell(&s.image);
        table.cell(&s.cpus.to_string());
        table.cell(&display_bytes(u64::from(s.memory_mib) << 20).to_string());
        table.cell(s.network.as_ref().map_or("none", |network| network.address.as_deref().unwrap_or(network.mode)));
        table.cell(&age(&s.created_at));
        if wide {
            let labels: Vec<String> = s.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            table.cell(s.accelerator.as_deref().unwrap_or_default());
            table.cell(&s.process.as_ref().map(|process| process.pid.to_string()).unwrap_or_default());
            table.cell(&labels.join(","));
        }
    }
    table
}

/// The state as people read it.
pub(super) fn state(sandbox: &SandboxView) -> String {
    match (sandbox.stale, &sandbox.unknown) {
        (true, _) => format!("{} (stale)", sandbox.state),
        (false, Some(_)) => format!("{} (unknown)", sandbox.state),
        (false, None) => sandbox.state.to_owned(),
    }
}

/// How long ago a moment was.
pub(super) fn age(created_at: &str) -> String {
    let since = created_at.parse().ok().map(|then: jiff::Timestamp| jiff::Timestamp::now().as_second() - then.as_second());
    since.map_or_else(String::new, ago)
}

/// Seconds in their largest unit.
pub(super) fn ago(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{}s", seconds.max(0)),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// One condition.
#[derive(Debug, Clone)]
enum Filter {
    State(State),
    Stale(bool),
    Image(String),
    Label(String, Option<String>),
}

/// Why a text is no filter.
#[derive(Debug, thiserror::Error)]
enum FilterError {
    #[error("a filter is state=STATE, stale=true|false, image=NAME, label=KEY or label=KEY=VALUE")]
    Form,
    #[error("no sandbox is ever in the state {0:?}")]
    State(String),
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let (key, value) = text.split_once('=').ok_or(FilterError::Form)?;
        match key {
            "state" => value.parse().map(Self::State).map_err(|_| FilterError::State(value.chars().take(40).collect())),
            "stale" => value.parse().map(Self::Stale).map_err(|_| FilterError::Form),
            "image" => Ok(Self::Image(value.to_owned())),
            "label" => Ok(match value.split_once('=') {
                Some((key, value)) => Self::Label(key.to_owned(), Some(value.to_owned())),
                None => Self::Label(value.to_owned(), None),
            }),
            _ => Err(FilterError::Form),
        }
    }
}

impl Filter {
    fn matches(&self, sandbox: &SandboxView) -> bool {
        match self {
            Self::State(state) => sandbox.state == state.as_str(),
            Self::Stale(stale) => sandbox.stale == *stale,
            Self::Image(image) => sandbox.image == *image,
            Self::Label(key, None) => sandbox.labels.contains_key(key),
            Self::Label(key, Some(value)) => sandbox.labels.get(key) == Some(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        for good in ["state=running", "stale=true", "image=debian", "label=a", "label=a=b=c"] {
            assert!(good.parse::<Filter>().is_ok(), "{good}");
        }
        for bad in ["", "running", "state=", "state=gone", "stale=yes", "colour=red"] {
            assert!(bad.parse::<Filter>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ages_in_their_largest_unit() {
        for (seconds, text) in [(-5, "0s"), (59, "59s"), (60, "1m"), (7200, "2h"), (172_800, "2d")] {
            assert_eq!(ago(seconds), text);
        }
    }
}
