//! `snapshot restore`.

use clap::Args;
use serde_json::json;
use smolvm::snapshot::{Kind, RestoreRequest};
use smolvm::start::DEADLINE;
use smolvm_model::name::SandboxId;
use smolvm_model::quantity::Span;

use crate::args::Common;
use crate::commands::Verbal;
use crate::commands::start::started;
use crate::context::Context;
use crate::output::{Format, Problem, Progress, Reply};
use crate::signals::SignalPipe;

/// Make a sandbox that goes on where a snapshot was made
#[derive(Debug, Args)]
#[command(after_help = "\
It has the memory, the files and what ran in the background, and an address and random numbers of its
own. A snapshot can be restored as often as one likes.

Examples:
  smolvm snapshot restore build-1                 under the name it had
  smolvm snapshot restore build-1 --name again")]
pub(crate) struct Restore {
    /// The snapshot
    #[arg(value_name = "SNAPSHOT")]
    snapshot: SandboxId,
    /// The sandbox's name [default: that of the one that was saved]
    #[arg(long = "name", value_name = "NAME")]
    name: Option<SandboxId>,
    /// Restore the files alone, and boot
    #[arg(long)]
    disk_only: bool,
    /// Time to live: 30s, 5m, 1h30m; `cleanup` takes it after that
    #[arg(long, value_name = "DURATION")]
    ttl: Option<Span>,
    /// How long it may take to answer [default: 60s]
    #[arg(long, value_name = "DURATION")]
    timeout: Option<Span>,
    #[command(flatten)]
    common: Common,
}

impl Verbal for Restore {
    const PATH: &'static str = "snapshot.restore";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let vm = context.open_unsettled()?;
        let signals = SignalPipe::ending()?;
        let progress = Progress::of(self.format(), self.common.quiet, format!("Restoring \"{}\"", self.snapshot));
        let request = RestoreRequest {
            name: self.name.clone(),
            kind: self.disk_only.then_some(Kind::Disk),
            ttl: self.ttl,
            deadline: self.timeout.map_or(DEADLINE, Span::duration),
            ..RestoreRequest::of(self.snapshot.clone())
        };
        let sandbox = vm.restore_snapshot(&request, Some(signals.fd()))?;
        drop(progress);
        if self.common.verbose {
            started(&sandbox);
        }
        Ok(Reply::new(self.format(), || json!({"sandbox": sandbox}), || format!("{}\n", sandbox.id)))
    }
}
