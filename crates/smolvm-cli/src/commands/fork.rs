//! `fork`: running copies of a running sandbox.

use std::time::Duration;

use clap::Args;
use serde_json::json;
use smolvm::fork::ForkRequest;
use smolvm::start::DEADLINE;
use smolvm_model::name::SandboxId;
use smolvm_model::quantity::{Span, display_bytes};

use super::Verbal;
use crate::args::Common;
use crate::context::Context;
use crate::output::{Format, Problem, Progress, Reply, tell};
use crate::signals::SignalPipe;

/// Make running copies of a running sandbox
#[derive(Debug, Args)]
#[command(after_help = "\
Each copy goes on where the source is, with its memory, its files and what runs in the background, and
has a name, an address and random numbers of its own. The source stands still for some milliseconds.
Commands that `exec` or `run` is waiting for are not in the copies. All copies are made, or none.

Examples:
  smolvm fork build
  smolvm fork build --count 3 --name try          makes try-1, try-2 and try-3")]
pub(crate) struct Fork {
    /// The sandbox to copy
    #[arg(value_name = "NAME")]
    source: SandboxId,
    /// How many copies
    #[arg(long, value_name = "N", default_value_t = 1)]
    count: u16,
    /// The copy's name, or what the names of several begin with; made up without it
    #[arg(long = "name", value_name = "NAME")]
    copy: Option<SandboxId>,
    /// Time to live of the copies: 30s, 5m, 1h30m; `cleanup` takes them after that
    #[arg(long, value_name = "DURATION")]
    ttl: Option<Span>,
    /// How long each copy may take to answer [default: 60s]
    #[arg(long, value_name = "DURATION")]
    timeout: Option<Span>,
    #[command(flatten)]
    common: Common,
}

impl Verbal for Fork {
    const PATH: &'static str = "sandbox.fork";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let vm = context.open_unsettled()?;
        let signals = SignalPipe::ending()?;
        let progress = Progress::of(self.format(), self.common.quiet, format!("Copying \"{}\"", self.source));
        let request = ForkRequest {
            count: self.count,
            name: self.copy.clone(),
            ttl: self.ttl,
            deadline: self.timeout.map_or(DEADLINE, Span::duration),
            ..ForkRequest::of(self.source.clone())
        };
        let forked = vm.fork(&request, Some(signals.fd()))?;
        drop(progress);
        if self.common.verbose {
            let (halted, own) = (millis(forked.halted), display_bytes(forked.own_bytes));
            tell(&format!("\"{}\" stood still for {halted} ms; {own} of its memory were its own", self.source));
        }
        let data = || json!({"sandboxes": forked.sandboxes, "halted_ms": millis(forked.halted), "own_bytes": forked.own_bytes});
        let text = || forked.sandboxes.iter().fold(String::new(), |text, sandbox| text + &sandbox.id + "\n");
        Ok(Reply::new(self.format(), data, text))
    }
}

/// Milliseconds with a tenth.
pub(crate) fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}
