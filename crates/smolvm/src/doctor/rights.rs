//! Which network a sandbox of this user can have.

use std::path::PathBuf;

use smolvm_host::net::rights;
use smolvm_host::proc::tool;

use super::report::{CheckReport, chain};
use crate::installation::{Smolvm, is_root};
use crate::setup::command;

const ID: &str = "network.rights";

/// What this user may and what there is.
#[derive(Debug)]
struct Facts {
    /// Why there can be no TAP, if there can be none.
    no_tap: Option<String>,
    passt: Option<PathBuf>,
    root: bool,
}

pub(super) fn look(_vm: &Smolvm) -> Vec<CheckReport> {
    let no_tap = rights::can_tap().err().map(|e| chain(&e));
    vec![judge(&Facts { no_tap, passt: tool::find("passt"), root: is_root() })]
}

fn judge(facts: &Facts) -> CheckReport {
    let passt = facts.passt.as_ref().map_or_else(|| "no passt".to_owned(), |p| p.display().to_string());
    let evidence = match &facts.no_tap {
        None => format!("TAPs can be made; user mode: {passt}"),
        Some(reason) => format!("no TAP: {reason}; user mode: {passt}"),
    };
    match (&facts.no_tap, &facts.passt) {
        (None, _) => CheckReport::pass(ID, "tap: each sandbox gets a device, an address and rules of its own", evidence),
        (Some(_), Some(_)) if facts.root => {
            CheckReport::warn(ID, "user: root has no network rights here, so sandboxes get the network of an ordinary user", evidence)
                .mended_by("modprobe tun; give this container CAP_NET_ADMIN and /dev/net/tun")
        }
        (Some(_), Some(_)) => {
            CheckReport::pass(ID, "user: sandboxes reach the network as this user does; for tap, run smolvm as root", evidence)
        }
        (Some(_), None) => CheckReport::fail(ID, "none: neither a TAP nor passt, so only --net none starts", evidence)
            .mended_by(command(&["passt"], facts.root)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::CheckStatus;

    #[test]
    fn the_best_mode_that_is_left_is_named() {
        let reason = || Some("no rights".to_owned());
        let passt = || Some(PathBuf::from("/usr/bin/passt"));
        let table = [
            (None, None, true, CheckStatus::Pass, "tap"),
            (reason(), passt(), true, CheckStatus::Warn, "user"),
            (reason(), passt(), false, CheckStatus::Pass, "user"),
            (reason(), None, false, CheckStatus::Fail, "none"),
        ];
        for (no_tap, passt, root, status, mode) in table {
            let facts = Facts { no_tap, passt, root };
            let report = judge(&facts);
            assert_eq!(report.status, status, "{facts:?}");
            assert!(report.summary.starts_with(mode), "{}", report.summary);
            assert_eq!(report.fix.is_some(), status != CheckStatus::Pass);
        }
    }
}
