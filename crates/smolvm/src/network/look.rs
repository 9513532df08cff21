//! A look at the installation's table beside other work.

use std::thread::{Builder, JoinHandle};

use smolvm_host::net::nft::{self, NftError};

use crate::installation::Smolvm;

/// A look at the table that a thread takes while other things are done: `nft` needs some milliseconds for it.
///
/// A start takes it without the network lock. What other starts and deletions do meanwhile to elements is about names that are theirs; and
/// a table that was made again meanwhile is noted to be another one than the one that was seen.
pub(crate) struct Look(Option<JoinHandle<Result<Option<nft::Table>, NftError>>>);

impl Look {
    /// Begins to look.
    pub(crate) fn begin(vm: &Smolvm) -> Self {
        let install = vm.install.clone();
        Self(Builder::new().spawn(move || nft::table(&install)).ok())
    }

    /// What was seen; where no thread could be had, what is there now.
    pub(super) fn end(self, vm: &Smolvm) -> Result<Option<nft::Table>, NftError> {
        self.0.and_then(|thread| thread.join().ok()).unwrap_or_else(|| nft::table(&vm.install))
    }
}
