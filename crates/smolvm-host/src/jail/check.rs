//! What this host can give a jail, for `doctor`: found out by looking, nothing is started.

use serde::{Deserialize, Serialize};

use super::child::landlock_abi;

/// What a jail on this host will have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostJail {
    /// The caller is root, so each sandbox gets a uid of its own.
    pub own_uid: bool,
    /// An ordinary user may make a user namespace.
    pub user_namespaces: UserNamespaces,
    /// The Landlock ABI.
    pub landlock_abi: Option<u32>,
    /// The kernel has seccomp filters.
    pub seccomp: bool,
    /// What the kernel does with core dumps.
    pub core_pattern: Option<String>,
}

/// Whether an ordinary user may make user namespaces, and what forbids it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserNamespaces {
    /// Nothing that can be read forbids it.
    Allowed,
    /// The kernel has none.
    Absent,
    /// `kernel.unprivileged_userns_clone` is 0 (Debian).
    ForbiddenByClone,
    /// `user.max_user_namespaces` is 0.
    ForbiddenByLimit,
    /// `kernel.apparmor_restrict_unprivileged_userns` is 1 (Ubuntu).
    ForbiddenByAppArmor,
}

/// Looks.
pub fn check() -> HostJail {
    HostJail {
        own_uid: rustix::process::geteuid().is_root(),
        user_namespaces: user_namespaces(),
        landlock_abi: landlock_abi(),
        seccomp: std::path::Path::new("/proc/sys/kernel/seccomp/actions_avail").exists() || status_has_seccomp(),
        core_pattern: sysctl("kernel/core_pattern"),
    }
}

fn user_namespaces() -> UserNamespaces {
    if !std::path::Path::new("/proc/self/ns/user").exists() {
        UserNamespaces::Absent
    } else if sysctl("kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        UserNamespaces::ForbiddenByClone
    } else if sysctl("user/max_user_namespaces").as_deref() == Some("0") {
        UserNamespaces::ForbiddenByLimit
    } else if sysctl("kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
        UserNamespaces::ForbiddenByAppArmor
    } else {
        UserNamespaces::Allowed
    }
}

fn sysctl(name: &str) -> Option<String> {
    std::fs::read_to_string(std::path::Path::new("/proc/sys").join(name)).ok().map(|v| v.trim().to_owned())
}

fn status_has_seccomp() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|s| s.contains("\nSeccomp:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_described() {
        let host = check();
        assert_eq!(host.own_uid, rustix::process::geteuid().is_root());
        assert!(host.seccomp, "every supported kernel has seccomp");
    }
}
