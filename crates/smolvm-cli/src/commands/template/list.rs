//! `template list`.

use clap::Args;
use serde_json::json;
use smolvm::template::{DiskState, TemplateView};
use smolvm_model::quantity::display_bytes;

use crate::args::Common;
use crate::commands::Verbal;
use crate::commands::list::age;
use crate::context::Context;
use crate::output::{Columns, Format, Problem, Reply};

/// How much of a key is shown: enough to name it by.
const SHORT: usize = 12;

/// List templates, the one that was used last first
#[derive(Debug, Args)]
#[command(after_help = "\
One that says \"no\" under CURRENT was made before this host booted, and is used no more.

Example:
  smolvm template list")]
pub(crate) struct List {
    #[command(flatten)]
    common: Common,
}

impl Verbal for List {
    const PATH: &'static str = "template.list";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let templates = context.open_unsettled()?.templates()?;
        let text = || if self.common.quiet { keys(&templates) } else { table(&templates) };
        Ok(Reply::new(self.format(), || json!({"templates": templates}), text))
    }
}

fn keys(templates: &[TemplateView]) -> String {
    templates.iter().fold(String::new(), |text, template| text + &template.key + "\n")
}

fn table(templates: &[TemplateView]) -> String {
    let mut table = Columns::new(&["KEY", "IMAGE", "CPUS", "MEMORY", "DISK", "FOR", "NETWORK", "ACCEL", "SIZE", "USED", "CURRENT"]);
    for t in templates {
        table.row(&[
            t.key.chars().take(SHORT).collect(),
            t.image.clone(),
            t.cpus.to_string(),
            display_bytes(u64::from(t.memory_mib) << 20).to_string(),
            display_bytes(t.disk_bytes).to_string(),
            match t.disk {
                DiskState::Fresh => "first start",
                DiskState::Used => "restart",
            }
            .to_owned(),
            t.network.clone(),
            t.accelerator.clone(),
            display_bytes(t.size_bytes).to_string(),
            age(&t.used_at),
            if t.current { "yes" } else { "no" }.to_owned(),
        ]);
    }
    table.text()
}
