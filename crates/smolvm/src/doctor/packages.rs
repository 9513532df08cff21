//! Are the programs there that `setup` and sandboxes run?

use std::path::PathBuf;

use smolvm_host::image::{self, BuiltIn, When};
use smolvm_host::proc::tool;

use super::report::CheckReport;
use crate::installation::{Smolvm, is_root};
use crate::setup::{HYPERVISOR, command};

const ID: &str = "packages";

pub(super) fn look(vm: &Smolvm) -> Vec<CheckReport> {
    let debian_is_there = image::resolve(&vm.paths().cache, BuiltIn::Debian.name()).is_ok();
    vec![judge(debian_is_there, is_root(), &tool::find)]
}

/// The hypervisor has a check of its own.
fn judge(debian_is_there: bool, root: bool, find: &dyn Fn(&str) -> Option<PathBuf>) -> CheckReport {
    let missing: Vec<_> = image::required_tools().into_iter().filter(|r| r.package != HYPERVISOR && find(r.tool).is_none()).collect();
    let packages = |always: bool| {
        let mut names: Vec<&str> = missing.iter().filter(|r| (r.when == When::Always) == always).map(|r| r.package).collect();
        names.dedup();
        names
    };
    let (always, debian) = (packages(true), packages(false));
    let evidence = missing.iter().map(|r| format!("no {} ({})", r.tool, r.why)).collect::<Vec<_>>().join("; ");
    let all: Vec<&str> = always.iter().chain(&debian).copied().collect();
    if !always.is_empty() {
        CheckReport::fail(ID, format!("missing: {}", all.join(" ")), evidence).mended_by(command(&all, root))
    } else if !debian.is_empty() && !debian_is_there {
        CheckReport::warn(ID, format!("the image debian cannot be built without {}", debian.join(" ")), evidence)
            .mended_by(command(&debian, root))
    } else {
        let seen: Vec<&str> = image::required_tools().iter().filter(|r| find(r.tool).is_some()).map(|r| r.tool).collect();
        CheckReport::pass(ID, "the programs that smolvm runs are there", seen.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::CheckStatus;

    #[test]
    fn a_missing_tool_is_named_with_its_package() {
        let table: [(&[&str], bool, CheckStatus, Option<&str>); 5] = [
            (&[], false, CheckStatus::Pass, None),
            (&["mke2fs", "debugfs"], false, CheckStatus::Fail, Some("apt-get install --no-install-recommends e2fsprogs")),
            (&["mmdebstrap"], false, CheckStatus::Warn, Some("apt-get install --no-install-recommends mmdebstrap")),
            (&["mmdebstrap"], true, CheckStatus::Pass, None),
            (&["qemu-system-x86_64"], false, CheckStatus::Pass, None),
        ];
        for (gone, debian_is_there, status, fix) in table {
            let find = |tool: &str| (!gone.contains(&tool)).then(|| PathBuf::from("/usr/bin").join(tool));
            let report = judge(debian_is_there, true, &find);
            assert_eq!((report.status, report.fix.as_deref()), (status, fix), "{gone:?}");
        }
    }
}
