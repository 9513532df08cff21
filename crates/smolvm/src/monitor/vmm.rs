//! The hypervisor's control socket, as the monitor needs it: say hello, note why it goes down, ask it to quit.

use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use smolvm_host::engine::qmp::{QmpMessage, QmpStream, command};

use super::outgoing::Outgoing;

#[derive(Debug)]
pub(super) struct Vmm {
    pub(super) socket: UnixStream,
    pub(super) out: Outgoing,
    stream: QmpStream,
    next_id: u64,
    open: bool,
}

impl Vmm {
    /// Takes over a session, with what was read of it already.
    pub(super) fn new(socket: UnixStream, stream: QmpStream) -> Self {
        Self { socket, out: Outgoing::default(), stream, next_id: 0, open: true }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Reads what is there; returns the reason of a shutdown if one was announced.
    pub(super) fn read(&mut self) -> Option<String> {
        let mut chunk = [0; 16 << 10];
        let count = match recv(&self.socket, &mut chunk[..], RecvFlags::DONTWAIT) {
            Ok((_, count)) => count,
            Err(Errno::AGAIN | Errno::INTR) => return None,
            Err(_) => 0,
        };
        if count == 0 {
            self.open = false;
            return None;
        }
        // A hypervisor that talks nonsense cannot be controlled; its pidfd still tells when it ends.
        let Ok(messages) = self.stream.feed(&chunk[..count]) else {
            self.open = false;
            return None;
        };
        let mut reason = None;
        for message in messages {
            match message {
                QmpMessage::Greeting => self.say("qmp_capabilities"),
                QmpMessage::Event { name, data } if name == "SHUTDOWN" => {
                    reason = data.get("reason").and_then(|r| r.as_str()).map(|r| r.chars().take(40).collect());
                }
                QmpMessage::Event { name, .. } if name == "GUEST_PANICKED" => reason = Some("guest-panic".to_owned()),
                QmpMessage::Event { .. } | QmpMessage::Return { .. } | QmpMessage::Error { .. } => {}
            }
        }
        reason
    }

    /// Asks it to end; its disks are flushed and closed.
    pub(super) fn quit(&mut self) {
        self.say("quit");
    }

    fn say(&mut self, name: &str) {
        self.next_id += 1;
        let line = command(name, None, self.next_id);
        self.out.buffer().extend_from_slice(&line);
    }
}
