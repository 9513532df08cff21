//! The hypervisor's control socket, as the monitor needs it: say hello, note why it goes down, ask it to quit.

use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv};
use serde_json::Value;
use smolvm_host::engine::qmp::{QmpMessage, QmpStream, command};
use smolvm_host::fdpass::send_with;

use super::outgoing::Outgoing;

/// What a hypervisor tells that matters here.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum News {
    /// It goes down, for this reason.
    Shutdown(String),
    /// The guest's processors stand still.
    Stopped,
    /// They go on.
    Resumed,
    /// What it says to the command with this number: its answer, or why not.
    Answered(u64, Result<Value, String>),
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
    /// It has said hello; another is no reason to answer again.
    greeted: bool,
    open: bool,
}

/// Bytes that may wait for a hypervisor that does not read; a command has a hundred.
const MOST_WAITING: usize = 256 << 10;

impl Vmm {
    /// Takes over a session, with what was read of it already.
    pub(super) fn new(socket: UnixStream, stream: QmpStream) -> Self {
        Self { socket, out: Outgoing::default(), stream, next_id: 0, greeted: false, open: true }
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
        self.take(&chunk[..count])
    }

    /// What was told before this took the session over, in order.
    pub(super) fn told_before(&mut self) -> Vec<News> {
        self.take(&[])
    }

    fn take(&mut self, bytes: &[u8]) -> Vec<News> {
        // A hypervisor that talks nonsense cannot be controlled; its pidfd still tells when it ends.
        let Ok(messages) = self.stream.feed(bytes) else {
            self.open = false;
            return Vec::new();
        };
        let mut news = Vec::new();
        for message in messages {
            match message {
                QmpMessage::Greeting => {
                    if !std::mem::replace(&mut self.greeted, true) {
                        self.say("qmp_capabilities");
                    }
                }
                QmpMessage::Event { name, data } => news.extend(News::of(&name, &data)),
                QmpMessage::Return { id: Some(id), value } => news.push(News::Answered(id, Ok(value))),
                QmpMessage::Error { id: Some(id), description } => news.push(News::Answered(id, Err(description))),
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
        self.ask(name, None);
    }

    /// Sends a command; gives the number that its answer will have.
    pub(super) fn ask(&mut self, name: &str, arguments: Option<Value>) -> u64 {
        self.next_id += 1;
        let line = command(name, arguments, self.next_id);
        // One that does not read would not do it either, and is killed by whoever needs it to end.
        if self.out.len() < MOST_WAITING {
            self.out.buffer().extend_from_slice(&line);
        }
        self.next_id
    }

    /// Hands over the descriptor that the next command is about.
    pub(super) fn give(&mut self, fd: BorrowedFd<'_>) -> std::io::Result<()> {
        // It goes with the byte that it is sent with, so nothing may wait before that.
        if !self.out.flush(&self.socket) || !self.out.is_empty() {
            return Err(std::io::ErrorKind::WouldBlock.into());
        }
        // A blank before the command carries the descriptor: QEMU keeps it until it is asked for.
        send_with(&self.socket, b" ", Some(fd), SendFlags::DONTWAIT).map(drop)
    }
}
