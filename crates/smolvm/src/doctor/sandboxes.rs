//! Sandboxes whose record no longer fits the host.

use super::report::{CheckReport, count};
use crate::error::Error;
use crate::installation::Smolvm;
use crate::list::Listing;

const STALE: &str = "sandboxes.stale";
const UNKNOWN: &str = "sandboxes.unknown";

pub(super) fn look(vm: &Smolvm) -> Vec<CheckReport> {
    judge(&vm.list())
}

fn judge(listing: &Result<Listing, Error>) -> Vec<CheckReport> {
    let listing = match listing {
        Ok(listing) => listing,
        Err(e) => {
            // `state.database` says what is wrong and how to mend it.
            return vec![
                CheckReport::fail(STALE, "the sandboxes cannot be listed", e.one_line()).mended_by(e.recovery.clone().unwrap_or_default()),
            ];
        }
    };
    let stale: Vec<&str> = listing.sandboxes.iter().filter(|s| s.stale).map(|s| s.id.as_str()).collect();
    let running = listing.sandboxes.iter().filter(|s| s.state == "running" && !s.stale).count();
    let all = format!("{}, {running} running", count(listing.sandboxes.len(), "sandbox", "sandboxes"));
    let mut reports = vec![if stale.is_empty() {
        CheckReport::pass(STALE, "no sandbox has lost its hypervisor", all)
    } else {
        CheckReport::warn(STALE, format!("{} lost the hypervisor", count(stale.len(), "sandbox has", "sandboxes have")), some(&stale))
            .mended_by("smolvm cleanup   removes them; smolvm start NAME boots one again on its disk")
    }];
    let unknown: Vec<String> =
        listing.sandboxes.iter().filter_map(|s| s.unknown.as_ref().map(|evidence| format!("{}: {evidence}", s.id))).collect();
    if !unknown.is_empty() {
        let shown: Vec<&str> = unknown.iter().map(String::as_str).collect();
        reports.push(
            CheckReport::warn(
                UNKNOWN,
                format!("of {} it cannot be told whether it runs", count(unknown.len(), "sandbox", "sandboxes")),
                some(&shown),
            )
            .mended_by("sudo smolvm doctor   looks with the rights to read other users' processes"),
        );
    }
    reports
}

/// The first few, and how many more.
pub(super) fn some(names: &[&str]) -> String {
    const SHOWN: usize = 8;
    let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown}, and {} more", names.len() - SHOWN) } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::CheckStatus;

    #[test]
    fn long_lists_are_cut() {
        let names = vec!["a"; 11];
        assert_eq!(some(&names), "a, a, a, a, a, a, a, a, and 3 more");
        assert_eq!(some(&names[..2]), "a, a");
    }

    #[test]
    fn a_ledger_that_cannot_be_read_fails_with_the_librarys_own_way_out() {
        let error = Error::new(smolvm_model::error_code::ErrorCode::StateCorrupt, "the ledger could not be used").hint("mv a b");
        let reports = judge(&Err(error));
        assert_eq!((reports[0].status, reports[0].fix.as_deref()), (CheckStatus::Fail, Some("mv a b")));
        assert_eq!(judge(&Ok(Listing::default()))[0].status, CheckStatus::Pass);
    }
}
