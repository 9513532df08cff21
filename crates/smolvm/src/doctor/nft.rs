//! Does the packet filter answer?

use std::path::PathBuf;

use smolvm_host::net::nft::{self, NftError};
use smolvm_host::proc::tool;

use super::report::{CheckReport, chain, count};
use crate::installation::{Smolvm, is_root};
use crate::setup::command;

const ID: &str = "nft";

/// What asking the packet filter gave.
#[derive(Debug)]
struct Facts {
    /// Where the program is.
    program: Option<PathBuf>,
    /// How many installations of smolvm have a table.
    tables: Result<usize, NftError>,
    root: bool,
}

pub(super) fn look(_vm: &Smolvm) -> Vec<CheckReport> {
    let tables = nft::list_tables().map(|tables| tables.len());
    vec![judge(&Facts { program: tool::find("nft"), tables, root: is_root() })]
}

fn judge(facts: &Facts) -> CheckReport {
    let at = facts.program.as_ref().map_or_else(|| "nft is in none of the directories of tools".to_owned(), |p| p.display().to_string());
    match &facts.tables {
        Ok(tables) => CheckReport::pass(
            ID,
            "the packet filter answers",
            format!("{at}; {} of smolvm installations", count(*tables, "table", "tables")),
        ),
        Err(NftError::Missing) if facts.root => {
            CheckReport::fail(ID, "nft is not installed, so there is no network of mode tap", at).mended_by(command(&["nftables"], true))
        }
        // The network of mode user has no rules on the host.
        Err(NftError::Missing | NftError::NoRights) if !facts.root => {
            CheckReport::pass(ID, "not used without root: the network of mode user needs no rules", at)
        }
        Err(e @ NftError::NoRights) => CheckReport::fail(ID, "root may not change the packet filter here", chain(e))
            .mended_by("run smolvm with CAP_NET_ADMIN, or use --net user"),
        Err(e) => CheckReport::fail(ID, "the packet filter does not answer as it should", chain(e))
            .mended_by("modprobe nf_tables; nft list tables   shows what it says"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::CheckStatus;

    #[test]
    fn only_root_needs_it() {
        let refused = || NftError::Refused { complaint: "cache initialization failed".into() };
        let table = [
            (Ok(1), true, CheckStatus::Pass),
            (Err(NftError::Missing), true, CheckStatus::Fail),
            (Err(NftError::Missing), false, CheckStatus::Pass),
            (Err(NftError::NoRights), true, CheckStatus::Fail),
            (Err(NftError::NoRights), false, CheckStatus::Pass),
            (Err(refused()), true, CheckStatus::Fail),
        ];
        for (tables, root, status) in table {
            let report = judge(&Facts { program: None, tables, root });
            assert_eq!((report.status, report.fix.is_some()), (status, status == CheckStatus::Fail), "{report:?}");
        }
    }
}
