//! The files that say which guest this is.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use smolvm_proto::BootConfig;

use super::failed;
use super::mounts::make_directory;
use crate::serve::BootFailure;

const STEP: &str = "identity";

/// Gives the kernel the hostname.
pub(super) fn set_hostname(name: &str) -> Result<(), BootFailure> {
    rustix::system::sethostname(name.as_bytes()).map_err(failed("hostname", name))
}

/// Writes `/etc/hostname`, `/etc/hosts`, `/etc/machine-id` and, with a network, `/etc/resolv.conf`.
pub(super) fn write(config: &BootConfig) -> Result<(), BootFailure> {
    make_directory("/etc").map_err(failed(STEP, "/etc"))?;
    put("/etc/hostname", &format!("{}\n", config.hostname), 0o644)?;
    put("/etc/machine-id", &format!("{}\n", config.machine_id), 0o444)?;
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    // What a user added to the file is kept from one start to the next.
    if !names(&hosts, &config.hostname) {
        put("/etc/hosts", &hosts_text(config), 0o644)?;
    }
    match &config.network {
        Some(network) => put("/etc/resolv.conf", &resolv_text(&network.dns), 0o644),
        None => Ok(()),
    }
}

/// The machine id as a program of the guest would read it.
pub(super) fn machine_id() -> Result<String, BootFailure> {
    let text =
        std::fs::read_to_string("/etc/machine-id").map_err(|e| BootFailure { step: STEP, message: format!("/etc/machine-id: {e}") })?;
    Ok(text.trim_end().to_owned())
}

/// The hostname as the kernel has it.
pub(super) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn hosts_text(config: &BootConfig) -> String {
    let own = config.network.as_ref().map_or("127.0.1.1", |n| n.address.as_str());
    format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{own}\t{}\n", config.hostname)
}

fn resolv_text(servers: &[String]) -> String {
    servers.iter().map(|server| format!("nameserver {server}\n")).collect::<Vec<_>>().concat()
}

/// Whether a hosts file has an address for `name`.
fn names(hosts: &str, name: &str) -> bool {
    hosts.lines().filter_map(|line| line.split('#').next()).any(|line| line.split_whitespace().skip(1).any(|n| n == name))
}

/// Replaces a file's text. A link is replaced itself: images ship some that point to what is not there.
fn put(path: &str, text: &str, mode: u32) -> Result<(), BootFailure> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(mode).custom_flags(libc::O_NOFOLLOW);
    let opened = match options.open(path) {
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => std::fs::remove_file(path).and_then(|()| options.open(path)),
        other => other,
    };
    opened.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|e| BootFailure { step: STEP, message: format!("{path}: {e}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_hosts_file_is_recognised() {
        assert!(names("127.0.0.1 localhost\n10.0.0.2\tvm-a vm-b # me", "vm-b"));
        assert!(!names("10.0.0.2 vm-ab\n# 10.0.0.2 vm-b\nvm-b", "vm-b"));
    }

    #[test]
    fn links_are_replaced_not_followed() {
        let dir = std::env::temp_dir().join(format!("smolvm-agent-put-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (link, target) = (dir.join("link"), dir.join("target"));
        std::os::unix::fs::symlink(&target, &link).unwrap();
        put(link.to_str().unwrap(), "one\n", 0o644).unwrap();
        put(link.to_str().unwrap(), "2\n", 0o644).unwrap();
        assert_eq!(std::fs::read_to_string(&link).unwrap(), "2\n");
        assert!(!target.exists());
        std::fs::remove_file(link).unwrap();
        std::fs::remove_dir(dir).unwrap();
    }
}
