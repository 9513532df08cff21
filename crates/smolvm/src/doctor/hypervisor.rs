//! Is there a QEMU that smolvm can drive?

use std::path::Path;

use smolvm_host::engine::probe::{Engine, ProbeError};

use super::report::{CheckReport, chain};
use crate::installation::{Smolvm, is_root};
use crate::setup::{HYPERVISOR, command};

const ID: &str = "hypervisor";
/// No cache lies beneath a device, and none can be made there: the hypervisor is asked afresh, and
/// nothing is written.
pub(super) const NO_CACHE: &str = "/dev/null/no-cache";

pub(super) fn look(vm: &Smolvm) -> Vec<CheckReport> {
    vec![judge(&Engine::find(vm.settings.hypervisor.as_deref(), Path::new(NO_CACHE)), is_root())]
}

fn judge(found: &Result<Engine, ProbeError>, root: bool) -> CheckReport {
    let error = match found {
        Ok(engine) => {
            let evidence = format!("{}, with {} files of its own", engine.binary.source.display(), engine.libraries.len());
            return CheckReport::pass(ID, format!("QEMU {}", engine.version), evidence);
        }
        Err(e) => e,
    };
    let report = CheckReport::fail(ID, "there is no hypervisor that can be used", chain(error));
    let reinstall = || command(&[HYPERVISOR], root).replace("install ", "install --reinstall ");
    match error {
        ProbeError::Missing => {
            CheckReport { summary: "the hypervisor is not installed".to_owned(), ..report }.mended_by(command(&[HYPERVISOR], root))
        }
        ProbeError::TooOld { .. } => report.mended_by(command(&[HYPERVISOR], root)),
        ProbeError::LibraryMissing { .. } | ProbeError::FirmwareMissing { .. } | ProbeError::Unreadable { .. } => {
            report.mended_by(reinstall())
        }
        ProbeError::Ask { path, .. } | ProbeError::Answer { path, .. } => {
            report.mended_by(format!("{} --version   shows what it says", path.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::CheckStatus;
    use smolvm_host::engine::probe::QemuVersion;

    #[test]
    fn each_trouble_has_its_command() {
        let table = [
            (ProbeError::Missing, "apt-get install --no-install-recommends qemu-system-x86"),
            (
                ProbeError::TooOld { found: QemuVersion { major: 5, minor: 2, micro: 0 } },
                "apt-get install --no-install-recommends qemu-system-x86",
            ),
            (ProbeError::FirmwareMissing { name: "pvh.bin" }, "apt-get install --reinstall --no-install-recommends qemu-system-x86"),
            (ProbeError::Answer { path: "/opt/qemu".into(), wanted: "version" }, "/opt/qemu --version   shows what it says"),
        ];
        for (error, fix) in table {
            let report = judge(&Err(error), true);
            assert_eq!((report.status, report.fix.as_deref()), (CheckStatus::Fail, Some(fix)));
        }
        assert!(judge(&Err(ProbeError::Missing), false).fix.unwrap().starts_with("sudo apt-get"));
    }

    #[test]
    fn a_program_that_is_no_hypervisor_is_told_and_nothing_is_cached() {
        let found = Engine::find(Some(Path::new("/bin/true")), Path::new(NO_CACHE));
        assert_eq!(judge(&found, true).status, CheckStatus::Fail);
    }
}
