//! `image history`.

use clap::Args;
use serde_json::json;
use smolvm::image::ImageStep;
use smolvm_model::quantity::display_bytes;
use smolvm_model::spec::ImageName;

use crate::args::Common;
use crate::commands::Verbal;
use crate::commands::list::age;
use crate::context::Context;
use crate::output::{Columns, Format, Problem, Reply};

/// How much of a step is shown in a table.
const SHOWN: usize = 60;

/// Show the steps in which an image was made
#[derive(Debug, Args)]
#[command(after_help = "\
The last one first. A step without a layer changed only how the image is run.

Example:
  smolvm image history python:3.13-slim")]
pub(crate) struct History {
    /// The image's name
    #[arg(value_name = "NAME")]
    name: ImageName,
    #[command(flatten)]
    common: Common,
}

impl Verbal for History {
    const PATH: &'static str = "image.history";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let steps = context.open()?.image_history(&self.name)?;
        let width = if self.common.verbose { usize::MAX } else { SHOWN };
        let text = || if self.common.quiet { layers(&steps) } else { table(&steps, width) };
        Ok(Reply::new(self.format(), || json!({"history": steps}), text))
    }
}

fn layers(steps: &[ImageStep]) -> String {
    steps.iter().filter_map(|step| step.layer.as_ref()).fold(String::new(), |text, layer| text + layer + "\n")
}

fn table(steps: &[ImageStep], width: usize) -> String {
    let mut table = Columns::new(&["LAYER", "AGE", "SIZE", "CREATED BY", "COMMENT"]);
    let or_dash = |text: Option<String>| text.filter(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned());
    for step in steps {
        let layer = step.layer.as_ref().map(|layer| layer.trim_start_matches("sha256:").chars().take(12).collect());
        // What strangers wrote: one line, and nothing that a terminal obeys.
        let plain =
            |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(width).flat_map(char::escape_debug).collect();
        table.row(&[
            or_dash(layer),
            or_dash(step.created.as_deref().map(age)),
            display_bytes(step.size_bytes).to_string(),
            or_dash(Some(plain(&step.created_by))),
            or_dash(step.comment.as_deref().map(plain)),
        ]);
    }
    table.text()
}
