//! `logs`: what a sandbox's console, hypervisor and monitor wrote.

use clap::Args;
use serde_json::json;
use smolvm::Smolvm;
use smolvm::logs::LogKind;
use smolvm_model::name::SandboxId;

use super::Verbal;
use crate::args::Common;
use crate::context::Context;
use crate::output::{Format, Problem, Reply, tell};

/// Show what a sandbox's console wrote
#[derive(Debug, Args)]
#[command(after_help = "\
At most the last two MiB; characters that could drive a terminal are left out.

Example:
  smolvm logs build --tail 20
  smolvm logs build --source hypervisor")]
pub(crate) struct Logs {
    /// The sandbox
    #[arg(value_name = "NAME")]
    name: SandboxId,
    /// Whose log: the guest's console, or the complaints of hypervisor or monitor
    #[arg(long, value_enum, value_name = "SOURCE", default_value = "console")]
    source: Source,
    /// Only the last N lines
    #[arg(short = 'n', long, value_name = "N")]
    tail: Option<usize>,
    #[command(flatten)]
    common: Common,
}

/// Whose log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Source {
    // The guest's serial console: kernel and agent.
    Console,
    // What the hypervisor complained about.
    Hypervisor,
    // What the monitor complained about.
    Monitor,
}

impl Source {
    fn as_str(self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::Hypervisor => "hypervisor",
            Self::Monitor => "monitor",
        }
    }
}

impl From<Source> for LogKind {
    fn from(source: Source) -> Self {
        match source {
            Source::Console => Self::Console,
            Source::Hypervisor => Self::Hypervisor,
            Source::Monitor => Self::Monitor,
        }
    }
}

impl Verbal for Logs {
    const PATH: &'static str = "sandbox.logs";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let bytes = context.open_unsettled()?.logs(&self.name, self.source.into())?;
        let mut text = Smolvm::harmless(&bytes);
        if let Some(lines) = self.tail {
            text = last(&text, lines).to_owned();
        }
        if self.common.verbose {
            tell(&format!("{} bytes of the {} log of \"{}\"", bytes.len(), self.source.as_str(), self.name));
        }
        let data = || json!({"id": self.name.as_str(), "source": self.source.as_str(), "text": text});
        Ok(Reply::new(self.format(), data, || text.clone()))
    }
}

/// The end of a text, from its last `count` lines on.
fn last(text: &str, count: usize) -> &str {
    let body = text.strip_suffix('\n').unwrap_or(text);
    match count {
        0 => "",
        _ => body.rmatch_indices('\n').nth(count - 1).map_or(text, |(at, _)| &text[at + 1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::last;

    #[test]
    fn the_last_lines() {
        for (text, count, want) in [("a\nb\nc\n", 2, "b\nc\n"), ("a\nb", 1, "b"), ("a\n", 5, "a\n"), ("a\n", 0, ""), ("", 3, "")] {
            assert_eq!(last(text, count), want, "{text:?} {count}");
        }
    }
}
