//! `image load`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use smolvm_model::spec::ImageName;

use super::line;
use crate::args::Common;
use crate::commands::Verbal;
use crate::context::Context;
use crate::output::{Format, Problem, Progress, Reply, note};

/// Make an image from an archive
#[derive(Debug, Args)]
#[command(after_help = "\
The archive is an OCI layout in a tar file, packed or not, as `smolvm image save`, skopeo (oci-archive:)
and podman (--format oci-archive) write it.

Examples:
  smolvm image load python.tar
  smolvm image load app.tar --name localhost/app:1")]
pub(crate) struct Load {
    /// The archive
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    file: PathBuf,
    /// What it is called, instead of what the archive says
    #[arg(long, value_name = "NAME")]
    name: Option<ImageName>,
    #[command(flatten)]
    common: Common,
}

impl Verbal for Load {
    const PATH: &'static str = "image.load";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let vm = context.open()?;
        let progress = Progress::of(self.format(), self.common.quiet, format!("Loading {}", self.file.display()));
        let loaded = vm.load_image(&self.file, self.name.as_ref(), &mut |event| progress.say(line(&event)))?;
        drop(progress);
        if let (Some(before), Format::Text) = (&loaded.replaced, self.format()) {
            note(&format!("{} was another image until now: {before}", loaded.image.name));
        }
        let data = || json!({"image": loaded.image, "made": loaded.made, "replaced": loaded.replaced});
        Ok(Reply::new(self.format(), data, || format!("{}\n", loaded.image.name)))
    }
}
