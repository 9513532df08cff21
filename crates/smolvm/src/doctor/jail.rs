//! What the hypervisor's jail can enforce here.

use smolvm_host::jail::check::{self, HostJail, UserNamespaces};

use super::report::CheckReport;
use crate::installation::Smolvm;

const ID: &str = "jail";

pub(super) fn look(_vm: &Smolvm) -> Vec<CheckReport> {
    vec![judge(&check::check())]
}

fn judge(host: &HostJail) -> CheckReport {
    let mut missing = Vec::new();
    let mut fixes = Vec::new();
    if !host.seccomp {
        missing.push("no filter of system calls (the kernel has no seccomp)");
    }
    if host.landlock_abi.is_none() {
        missing.push("no second wall around files (Landlock is off; the mount namespace stands alone)");
        fixes.push("add lsm=landlock,... to the kernel's command line (5.13 or later)".to_owned());
    }
    if !host.own_uid {
        missing.push("no uid of its own per sandbox (only root can give one)");
    }
    let blocked = !host.own_uid && host.user_namespaces != UserNamespaces::Allowed;
    if let (true, Some(command)) = (blocked, unlock(host.user_namespaces)) {
        fixes.insert(0, command.to_owned());
    }
    let evidence = format!(
        "uid per sandbox: {}; user namespaces: {}; landlock: {}; seccomp: {}",
        yes(host.own_uid),
        describe(host.user_namespaces),
        host.landlock_abi.map_or_else(|| "no".to_owned(), |abi| format!("ABI {abi}")),
        yes(host.seccomp),
    );
    let report = if blocked {
        CheckReport::fail(ID, "an ordinary user can make no namespaces here, so no jail: nothing can be started", evidence)
    } else if missing.is_empty() {
        return CheckReport::pass(ID, "the hypervisor's jail has everything", evidence);
    } else {
        CheckReport::warn(ID, format!("the hypervisor's jail is weaker: {}", missing.join("; ")), evidence)
    };
    if !host.own_uid && !blocked {
        fixes.push("run smolvm as root for a uid per sandbox".to_owned());
    }
    if fixes.is_empty() { report } else { report.mended_by(fixes.join("; ")) }
}

fn yes(there: bool) -> &'static str {
    if there { "yes" } else { "no" }
}

fn describe(state: UserNamespaces) -> &'static str {
    match state {
        UserNamespaces::Allowed => "allowed",
        UserNamespaces::Absent => "not in this kernel",
        UserNamespaces::ForbiddenByClone => "forbidden by kernel.unprivileged_userns_clone",
        UserNamespaces::ForbiddenByLimit => "forbidden by user.max_user_namespaces",
        UserNamespaces::ForbiddenByAppArmor => "restricted by AppArmor",
    }
}

fn unlock(state: UserNamespaces) -> Option<&'static str> {
    match state {
        UserNamespaces::Allowed => None,
        UserNamespaces::Absent => Some("run smolvm as root, or boot a kernel with user namespaces"),
        UserNamespaces::ForbiddenByClone => Some("sudo sysctl -w kernel.unprivileged_userns_clone=1"),
        UserNamespaces::ForbiddenByLimit => Some("sudo sysctl -w user.max_user_namespaces=15000"),
        UserNamespaces::ForbiddenByAppArmor => Some("sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::CheckStatus;

    fn host(own_uid: bool, user_namespaces: UserNamespaces, landlock_abi: Option<u32>, seccomp: bool) -> HostJail {
        HostJail { own_uid, user_namespaces, landlock_abi, seccomp, core_pattern: None }
    }

    #[test]
    fn what_is_missing_is_named_and_only_a_missing_jail_fails() {
        use UserNamespaces as U;
        let table = [
            (host(true, U::Allowed, Some(4), true), CheckStatus::Pass, None),
            // Root needs no user namespace.
            (host(true, U::ForbiddenByClone, Some(4), true), CheckStatus::Pass, None),
            (host(true, U::Allowed, None, true), CheckStatus::Warn, Some("lsm=landlock")),
            (host(true, U::Allowed, Some(4), false), CheckStatus::Warn, None),
            (host(false, U::Allowed, Some(4), true), CheckStatus::Warn, Some("as root")),
            (host(false, U::ForbiddenByClone, Some(4), true), CheckStatus::Fail, Some("unprivileged_userns_clone=1")),
            (host(false, U::ForbiddenByLimit, None, true), CheckStatus::Fail, Some("max_user_namespaces")),
            (host(false, U::ForbiddenByAppArmor, Some(4), true), CheckStatus::Fail, Some("apparmor")),
            (host(false, U::Absent, Some(4), true), CheckStatus::Fail, Some("as root")),
        ];
        for (host, status, fix) in table {
            let report = judge(&host);
            assert_eq!(report.status, status, "{report:?}");
            match fix {
                Some(part) => assert!(report.fix.as_deref().unwrap_or_default().contains(part), "{report:?}"),
                None => assert_eq!(report.fix, None),
            }
        }
    }
}
