//! Where `unsafe` may stand.

use super::{Finding, Tree};

/// File, and why nothing safe does the job.
const ALLOWED: &[(&str, &str)] = &[
    ("crates/smolvm-agent/src/sys/entry.rs", "an entry point under C's name"),
    ("crates/smolvm-agent/src/sys/inherited.rs", "a number on the command line becomes an owned descriptor"),
    ("crates/smolvm-agent/src/sys/kill.rs", "signals by number, also to pid -1"),
    ("crates/smolvm-agent/src/sys/random.rs", "ioctls of random(4)"),
    ("crates/smolvm-agent/src/sys/signals.rs", "signalfd"),
    ("crates/smolvm-agent/src/sys/spawn.rs", "clone with shared memory, and what the child does before execve"),
    ("crates/smolvm-cli/src/signals.rs", "a signal handler that writes a byte"),
    ("crates/smolvm-host/src/disk/lease.rs", "fcntl's leases, by which the kernel tells whether anybody writes a file"),
    ("crates/smolvm-host/src/engine/guest_memory/remote.rs", "process_vm_readv, which has no wrapper"),
    ("crates/smolvm-host/src/engine/guest_memory/room.rs", "madvise, which has no safe wrapper"),
    ("crates/smolvm-host/src/engine/guest_memory/tests.rs", "a test maps a file, to be looked at from outside"),
    ("crates/smolvm-host/src/engine/kvm_ioctl.rs", "KVM's ioctls with raw pointers and a shared mapping"),
    ("crates/smolvm-host/src/fsx/behind.rs", "sync_file_range, which has no wrapper"),
    ("crates/smolvm-host/src/jail/child.rs", "clone with namespaces, and what the child does before execve"),
    ("crates/smolvm-host/src/jail/opens.rs", "seccomp's listener: a filter, its ioctls, and a descriptor through a socket"),
    ("crates/smolvm-host/src/jail/order.rs", "recvmsg with descriptors, in a child that may not allocate"),
    ("crates/smolvm-host/src/jail/spawn.rs", "the pidfd that clone hands over as a number"),
    ("crates/smolvm-host/src/net/bind_device.rs", "setsockopt with the name of a device"),
    ("crates/smolvm-host/src/net/tun.rs", "ioctls of /dev/net/tun"),
    ("crates/smolvm-host/src/proc/leash.rs", "what a tool does between fork and exec"),
    ("crates/smolvm-host/tests/net_support/mod.rs", "unshare(2) of one thread into a private network namespace"),
    ("crates/smolvm-host/tests/net_user.rs", "descriptors kept open over an exec"),
    ("fuzz/src/memory.rs", "an allocator that counts"),
    ("crates/standin/src/sys.rs", "the program in the jail calls the kernel in ways no wrapper offers"),
    ("crates/testkit/src/netns.rs", "unshare(2) of one thread into a private network and mount namespace"),
];

/// Unlisted files with `unsafe`, listed files without, and blocks without a SAFETY comment.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    judge(tree, ALLOWED)
}

fn judge(tree: &Tree, allowed: &[(&str, &str)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust().filter(|file| !file.path.starts_with("xtask/src/tidy/")) {
        let lines: Vec<&str> = file.text.lines().collect();
        let uses: Vec<usize> = (0..lines.len()).filter(|&index| uses_unsafe(lines[index])).collect();
        let listed = allowed.iter().any(|(path, _)| *path == file.path);
        match uses.first() {
            Some(&first) if !listed => {
                findings.push(Finding::line(
                    &file.path,
                    first + 1,
                    "unsafe in a file that tidy's list does not name (xtask/src/tidy/unsafety.rs)",
                ));
            }
            Some(_) | None => {}
        }
        for index in uses {
            if lines[index].contains("unsafe {") && !argued(&lines, index) {
                findings.push(Finding::line(&file.path, index + 1, "an unsafe block without `// SAFETY:` above it"));
            }
        }
    }
    for (path, _) in allowed {
        if !tree.file(path).is_some_and(|file| file.text.lines().any(uses_unsafe)) {
            findings.push(Finding::file(path, "is on the list of files with unsafe but has none: strike it"));
        }
    }
    findings
}

fn uses_unsafe(line: &str) -> bool {
    let code = line.trim_start();
    !code.starts_with("//")
        && ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "allow(unsafe_code"].iter().any(|word| code.contains(word))
}

/// The comment stands in the lines above, with nothing but its own continuation, attributes or the statement's first line between.
fn argued(lines: &[&str], index: usize) -> bool {
    lines[..=index].iter().rev().take(8).any(|line| line.contains("SAFETY:"))
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn unlisted_unargued_and_outdated_are_found() {
        let list = &[("crates/a/src/sys.rs", "reason")];
        let argued = "#![allow(unsafe_code)]\n// SAFETY: it is.\nunsafe { f() }";
        assert!(judge(&sample(&[("crates/a/src/sys.rs", argued)]), list).is_empty());
        assert_eq!(judge(&sample(&[("crates/a/src/sys.rs", "unsafe { f() }")]), list).len(), 1);
        assert_eq!(judge(&sample(&[("crates/a/src/sys.rs", "fn f() {}")]), list).len(), 1);
        assert_eq!(judge(&sample(&[("crates/a/src/sys.rs", argued), ("crates/b/src/x.rs", argued)]), list).len(), 1);
    }
}
