//! `config show`: all of it, and who said so.

use clap::Args;
use serde_json::json;
use smolvm_model::config::{KEYS, Key};

use super::Row;
use crate::args::Common;
use crate::commands::Verbal;
use crate::context::Context;
use crate::output::{Columns, Format, Problem, Reply};

/// Show every setting, its value and where it comes from
#[derive(Debug, Args)]
#[command(after_help = "\
FROM is default, file, environment or line (--set). An option of a command is stronger than all of them.

Example:
  smolvm config show")]
pub(crate) struct Show {
    #[command(flatten)]
    common: Common,
}

impl Verbal for Show {
    const PATH: &'static str = "config.show";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let (config, path) = (context.config()?, context.config_file()?);
        let fixed = KEYS.iter().filter_map(|described| described.key.parse().ok());
        let named = config.keys().into_iter().filter(|key| matches!(key, Key::Pool(_) | Key::Mirror(_))).cloned();
        let rows: Vec<Row> = fixed.chain(named).map(|key| Row::of(&config, &key)).collect();
        let data = || {
            let settings: Vec<_> = rows.iter().map(Row::json).collect();
            json!({"path": path, "settings": settings})
        };
        let text = || {
            let mut table = Columns::new(&["KEY", "FROM", "VALUE"]);
            for row in &rows {
                table.row(&[row.key.clone(), row.from.to_owned(), row.shown()]);
            }
            table.text()
        };
        Ok(Reply::new(self.format(), data, text))
    }
}
