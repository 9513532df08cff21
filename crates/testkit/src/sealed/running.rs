//! A command that runs, and its output as it comes.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::Ran;
use crate::process;

/// How long a pipe may stay open after the command that was given it has ended.
const PIPES: Duration = Duration::from_secs(2);

/// A command that was started; dropping it kills its process group.
#[derive(Debug)]
pub struct Running {
    child: Child,
    shown: String,
    begin: Instant,
    timeout: Duration,
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
    _terminal: Option<OwnedFd>,
    ended: bool,
}

impl Running {
    pub(super) fn new(child: Child, shown: String, timeout: Duration, terminal: Option<OwnedFd>) -> Self {
        let mut child = child;
        let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
        Self { child, shown, begin: Instant::now(), timeout, stdout, stderr, _terminal: terminal, ended: false }
    }

    /// Its pid, which is also its process group.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid is an i32")
    }

    /// Sends a signal to the command alone.
    pub fn signal(&self, signal: Signal) {
        if let Some(fd) = process::pidfd(self.pid()) {
            rustix::process::pidfd_send_signal(&fd, signal).ok();
        }
    }

    /// Sends a signal to its whole process group: to whatever it started and did not put elsewhere.
    pub fn signal_group(&mut self, signal: Signal) {
        // Once reaped, the number may be somebody else's.
        if !self.has_ended()
            && let Some(group) = Pid::from_raw(self.pid())
        {
            kill_process_group(group, signal).ok();
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.ended |= matches!(self.child.try_wait(), Ok(Some(_)));
        self.ended
    }

    /// Waits for its end and its output; panics, with the output, when it takes too long or leaves somebody holding its pipes.
    pub fn wait(mut self) -> Ran {
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("waiting for our own child") {
                break status;
            }
            if self.begin.elapsed() > self.timeout {
                self.kill_group();
                let deadline = Instant::now() + PIPES;
                let (out, err) = (collect(&self.stdout, deadline), collect(&self.stderr, deadline));
                panic!("not within {:?}: `{}`\n--- stdout\n{}\n--- stderr\n{}", self.timeout, self.shown, text(&out.0), text(&err.0));
            }
            thread::sleep(Duration::from_millis(2));
        };
        self.ended = true;
        let elapsed = self.begin.elapsed();
        let deadline = Instant::now() + PIPES;
        let ((out, out_end), (err, err_end)) = (collect(&self.stdout, deadline), collect(&self.stderr, deadline));
        let ran = Ran { shown: self.shown.clone(), status, stdout: text(&out), stderr: text(&err), stdout_bytes: out, elapsed };
        assert!(out_end && err_end, "`{}` has ended but somebody still holds its output pipes\n{ran}", self.shown);
        ran
    }

    fn kill_group(&mut self) {
        // Our child is not reaped yet, so the number is still its own.
        if let Some(group) = Pid::from_raw(self.pid()) {
            kill_process_group(group, Signal::KILL).ok();
        }
        self.child.wait().ok();
        self.ended = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.kill_group();
        }
    }
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Reads a pipe to its end on a thread of its own.
fn drain(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let Some(mut pipe) = pipe else { return };
        let mut chunk = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = pipe.read(&mut chunk) {
            if sender.send(chunk[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Everything that came, and whether the pipe's end was seen.
fn collect(pipe: &Receiver<Vec<u8>>, deadline: Instant) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    loop {
        match pipe.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(chunk) => bytes.extend(chunk),
            Err(RecvTimeoutError::Disconnected) => return (bytes, true),
            Err(RecvTimeoutError::Timeout) => return (bytes, false),
        }
    }
}
