//! A process that smolvm must leave alone.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::process::Process;

/// A harmless process with the words a test chooses; it ends with this value.
#[derive(Debug)]
pub struct FakeStranger {
    child: Child,
    identity: Process,
}

impl FakeStranger {
    /// Starts it; `words` stand in its argv, for instance a mark that is not its to carry.
    pub fn spawn(words: &[&str]) -> Self {
        // It waits for a line that never comes: no clock, no child of its own.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "read line", "stranger"]).args(words).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.process_group(0).spawn().expect("/bin/sh starts");
        let pid = i32::try_from(child.id()).expect("a pid is an i32");
        let identity = crate::until("the stranger shows its words", std::time::Duration::from_secs(5), || {
            Process::read(pid).filter(|process| process.argv.len() == 4 + words.len())
        });
        Self { child, identity }
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.identity.pid
    }

    /// As `/proc` showed it at its start.
    pub fn identity(&self) -> &Process {
        &self.identity
    }

    /// Whether it lives.
    pub fn lives(&self) -> bool {
        self.identity.lives()
    }

    /// Fails unless it lives.
    pub fn assert_lives(&self) {
        assert!(self.lives(), "a stranger's process was killed: {}", self.identity.describe());
    }

    /// Kills it and reaps it, so that its pid is free again.
    pub fn end(mut self) {
        self.finish();
    }

    fn finish(&mut self) {
        self.identity.signal(Signal::KILL);
        self.child.wait().ok();
    }
}

impl Drop for FakeStranger {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_lives_until_dropped() {
        let stranger = FakeStranger::spawn(&["smolvm:0123456789:vm-a"]);
        stranger.assert_lives();
        let identity = stranger.identity().clone();
        assert!(identity.argv.contains(&"smolvm:0123456789:vm-a".to_owned()));
        drop(stranger);
        assert!(!identity.lives());
    }
}
