//! Sysctls, mounts, Unix sockets and file locks, as `/proc` shows them.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{major, minor};

use super::{Bag, Reach, Scope, add, files};

/// Per device and protocol: what smolvm might change.
const PER_DEVICE: &[&str] =
    &["forwarding", "disable_ipv6", "accept_ra", "proxy_arp", "rp_filter", "route_localnet", "accept_redirects", "send_redirects"];
const GLOBAL: &[&str] = &["net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables"];

pub(super) fn sysctls() -> Result<Bag> {
    let mut bag = Bag::new();
    let mut read = |path: &str| {
        // A device may go while we look; its absence is seen among the links.
        if let Ok(value) = fs::read_to_string(format!("/proc/sys/{path}")) {
            add(&mut bag, format!("{path} = {}", value.trim()));
        }
    };
    for path in GLOBAL {
        read(path);
    }
    for protocol in ["ipv4", "ipv6"] {
        let conf = format!("net/{protocol}/conf");
        let Ok(devices) = fs::read_dir(format!("/proc/sys/{conf}")) else {
            // A kernel without IPv6 has no such directory; without IPv4 there is nothing to judge.
            anyhow::ensure!(protocol == "ipv6", "/proc/sys/{conf} cannot be read");
            continue;
        };
        for device in devices.flatten() {
            let device = device.file_name().to_string_lossy().into_owned();
            for name in PER_DEVICE {
                read(&format!("{conf}/{device}/{name}"));
            }
        }
    }
    Ok(bag)
}

pub(super) fn mounts(scope: &Scope<'_>) -> Result<Bag> {
    let text = fs::read_to_string("/proc/thread-self/mountinfo").context("/proc/thread-self/mountinfo")?;
    let everything = scope.netns.is_some() || scope.reach == Reach::Host;
    let mut bag = Bag::new();
    for line in text.lines().filter(|line| everything || mentions(scope, line)) {
        // Without mount id and parent id, which are only numbers: root, mount point, options, type, source.
        let fields: Vec<&str> = line.split(' ').skip(2).collect();
        add(&mut bag, fields.join(" "));
    }
    Ok(bag)
}

pub(super) fn sockets(scope: &Scope<'_>) -> Result<Bag> {
    let text = fs::read_to_string("/proc/thread-self/net/unix").context("/proc/thread-self/net/unix")?;
    let mut bag = Bag::new();
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // Connected ends carry the path of the listener: one line per path says enough.
        if let Some(path) = fields.get(7).filter(|path| mentions(scope, path) || scope.reach == Reach::Host && path.contains("smolvm")) {
            bag.insert((*path).to_owned(), 1);
        }
    }
    Ok(bag)
}

fn mentions(scope: &Scope<'_>, text: &str) -> bool {
    scope.directories.iter().any(|directory| text.contains(&*directory.to_string_lossy()))
}

pub(super) fn locks(scope: &Scope<'_>) -> Result<Bag> {
    let mut inodes: HashMap<(u32, u32, u64), PathBuf> = HashMap::new();
    for directory in &scope.directories {
        for (_, path) in files::walk(directory)? {
            if let Ok(meta) = fs::symlink_metadata(&path) {
                inodes.insert((major(meta.dev()), minor(meta.dev()), meta.ino()), path);
            }
        }
    }
    let text = fs::read_to_string("/proc/locks").context("/proc/locks")?;
    let mut bag = Bag::new();
    for line in text.lines() {
        if let Some((kind, pid, path)) = lock(line).and_then(|(kind, pid, inode)| Some((kind, pid, inodes.get(&inode)?))) {
            add(&mut bag, format!("{kind} lock by pid {pid} on {}", shown(path)));
        }
    }
    Ok(bag)
}

fn shown(path: &Path) -> std::path::Display<'_> {
    path.display()
}

/// `1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF`; a lock that is waited for has `->` after the number.
fn lock(line: &str) -> Option<(&str, &str, (u32, u32, u64))> {
    let fields: Vec<&str> = line.split_whitespace().filter(|word| *word != "->").collect();
    let mut inode = fields.get(5)?.split(':');
    let major = u32::from_str_radix(inode.next()?, 16).ok()?;
    let minor = u32::from_str_radix(inode.next()?, 16).ok()?;
    Some((fields.get(1)?, fields.get(4)?, (major, minor, inode.next()?.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_lines() {
        assert_eq!(lock("1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF"), Some(("FLOCK", "1234", (8, 1, 5678))));
        assert_eq!(lock("1: -> POSIX  ADVISORY  READ  1234 fe:00:5678 0 EOF"), Some(("POSIX", "1234", (254, 0, 5678))));
        assert_eq!(lock("rubbish"), None);
    }
}
