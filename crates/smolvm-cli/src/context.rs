//! What a command needs beside its own arguments.

use std::path::PathBuf;

use smolvm::Smolvm;
use smolvm::reach::check_reachable;

use crate::env;
use crate::output::Problem;

/// How the process was called.
#[derive(Debug, Default)]
pub(crate) struct Context {
    /// `--home`.
    pub(crate) home: Option<PathBuf>,
}

impl Context {
    /// The installation that is meant. Changes nothing on the host.
    pub(crate) fn open(&self) -> Result<Smolvm, Problem> {
        let settings = env::settings(self.home.clone())?;
        check_reachable(&settings.paths)?;
        Ok(Smolvm::open(settings)?)
    }
}
