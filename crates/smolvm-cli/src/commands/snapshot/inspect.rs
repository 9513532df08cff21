//! `snapshot inspect`.

use clap::Args;
use serde_json::json;
use smolvm::snapshot::{Look, SnapshotDetails};
use smolvm_model::error_code::ErrorCode;
use smolvm_model::name::SandboxId;
use smolvm_model::quantity::display_bytes;

use crate::args::Common;
use crate::commands::Verbal;
use crate::context::Context;
use crate::output::{Format, Problem, Progress, Reply};

/// Show a snapshot, and whether it can be restored here
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  smolvm snapshot inspect build-1 --verify")]
pub(crate) struct Inspect {
    /// The snapshot
    #[arg(value_name = "SNAPSHOT")]
    name: SandboxId,
    /// Read all of it, and hold it against its digests; exit 1 if it is damaged
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    common: Common,
}

impl Verbal for Inspect {
    const PATH: &'static str = "snapshot.inspect";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let vm = context.open_unsettled()?;
        let progress = Progress::of(self.format(), self.common.quiet, format!("Reading \"{}\"", self.name));
        let details = vm.inspect_snapshot(&self.name, if self.verify { Look::Content } else { Look::Manifest })?;
        drop(progress);
        let data = || {
            json!({"snapshot": details.snapshot, "restorable": details.differences.is_empty(), "differences": details.differences,
                "verified": self.verify, "damaged": details.damaged})
        };
        let problem = details.damaged.as_ref().map(|file| {
            Problem::new(ErrorCode::PartialFailure, format!("the file \"{file}\" of the snapshot \"{}\" is damaged", self.name))
                .hint(format!("smolvm snapshot delete {}", self.name))
        });
        Ok(Reply::new(self.format(), data, || text(&details, self.verify)).but(problem))
    }
}

fn text(details: &SnapshotDetails, verified: bool) -> String {
    let s = &details.snapshot;
    let memory = display_bytes(u64::from(s.memory_mib) << 20).to_string();
    let mut lines = vec![
        ("name", s.name.clone()),
        ("of", s.sandbox.clone()),
        ("kind", s.kind.to_owned()),
        ("image", s.image.clone()),
        ("machine", format!("{} cpu, {memory} memory, {} disk, network {}", s.cpus, display_bytes(s.disk_bytes), s.network)),
        ("size", display_bytes(s.size_bytes).to_string()),
        ("created", s.created_at.clone()),
    ];
    lines.extend(s.parent.clone().map(|parent| ("parent", parent)));
    lines.push(("restorable", if details.differences.is_empty() { "yes".to_owned() } else { "its disk alone".to_owned() }));
    lines.extend(details.differences.iter().map(|d| ("differs", format!("{}: was {}, is {}", d.what, d.then, d.now))));
    if verified {
        lines.push(("content", details.damaged.as_ref().map_or("as it was saved".to_owned(), |file| format!("\"{file}\" is damaged"))));
    }
    lines.into_iter().fold(String::new(), |text, (name, value)| text + &format!("{name:<12}{value}\n"))
}
