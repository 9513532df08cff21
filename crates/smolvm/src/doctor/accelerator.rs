//! What runs guest code here, and why.

use std::path::Path;

use smolvm_host::engine::accel::probe_kvm;
use smolvm_model::engine::{Accelerator, AcceleratorRequest, KvmProbe, decide};

use super::report::CheckReport;
use crate::installation::Smolvm;

const ID: &str = "accelerator";

pub(super) fn look(_vm: &Smolvm) -> Vec<CheckReport> {
    // Measured afresh: what a start took from its cache may be from a busier moment of this boot.
    vec![judge(&probe_kvm(Path::new("/dev/kvm")))]
}

fn judge(probe: &KvmProbe) -> CheckReport {
    let choice = match decide(AcceleratorRequest::Auto, probe) {
        Ok(choice) => choice,
        Err(e) => return CheckReport::fail(ID, "no accelerator can be chosen", e.to_string()),
    };
    match choice.accelerator {
        Accelerator::Kvm => CheckReport::pass(ID, "kvm: guests run at native speed", choice.reason),
        Accelerator::Tcg => {
            let report = CheckReport::warn(ID, "tcg: guests run, at a tenth of native speed or less", choice.reason);
            match probe {
                KvmProbe::Denied => report.mended_by("sudo usermod -aG kvm \"$(id -un)\"   then log in again"),
                KvmProbe::Absent => {
                    report.mended_by("modprobe kvm_intel || modprobe kvm_amd   (needs virtualization, switched on in the firmware)")
                }
                // A nested or paravirtual host: no command on this machine changes it.
                KvmProbe::Measured { .. } | KvmProbe::Broken { .. } | KvmProbe::Stalled { .. } => report,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::CheckStatus;

    #[test]
    fn the_choice_follows_the_measurement_and_shows_it() {
        let table = [
            (KvmProbe::Measured { picos: 300 }, CheckStatus::Pass, "0.3 ns", false),
            (KvmProbe::Measured { picos: 624_000 }, CheckStatus::Warn, "624.0 ns", false),
            (KvmProbe::Absent, CheckStatus::Warn, "no /dev/kvm", true),
            (KvmProbe::Denied, CheckStatus::Warn, "may not be opened", true),
            (KvmProbe::Stalled { after_ms: 200 }, CheckStatus::Warn, "200 ms", false),
        ];
        for (probe, status, evidence, has_fix) in table {
            let report = judge(&probe);
            assert_eq!((report.status, report.fix.is_some()), (status, has_fix), "{probe}");
            assert!(report.evidence.contains(evidence), "{}", report.evidence);
        }
    }
}
