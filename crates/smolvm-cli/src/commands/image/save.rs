//! `image save`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use smolvm_model::spec::ImageName;

use crate::args::Common;
use crate::commands::Verbal;
use crate::context::Context;
use crate::output::{Format, Problem, Progress, Reply};

/// Write an image into an archive that others can read
#[derive(Debug, Args)]
#[command(after_help = "\
The archive is an OCI layout in a tar file, for `smolvm image load`, skopeo, podman and docker.

Example:
  smolvm image save python:3.13-slim -o python.tar")]
pub(crate) struct Save {
    /// The image's name
    #[arg(value_name = "NAME")]
    name: ImageName,
    /// The archive
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    output: PathBuf,
    #[command(flatten)]
    common: Common,
}

impl Verbal for Save {
    const PATH: &'static str = "image.save";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let vm = context.open()?;
        let progress = Progress::of(self.format(), self.common.quiet, format!("Saving {}", self.name));
        let bytes = vm.save_image(&self.name, &self.output)?;
        drop(progress);
        Ok(Reply::new(self.format(), || json!({"file": self.output, "bytes": bytes}), || format!("{}\n", self.output.display())))
    }
}
