//! `image rm`.

use clap::Args;
use serde_json::json;
use smolvm_model::spec::ImageName;

use crate::args::Common;
use crate::commands::Verbal;
use crate::context::Context;
use crate::output::{Format, Problem, Reply};

/// Remove names of images, and images that have no other
#[derive(Debug, Args)]
#[command(after_help = "\
An image that a sandbox, a snapshot or a template needs keeps its last name.

Example:
  smolvm image rm python:3.13-slim")]
pub(crate) struct Rm {
    /// Names of images
    #[arg(value_name = "NAME", required = true)]
    names: Vec<ImageName>,
    #[command(flatten)]
    common: Common,
}

impl Verbal for Rm {
    const PATH: &'static str = "image.rm";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let removal = context.open()?.remove_images(&self.names)?;
        let text = || removal.removed.iter().fold(String::new(), |text, name| text + name + "\n");
        Ok(Reply::new(self.format(), || json!({"removed": removal.removed, "freed_bytes": removal.freed_bytes}), text))
    }
}
