//! A private network that plays the host, and a server behind it.
//!
//! ```text
//!    namespace "host"                        namespace "server"
//!    up0 192.0.2.1/24 ─────── veth ───────── srv0 192.0.2.2/24
//!    default route via 192.0.2.2             answers HTTP and DNS, knows no other route
//! ```
//!
//! The namespaces have no name and no holder process: descriptors hold them, so they vanish with
//! the test, however it ends. Each also has a mount namespace whose `/sys` shows its own devices.
//! A guest's address reaches the server only if somebody translates it: the server has no way back.

#![allow(unsafe_code, reason = "unshare(2) of one thread; there is no safe call for it")]

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::prerequisite;

/// A network namespace with a mount namespace to go with it.
#[derive(Debug)]
pub struct Netns {
    net: OwnedFd,
    mnt: OwnedFd,
}

impl Netns {
    /// An empty one: only `lo`, and that is up.
    pub fn new() -> Result<Self> {
        let netns = thread::scope(|scope| scope.spawn(Self::make).join()).unwrap_or_else(|_| bail!("the thread panicked"))?;
        // Without it addresses of devices change by themselves for seconds, and the oracle would call that a leak.
        netns.enter(|| {
            for scope in ["all", "default"] {
                // A kernel without IPv6 has no such file, and no such trouble.
                std::fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/accept_dad"), "0").ok();
            }
        });
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// Runs on a thread that ends right after: what it unshares is nobody else's.
    fn make() -> Result<Self> {
        // SAFETY: file descriptors stay shared (no FILES flag), so every descriptor any thread holds stays valid;
        // what is unshared belongs to this thread alone, and it ends after this function.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS | UnshareFlags::FS) }.context("unshare: this needs root")?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).context("making mounts private")?;
        mount("sysfs", "/sys", "sysfs", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None).context("mounting /sys")?;
        let open = |kind: &str| File::open(format!("/proc/thread-self/ns/{kind}")).with_context(|| format!("opening the {kind} namespace"));
        Ok(Self { net: open("net")?.into(), mnt: open("mnt")?.into() })
    }

    /// Runs `work` on a thread of its own inside. Commands it spawns and sockets it opens are inside too;
    /// its working directory is `/`.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            self.join().expect("entering a namespace we hold");
            work()
        };
        match thread::scope(|scope| scope.spawn(inside).join()) {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Moves the calling thread inside for good; the thread must be one that ends with its work.
    fn join(&self) -> io::Result<()> {
        // SAFETY: as in `make`: descriptors stay shared, and only this thread's view of the file system is unshared.
        unsafe { unshare_unsafe(UnshareFlags::FS) }?;
        move_into_link_name_space(self.net.as_fd(), Some(LinkNameSpaceType::Network))?;
        move_into_link_name_space(self.mnt.as_fd(), Some(LinkNameSpaceType::Mount))?;
        Ok(())
    }

    /// What `/proc/PID/ns/net` of a process inside reads as.
    pub fn identity(&self) -> String {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", self.net.as_raw_fd())).expect("our own descriptor");
        link.to_string_lossy().into_owned()
    }

    /// `ip` with the words of `line`, inside; returns its stdout.
    pub fn ip(&self, line: &str) -> Result<String> {
        self.run("ip", &line.split_whitespace().collect::<Vec<_>>())
    }

    /// A short command inside; anything but success is an error with its stderr.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let output =
            self.enter(|| Command::new(program).args(args).env("PATH", PATH).output()).with_context(|| format!("cannot run {program}"))?;
        if !output.status.success() {
            bail!("{program} {}: {}: {}", args.join(" "), output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Lays the file `source` over `target`, visible only inside (for instance over `/etc/resolv.conf`).
    pub fn bind_file(&self, source: &Path, target: &Path) -> Result<()> {
        self.enter(|| mount_bind(source, target)).with_context(|| format!("laying {} over {}", source.display(), target.display()))
    }
}

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs `work` on a thread of its own that has mounts of its own: nobody else sees what it or its commands mount, and it goes with them.
pub fn with_private_mounts<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let inside = || {
        // SAFETY: as in `make`: this thread alone is unshared, and it ends with its work.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }.expect("unshare: this needs root");
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).expect("making mounts private");
        work()
    };
    match thread::scope(|scope| scope.spawn(inside).join()) {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// A private "host" and a "server" it can reach.
#[derive(Debug)]
pub struct NetnsHost {
    host: Netns,
    server: Netns,
}

impl NetnsHost {
    /// The address of the host on the wire to the server.
    pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    /// The server's address.
    pub const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

    /// Both namespaces, wired, with a default route from host to server.
    ///
    /// Panics with what is missing when there are no rights or no `ip`.
    pub fn new() -> Self {
        prerequisite::root();
        prerequisite::programs(&["ip", "nft"]);
        Self::make().unwrap_or_else(|error| panic!("no private network: {error:#}"))
    }

    fn make() -> Result<Self> {
        let (host, server) = (Netns::new()?, Netns::new()?);
        let peer = format!("/proc/{}/fd/{}", std::process::id(), server.net.as_raw_fd());
        host.ip(&format!("link add up0 type veth peer name srv0 netns {peer}"))?;
        host.ip(&format!("addr add {}/24 dev up0", Self::HOST))?;
        host.ip("link set up0 up")?;
        server.ip(&format!("addr add {}/24 dev srv0", Self::SERVER))?;
        server.ip("link set srv0 up")?;
        host.ip(&format!("route add default via {}", Self::SERVER))?;
        // The carrier comes up a moment after the second end does, and the link-local address after that.
        let settled = |netns: &Netns, device: &str| {
            let carrier = netns.ip(&format!("-br link show {device}")).is_ok_and(|line| line.contains("LOWER_UP"));
            let ipv6 = netns.enter(|| Path::new("/proc/sys/net/ipv6/conf").join(device).is_dir());
            let address = || netns.ip(&format!("-6 route show table local dev {device}")).is_ok_and(|line| line.contains("local fe80:"));
            carrier && (!ipv6 || address())
        };
        crate::until("the veth pair is up", std::time::Duration::from_secs(5), || {
            (settled(&host, "up0") && settled(&server, "srv0")).then_some(())
        });
        Ok(Self { host, server })
    }

    /// Where smolvm runs.
    pub fn host(&self) -> &Netns {
        &self.host
    }

    /// Where the servers run.
    pub fn server(&self) -> &Netns {
        &self.server
    }
}

impl Default for NetnsHost {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_reaches_the_server_and_nobody_else_sees_it() {
        let net = NetnsHost::new();
        let links = net.host().ip("-br link").unwrap();
        assert!(links.contains("up0") && links.lines().count() == 2, "{links}");
        assert!(!Path::new("/sys/class/net/up0").exists(), "our own namespace got the device");
        assert!(net.host().enter(|| Path::new("/sys/class/net/up0").exists()));
        net.server().enter(|| {
            let listener = std::net::TcpListener::bind((NetnsHost::SERVER, 7)).unwrap();
            net.host().enter(|| std::net::TcpStream::connect((NetnsHost::SERVER, 7)).unwrap());
            assert_eq!(listener.accept().unwrap().1.ip(), NetnsHost::HOST);
        });
    }

    #[test]
    fn files_laid_over_others_are_seen_inside_only() {
        let net = Netns::new().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("resolv.conf");
        std::fs::write(&file, "nameserver 192.0.2.2\n").unwrap();
        net.bind_file(&file, Path::new("/etc/hostname")).unwrap();
        let read = || std::fs::read_to_string("/etc/hostname").unwrap();
        assert!(net.enter(read).contains("192.0.2.2"));
        assert!(!read().contains("192.0.2.2"));
    }
}
