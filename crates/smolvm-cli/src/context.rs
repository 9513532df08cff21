//! What a command needs beside its own arguments.

use std::path::PathBuf;

use smolvm::Smolvm;

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
        Ok(Smolvm::open(env::settings(self.home.clone())?)?)
    }
}
