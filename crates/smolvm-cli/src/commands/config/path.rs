//! `config path`.

use clap::Args;
use serde_json::json;

use crate::args::Common;
use crate::commands::Verbal;
use crate::context::Context;
use crate::output::{Format, Problem, Reply};

/// Print where the configuration file is, or would be
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  $EDITOR \"$(smolvm config path)\"")]
pub(crate) struct Path {
    #[command(flatten)]
    common: Common,
}

impl Verbal for Path {
    const PATH: &'static str = "config.path";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let path = context.config_file()?;
        let exists = path.exists();
        Ok(Reply::new(self.format(), || json!({"path": path, "exists": exists}), || format!("{}\n", path.display())))
    }
}
