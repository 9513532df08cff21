//! `image pull`.

use clap::Args;
use serde_json::json;
use smolvm_model::spec::ImageName;

use super::line;
use crate::args::Common;
use crate::commands::Verbal;
use crate::context::Context;
use crate::output::{Format, Problem, Progress, Reply, note};

/// Pull an image from its registry
#[derive(Debug, Args)]
#[command(after_help = "\
Short names are Docker's unless `registry.default` says otherwise: `python:3.13-slim` is
`docker.io/library/python:3.13-slim`. Logins are those of `podman login` and `docker login`.
Registries on this machine's loopback are spoken to without HTTPS, all others with it.
What has come of a pull that was interrupted is not pulled again.

Examples:
  smolvm image pull python:3.13-slim
  smolvm image pull ghcr.io/owner/app@sha256:…")]
pub(crate) struct Pull {
    /// The image's name
    #[arg(value_name = "NAME")]
    name: ImageName,
    #[command(flatten)]
    common: Common,
}

impl Verbal for Pull {
    const PATH: &'static str = "image.pull";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let vm = context.open()?;
        let progress = Progress::of(self.format(), self.common.quiet, format!("Pulling {}", self.name));
        let pulled = vm.pull_image(&self.name, &mut |event| progress.say(line(&event)))?;
        drop(progress);
        if !pulled.made && !self.common.quiet && !self.common.json {
            note("The image was here already.");
        }
        let text = || format!("{}\n", if self.common.quiet { &pulled.image.digest } else { &pulled.image.name });
        Ok(Reply::new(self.format(), || json!({"image": pulled.image, "made": pulled.made}), text))
    }
}
