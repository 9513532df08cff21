//! Is the clock sane, and can this boot be told from others?

use smolvm_host::proc::boot;

use super::report::CheckReport;
use crate::clock::now_ms;
use crate::installation::Smolvm;
use crate::time::rfc3339;

const ID: &str = "clock";
/// 2025-01-01: every smolvm is younger.
const EARLIEST: i64 = 1_735_689_600_000;
/// 2100-01-01.
const LATEST: i64 = 4_102_444_800_000;
/// How far a record may lie ahead: clocks are set in steps of less.
const SLACK: i64 = 60_000;

/// What tells times apart.
#[derive(Debug)]
struct Facts {
    now: i64,
    /// The latest creation on record.
    newest: Option<i64>,
    boot_id: Result<String, String>,
}

pub(super) fn look(vm: &Smolvm) -> Vec<CheckReport> {
    let table = vm.look().ok().flatten().and_then(|store| store.table().ok());
    let newest = table.and_then(|table| table.sandboxes.iter().map(|record| record.created_ms).max());
    let boot_id = boot::boot_id(&vm.settings.boot_id_source).map_err(|e| format!("{}: {e}", vm.settings.boot_id_source.display()));
    vec![judge(&Facts { now: now_ms(), newest, boot_id })]
}

fn judge(facts: &Facts) -> CheckReport {
    let set = "timedatectl set-ntp true   or: date -s '2026-01-31 12:00:00 UTC'";
    let now = rfc3339(facts.now);
    match &facts.boot_id {
        Err(e) => {
            CheckReport::fail(ID, "the id of this boot cannot be read, so no process can be known", e).mended_by("mount -t proc proc /proc")
        }
        Ok(boot) if !(EARLIEST..LATEST).contains(&facts.now) => {
            // Guests take their time from it, and certificates fail to verify.
            CheckReport::fail(ID, "the clock is wrong", format!("{now}, boot {boot}")).mended_by(set)
        }
        Ok(boot) => match facts.newest {
            Some(newest) if newest > facts.now.saturating_add(SLACK) => CheckReport::warn(
                ID,
                "the clock went back: a sandbox was created in the future",
                format!("now {now}, created {}, boot {boot}", rfc3339(newest)),
            )
            .mended_by(set),
            Some(_) | None => CheckReport::pass(ID, now, format!("boot {boot}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::CheckStatus;

    #[test]
    fn clocks() {
        let now = 1_800_000_000_000;
        let table = [
            (now, None, Ok("b".to_owned()), CheckStatus::Pass),
            (now, Some(now - 1), Ok("b".to_owned()), CheckStatus::Pass),
            (now, Some(now + SLACK + 1), Ok("b".to_owned()), CheckStatus::Warn),
            (0, None, Ok("b".to_owned()), CheckStatus::Fail),
            (i64::MAX, Some(i64::MAX), Ok("b".to_owned()), CheckStatus::Fail),
            (now, None, Err("gone".to_owned()), CheckStatus::Fail),
        ];
        for (now, newest, boot_id, status) in table {
            let facts = Facts { now, newest, boot_id };
            let report = judge(&facts);
            assert_eq!((report.status, report.fix.is_some()), (status, status != CheckStatus::Pass), "{facts:?}");
        }
    }
}
