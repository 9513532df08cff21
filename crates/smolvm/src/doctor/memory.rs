//! Is there memory for a guest?

use smolvm_model::quantity::display_bytes;

use super::report::CheckReport;
use crate::installation::Smolvm;

const ID: &str = "memory";
/// A guest of `minimal` (128 MiB) and its hypervisor.
const SMALLEST: u64 = (128 + 48) << 20;
/// A guest of `debian` (512 MiB) and its hypervisor.
const USUAL: u64 = (512 + 48) << 20;

pub(super) fn look(_vm: &Smolvm) -> Vec<CheckReport> {
    vec![match std::fs::read_to_string("/proc/meminfo") {
        Ok(text) => judge(&text),
        Err(e) => CheckReport::warn(ID, "free memory cannot be read", format!("/proc/meminfo: {e}")).mended_by("mount -t proc proc /proc"),
    }]
}

fn judge(meminfo: &str) -> CheckReport {
    let field = |key: &str| {
        let line = meminfo.lines().find(|line| line.starts_with(key))?;
        line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
    };
    let (Some(total), Some(available)) = (field("MemTotal:"), field("MemAvailable:")) else {
        return CheckReport::warn(ID, "free memory cannot be read", "no MemTotal and MemAvailable in /proc/meminfo");
    };
    let evidence = format!("{} of {} available", display_bytes(available), display_bytes(total));
    let mend = "smolvm list   shows what runs; smolvm stop NAME ends it";
    if available < SMALLEST {
        CheckReport::fail(ID, "not even the smallest guest fits into memory", evidence).mended_by(mend)
    } else if available < USUAL {
        CheckReport::warn(ID, "a guest of the default size does not fit into memory", evidence).mended_by(mend)
    } else {
        CheckReport::pass(ID, format!("{} available", display_bytes(available)), evidence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::CheckStatus;

    #[test]
    fn what_is_available_decides_not_what_there_is() {
        let text = |available_mib: u64| format!("MemTotal: 16000000 kB\nMemFree: 1 kB\nMemAvailable: {} kB\n", available_mib * 1024);
        for (mib, status) in [(8000, CheckStatus::Pass), (300, CheckStatus::Warn), (100, CheckStatus::Fail), (0, CheckStatus::Fail)] {
            assert_eq!(judge(&text(mib)).status, status, "{mib}");
        }
        for odd in ["", "MemTotal: x kB\nMemAvailable: y kB", "MemTotal: 18446744073709551615 kB\nMemAvailable: 1 kB"] {
            assert_eq!(judge(odd).status, CheckStatus::Warn, "{odd}");
        }
    }
}
