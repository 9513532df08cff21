//! The hypervisor's control socket, as the monitor needs it: say hello, note why it goes down, ask it to quit.

use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use smolvm_host::engine::qmp::{QmpMessage, QmpStream, command};

use super::outgoing::Outgoing;

/// What a hypervisor tells that matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum News {
    /// It goes down, for this reason.
    Shutdown(String),
    /// The guest's processors stand still.
    Stopped,
    /// They go on.
    Resumed,
}

impl News {
    fn of(event: &str, data: &serde_json::Map<String, serde_json::Value>) -> Option<Self> {
        match event {
            "SHUTDOWN" => data.get("reason").and_then(|r| r.as_str()).map(|r| Self::Shutdown(r.chars().take(40).collect())),
            "GUEST_PANICKED" => Some(Self::Shutdown("guest-panic".to_owned())),
            "STOP" => Some(Self::Stopped),
            "RESUME" => Some(Self::Resumed),
            _ => None,
        }
    }
}

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

    /// Reads what is there; gives what was told, in order.
    pub(super) fn read(&mut self) -> Vec<News> {
        let mut chunk = [0; 16 << 10];
        let count = match recv(&self.socket, &mut chunk[..], RecvFlags::DONTWAIT) {
            Ok((_, count)) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Vec::new(),
            Err(_) => 0,
        };
        if count == 0 {
            self.open = false;
            return Vec::new();
        }
        // A hypervisor that talks nonsense cannot be controlled; its pidfd still tells when it ends.
        let Ok(messages) = self.stream.feed(&chunk[..count]) else {
            self.open = false;
            return Vec::new();
        };
        let mut news = Vec::new();
        for message in messages {
            match message {
                QmpMessage::Greeting => self.say("qmp_capabilities"),
                QmpMessage::Event { name, data } => news.extend(News::of(&name, &data)),
                QmpMessage::Return { .. } | QmpMessage::Error { .. } => {}
            }
        }
        news
    }

    /// Asks it to end; its disks are flushed and closed.
    pub(super) fn quit(&mut self) {
        self.say("quit");
    }

    /// Sends a command.
    pub(super) fn say(&mut self, name: &str) {
        self.next_id += 1;
        let line = command(name, None, self.next_id);
        self.out.buffer().extend_from_slice(&line);
    }
}
