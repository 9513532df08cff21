//! `image tag`.

use clap::Args;
use serde_json::json;
use smolvm_model::spec::ImageName;

use crate::args::Common;
use crate::commands::Verbal;
use crate::context::Context;
use crate::output::{Format, Problem, Reply};

/// Give an image another name
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  smolvm image tag python:3.13-slim localhost/base:1")]
pub(crate) struct Tag {
    /// An image that is here
    #[arg(value_name = "NAME")]
    name: ImageName,
    /// What it is called as well from now on
    #[arg(value_name = "NEW")]
    new: ImageName,
    #[command(flatten)]
    common: Common,
}

impl Verbal for Tag {
    const PATH: &'static str = "image.tag";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let image = context.open()?.tag_image(&self.name, &self.new)?;
        Ok(Reply::new(self.format(), || json!({"image": image}), || format!("{}\n", image.name)))
    }
}
