//! The passt process: a foreground child on a socket, with nothing of its own to find the host by.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use smolvm_model::network::GATEWAY_MAC;

use super::{UserNetError, UserSpec};
use crate::net::uplink;
use crate::proc::tool;

/// How long it may take to answer its first frame; 20 ms is usual.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of its messages, the last bytes are kept.
const KEPT: usize = 2048;

/// A running passt; dropping it ends it.
#[derive(Debug)]
pub(super) struct Passt {
    child: Child,
    stderr: Option<ChildStderr>,
    said: Vec<u8>,
}

impl Passt {
    /// Starts it on `socket` and proves over `ours`, the other end, that frames flow.
    pub(super) fn start(spec: &UserSpec, socket: OwnedFd, ours: &UnixStream) -> Result<Self, UserNetError> {
        let io = |action| move |source| UserNetError::Io { action, source };
        let program = tool::find("passt").ok_or(UserNetError::Missing)?;
        #[expect(clippy::disallowed_methods, reason = "a child that stays; the wrapper is for tools that run to their end")]
        let mut command = Command::new(program);
        // Its socket is its standard input, so no descriptor needs to survive an exec by number.
        command.args(arguments(spec)?).env_clear().stdin(Stdio::from(socket)).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(io("start"))?;
        let stderr = child.stderr.take();
        let mut passt = Self { child, stderr, said: Vec::new() };
        // The command holds a copy of the child's socket; while that lived, a passt that ends would go unnoticed.
        drop(command);
        if let Some(stderr) = &passt.stderr {
            rustix::io::ioctl_fionbio(stderr, true).map_err(|e| io("listen to")(e.into()))?;
        }
        if probe(spec, ours).is_ok() {
            return Ok(passt);
        }
        passt.end();
        passt.listen();
        Err(UserNetError::NotUp { complaint: passt.complaint() })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn poll_fds<'a>(&'a self, into: &mut Vec<PollFd<'a>>) {
        into.extend(self.stderr.as_ref().map(|pipe| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)));
    }

    /// Takes in what it wrote, so that it never waits for us to read.
    pub(super) fn listen(&mut self) {
        let Some(pipe) = &mut self.stderr else { return };
        let mut chunk = [0; 4096];
        // A few reads per turn: what it writes, a guest may have provoked.
        for _ in 0..4 {
            match pipe.read(&mut chunk) {
                Ok(0) => {
                    self.stderr = None;
                    return;
                }
                Ok(len) => {
                    self.said.extend_from_slice(&chunk[..len]);
                    self.said.drain(..self.said.len().saturating_sub(KEPT));
                }
                Err(_) => return,
            }
        }
    }

    pub(super) fn complaint(&self) -> String {
        let text = String::from_utf8_lossy(&self.said);
        // It also says that there is no system log, once per message.
        text.lines().filter(|line| !line.trim().is_empty() && !line.contains("to syslog")).collect::<Vec<_>>().join("; ")
    }

    fn end(&mut self) {
        // Fails only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Passt {
    fn drop(&mut self) {
        self.end();
    }
}

/// What it is told: IPv4 only, no services of its own, nothing forwarded inwards, and no way to the host.
fn arguments(spec: &UserSpec) -> Result<Vec<String>, UserNetError> {
    let mut words: Vec<String> = ["--foreground", "--quiet", "--stderr", "--fd", "0", "--ipv4-only", "--no-map-gw"].map(Into::into).into();
    words.extend(["--no-dhcp", "--no-dhcpv6", "--no-ndp", "--no-ra", "--dns", "none", "--search", "none"].map(Into::into));
    words.extend(["--tcp-ports", "none", "--udp-ports", "none", "--mtu", "1500", "--netmask", "32"].map(Into::into));
    words.extend(["--address".into(), spec.guest_address.to_string(), "--gateway".into(), spec.gateway.to_string()]);
    words.extend(["--mac-addr".into(), GATEWAY_MAC.to_string()]);
    // Without a default route it would refuse; on a host without any network, loopback stands in and leads nowhere.
    let uplink = uplink::find()?.names.first().map_or_else(|| "lo".to_owned(), ToString::to_string);
    words.extend(["--interface".into(), uplink]);
    if let Some(uid) = spec.run_as {
        words.extend(["--runas".into(), format!("{uid}:{uid}")]);
    }
    Ok(words)
}

/// Asks for the gateway by ARP, as the guest will, and waits for the answer.
fn probe(spec: &UserSpec, mut ours: &UnixStream) -> io::Result<()> {
    let frame = [
        &[0xff; 6][..],
        &spec.guest_mac.0,
        &[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1],
        &spec.guest_mac.0,
        &spec.guest_address.octets(),
        &[0; 6],
        &spec.gateway.octets(),
    ]
    .concat();
    ours.set_read_timeout(Some(PATIENCE))?;
    ours.write_all(&[&42_u32.to_be_bytes()[..], &frame].concat())?;
    let mut length = [0; 4];
    ours.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    let mut answer = vec![0; if length <= 2048 { length } else { 0 }];
    ours.read_exact(&mut answer)?;
    if answer.get(28..32) == Some(&spec.gateway.octets()) { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}
