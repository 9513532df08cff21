//! What a setting has come to by a write. What else is wrong with the configuration does not undo that: it is told, and the write is done.

use std::path::Path;

use serde_json::json;
use smolvm_model::config::{Key, Layer};

use super::Row;
use crate::args::Common;
use crate::context::Context;
use crate::output::{Problem, Reply, note, tell};

/// A key after its file was written.
pub(super) struct Written {
    row: Row,
    /// Why nobody can tell what holds; then the row is what the file says.
    fault: Option<String>,
}

impl Written {
    /// Looks at what holds now; `in_file` is what was written, nothing if it was taken out.
    pub(super) fn look(context: &Context, key: &Key, in_file: Option<&str>) -> Self {
        match context.config() {
            Ok(config) => Self { row: Row::of(&config, key), fault: None },
            Err(problem) => Self { row: Row::written(key, in_file), fault: Some(told(&problem)) },
        }
    }

    /// The file does not have the last word.
    pub(super) fn note_if_overruled(&self, common: Common) {
        let row = &self.row;
        if row.from != Layer::File.as_str() && self.fault.is_none() && !common.quiet && !common.json {
            note(&format!("the {} says {} all the same", row.from, row.shown()));
        }
    }

    /// The answer: it is written, whatever else there is.
    pub(super) fn reply(&self, common: Common, path: &Path) -> Reply {
        if let Some(fault) = self.fault.as_deref().filter(|_| !common.quiet && !common.json) {
            tell(&format!("{} is written, but the configuration cannot be used: {fault}", path.display()));
        }
        Reply::new(common.format(), || json!({"path": path, "setting": self.row.json(), "note": self.fault}), String::new)
    }
}

/// With the hint: it says which variable is to blame.
fn told(problem: &Problem) -> String {
    let line = problem.one_line();
    problem.recovery().map_or_else(|| line.clone(), |hint| format!("{line}; {hint}"))
}
