//! `version`: what this binary is.

use clap::Args;
use serde_json::json;

use super::Verbal;
use crate::context::Context;
use crate::output::{Format, Problem, Reply};

/// Print the version
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  smolvm version --json")]
pub(crate) struct Version {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Verbal for Version {
    const PATH: &'static str = "version";

    fn format(&self) -> Format {
        Format::of(self.json)
    }

    fn run(self, _: &Context) -> Result<Reply, Problem> {
        let version = env!("CARGO_PKG_VERSION");
        Ok(Reply::new(self.format(), || json!({"version": version}), || format!("smolvm {version}\n")))
    }
}
