//! `template build`: before the first sandbox needs it.

use clap::Args;
use serde_json::json;
use smolvm_model::spec::ImageName;

use crate::args::{Common, MachineOptions};
use crate::commands::Verbal;
use crate::context::Context;
use crate::output::{Format, Problem, Progress, Reply, note};

/// Make the template that sandboxes of this kind are forked from, unless it is there
#[derive(Debug, Args)]
#[command(after_help = "\
The first start of each kind does the same by itself; it then takes a second longer than the next.

Example:
  smolvm template build debian --memory 1G")]
pub(crate) struct Build {
    /// The image
    #[arg(value_name = "IMAGE")]
    image: ImageName,
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    machine: MachineOptions,
}

impl Verbal for Build {
    const PATH: &'static str = "template.build";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let config = context.config()?;
        let vm = context.open_with(&config)?;
        let progress = Progress::of(self.format(), self.common.quiet, format!("Making a template of \"{}\"", self.image));
        let built = vm.build_template(&self.machine.request(self.image.clone(), &config))?;
        drop(progress);
        if !built.made && !self.common.quiet && !self.common.json {
            note("it was there already");
        }
        let data = || json!({"template": built.template, "made": built.made});
        Ok(Reply::new(self.format(), data, || format!("{}\n", built.template.key)))
    }
}
