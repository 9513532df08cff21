//! `image inspect`.

use clap::Args;
use serde_json::json;
use smolvm::image::ImageDetails;
use smolvm_model::quantity::display_bytes;
use smolvm_model::spec::ImageName;

use crate::args::Common;
use crate::commands::Verbal;
use crate::context::Context;
use crate::output::{Format, Problem, Reply};

/// Show what an image is and how it is run
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  smolvm image inspect python:3.13-slim")]
pub(crate) struct Inspect {
    /// The image's name
    #[arg(value_name = "NAME")]
    name: ImageName,
    #[command(flatten)]
    common: Common,
}

impl Verbal for Inspect {
    const PATH: &'static str = "image.inspect";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let details = context.open()?.inspect_image(&self.name)?;
        Ok(Reply::new(self.format(), || json!({"image": details}), || text(&details)))
    }
}

fn text(details: &ImageDetails) -> String {
    let mut lines = vec![
        ("name", details.image.name.clone()),
        ("digest", details.image.digest.clone()),
        ("size", display_bytes(details.image.size_bytes).to_string()),
        ("own", display_bytes(details.image.own_bytes).to_string()),
        ("shared", display_bytes(details.image.shared_bytes).to_string()),
        ("memory", format!("{} MiB", details.default_memory_mib)),
    ];
    if let Some(origin) = &details.origin {
        let run = &origin.run;
        let words = |words: &[String]| words.join(" ");
        let all = [
            ("manifest", origin.manifest.to_string()),
            ("layers", origin.layers.len().to_string()),
            ("entrypoint", words(&run.entrypoint)),
            ("command", words(&run.cmd)),
            ("workdir", run.working_dir.clone().unwrap_or_default()),
            ("user", run.user.clone().unwrap_or_default()),
            ("ports", words(&run.exposed_ports)),
            ("volumes", words(&run.volumes)),
            ("stop signal", run.stop_signal.clone().unwrap_or_default()),
        ];
        lines.extend(all.into_iter().filter(|(_, value)| !value.is_empty()));
        lines.extend(run.env.iter().map(|(key, value)| ("variable", format!("{key}={value}"))));
        lines.extend(run.labels.iter().map(|(key, value)| ("label", format!("{key}={value}"))));
    }
    lines.into_iter().fold(String::new(), |text, (key, value)| format!("{text}{key:<12} {}\n", value.escape_debug()))
}
